"""Difference vectors with a known answer."""

from __future__ import annotations

import numpy as np
import torch

from cast_lens.vectors import DifferenceVectors, Provenance


def as_differences(
    task: str, few: np.ndarray, zero: np.ndarray, *, fingerprint: str = "model", layers: tuple[int, ...] = ()
) -> DifferenceVectors:
    """Arrays [sample, layer, d_model] as what a capture would give."""
    return DifferenceVectors(
        torch.tensor(few, dtype=torch.float32),
        torch.tensor(zero, dtype=torch.float32),
        layers or tuple(range(few.shape[1])),
        tuple(f"{task}-{index}" for index in range(few.shape[0])),
        Provenance(fingerprint, fingerprint, task),
    )


def planted(
    task: str, direction: np.ndarray, *, n: int = 32, layers: int = 1, noise: float = 0.0, seed: int = 0
) -> DifferenceVectors:
    """Random zero-shot activations; few-shot prompts add the direction, and noise of the given length."""
    rng = np.random.default_rng(seed)
    shape = (n, layers, direction.size)
    zero = rng.normal(size=shape)
    return as_differences(task, zero + direction + noise * rng.normal(size=shape) / direction.size**0.5, zero)


def axis(index: int, d_model: int = 24) -> np.ndarray:
    """A unit vector."""
    return np.eye(d_model)[index]
