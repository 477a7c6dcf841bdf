"""How well the differences of a task agree, how they align with tasks' means, separability, and matrix entropy.

The agreement of samples with each other and with their mean, and their separability along the vector, predict how
reliably a mean vector steers (arXiv 2505.22637). High values do not prove that steering helps. A sample is never
compared with a mean that contains it, which would inflate the cosine.

Matrix entropy measures over how many directions the activations of a layer spread. A figure of arXiv 2507.13236
compares it between prompts with and without demonstrations. The definition follows the public code of the same group's
GLoRE (github txy77/GLoRE, analysis_entropy.py), without centring or row normalisation. A few very long activations, or
a large common offset, therefore lower it: it does not measure knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..vectors import DifferenceVectors
from .resampling import (
    TINY,
    band,
    blocks,
    bounded_cosine,
    centred,
    check_bootstrap,
    check_comparable,
    check_mean_norms,
    check_sample_norms,
    difference_gram,
    local_generator,
    resample_counts,
    unbiased_squared_norm,
)


def cohesion(
    differences: Sequence[DifferenceVectors],
    *,
    n_bootstrap: int = 1000,
    n_splits: int = 20,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How well the differences of each task agree, layer by layer.

    Columns, one row per task and layer:

    - ``pairwise_cosine`` with ``low, high``: mean cosine between the differences of two different samples,
      and its bootstrap percentile interval (two copies of one sample never count as a pair; NaN below 3
      samples);
    - ``mean_cosine``: mean cosine of a sample's difference to the mean of the others (leave one out);
    - ``pc1_uncentred``: share of the squared length of the differences along their first principal axis
      through the origin; near 1 when they share a direction;
    - ``pc1_centred``: share of their variance around the mean along the first principal axis;
      0 when they do not vary;
    - ``separability``: d' of few-shot against zero-shot activations projected on the mean difference: the gap of the
      means over the root mean variance. It is cross-fitted: the direction comes from one half of the samples and the
      projections from the other, both ways, averaged over ``n_splits`` random halvings, because a direction separates
      the samples that it was computed from partly by chance. NaN below 4 samples;
    - ``n``: samples.

    Args:
        differences: one per task, from one model at the same layers.
        n_bootstrap: replicates of the interval.
        n_splits: number of random halvings for ``separability``.
        seed: seed of replicates and halvings.
        confidence: confidence level of the interval.

    Raises:
        ValueError: for different models or layers, duplicate names, fewer than two samples, a mean or single
            difference that is zero, or ``n_splits`` below 1.
    """
    check_comparable(differences)
    check_bootstrap(n_bootstrap, confidence)
    if n_splits < 1:
        raise ValueError(f"n_splits={n_splits} must be 1 or more")
    rows = []
    for one in differences:
        counts = resample_counts(one, n_bootstrap, seed)
        halves = _halvings(one, n_splits, seed)
        for layer in one.layers:
            rows.append({"task": one.task, "layer": layer, **_measures(one, layer, counts, halves, confidence)})
    return pd.DataFrame(rows)


def _measures(
    one: DifferenceVectors,
    layer: int,
    counts: Int[np.ndarray, "replicate sample"],
    halves: Bool[np.ndarray, "split sample"],
    confidence: float,
) -> dict[str, float | int]:
    gram = difference_gram([one], layer)
    check_mean_norms([one], gram, layer)
    check_sample_norms([one], gram, layer)
    lengths = np.sqrt(gram.diagonal())
    cosines = gram / np.outer(lengths, lengths)
    uniform = np.ones((1, len(one)), dtype=np.int64)
    low, high = band(_pairwise(cosines, counts), confidence) if len(one) > 2 else (np.nan, np.nan)
    row = one.layers.index(layer)
    few, zero = (side[:, row].double().numpy() for side in (one.few_shot, one.zero_shot))
    return {
        "pairwise_cosine": float(_pairwise(cosines, uniform)[0]),
        "low": float(low),
        "high": float(high),
        "mean_cosine": float(own_cosines(gram).mean()),
        "pc1_uncentred": _first_share(gram, gram.trace()),
        "pc1_centred": _first_share(centred(centred(gram).T), gram.trace()),
        "separability": _separability(few, zero, halves),
        "n": len(one),
    }


def _pairwise(
    cosines: Float[np.ndarray, "sample sample"], counts: Int[np.ndarray, "replicate sample"]
) -> Float[np.ndarray, " replicate"]:
    """Mean cosine over pairs of draws of different samples; NaN if all draws are the same sample."""
    copies = np.square(counts).sum(axis=1)
    pairs = counts.sum(axis=1) ** 2 - copies
    total = np.einsum("rs,rs->r", counts @ cosines, counts) - copies
    return np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan)


def _first_share(gram: Float[np.ndarray, "sample sample"], scale: float) -> float:
    if gram.trace() <= TINY * scale:
        return 0.0
    return float(np.linalg.eigvalsh(gram)[-1] / gram.trace())


