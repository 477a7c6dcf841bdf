"""How far each sample's own difference points along its task's mean, and along other tasks' means.

The mean of a task may hide that its samples disagree; a vector built from disagreeing samples steers
unreliably (arXiv 2505.22637). A sample is never compared with a mean that it is part of: that would inflate
the cosine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from ..vectors import DifferenceVectors
from .resampling import (
    TINY,
    band,
    blocks,
    bounded_cosine,
    check_bootstrap,
    check_comparable,
    check_mean_norms,
    check_sample_norms,
    difference_gram,
    resample_counts,
    unbiased_squared_norm,
)


def alignment(
    differences: Sequence[DifferenceVectors], *, n_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """Mean cosine of the samples of each task to the mean difference of each task, its own included.

    Columns, one row per layer and ordered pair: ``task`` (whose samples), ``other`` (whose mean), ``layer``,
    ``cosine`` (mean over samples; for the own task each sample against the mean of the others), ``low, high``
    (bootstrap percentile interval; samples of both tasks are redrawn, and the length of a redrawn mean is
    freed of the noise that redrawing adds), ``n`` (samples of ``task``). A task of two samples has no
    interval with itself: NaN.

    Args:
        differences: one per task, from one model at the same layers.
        n_bootstrap: replicates.
        seed: of the replicates.
        confidence: of the intervals.

    Raises:
        ValueError: on different models or layers, duplicate names, fewer than two samples, or a mean or
            single difference that is zero.
    """
    check_comparable(differences)
    check_bootstrap(n_bootstrap, confidence)
    counts = [resample_counts(one, n_bootstrap, seed) for one in differences]
    rows = []
    for layer in differences[0].layers:
        gram = _checked_gram(differences, layer)
        cosines = _sample_cosines(differences, gram)
        for index, one in enumerate(differences):
            for other, target in enumerate(differences):
                replicates = _replicates(gram, blocks(differences), counts, index, other)
                low, high = band(replicates, confidence)
                mean = float(cosines[other][blocks(differences)[index]].mean())
                rows.append((one.task, target.task, layer, mean, float(low), float(high), len(one)))
    return pd.DataFrame(rows, columns=["task", "other", "layer", "cosine", "low", "high", "n"])


def alignment_samples(differences: Sequence[DifferenceVectors]) -> pd.DataFrame:
    """The cosines behind ``alignment``, one row per sample, layer and other task, for scatters and hover text.

    Columns: ``task, sample_id, other, layer, cosine``; for the own task against the mean of the other
    samples.

    Raises:
        ValueError: as ``alignment``.
    """
    check_comparable(differences)
    owners = np.repeat([one.task for one in differences], [len(one) for one in differences])
    ids = np.concatenate([np.array(one.sample_ids, dtype=object) for one in differences])
    frames = []
    for layer in differences[0].layers:
        cosines = _sample_cosines(differences, _checked_gram(differences, layer))
        for target, values in zip(differences, cosines, strict=True):
            columns = {"task": owners, "sample_id": ids, "other": target.task, "layer": layer, "cosine": values}
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def own_cosines(gram: Float[np.ndarray, "sample sample"]) -> Float[np.ndarray, " sample"]:
    """Cosine of each sample to the mean of the others of its task, from the task's own Gram matrix."""
    squares, sums = gram.diagonal(), gram.sum(axis=1)
    rest = gram.sum() - 2 * sums + squares
    # Others that cancel exactly leave no direction to agree with: no agreement, cosine 0.
    return np.where(rest > TINY * squares.sum(), bounded_cosine(sums - squares, squares * rest), 0.0)


def _checked_gram(differences: Sequence[DifferenceVectors], layer: int) -> Float[np.ndarray, "total total"]:
    gram = difference_gram(differences, layer)
    check_mean_norms(differences, gram, layer)
    check_sample_norms(differences, gram, layer)
    return gram


def _sample_cosines(
    differences: Sequence[DifferenceVectors], gram: Float[np.ndarray, "total total"]
) -> list[Float[np.ndarray, " total"]]:
    """For each task, the cosines of all samples of all tasks to its mean."""
    found = []
    for rows in blocks(differences):
        cosines = bounded_cosine(gram[:, rows].sum(axis=1), gram.diagonal() * gram[rows, rows].sum())
        cosines[rows] = own_cosines(gram[rows, rows])
        found.append(cosines)
    return found


def _replicates(
    gram: Float[np.ndarray, "total total"],
    rows: Sequence[slice],
    counts: Sequence[Int[np.ndarray, "replicate _"]],
    task: int,
    other: int,
) -> Float[np.ndarray, " replicate"]:
    """Mean cosine of a resample of one task to the mean of a resample of another, replicate by replicate."""
    drawn = counts[other].T
    squares = gram.diagonal()
    own = gram[rows[other], rows[other]] @ drawn
    squared_sum = np.einsum("sr,sr->r", own, drawn)
    sum_of_squares = squares[rows[other]] @ drawn
    if task == other:
        return _own_replicates(own, drawn, squares[rows[other]], squared_sum, sum_of_squares)
    n = drawn.shape[0]
    norms = unbiased_squared_norm(squared_sum, sum_of_squares, n).clip(min=0)
    units = gram[rows[task], rows[other]] / np.sqrt(squares[rows[task], None])
    mean_inner = np.einsum("rs,sr->r", counts[task], units @ drawn) / (counts[task].shape[1] * n)
    return bounded_cosine(mean_inner, norms)


def _own_replicates(
    sums: Float[np.ndarray, "sample replicate"],
    drawn: Int[np.ndarray, "sample replicate"],
    squares: Float[np.ndarray, " sample"],
    squared_sum: Float[np.ndarray, " replicate"],
    sum_of_squares: Float[np.ndarray, " replicate"],
) -> Float[np.ndarray, " replicate"]:
    """As above within one task: a sample meets the mean of the draws that are not copies of it."""
    square = squares[:, None]
    others = drawn.sum(axis=0) - drawn
    rest = squared_sum - 2 * drawn * sums + drawn**2 * square
    usable = others >= 2
    safe = np.where(usable, others, 2)
    norms = unbiased_squared_norm(rest, sum_of_squares - drawn * square, safe).clip(min=0)
    cosines = bounded_cosine((sums - drawn * square) / safe, square * norms)
    weights = np.where(usable, drawn, 0)
    total = weights.sum(axis=0)
    mean = (weights * cosines).sum(axis=0) / np.maximum(total, 1)
    return np.where(total > 0, mean, np.nan)
