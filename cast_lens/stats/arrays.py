"""Checks of arguments: one number per example, and the same examples on both sides."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike


def as_values(name: str, values: ArrayLike) -> Float[np.ndarray, " example"]:
    """The values as float64, one per example.

    Raises:
        ValueError: if they are empty, not one-dimensional or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must hold one number per example, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name} holds {int((~np.isfinite(array)).sum())} missing or infinite values among {array.size}; "
            "drop those examples on both sides, or say what they count as"
        )
    return array


def as_pair(**sides: ArrayLike) -> tuple[Float[np.ndarray, " example"], ...]:
    """Several columns over the same examples, in the given order.

    Raises:
        ValueError: see ``as_values``; if their lengths differ.
    """
    arrays = tuple(as_values(name, values) for name, values in sides.items())
    if len({array.size for array in arrays}) > 1:
        lengths = ", ".join(f"{name}: {array.size}" for name, array in zip(sides, arrays, strict=True))
        raise ValueError(f"columns must describe the same examples in the same order, got {lengths} of them")
    return arrays


def as_known_pair(
    **sides: ArrayLike,
) -> tuple[Float[np.ndarray, " known"], Float[np.ndarray, " known"], Bool[np.ndarray, " example"]]:
    """Two columns restricted to the examples that are known (not NaN) in both, and a mask of these examples.

    Raises:
        ValueError: if lengths differ, values are infinite, or no example is known on both sides.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in sides.values()]
    if any(array.ndim != 1 for array in arrays) or len({array.size for array in arrays}) > 1:
        as_pair(**{name: np.nan_to_num(array) for name, array in zip(sides, arrays, strict=True)})
    known = ~np.isnan(arrays[0]) & ~np.isnan(arrays[1])
    if arrays[0].size and not known.any():
        raise ValueError(f"{' and '.join(sides)} share no example whose outcome is known: every pair holds NaN")
    before, after = as_pair(**{name: array[known] for name, array in zip(sides, arrays, strict=True)})
    return before, after, known


def as_outcomes(**sides: ArrayLike) -> tuple[Bool[np.ndarray, " example"], ...]:
    """Like ``as_pair``, for outcomes of 0 and 1.

    Raises:
        ValueError: see ``as_pair``; if a value is neither 0 nor 1.
    """
    arrays = as_pair(**sides)
    for name, array in zip(sides, arrays, strict=True):
        if not np.isin(array, (0.0, 1.0)).all():
            raise ValueError(f"{name} must hold 0 or 1 (or booleans), got {np.unique(array)[:4]}")
    return tuple(array == 1.0 for array in arrays)


def cluster_codes(clusters: ArrayLike | None, n: int) -> Int[np.ndarray, " example"]:
    """Index of the resampling unit of each example, from 0; without clusters, every example is a unit.

    Raises:
        ValueError: unless there is one cluster label per example.
    """
    if clusters is None:
        return np.arange(n)
    labels = np.asarray(clusters)
    if labels.shape != (n,):
        raise ValueError(f"clusters must hold one label for each of the {n} examples, got {labels.shape}")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def check_share(name: str, value: float) -> None:
    """Refuse a confidence, level or power outside (0, 1).

    Raises:
        ValueError: if the value is outside (0, 1).
    """
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} must lie between 0 and 1")