def _halvings(one: DifferenceVectors, n_splits: int, seed: int) -> Bool[np.ndarray, "split sample"]:
    first = np.tile(np.arange(len(one)) < len(one) // 2, (n_splits, 1))
    return local_generator(one, seed, "halves").permuted(first, axis=1)


def _separability(
    few: Float[np.ndarray, "sample d_model"],
    zero: Float[np.ndarray, "sample d_model"],
    halves: Bool[np.ndarray, "split sample"],
) -> float:
    if few.shape[0] < 4:
        return float("nan")
    both = np.concatenate([halves, ~halves])
    directions = (both / both.sum(axis=1, keepdims=True)) @ (few - zero)
    held_out = (~both).astype(np.float64)
    few_mean, few_variance = _moments(directions @ few.T, held_out)
    zero_mean, zero_variance = _moments(directions @ zero.T, held_out)
    spread = np.sqrt((few_variance + zero_variance) / 2)
    # Toy data without spread separate perfectly: an infinite d' is correct there and needs no warning.
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(((few_mean - zero_mean) / spread).mean())


def _moments(
    projections: Float[np.ndarray, "split sample"], chosen: Float[np.ndarray, "split sample"]
) -> tuple[Float[np.ndarray, " split"], Float[np.ndarray, " split"]]:
    """Mean and unbiased variance over the chosen samples of each split."""
    n = chosen.sum(axis=1)
    mean = (projections * chosen).sum(axis=1) / n
    deviations = (projections - mean[:, None]) * chosen
    return mean, np.square(deviations).sum(axis=1) / (n - 1)


NEGLIGIBLE = 1e-12
"""Eigenvalues below this share of the trace are rounding. The source drops eigenvalues below an absolute 1e-10; a share
makes the entropy independent of the unit and changes it by less than 1e-8 for activations of ordinary length."""


def matrix_entropy(activations: Float[Tensor, "sample d_model"], order: float = 1.0) -> float:
    """Entropy, in nats, of the normalised spectrum of ``K = Z Z'`` for activations ``Z``.

    With ``p_i`` the eigenvalues of K over its trace: order 1 is ``-sum p_i ln p_i``; any other order a is
    ``ln(sum p_i ** a) / (1 - a)``; order 0 is the log of the rank, order infinity ``-ln max p_i``. It is
    between 0 (all activations on one line through the origin) and ``ln min(sample, d_model)`` (orthogonal,
    equally long ones).

    Args:
        activations: [sample, d_model], finite, not all zero.
        order: 0 or more.

    Raises:
        ValueError: for activations that are empty, not finite or all zero, or a negative order.
    """
    if not order >= 0:
        raise ValueError(f"order={order} must be 0 or more; 1 is the usual (von Neumann) entropy")
    if activations.ndim != 2 or activations.numel() == 0 or not bool(torch.isfinite(activations).all()):
        raise ValueError(f"activations must be a finite matrix [sample, d_model], got {tuple(activations.shape)}")
    values = activations.double().numpy()
    # Both sides have the same non-zero eigenvalues.
    gram = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    if gram.trace() == 0:
        raise ValueError("activations are all zero, so their spectrum cannot be normalised; check the capture")
    shares = np.linalg.eigvalsh(gram) / gram.trace()
    shares = shares[shares > NEGLIGIBLE]
    # Dropping rounding leaves a sum within 1e-9 of 1; a negative zero is not worth showing.
    return max(0.0, _renyi(shares, order))


def _renyi(shares: Float[np.ndarray, " share"], order: float) -> float:
    if order == 1:
        return float(-(shares * np.log(shares)).sum())
    if np.isinf(order):
        return float(-np.log(shares.max()))
    return float(np.log((shares**order).sum()) / (1 - order))


def entropy_by_layer(differences: Sequence[DifferenceVectors], *, order: float = 1.0) -> pd.DataFrame:
    """Matrix entropy of the zero-shot and of the few-shot activations of each task, layer by layer.

    Returns:
        ``task, layer, condition`` (``zero-shot`` or ``few-shot``), ``entropy`` in nats, ``n``. Entropies of
        different n are not comparable: the bound is ``ln n`` while n is below d_model.

    Raises:
        ValueError: for different models or layers, duplicate names, fewer than two samples, or a
            negative order.
    """
    check_comparable(differences)
    rows = []
    for one in differences:
        for condition, stack in (("zero-shot", one.zero_shot), ("few-shot", one.few_shot)):
            for row, layer in enumerate(one.layers):
                rows.append((one.task, layer, condition, matrix_entropy(stack[:, row], order), len(one)))
    return pd.DataFrame(rows, columns=["task", "layer", "condition", "entropy", "n"])


def alignment(
    differences: Sequence[DifferenceVectors], *, n_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """Mean cosine of the samples of each task to the mean difference of each task, its own included.

    Columns, one row per layer and ordered pair: ``task`` (whose samples), ``other`` (whose mean), ``layer``,
    ``cosine`` (mean over samples; for the own task each sample against the mean of the others), ``low, high``
    (bootstrap percentile interval; samples of both tasks are redrawn, and the length of a redrawn mean is corrected for
    the noise that redrawing adds), ``n`` (samples of ``task``). The interval of a task of two samples with itself is
    NaN.

    Args:
        differences: one per task, from one model at the same layers.
        n_bootstrap: number of replicates.
        seed: seed of the replicates.
        confidence: confidence level of the intervals.

    Raises:
        ValueError: for different models or layers, duplicate names, fewer than two samples, or a mean or
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
    # If the others cancel exactly, there is no direction to agree with, and the cosine is 0.
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
    """The same within one task: a sample is compared with the mean of the draws that are not copies of it."""
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
