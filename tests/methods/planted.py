"""Sources whose difference vectors are made by hand: no model runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cast_lens.extraction import Extraction
from cast_lens.methods import SourceTask
from cast_lens.vectors import DifferenceVectors, Provenance
from tests.small_tasks import label_task
from tests.toy import toy_model

LAYERS = (0, 2, 3)
ORIGIN = Provenance("toy", "0123456789abcdef", "mood", seed=7)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def vectors(differences: Tensor, *, seed: int = 0, note: str = "") -> DifferenceVectors:
    """Difference vectors [sample, layer, d_model] with these differences, up to rounding."""
    zero = noise(*differences.shape, seed=seed)
    ids = tuple(f"mood-{i:03d}" for i in range(len(differences)))
    return DifferenceVectors(zero + differences, zero, LAYERS, ids, replace(ORIGIN, note=note))


def source(true: DifferenceVectors, **about: Any) -> SourceTask:
    """A source with these true differences and, for both placebo kinds, random ones of another size."""
    kinds = {"true": true}
    for seed, kind in enumerate(("shuffled labels", "random text"), start=1):
        kinds[kind] = vectors(50 * noise(*true.few_shot.shape, seed=seed), note=kind)
    return SourceTask(toy_model(), label_task(), Extraction(), kinds.__getitem__, **about)
