"""Intervals: bias-corrected and accelerated (BCa) bootstrap, and Wilson's for proportions.

Every statistic here is a smooth function of column means, so one routine serves them all. Resampling goes by
example, or by cluster where examples are not independent: outcomes of one example under several seeds, or of
several examples under one seed's demonstrations. With fewer than about 10 clusters any such interval is too
narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .arrays import as_pair, as_values, check_share, cluster_codes

Statistic = Callable[[Float[np.ndarray, "*stack column"]], Float[np.ndarray, "*stack part"]]

BATCH = 4_000_000
"""Numbers drawn at a time, so that a bootstrap of many examples holds about 32 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN when a single unit leaves nothing to resample.
        high: upper end.
        n: examples behind it.
        units: independent units among them (clusters, or the examples themselves).
    """

    value: float
    low: float
    high: float
    n: int
    units: int


def mean_interval(
    values: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of per-example values with its BCa bootstrap interval (Efron 1987).

    Values that are all equal give an interval of no width: there is no sign of spread in them. For plain
    proportions prefer ``proportion_interval``, which knows that 0 of 20 does not mean never.

    Args:
        values: one an example.
        clusters: label of the resampling unit of each example; every example is its own when None.
        n_bootstrap: replicates.
        seed: of the replicates.
        confidence: of the interval.

    Raises:
        ValueError: on values that are empty or not finite, or labels that do not fit.
    """
    columns = as_values("values", values)[:, None]
    return bootstrap_means(
        columns, _first, clusters=clusters, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )[0]


def paired_difference(
    baseline: ArrayLike,
    treated: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Mean of ``treated - baseline`` over the same examples, with its BCa bootstrap interval.

    Args:
        baseline: outcome of each example without the treatment (0 and 1, booleans, or any number).
        treated: outcome of the same examples, in the same order, with it.
        clusters: label of the resampling unit of each example; every example is its own when None.
        n_bootstrap: replicates.
        seed: of the replicates.
        confidence: of the interval.

    Raises:
        ValueError: on columns of different lengths, or as ``mean_interval``.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    return mean_interval(
        after - before, clusters=clusters, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )


def proportion_interval(successes: int, n: int, *, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (through statsmodels); sound at 0 %, at 100 % and for small n.

    Raises:
        ValueError: unless ``0 <= successes <= n`` and ``n >= 1``.
    """
    from statsmodels.stats.proportion import proportion_confint

    check_share("confidence", confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n} is no share; give 0 <= successes <= n, n >= 1")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Estimate(successes / n, float(low), float(high), n, n)


def bootstrap_means(
    columns: Float[np.ndarray, "example column"],
    statistic: Statistic,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Estimate]:
    """BCa intervals for functions of column means, all columns redrawn together (paired).

    Args:
        columns: [example, column].
        statistic: from means [..., column] to results [..., part].
        clusters: label of the resampling unit of each example, or None.
        n_bootstrap: replicates.
        seed: of the replicates.
        confidence: of the intervals.

    Returns:
        One estimate a part.

    Raises:
        ValueError: on labels that do not fit, fewer than 2 replicates or a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap={n_bootstrap} must be 2 or more; 2000 serves a 95 % interval")
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
    from scipy.stats import bootstrap

    def of_units(*drawn: Float[np.ndarray, "*stack unit"], axis: int) -> Float[np.ndarray, "*shape"]:
        totals = np.stack([column.sum(axis=axis) for column in drawn], axis=-1)
        return np.moveaxis(statistic(totals[..., :-1] / totals[..., -1:]), -1, 0)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Without spread BCa divides 0 by 0 and scipy warns; that case is settled below.
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
            # The newer name ``rng`` is unknown to scipy before 1.15; later versions take both.
            random_state=np.random.default_rng(seed),
        )
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = np.quantile(found.bootstrap_distribution, tails, axis=-1)
    # Where BCa is undefined (an estimate beyond all replicates), the plain percentiles stand in.
    low = np.where(np.isnan(found.confidence_interval.low), low, found.confidence_interval.low)
    high = np.where(np.isnan(found.confidence_interval.high), high, found.confidence_interval.high)
    spread = np.ptp(found.bootstrap_distribution, axis=-1)
    still = spread <= 1e-12 * np.maximum(1.0, np.abs(value))
    return np.where(still, value, low), np.where(still, value, high)
