"""What the engine needs of a model: a few functions of *rows*, tokens side by side without batches or padding.

Everything in a decoder but attention treats tokens independently. A model is therefore used as it is, on rows of
different prompts, lengths and steered variants together, and hands the queries, keys and values of each block to the
engine, which alone knows which row sees which.

- ``hooked`` implements this for ``HookedTransformer``, ``huggingface`` for the modules of any Hugging Face decoder;
- ``support.row_model`` finds the implementation for a model, ``support.unsupported`` says why there is none.
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
"""Attention: from rotated queries, keys and values to what is read, heads side by side. Scales the queries itself."""


Seen = TypeVar("Seen", int, Tensor)

# Rows that go through an MLP at a time where it is ours: its hidden layer is the widest thing that the engine holds.
MLP_ROWS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSpec:
    """What attention needs to know of one block.

    Attributes:
        n_heads, n_kv_heads: heads of queries, and of keys and values; consecutive query heads share one.
        d_head, d_value: width of queries and keys, and of values, for each head.
        scale: of the products of queries and keys.
        soft_cap: scores become ``soft_cap * tanh(score / soft_cap)``; 0 for none.
        window: a row sees itself and the ``window - 1`` rows before it; None for all.
        chunk: a row sees those before it in the same chunk of this many positions; None for all.
        sinks: for each head a score that takes part in the softmax and has no value; None for none.
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
        """Columns that sinks add to the scores of a row."""
        return int(self.sinks is not None)

    @property
    def n_groups(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.n_heads // self.n_kv_heads

    def first_seen(self, positions: Seen) -> Seen | None:
        """The first position that a row at each of some positions sees; None where every row sees all before it."""
        if self.window is not None:
            return positions - self.window + 1
        return None if self.chunk is None else positions - positions % self.chunk

    def plainly_causal(self, length: int) -> bool:
        """Whether rows of a text of so many tokens see all before them, by nothing but their products."""
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
        """Tokens that have a logit."""
        ...

    @property
    def key_bytes(self) -> int:
        """What one key and its value take, over all heads, at one block."""
        ...

    @property
    def wide_rows(self) -> int | None:
        """How many rows are in the widest part of a block at a time; None for all of them."""
        ...

    def begin(
        self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"], *, longest: int
    ) -> tuple[Float[Tensor, "row d_model"], Any]:
        """Residuals before the first block, a new tensor, and what ``run_block`` wants to know of these rows.

        Args:
            tokens: of each row.
            positions: of each row in its text, from 0.
            longest: at least the largest position + 1.
        """
        ...

    def run_block(
        self, layer: int, rows: Float[Tensor, "row d_model"], place: Any, attend: Attend, *, start: int = 0
    ) -> Float[Tensor, "late_row d_model"]:
        """Residuals after a block.

        Args:
            layer: which.
            rows: residuals before it, of the first ``len(rows)`` rows of ``begin``. Used up, unless they ask for
                gradients: what is returned may be (a part of) the same tensor.
            place: from ``begin``.
            attend: called once.
            start: rows before it lend keys and values but are not returned.
        """
        ...

    def norm_final(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """What the unembedding reads."""
        ...

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"] | slice
    ) -> Float[Tensor, "row token"]:
        """Logits of some tokens."""
        ...


@contextmanager
def own_precision(model: HookedTransformer) -> Iterator[None]:
    """Inference in the model's own precision, whatever ``torch.autocast`` says around it."""
    kind = torch.device(model.cfg.device or "cpu").type
    with torch.inference_mode(), torch.autocast(kind, enabled=False):
        yield
