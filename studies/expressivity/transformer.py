"""A small transformer whose weights never change, and the places at which adapters may enter it.

Its blocks are those of Llama: pre-norm, rotary positions, gated MLP, no biases. Weights are random and drawn so that
attention is far from uniform. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ROTARY_BASE = 10000.0
EPSILON = 1e-6
# Standard deviations of query, key and logits for inputs of unit size. Scores of attention then vary by 1.5², so that
# few positions hold most of it; next-token distributions have about half of the largest entropy.
SHARP = 1.5
LOGITS = 2.0


Residual = Float[Tensor, "sample position d_model"]
Summary = Float[Tensor, "sample d_model"]
KeysValues = tuple[Float[Tensor, "prefix d_model"], Float[Tensor, "prefix d_model"]]


class Projection(NamedTuple):
    """One of the linear maps of attention that LoRA changes by default: the query's and the value's."""

    layer: int
    place: int


class Unmodified:
    """Adds nothing to a frozen transformer: what its adapters start from; see ``adapters``."""

    __slots__ = ()

    def project(self, where: Projection, inputs: Residual, outputs: Residual) -> Residual:
        """Outputs of a linear map, in place of its own."""
        return outputs

    def prefix(self, layer: int) -> KeysValues | None:
        """Keys and values that every position also attends to."""
        return None

    def after(self, layer: int, residual: Residual, summary: Summary | None) -> Residual:
        """The residual after a block, in place of its own."""
        return residual


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a small transformer."""

    vocab: int = 96
    d_model: int = 64
    layers: int = 2
    heads: int = 4
    d_mlp: int = 160


@dataclass(frozen=True, slots=True, eq=False)
class FrozenTransformer:
    """Weights of all layers, stacked; none of them takes a gradient."""

    shape: Shape
    embed: Float[Tensor, "vocab d_model"]
    query: Float[Tensor, "layer d_model d_model"]
    key: Float[Tensor, "layer d_model d_model"]
    value: Float[Tensor, "layer d_model d_model"]
    output: Float[Tensor, "layer d_model d_model"]
    gate: Float[Tensor, "layer d_mlp d_model"]
    up: Float[Tensor, "layer d_mlp d_model"]
    down: Float[Tensor, "layer d_model d_mlp"]
    unembed: Float[Tensor, "vocab d_model"]

    def weights(self) -> tuple[Tensor, ...]:
        """All of them."""
        return tuple(getattr(self, field.name) for field in fields(self) if field.name != "shape")

    def residual(
        self, tokens: Int[Tensor, "sample position"], adapter: Unmodified, summary: Summary | None = None
    ) -> Residual:
        """The normalised residual after the last block."""
        x = self.embed[tokens]
        for layer in range(self.shape.layers):
            x = x + self._attention(layer, norm(x), adapter)
            x = x + self._mlp(layer, norm(x))
            x = adapter.after(layer, x, summary)
        return norm(x)

    def logprobs(
        self,
        tokens: Int[Tensor, "sample position"],
        adapter: Unmodified,
        summary: Summary | None = None,
        *,
        start: int = 0,
    ) -> Float[Tensor, "sample position vocab"]:
        """Log-probabilities of the next token, from position ``start`` on.

        Args:
            tokens: whole sequences, without padding.
            adapter: what is added.
            summary: of each sequence, where the adapter reads one.
            start: first position whose distribution is wanted.
        """
        return (self.residual(tokens, adapter, summary)[:, start:] @ self.unembed.T).log_softmax(dim=-1)

    def _attention(self, layer: int, x: Residual, adapter: Unmodified) -> Residual:
        q = adapter.project(Projection(layer, 0), x, x @ self.query[layer].T)
        v = adapter.project(Projection(layer, 1), x, x @ self.value[layer].T)
        k, extra = x @ self.key[layer].T, adapter.prefix(layer)
        length, before = x.shape[1], 0 if extra is None else len(extra[0])
        # As with a cache of the prefix: tokens stand behind it.
        q, k, v = self._turned(q, before), self._turned(k, before), self._by_head(v)
        if extra is not None:
            keys, values = (self._by_head(part.expand(len(x), *part.shape)) for part in extra)
            k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
        mixed = (scores + _unseen(length, before)).softmax(dim=-1) @ v
        return mixed.transpose(1, 2).flatten(2) @ self.output[layer].T

    def _by_head(self, x: Residual) -> Float[Tensor, "sample head position d_head"]:
        return x.unflatten(2, (self.shape.heads, -1)).transpose(1, 2)

    def _turned(self, x: Residual, before: int) -> Float[Tensor, "sample head position d_head"]:
        """Rotary positions, counted from ``before``."""
        split = self._by_head(x)
        cosine, sine = _rotation(x.shape[1], before, split.shape[-1] // 2)
        left, right = split.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)

    def _mlp(self, layer: int, x: Residual) -> Residual:
        inner = F.silu(x @ self.gate[layer].T) * (x @ self.up[layer].T)
        return inner @ self.down[layer].T


@lru_cache(maxsize=256)
def _rotation(
    length: int, before: int, half: int
) -> tuple[Float[Tensor, "position half"], Float[Tensor, "position half"]]:
    """Cosine and sine by position and frequency."""
    places = torch.arange(before, before + length, dtype=torch.float32)
    angles = torch.outer(places, ROTARY_BASE ** -(torch.arange(half) / half))
    return angles.cos(), angles.sin()


@lru_cache(maxsize=256)
def _unseen(length: int, before: int) -> Float[Tensor, "position source"]:
    """Minus infinity where a source is later than the position; the ``before`` first are seen by all."""
    return torch.full((length, before + length), -torch.inf).triu(before + 1)


def norm(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Root mean square 1, without a learned gain."""
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def random_transformer(shape: Shape, *, seed: int) -> FrozenTransformer:
    """A transformer of random weights.

    Args:
        shape: its sizes.
        seed: of the weights.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(*sizes: int, size: float = 1.0) -> Tensor:
        return torch.randn(sizes, generator=generator) * size / sizes[-1] ** 0.5

    layers, d, inner = shape.layers, shape.d_model, shape.d_mlp
    return FrozenTransformer(
        shape,
        embed=drawn(shape.vocab, d, size=d**0.5),
        query=drawn(layers, d, d, size=SHARP),
        key=drawn(layers, d, d, size=SHARP),
        value=drawn(layers, d, d),
        output=drawn(layers, d, d),
        gate=drawn(layers, inner, d),
        up=drawn(layers, inner, d),
        # A gated product of unit normals has a size near 0.6.
        down=drawn(layers, d, inner, size=1.7),
        unembed=drawn(shape.vocab, d, size=LOGITS),
    )
