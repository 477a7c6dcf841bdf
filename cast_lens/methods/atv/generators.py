"""What reads a query: the small model of an adaptive task vector. From texts to one state each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from ...engine import capture, tokenise
from ...engine.capture import check_layers
from ...models import EMBEDDED, fingerprint, load_model, model_name
from .design import SELF, Design, Pooling

# Texts that a small model reads at a time.
BATCH = 16


class Generator(Protocol):
    """Anything that turns texts into states."""

    @property
    def width(self) -> int:
        """Of a state."""
        ...

    @property
    def module(self) -> nn.Module | None:
        """What is trained along; None when it is frozen."""
        ...

    @property
    def name(self) -> str:
        """Which small model it is, for people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Which one it is, for files: they refuse another."""
        ...

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """One state a text; differentiable in ``module``'s parameters."""
        ...


def pooled(
    hidden: Float[Tensor, "sample position d_small"], lengths: Int[Tensor, " sample"], pooling: Pooling
) -> Float[Tensor, "sample d_small"]:
    """State at each text's last token, or the mean over its tokens; padding stands on the right."""
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    real = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
    return (hidden * real[..., None]).sum(dim=1) / lengths[:, None]


class BlocksGenerator:
    """The first blocks of a ``HookedTransformer``; a copy of them when they are trained."""

    def __init__(self, model: HookedTransformer, layer: int, *, pooling: Pooling, trained: bool) -> None:
        check_layers(model, (layer,))
        self.layer, self.pooling = layer, pooling
        self.width = int(model.cfg.d_model)
        self.name, self.fingerprint = model_name(model), fingerprint(model)
        self.model = _first_blocks(model, layer + 1) if trained else model
        self.module: nn.Module | None = self.model if trained else None

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """Residual after block ``layer``, at the last token or averaged; float32 at least."""
        if self.module is None and self.pooling == "last":
            return capture(self.model, list(texts), layers=(self.layer,))[:, 0]
        with torch.set_grad_enabled(self.module is not None and torch.is_grad_enabled()):
            return torch.cat([self._run(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)])

    def _run(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        rows = [prompt.tokens for prompt in tokenise(self.model, list(texts))]
        lengths = torch.tensor([len(row) for row in rows], device=self.model.cfg.device)
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.cfg.device)
        mask = (torch.arange(width, device=ids.device)[None] < lengths[:, None]).long()
        hidden = self.model(ids, attention_mask=mask, stop_at_layer=self.layer + 1)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        return pooled(hidden.to(exact), lengths, self.pooling)


def _first_blocks(model: HookedTransformer, count: int) -> HookedTransformer:
    """A copy of the embedding and the first blocks; of the rest there are empty places."""
    left_out = [*list(model.blocks)[count:], model.unembed]
    copied = copy.deepcopy(model, {id(part): nn.Identity() for part in left_out})
    return copied.requires_grad_(True)


class ConstantGenerator:
    """Reads nothing: states of width 0, so that only the expansion's bias is left, one vector for all queries."""

    width = 0
    module: nn.Module | None = None
    name = "constant"
    fingerprint = ""

    def states(self, texts: Sequence[str]) -> Float[Tensor, "sample d_small"]:
        """Nothing, for each text."""
        return torch.zeros(len(texts), 0)


def build_generator(design: Design, model: HookedTransformer) -> Generator:
    """The small model that a design asks for.

    Args:
        design: which one.
        model: the large model, which is also the small one for ``residual`` and for the source ``self``.

    Raises:
        ValueError: a model that cannot be loaded, or a layer that it does not have.
    """
    if design.generator == "constant":
        return ConstantGenerator()
    if design.generator == "huggingface":
        from .huggingface import HuggingFaceGenerator

        return HuggingFaceGenerator(design.source, pooling=design.pooling, trained=design.trained)
    if design.generator == "residual":
        return BlocksGenerator(model, design.layer, pooling="last", trained=False)
    return BlocksGenerator(
        _small_model(design.source, model), design.layer, pooling=design.pooling, trained=design.trained
    )


def _small_model(source: str, model: HookedTransformer) -> HookedTransformer:
    known = model_name(model)
    if source in (SELF, known) or (source == EMBEDDED and known.rstrip("/").endswith(EMBEDDED)):
        return model
    return load_model(source)
