"""A frozen transformer small enough to fit to in a second."""

from __future__ import annotations

import torch

from studies.expressivity.adapters import Learned
from studies.expressivity.fitting import Sequences, draw_sequences
from studies.expressivity.transformer import FrozenTransformer, Shape, random_transformer

SMALL = Shape(vocab=20, d_model=16, layers=2, heads=2, d_mlp=24)


def small_model() -> FrozenTransformer:
    return random_transformer(SMALL, seed=0)


def small_sequences(count: int = 192) -> Sequences:
    return draw_sequences(small_model(), count, length=8, query=4, seed=1)


def randomised(adapter: Learned, *, size: float = 0.5, seed: int = 2) -> Learned:
    """The same form with random numbers everywhere, so that each of them matters."""
    generator = torch.Generator().manual_seed(seed)
    return type(adapter)(*(size * torch.randn(part.shape, generator=generator) for part in adapter.tensors()))
