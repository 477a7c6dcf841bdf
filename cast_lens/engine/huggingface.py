"""The modules of a Hugging Face decoder as functions of rows: the model's own forward pass, with another attention.

transformers lets a model's attention be computed by a function that is registered under a name. Ours gives queries,
keys and values to the engine. Everything else is the model's: to *begin*, its forward pass runs with layers that let
their input through, which yields the embedded rows and what each layer is called with (rotary angles at the rows'
positions, say); to *run a block*, the layer is called with that; to *end*, the same forward pass runs from given
residuals to what the unembedding is called with. ``huggingface_probe`` finds out whether a model can be run like this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

from ..models.decoder import HookedDecoder, attention_as
from ..models.identity import plain_weight
from .model import MLP_ROWS, Attend, AttentionSpec

ATTENTION = "cast_lens_rows"


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """What a model's attention hands over: [row, head, d_head] each, and everything that it says beside them."""

    module: nn.Module
    q: Float[Tensor, "row head d_head"]
    k: Float[Tensor, "row kv_head d_head"]
    v: Float[Tensor, "row kv_head d_value"]
    mask: Any
    scale: float | None
    options: dict[str, Any]


_running: ContextVar[Callable[[AttentionCall], Tensor]] = ContextVar("running")
# What the mask of a pass is: nothing, for the engine knows which row sees which. The probe wants the model's.
make_mask: ContextVar[Callable[..., Any] | None] = ContextVar("make_mask", default=None)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    z = _running.get()(AttentionCall(module, q, k, v, attention_mask, scaling, options))
    return z.view(1, len(q), q.shape[1], -1), None


def _mask(*args: Any, **kwargs: Any) -> Any:
    make = make_mask.get()
    return None if make is None else make(*args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)


@contextmanager
def attending(attend: Callable[[AttentionCall], Float[Tensor, "row heads_d_head"]]) -> Iterator[None]:
    """Within it, the registered attention is this function."""
    token = _running.set(attend)
    try:
        yield
    finally:
        _running.reset(token)


