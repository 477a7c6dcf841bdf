"""What is added to a frozen transformer: the implemented ATV, the ATV of the theorem, LoRA and prefixes.

| form | changes | numbers per layer |
|---|---|---|
| ``Additive`` | ``h + v`` after the block: a static ATV, or BitFit's bias | d |
| ``Conditioned`` | ``h + U D s + v``, ``s`` a summary of the query: the ATV as implemented, linear | 2rd + d |
| ``Affine`` | ``h + U D h + v``: the affine ATV of theorem 1 (arXiv 2506.03426), where the ATV is added | 2rd + d |
| ``LoRA`` | ``W x + U D x`` of query and value (arXiv 2106.09685) | 4rd |
| ``BiasedLoRA`` | ``W x + U D x + b`` there: the affine ATV at LoRA's placement, which is LoRA and a bias | 4rd + 2d |
| ``Prefix`` | learned keys and values in front (arXiv 2101.00190), without its reparametrisation | 2rd |
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from .transformer import SHARP, KeysValues, Projection, Residual, Shape, Summary, Unmodified


@dataclass(frozen=True, eq=False)
class Learned(Unmodified):
    """An adapter with tensors to learn, stacked over layers."""

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Where learning begins: at the unmodified model, but for a prefix, whose values are zero."""
        raise NotImplementedError

    def tensors(self) -> tuple[Tensor, ...]:
        """What is learned."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(tensor.numel() for tensor in self.tensors())


@dataclass(frozen=True, eq=False)
class Additive(Learned):
    """``h + v`` after each block, at all positions."""

    vectors: Float[Tensor, "layer d_model"]

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Zero vectors; they have no rank."""
        return cls(torch.zeros(shape.layers, shape.d_model))

    def after(self, layer: int, residual: Residual, summary: Summary | None) -> Residual:
        """Plus the vector."""
        return residual + self.vectors[layer]


@dataclass(frozen=True, eq=False)
class Affine(Learned):
    """``h + U D h + v`` after each block, at all positions."""

    up: Float[Tensor, "layer d_model rank"]
    down: Float[Tensor, "layer rank d_model"]
    vectors: Float[Tensor, "layer d_model"]

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Up and vectors zero, down random."""
        up, down = _low_rank((shape.layers,), shape.d_model, rank, generator)
        return cls(up, down, torch.zeros(shape.layers, shape.d_model))

    def after(self, layer: int, residual: Residual, summary: Summary | None) -> Residual:
        """Plus a map of the residual of low rank, plus the vector."""
        return residual + (residual @ self.down[layer].T) @ self.up[layer].T + self.vectors[layer]


@dataclass(frozen=True, eq=False)
class Conditioned(Affine):
    """``h + U D s + v`` after each block: one vector per query, at all positions."""

    def after(self, layer: int, residual: Residual, summary: Summary | None) -> Residual:
        """Plus a vector that depends on the summary alone."""
        assert summary is not None
        written = (summary @ self.down[layer].T) @ self.up[layer].T + self.vectors[layer]
        return residual + written[:, None]


@dataclass(frozen=True, eq=False)
class LoRA(Learned):
    """``W x + U D x`` for query and value of each layer."""

    up: Float[Tensor, "layer place d_model rank"]
    down: Float[Tensor, "layer place rank d_model"]

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Up zero, down random."""
        return cls(*_low_rank((shape.layers, 2), shape.d_model, rank, generator))

    def project(self, where: Projection, inputs: Residual, outputs: Residual) -> Residual:
        """Plus a map of low rank."""
        return outputs + (inputs @ self.down[where].T) @ self.up[where].T


@dataclass(frozen=True, eq=False)
class BiasedLoRA(LoRA):
    """``W x + U D x + b`` for query and value of each layer."""

    biases: Float[Tensor, "layer place d_model"]

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Up and biases zero, down random."""
        up, down = _low_rank((shape.layers, 2), shape.d_model, rank, generator)
        return cls(up, down, torch.zeros(shape.layers, 2, shape.d_model))

    def project(self, where: Projection, inputs: Residual, outputs: Residual) -> Residual:
        """Plus a map of low rank and a bias."""
        return LoRA.project(self, where, inputs, outputs) + self.biases[where]


@dataclass(frozen=True, eq=False)
class Prefix(Learned):
    """Keys and values that every position also attends to; its rank is their number."""

    keys: Float[Tensor, "layer prefix d_model"]
    values: Float[Tensor, "layer prefix d_model"]

    @classmethod
    def start(cls, shape: Shape, rank: int, generator: torch.Generator) -> Learned:
        """Keys as large as the model's own, values zero."""
        sizes = (shape.layers, rank, shape.d_model)
        return cls(SHARP * torch.randn(sizes, generator=generator), torch.zeros(sizes))

    def prefix(self, layer: int) -> KeysValues:
        """Those of the layer."""
        return self.keys[layer], self.values[layer]


def _low_rank(
    stack: tuple[int, ...], d_model: int, rank: int, generator: torch.Generator
) -> tuple[Float[Tensor, "*stack d_model rank"], Float[Tensor, "*stack rank d_model"]]:
    """Zero up and random down."""
    down = torch.randn((*stack, rank, d_model), generator=generator) / d_model**0.5
    return torch.zeros((*stack, d_model, rank)), down


FORMS: dict[str, type[Learned]] = {
    "additive": Additive,
    "conditioned": Conditioned,
    "affine": Affine,
    "lora": LoRA,
    "lora + bias": BiasedLoRA,
    "prefix": Prefix,
}
"""Students by name."""


def parameter_count(form: str, shape: Shape, rank: int) -> int:
    """Numbers that a form of this rank learns."""
    return FORMS[form].start(shape, rank, torch.Generator()).parameters


def matched_rank(form: str, shape: Shape, budget: int) -> int | None:
    """The rank whose number of parameters is nearest to a budget, at least 1; the lower one of two as near.

    None for a form whose size cannot be chosen.
    """
    one, two = (parameter_count(form, shape, rank) for rank in (1, 2))
    if one == two:
        return None
    low = max(1, (budget - one) // (two - one) + 1)
    sizes = {rank: abs(one + (rank - 1) * (two - one) - budget) for rank in (low, low + 1)}
    return min(sizes, key=lambda rank: (sizes[rank], rank))
