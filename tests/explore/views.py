"""Small explorations: vectors of seeded noise around one direction per task, on samples of tasks that ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cast_lens.tasks import load_task
from cast_lens.vectors import DifferenceVectors, Provenance
from tests.plots import synthetic

LAYERS = (3, 7, 11, 20)
SAMPLES = 9
WIDTH = 12


def vectors(name: str, place: int, *, ids: tuple[str, ...] | None = None) -> DifferenceVectors:
    rng = np.random.default_rng(place)
    known = ids or tuple(example.id for example in load_task(name).train[:SAMPLES])
    zero = rng.normal(0, 1, (len(known), len(LAYERS), WIDTH))
    shift = np.zeros(WIDTH)
    shift[[0, place + 1]] = 6
    few = zero + shift + rng.normal(0, 0.7, zero.shape)
    sides = (torch.tensor(side, dtype=torch.float32) for side in (few, zero))
    return DifferenceVectors(*sides, LAYERS, known, Provenance("tiny-model", "abc", name, sample_ids=known))


def differences() -> list[DifferenceVectors]:
    return [vectors(name, place) for place, name in enumerate(("review-sentiment", "science", "present-past"))]


def write_run(folder: Path) -> Path:
    """A run directory that has its vectors and no more than a projection by UMAP."""
    run = synthetic.write_run(folder, leave_out=("parallelism", "projection"))
    for one in differences():
        one.save(run / "vectors" / f"differences.{one.task}.safetensors")
    return run
