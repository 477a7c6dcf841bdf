"""The interface between engine and model: a few functions of *rows*, which are tokens without batches or padding.

Everything in a decoder except attention treats tokens independently. The model's own modules therefore run on rows of
different prompts, lengths and steered variants at once. Each block passes its queries, keys and values to the engine,
which knows which row attends to which.

- ``hooked`` implements this for ``HookedTransformer``, ``huggingface`` for the modules of any Hugging Face decoder;
- ``support.row_model`` finds the implementation for a model, and ``support.unsupported`` explains why none fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.lens import HookedTransformer

Attend = Callable[
    [Float[Tensor, "row head d_head"], Float[Tensor, "row kv_head d_head"], Float[Tensor, "row kv_head d_head"]],
    Float[Tensor, "row heads_d_head"],
]
"""Attention: maps rotated queries, keys and values to the concatenated head outputs, and scales the queries itself."""


Seen = TypeVar("Seen", int, Tensor)

# How many rows our own MLP code processes at once: its hidden layer is the widest tensor in the engine.
MLP_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """How one block attends.

    Attributes:
        n_heads, n_kv_heads: how many query heads and key-value heads; consecutive query heads share a key-value head.
        d_head, d_value: width per head of queries and keys, and of values.
        scale: factor of the products of queries and keys.
        soft_cap: scores become ``soft_cap * tanh(score / soft_cap)``; 0 for no cap.
        window: a row attends to itself and the ``window - 1`` rows before it; None for no limit.
        chunk: a row attends to earlier rows of its own chunk of this many positions; None for no limit.
        sinks: one score per head that enters the softmax without a value; None for no sinks.
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    d_value: int
    scale: float
    soft_cap: float = 0.0
    window: int | None = None
    chunk: int | None = None
    sinks: Float[Tensor, " head"] | None = None

    @property
    def n_sinks(self) -> int:
        """How many columns sinks add to the scores."""
        return int(self.sinks is not None)

    @property
    def n_groups(self) -> int:
        """How many query heads share a key-value head."""
        return self.n_heads // self.n_kv_heads

    def first_seen(self, positions: Seen) -> Seen | None:
        """The first position that a row at each given position attends to; None if all rows attend from the start."""
        if self.window is not None:
            return positions - self.window + 1
        return None if self.chunk is None else positions - positions % self.chunk

    def plainly_causal(self, length: int) -> bool:
        """Whether attention over that many tokens is plain causal: no window, chunk, soft cap or sinks take effect."""
        bounded = any(width is not None and width < length for width in (self.window, self.chunk))
        return not bounded and self.soft_cap <= 0 and self.sinks is None


class RowModel(Protocol):
    """A decoder as functions of rows."""

    @property
    def attention(self) -> tuple[AttentionSpec, ...]:
        """One entry per block."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def d_vocab(self) -> int:
        """How many tokens have a logit."""
        ...

    @property
    def key_bytes(self) -> int:
        """Bytes of one key with its value, over all heads of one block."""
        ...

    @property
    def wide_rows(self) -> int | None:
        """How many rows the widest part of a block processes at once; None for all of them."""
        ...

    def begin(
        self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"], *, longest: int
    ) -> tuple[Float[Tensor, "row d_model"], Any]:
        """Residuals before the first block, as a new tensor, and the ``place`` argument of ``run_block``.

        Args:
            tokens: the token of each row.
            positions: the position of each row in its text, counted from 0.
            longest: at least the largest position + 1.
        """
        ...

    def run_block(
        self, layer: int, rows: Float[Tensor, "row d_model"], place: Any, attend: Attend, *, start: int = 0
    ) -> Float[Tensor, "late_row d_model"]:
        """Residuals after a block.

        Args:
            layer: index of the block.
            rows: residuals before the block, for the first ``len(rows)`` rows of ``begin``. They may be overwritten,
                unless they require gradients: the result can be (a view of) the same tensor.
            place: from ``begin``.
            attend: called once.
            start: rows before this index provide keys and values but are not returned.
        """
        ...

    def norm_final(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Residuals after the final norm, as the unembedding takes them."""
        ...

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"] | slice
    ) -> Float[Tensor, "row token"]:
        """Logits of some tokens."""
        ...


@contextmanager
def own_precision(model: HookedTransformer) -> Iterator[None]:
    """Inference in the model's own precision, even inside a ``torch.autocast`` context."""
    kind = torch.device(model.cfg.device or "cpu").type
    with torch.inference_mode(), torch.autocast(kind, enabled=False):
        yield