@contextmanager
def standing_in(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another function in place of a module's forward (or of what accelerate has put there to move its weights)."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def weight_of(head: nn.Linear) -> Float[Tensor, "d_vocab d_model"]:
    """The weight of an unembedding, from wherever it is kept and in whatever it is packed."""
    if not head.weight.is_meta:
        return plain_weight(head.weight)
    from accelerate.utils import align_module_device

    with align_module_device(head):
        return head.weight.detach()


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a layer is called with, flat; ``hidden`` is the place of the residuals."""

    leaves: list[Any]
    tree: TreeSpec
    hidden: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """From the arguments of a layer."""
        leaves, tree = tree_flatten((args, kwargs))
        residuals = args[0] if args else kwargs["hidden_states"]
        return cls(leaves, tree, next(i for i, leaf in enumerate(leaves) if leaf is residuals))

    def with_rows(
        self, rows: Float[Tensor, "row d_model"], axes: Sequence[int | None]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for the first rows; ``axes`` says which axis of each argument counts rows."""
        leaves = [
            leaf if axis is None or leaf is None else leaf.narrow(axis, 0, len(rows))
            for leaf, axis in zip(self.leaves, axes, strict=True)
        ]
        leaves[self.hidden] = rows[None]
        args, kwargs = tree_unflatten(leaves, self.tree)
        return args, kwargs


@dataclass(frozen=True, slots=True, eq=False)
class HuggingFaceParts:
    """A Hugging Face model in three parts: what comes before its layers, the layers, and what comes after."""

    hf_model: PreTrainedModel
    layers: nn.ModuleList
    head: nn.Linear
    outputs: tuple[int, ...]
    row_wise: tuple[tuple[nn.Module, ...], ...]

    @classmethod
    def of(
        cls, model: HookedDecoder, head: nn.Linear, outputs: tuple[int, ...], attention: Sequence[nn.Module]
    ) -> HuggingFaceParts:
        """Of a decoder.

        Args:
            model: the decoder.
            head: its unembedding.
            outputs: how many values each layer returns, 0 for a tensor.
            attention: the attention module of each layer; all other parts of a layer treat rows independently.
        """
        beside = (
            tuple(part for part in layer.children() if all(found is not module for module in part.modules()))
            for layer, found in zip(model.layers, attention, strict=True)
        )
        return cls(model.hf_model, model.layers, head, outputs, tuple(beside))

    def outline(
        self,
        tokens: Int[Tensor, " row"],
        positions: Int[Tensor, " row"],
        *,
        last: Float[Tensor, "row d_model"] | None = None,
        head: Callable[[Float[Tensor, "1 row d_model"]], Float[Tensor, "1 row d_vocab"]] | None = None,
    ) -> tuple[list[Call], Any]:
        """The model's forward pass without its layers and its unembedding.

        Args:
            tokens, positions: token and position of each row.
            last: what the last layer returns; what it is given when None.
            head: in place of the unembedding.

        Returns:
            what each layer was called with, and the output of the pass.
        """
        calls: list[Call] = []

        def layer(*args: Any, **kwargs: Any) -> Any:
            index = len(calls)
            calls.append(Call.of(args, kwargs))
            out = calls[-1].leaves[calls[-1].hidden]
            if index + 1 == len(self.layers) and last is not None:
                out = last[None]
            return (out, *[None] * (self.outputs[index] - 1)) if self.outputs[index] else out

        with ExitStack() as stack:
            for module in self.layers:
                stack.enter_context(standing_in(module, layer))
            stack.enter_context(standing_in(self.head, head or _no_logits))
            stack.enter_context(attention_as(self.hf_model, ATTENTION))
            output = self.hf_model(input_ids=tokens[None], position_ids=positions[None], use_cache=False)
        return calls, output

    def run_layer(
        self,
        layer: int,
        call: Call,
        rows: Float[Tensor, "row d_model"],
        axes: Sequence[int | None],
        attend: Callable[[AttentionCall], Float[Tensor, "row heads_d_head"]],
    ) -> Float[Tensor, "row d_model"]:
        """A layer on the first rows of a call."""
        args, kwargs = call.with_rows(rows, axes)
        with ExitStack() as stack:
            stack.enter_context(attention_as(self.hf_model, ATTENTION))
            stack.enter_context(attending(attend))
            if len(rows) > MLP_ROWS and not rows.requires_grad:
                for module in self.row_wise[layer]:
                    stack.enter_context(standing_in(module, _in_parts(module.forward)))
            output = self.layers[layer](*args, **kwargs)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found[0]


def _in_parts(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A module that treats rows independently, on so many rows at a time that what it makes stays in the cache."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or args[0].ndim != 3:
            return forward(*args, **kwargs)
        parts = []
        for part in args[0].split(MLP_ROWS, dim=1):
            out = forward(part)
            if not isinstance(out, Tensor) or out.shape[:2] != part.shape[:2]:
                return forward(args[0])
            parts.append(out)
        return torch.cat(parts, dim=1)

    return run


def _no_logits(x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], 1)


@dataclass(frozen=True, slots=True, eq=False)
class HuggingFaceRows:
    """A Hugging Face decoder as a ``RowModel``.

    Attributes:
        parts: the model.
        attention: one entry per block.
        axes: for each block, which axis of each of its arguments counts rows.
        logit_scale, logit_cap: logits are ``cap * tanh(scale * x / cap)`` of the unembedding's ``x``; cap 0 for none.
    """

    parts: HuggingFaceParts
    attention: tuple[AttentionSpec, ...]
    axes: tuple[tuple[int | None, ...], ...]
    d_model: int
    key_bytes: int
    logit_scale: float
    logit_cap: float
    # The widest part of a layer sees all rows at a time.
    wide_rows: int | None = None

    @property
    def d_vocab(self) -> int:
        """Tokens that have a logit."""
        return len(self.parts.head.weight)

    def begin(
        self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"], *, longest: int
    ) -> tuple[Float[Tensor, "row d_model"], list[Call]]:
        """See ``RowModel``."""
        calls, _ = self.parts.outline(tokens, positions)
        embedded: Tensor = calls[0].leaves[calls[0].hidden]
        rows = embedded[0].clone()
        for call in calls:
            call.leaves[call.hidden] = None
        return rows, calls

    def run_block(
        self, layer: int, rows: Float[Tensor, "row d_model"], place: list[Call], attend: Attend, *, start: int = 0
    ) -> Float[Tensor, "late_row d_model"]:
        """See ``RowModel``."""

        def hand_over(call: AttentionCall) -> Tensor:
            return attend(call.q, call.k, call.v)

        return self.parts.run_layer(layer, place[layer], rows, self.axes[layer], hand_over)[start:]

    def norm_final(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the unembedding is called with."""
        found: list[Tensor] = []

        def head(x: Tensor) -> Tensor:
            found.append(x[0])
            return _no_logits(x)

        nothing = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        self.parts.outline(nothing, nothing, last=rows, head=head)
        return found[0]

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"] | slice
    ) -> Float[Tensor, "row token"]:
        """Logits of some tokens."""
        head = self.parts.head
        bias = None if head.bias is None else head.bias.detach()[tokens]
        weight = weight_of(head)[tokens]
        logits = F.linear(normed.to(weight.device), weight, bias)
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        return self.logit_cap * torch.tanh(logits / self.logit_cap) if self.logit_cap > 0 else logits
