"""Do the differences of one task agree, and do they part few-shot from zero-shot activations?

Both predict how reliably a mean vector steers (arXiv 2505.22637): agreement of the training differences with
each other and with their mean, and separability along the vector. High values do not prove that steering
helps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from ..vectors import DifferenceVectors
from .alignment import own_cosines
from .resampling import (
    TINY,
    band,
    centred,
    check_bootstrap,
    check_comparable,
    check_mean_norms,
    check_sample_norms,
    difference_gram,
    local_generator,
    resample_counts,
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
    - ``separability``: d' of few-shot against zero-shot activations projected on the mean difference, that is
      the gap of the means over the root mean variance. Cross-fitted: the direction comes from one half of the
      samples, the projections from the other, both ways, averaged over ``n_splits`` random halvings, because
      a direction scored on the samples that made it separates them in part by chance. NaN below 4 samples;
    - ``n``: samples.

    Args:
        differences: one per task, from one model at the same layers.
        n_bootstrap: replicates of the interval.
        n_splits: random halvings behind ``separability``.
        seed: of replicates and halvings.
        confidence: of the interval.

    Raises:
        ValueError: on different models or layers, duplicate names, fewer than two samples, a mean or single
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
    """Mean cosine over pairs of draws of different samples; NaN when all draws are one sample."""
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
    # Toy data without spread separate perfectly: an infinite d' is right there, and no reason to warn.
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
