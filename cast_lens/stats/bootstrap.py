"""Bootstrap intervals: bias-corrected and accelerated (BCa, Efron 1987).

Every statistic here is a smooth function of column means, so one routine handles them all. Examples are resampled, or
whole clusters if examples are not independent: outcomes of one example under several seeds, or of several examples
under the same demonstrations. With fewer than about 10 clusters such an interval is too narrow. Outcomes of 0 and 1 get
score intervals instead (see ``intervals``), because resampling fails near 0 and 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import bootstrap

from .arrays import as_known_pair, check_share, cluster_codes
from .intervals import Estimate, clustered_share, difference_interval

Statistic = Callable[[Float[np.ndarray, "*stack column"]], Float[np.ndarray, "*stack part"]]

BATCH = 4_000_000
"""How many numbers are drawn at once, so that a bootstrap of many examples takes about 32 MB."""


def mean_interval(
    values: ArrayLike,
    *,
    shares: bool = True,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of per-example values with a BCa bootstrap interval, or Wilson's score interval if all are 0 or 1.

    Args:
        values: one per example. NaN means unknown; such examples are left out and counted in ``excluded``.
        shares: whether values that are all 0 or 1 are outcomes; False for measurements, which may all be 0 by chance.
        clusters: label of the resampling unit of each example; None if every example is its own unit.
        n_bootstrap: number of replicates.
        seed: seed of the replicates.
        confidence: confidence level of the interval.

    Returns:
        The estimate. If all values are equal, and neither 0 nor 1, the interval is NaN, because they do not show how
        much other values would differ.

    Raises:
        ValueError: if values are empty, infinite or all unknown, or labels do not fit.

    >>> found = mean_interval([1, 1, 1, 0])
    >>> round(found.value, 2), round(found.low, 2), round(found.high, 2)
    (0.75, 0.3, 0.95)
    """
    known, _, chosen = as_known_pair(values=values, values_again=values)
    labels = None if clusters is None else np.asarray(clusters)
    if labels is not None and labels.shape == chosen.shape:
        labels = labels[chosen]
    check_share("confidence", confidence)
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap={n_bootstrap} must be 2 or more; 2000 is enough for a 95 % interval")
    if shares and np.isin(known, (0.0, 1.0)).all():
        found = clustered_share(known, labels, confidence=confidence)
    else:
        options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "confidence": confidence}
        found = bootstrap_means(known[:, None], _first, clusters=labels, **options)[0]
    return replace(found, excluded=int((~chosen).sum()))


def paired_difference(
    baseline: ArrayLike,
    treated: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of ``treated - baseline`` over the same examples.

    Outcomes of 0 and 1 get the score interval of ``paired_proportions``, other numbers a BCa bootstrap interval. For
    averages of outcomes (shares), call ``paired_proportions`` itself.

    Args:
        baseline: outcome of each example without the treatment (0 and 1, booleans, or any number; NaN is unknown).
        treated: outcome of the same examples, in the same order, with the treatment.
        clusters: label of the resampling unit of each example; None if every example is its own unit.
        n_bootstrap: number of replicates.
        seed: seed of the replicates.
        confidence: confidence level of the interval.

    Returns:
        The estimate; pairs with an unknown outcome are left out and counted in ``excluded``. If all differences are
        equal, the interval is NaN.

    Raises:
        ValueError: see ``mean_interval``; if the columns have different lengths.
    """
    before, after, known = as_known_pair(baseline=baseline, treated=treated)
    labels = None if clusters is None else np.asarray(clusters)[known]
    excluded = int((~known).sum())
    if np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        return difference_interval(after - before, labels, confidence=confidence, excluded=excluded)
    options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "confidence": confidence}
    found = bootstrap_means((after - before)[:, None], _first, clusters=labels, **options)[0]
    return replace(found, excluded=excluded)


def bootstrap_means(
    columns: Float[np.ndarray, "example column"],
    statistic: Statistic,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Estimate]:
    """BCa intervals for functions of column means; all columns are resampled together (paired).

    Args:
        columns: [example, column].
        statistic: maps means [..., column] to results [..., part].
        clusters: label of the resampling unit of each example, or None.
        n_bootstrap: number of replicates.
        seed: seed of the replicates.
        confidence: confidence level of the intervals.

    Returns:
        One estimate per part; a part without spread has a NaN interval.

    Raises:
        ValueError: if labels do not fit, there are fewer than 2 replicates, or the confidence is outside (0, 1).
    """
    check_share("confidence", confidence)
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap={n_bootstrap} must be 2 or more; 2000 is enough for a 95 % interval")
    n = len(columns)
    codes = cluster_codes(clusters, n)
    units = int(codes.max()) + 1
    sums = np.stack([np.bincount(codes, weights=column, minlength=units) for column in columns.T])
    sizes = np.bincount(codes, minlength=units).astype(np.float64)
    value = statistic(sums.sum(axis=1) / n)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if units > 1:
        low, high = _bca(sums, sizes, statistic, value, n_bootstrap, seed, confidence)
    return [
        Estimate(float(one), float(left), float(right), n, units)
        for one, left, right in zip(value, low, high, strict=True)
    ]


def _first(means: Float[np.ndarray, "*stack column"]) -> Float[np.ndarray, "*stack part"]:
    return means[..., :1]


def _bca(
    sums: Float[np.ndarray, "column unit"],
    sizes: Float[np.ndarray, " unit"],
    statistic: Statistic,
    value: Float[np.ndarray, " part"],
    n_bootstrap: int,
    seed: int,
    confidence: float,
) -> tuple[Float[np.ndarray, " part"], Float[np.ndarray, " part"]]:
    def of_units(*drawn: Float[np.ndarray, "*stack unit"], axis: int) -> Float[np.ndarray, "*shape"]:
        totals = np.stack([column.sum(axis=axis) for column in drawn], axis=-1)
        return np.moveaxis(statistic(totals[..., :-1] / totals[..., -1:]), -1, 0)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Without spread BCa divides 0 by 0 and scipy warns; such parts get NaN below.
        warnings.simplefilter("ignore")
        found = bootstrap(
            (*sums, sizes),
            of_units,
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=n_bootstrap,
            batch=max(1, BATCH // sums.size),
            confidence_level=confidence,
            method="BCa",
            # scipy before 1.15 does not know the newer name ``rng``; later versions accept both.
            random_state=np.random.default_rng(seed),
        )
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(found.bootstrap_distribution, tails, axis=-1)
    # Where BCa is undefined (an estimate beyond all replicates), plain percentiles are used.
    low = np.where(np.isnan(found.confidence_interval.low), low, found.confidence_interval.low)
    high = np.where(np.isnan(found.confidence_interval.high), high, found.confidence_interval.high)
    spread = np.ptp(found.bootstrap_distribution, axis=-1)
    still = spread <= 1e-12 * np.maximum(1.0, np.abs(value))
    return np.where(still, np.nan, low), np.where(still, np.nan, high)
