"""Whether a Hugging Face decoder can be run on rows, found out by looking at what it does with a few tokens.

No list of architectures says so. Tokens may meet nowhere but in the registered attention, what a layer is given for a
token must depend on that token and its position alone, and the engine must know every argument of the attention.
In the end the logits of a steered pass over rows are compared with those of hooks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..interventions import Intervention
from ..models.decoder import HookedDecoder, attention_as, input_device
from . import reference
from .attention import attend_masked
from .forward import run_pass
from .huggingface import ATTENTION, AttentionCall, Call, HuggingFaceParts, HuggingFaceRows, attending, make_mask
from .layout import TokenPrompt, build_batch
from .model import AttentionSpec

# Tokens of the probe's text: enough to share a beginning, few enough to cost nothing.
LENGTH = 14
# Where masks are read off: beyond any window in use, so that a window shows.
FAR = 2**18
# Largest difference of logits over their size that summing in another order explains, and for half precision the
# median of the differences' lengths: what ``models.load`` allows.
EXACT, ROUNDED = 2e-4, 0.15
# Arguments of an attention that change nothing here: gradients, caches, dtypes of fused kernels, positions that
# have gone into queries and keys already.
IGNORED = frozenset({"position_ids", "position_embeddings", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k"})


class UnfitError(Exception):
    """Why a model cannot be run on rows."""


def probe(model: HookedDecoder) -> HuggingFaceRows:
    """A decoder's functions of rows.

    Raises:
        UnfitError: with the reason, when there are none.
    """
    with torch.no_grad():
        try:
            rows = _Probe(model).rows()
            _compare(model, rows)
        except UnfitError:
            raise
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
            first = str(error).strip().split("\n")[0][:120]
            raise UnfitError(f"it does not run on rows ({type(error).__name__}: {first})") from error
    return rows


class _Probe:
    """What is learned about a model on the way."""

    def __init__(self, model: HookedDecoder) -> None:
        self.model = model
        self.device = input_device(model.hf_model)
        self.head = _check_outside(model)
        self.specs: list[list[AttentionSpec]] = [[] for _ in model.layers]
        self.attends: list[nn.Module] = []
        self.key_bytes = 0
        self.outputs: list[int] = []
        self.residuals: list[Tensor] = []

    def rows(self) -> HuggingFaceRows:
        self._run_once()
        for layer, found in zip(self.model.layers, self.specs, strict=True):
            if not found:
                raise UnfitError(f"{type(layer).__name__} makes no use of transformers' attention interface")
            if len(found) > 1:
                raise UnfitError(f"{type(layer).__name__} attends {len(found)} times")
        parts = HuggingFaceParts.of(self.model, self.head, tuple(self.outputs), self.attends)
        axes = _check_outline(parts, self.model.cfg.n_ctx, self._tokens(7))
        scale, cap = _logit_function(parts, self.device)
        rows = HuggingFaceRows(
            parts=parts,
            attention=tuple(found[0] for found in self.specs),
            axes=axes,
            d_model=self.residuals[0].shape[-1],
            key_bytes=self.key_bytes,
            logit_scale=scale,
            logit_cap=cap,
        )
        self._check_layers(rows)
        return rows

    def _tokens(self, count: int) -> Int[Tensor, " row"]:
        return torch.linspace(1, self.model.cfg.d_vocab - 1, count, device=self.device).long()

    def _run_once(self) -> None:
        """A plain pass with the registered attention, which records its arguments."""
        current = [0]
        handles = []
        for index, layer in enumerate(self.model.layers):

            def before(module: nn.Module, args: Any, kwargs: Any, index: int = index) -> None:
                current[0] = index
                self.residuals.append((args[0] if args else kwargs["hidden_states"])[0].clone())

            def after(module: nn.Module, args: Any, output: Any) -> None:
                self.outputs.append(len(output) if isinstance(output, tuple) else 0)

            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(layer.register_forward_hook(after))

        def attend(call: AttentionCall) -> Tensor:
            spec = _spec(call)
            self.specs[current[0]].append(spec)
            self.attends.append(call.module)
            self.key_bytes = max(self.key_bytes, (call.k[0].numel() + call.v[0].numel()) * call.k.element_size())
            return _causal(spec, call)

        token = make_mask.set(_marked_mask)
        try:
            with attention_as(self.model.hf_model, ATTENTION), attending(attend):
                positions = torch.arange(LENGTH, device=self.device)
                self.model.hf_model(input_ids=self._tokens(LENGTH)[None], position_ids=positions[None], use_cache=False)
        finally:
            make_mask.reset(token)
            for handle in handles:
                handle.remove()
        if len(self.outputs) != len(self.model.layers):
            raise UnfitError(f"its {len(self.model.layers)} layers run {len(self.outputs)} times in a pass")

    def _check_layers(self, rows: HuggingFaceRows) -> None:
        """Without attention, no row of a layer's output may depend on another row, or on where it is."""
        tokens = self._tokens(LENGTH)
        calls, _ = rows.parts.outline(tokens, torch.arange(LENGTH, device=self.device))
        tolerance = 1e-4 if tokens.device.type == "cpu" and rows.parts.head.weight.dtype == torch.float32 else 0.02
        for layer, residuals in enumerate(self.residuals):
            kind = type(self.model.layers[layer]).__name__
            first, counted = _alone(rows, layer, calls[layer], residuals)
            if counted:
                raise UnfitError(f"{kind} counts its rows for their positions")
            changed = residuals.clone()
            changed[3] = residuals[5] - residuals[8]
            second, _ = _alone(rows, layer, calls[layer], changed)
            difference = (first - second).abs().amax(dim=-1)
            difference[3] = 0
            if not float(difference.max()) <= tolerance * float(first.abs().max()):
                raise UnfitError(f"tokens meet outside the attention in {kind}")


