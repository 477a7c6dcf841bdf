"""Difference vectors whose geometry is known beforehand: what does a figure show of it, and what does it
invent?

A picture of activations convinces whether or not it is right. Before reading one, plot it once with differences
that are exactly parallel and once with differences that have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors import DifferenceVectors, Provenance


def planted_differences(
    tasks: Sequence[str],
    *,
    cosine: float,
    samples: int = 24,
    d_model: int = 256,
    shift: float = 3.0,
    apart: float = 4.0,
    scatter: float = 0.3,
    seed: int = 0,
) -> list[DifferenceVectors]:
    """Tasks at one layer whose mean differences have one known cosine, pair by pair.

    Each task is a round cloud of zero-shot activations, about 1 in radius, with a centre of its own; centres and
    differences are orthogonal to each other. Few-shot activations are the zero-shot ones plus the task's
    difference plus scatter. The difference of task t is ``shift * (sqrt(c) s + sqrt(1 - c) u_t)`` with
    orthonormal ``s, u_1, u_2, ...``.

    Args:
        tasks: names.
        cosine: between the differences of any two tasks, from 0 (nothing in common) to 1 (the same).
        samples: per task.
        d_model: width.
        shift: length of the differences.
        apart: distance of each cloud's centre from the origin.
        scatter: length of what a sample's difference has of its own; 0 makes all differences of a task equal.
        seed: of directions and scatter.

    Returns:
        One per task, at layer 0, of the model ``planted``.

    Raises:
        ValueError: on a cosine outside 0 ... 1, or fewer than ``2 * tasks + 1`` dimensions.
    """
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine={cosine} must be from 0 to 1; more than two differences cannot all point apart")
    if d_model < 2 * len(tasks) + 1:
        raise ValueError(f"d_model={d_model} must be at least {2 * len(tasks) + 1} for {len(tasks)} tasks")
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((d_model, 2 * len(tasks) + 1)))[0].T
    noise = generator.standard_normal((2, len(tasks), samples, d_model)) / np.sqrt(d_model)
    own, centres = axes[1 : len(tasks) + 1], axes[len(tasks) + 1 :]
    differences = shift * (np.sqrt(cosine) * axes[0] + np.sqrt(1 - cosine) * own)
    zero = apart * centres[:, None] + noise[0]
    few = zero + differences[:, None] + scatter * noise[1]
    names = tuple(f"sample {number}" for number in range(samples))
    return [
        DifferenceVectors(_stack(after), _stack(before), (0,), names, Provenance("planted", "planted", task))
        for task, before, after in zip(tasks, zero, few, strict=True)
    ]


def _stack(values: Float[np.ndarray, "sample d_model"]) -> Float[Tensor, "sample 1 d_model"]:
    return torch.tensor(values, dtype=torch.float32)[:, None]