class _Counting(TorchFunctionMode):
    """Notes whether something counts the rows while it is switched on."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.on = True
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self.on and func is torch.arange and len(out) == self.rows:
            self.found = True
        return out


def _alone(rows: HuggingFaceRows, layer: int, call: Call, residuals: Tensor) -> tuple[Tensor, bool]:
    """A layer in which each row sees itself only, and whether rows were counted before the attention."""
    counting = _Counting(len(residuals))
    spec = rows.attention[layer]

    def attend(call: AttentionCall) -> Tensor:
        counting.on = False
        return call.v.repeat_interleave(spec.n_groups, dim=1).flatten(1)

    with counting:
        out = rows.parts.run_layer(layer, call, residuals, rows.axes[layer], attend)
    return out, counting.found


def _check_outside(model: HookedDecoder) -> nn.Linear:
    """What can be seen without running anything.

    Returns:
        the unembedding.
    """
    hf_model = model.hf_model
    devices = {parameter.device for parameter in hf_model.parameters()}
    if len(devices) > 1 and getattr(hf_model, "hf_device_map", None) is None:
        raise UnfitError(f"the model is spread over {len(devices)} devices")
    if not model.takes_positions:
        raise UnfitError(f"{type(hf_model).__name__} takes no position_ids that count from 0")
    head = hf_model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise UnfitError(f"unembedding of class {type(head).__name__}")
    return head


def _marked_mask(*args: Any, **kwargs: Any) -> Tensor:
    """The mask of a pass, with the rule that it was made by."""
    rule, rows, keys = kwargs["mask_function"], kwargs["q_length"], kwargs["kv_length"]
    device = kwargs["device"]
    mask = _apply(rule, torch.arange(rows, device=device), torch.arange(keys, device=device))[None, None]
    mask.rule = rule  # type: ignore[attr-defined]
    return mask


def _apply(rule: Callable[..., Any], rows: Tensor, keys: Tensor) -> Tensor:
    zero = torch.zeros((), dtype=torch.long, device=rows.device)
    return torch.as_tensor(rule(zero, zero, rows[:, None], keys[None])).expand(len(rows), len(keys))


def _spec(call: AttentionCall) -> AttentionSpec:
    """The arguments of an attention, if the engine knows all of them."""
    known = {"softcap", "s_aux", "sliding_window", *IGNORED}
    strange = [name for name, value in call.options.items() if isinstance(value, Tensor) and name not in known]
    if strange:
        raise UnfitError(f"{type(call.module).__name__} computes its attention with {', '.join(strange)}")
    scale = call.q.shape[-1] ** -0.5 if call.scale is None else float(call.scale)
    sinks, (window, chunk) = call.options.get("s_aux"), _reach(call)
    return AttentionSpec(
        n_heads=call.q.shape[1],
        n_kv_heads=call.k.shape[1],
        d_head=call.q.shape[2],
        d_value=call.v.shape[2],
        scale=scale,
        soft_cap=float(call.options.get("softcap") or 0.0),
        window=window,
        chunk=chunk,
        sinks=None if sinks is None else sinks.detach().flatten(),
    )


def _reach(call: AttentionCall) -> tuple[int | None, int | None]:
    """Window and chunk of a mask, from the rule that it was made by: a short text would not show them."""
    if call.mask is None:
        return None, None
    rule = getattr(call.mask, "rule", None)
    if rule is None:
        raise UnfitError(f"{type(call.module).__name__} has a mask of the model's own making")
    device = call.mask.device
    rows = torch.tensor([0, 1, 2, 5, FAR // 2 - 1, FAR // 2, FAR - 2], device=device)
    keys = torch.arange(FAR, device=device)
    seen = _apply(rule, rows, keys)
    causal = keys[None] <= rows[:, None]
    width = int(seen[-1].sum())
    if torch.equal(seen, causal & (keys[None] > rows[:, None] - width)):
        return (None if width == FAR - 1 else width), None
    chunk = _chunk(rule, device)
    if chunk is None or not torch.equal(seen, causal & (keys[None] >= (rows - rows % chunk)[:, None])):
        raise UnfitError(f"{type(call.module).__name__} has a mask that is neither causal nor a window nor in chunks")
    return None, chunk


def _chunk(rule: Callable[..., Any], device: torch.device) -> int | None:
    """The first row that does not see the first key: as many are in a chunk, if they are in chunks at all."""
    first = torch.zeros(1, dtype=torch.long, device=device)
    unseen = (~_apply(rule, torch.arange(FAR, device=device), first)[:, 0]).nonzero()
    return int(unseen[0]) if len(unseen) else None


def _causal(spec: AttentionSpec, call: AttentionCall) -> Tensor:
    positions = torch.arange(len(call.q), device=call.q.device)
    rows, keys = positions[:, None], positions[None]
    first = spec.first_seen(rows)
    mask = (keys <= rows) if first is None else (keys <= rows) & (keys >= first)
    q, k, v = (x.transpose(0, 1)[None] for x in (call.q, call.k, call.v))
    return attend_masked(spec, q, k, v, mask)[0].transpose(0, 1).flatten(1)


def _check_outline(
    parts: HuggingFaceParts, n_ctx: int, tokens: Int[Tensor, " row"]
) -> tuple[tuple[int | None, ...], ...]:
    """What layers are given for a row must depend on its token and position alone.

    Returns:
        for each layer, the axis of each argument that counts rows.
    """
    positions = torch.tensor([0, 3, 1, 6, 2, n_ctx - 1, 5], device=tokens.device)
    order = torch.tensor([6, 2, 0, 3, 1], device=tokens.device)
    few, _ = parts.outline(tokens[order], positions[order])
    many, _ = parts.outline(tokens, positions)
    if len(few) != len(parts.layers):
        raise UnfitError(f"its {len(parts.layers)} layers run {len(few)} times in a pass")
    found = []
    for a, b in zip(few, many, strict=True):
        if a.tree != b.tree:
            raise UnfitError("what a layer is called with changes with the text")
        axes = [_axis(x, y) for x, y in zip(a.leaves, b.leaves, strict=True)]
        for x, y, axis in zip(a.leaves, b.leaves, axes, strict=True):
            if axis is not None and not torch.allclose(x, y.index_select(axis, order), rtol=1e-4, atol=1e-5):
                raise UnfitError("what a layer is given for a token depends on other tokens or on their order")
        found.append(tuple(axes))
    return tuple(found)


def _axis(few: Any, many: Any) -> int | None:
    """The axis that counts rows, of the same argument for five and for seven rows."""
    if not isinstance(few, Tensor):
        return None
    differing = [axis for axis, (a, b) in enumerate(zip(few.shape, many.shape, strict=True)) if a != b]
    if not differing and not torch.equal(few, many):
        raise UnfitError("a layer is given something that depends on the text as a whole")
    if len(differing) > 1:
        raise UnfitError("a layer is given a table of all pairs of tokens")
    return differing[0] if differing else None


def _logit_function(parts: HuggingFaceParts, device: torch.device) -> tuple[float, float]:
    """How logits come from the unembedding: a factor and a soft cap (0 for none), read off on a grid of values."""
    grid = torch.tensor([-1e6, -40.0, -3.0, -1e-3, 1e-3, 0.7, 5.0, 60.0, 1e6], device=device)

    def head(x: Tensor) -> Tensor:
        return grid[None, :, None].repeat(1, 1, len(parts.head.weight))

    nothing = torch.zeros(len(grid), dtype=torch.long, device=device)
    logits = parts.outline(nothing, nothing, head=head)[1].logits[0].float()
    values, scale = logits[:, 0], float(logits[4, 0]) / 1e-3
    cap = float(values[-1]) if float(values[-1]) < 1e5 * scale else 0.0
    expected = scale * grid if cap <= 0 else cap * torch.tanh(scale * grid / cap)
    if logits.shape[-1] != len(parts.head.weight) or not torch.equal(logits, values[:, None].expand_as(logits)):
        raise UnfitError("logits of some tokens are changed after the unembedding")
    if not torch.allclose(values, expected, rtol=1e-4, atol=1e-7):
        raise UnfitError("logits are made from the unembedding in a way that is not a factor or a soft cap")
    exact = round(scale, 5) if abs(scale - round(scale, 5)) < 1e-6 * abs(scale) else scale
    return exact, cap


def _compare(model: HookedDecoder, rows: HuggingFaceRows) -> None:
    """Logits of two prompts, unsteered and steered in the middle, must be those of hooks."""
    text = tuple((7 * i + 1) % model.cfg.d_vocab for i in range(LENGTH))
    texts = [text, (*text[:9], 2, 3)]
    prompts = [TokenPrompt(text) for text in texts]
    batch = build_batch(prompts, answers=False, device=input_device(model.hf_model))
    direction = torch.linspace(-1.0, 1.0, rows.d_model)
    item = Intervention(direction, (len(rows.attention) - 1) // 2, 3.0)
    tails = run_pass(rows, batch, [item]).tails
    normed = rows.norm_final(tails.flatten(0, 1))
    got = rows.unembed(normed, slice(None)).float().cpu().unflatten(0, tails.shape[:2])
    for variant, steering in enumerate((None, item)):
        for column, prompt in enumerate(prompts):
            expected = reference.logits(model, prompt.tokens, prompt_length=len(prompt.tokens), intervention=steering)
            error = _error(expected[-1].cpu(), got[variant, column], exact=model.hf_model.dtype == torch.float32)
            if not error <= (EXACT if model.hf_model.dtype == torch.float32 else ROUNDED):
                raise UnfitError(f"logits of a pass over rows differ from those of hooks by {error:.0e} of their size")


def _error(expected: Float[Tensor, " vocab"], got: Float[Tensor, " vocab"], *, exact: bool) -> float:
    difference = got - expected
    if exact:
        return float(difference.abs().max() / expected.abs().max())
    return float(difference.norm() / (expected - expected.mean()).norm())
