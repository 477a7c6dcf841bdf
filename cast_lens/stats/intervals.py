"""Estimates with intervals: Student's for few units, and score intervals for right and wrong answers.

There are score intervals for one share (Wilson) and for the difference of two shares of the same examples. The
bootstrap fails for shares near 0 and 1: if no example changed, it has no spread to resample. The difference of paired
shares gets Tango's score interval (Statistics in Medicine 17, 1998), and up to ``EXACT`` examples the exact
unconditional interval that inverts the same statistic (Agresti and Min, Biometrics 57, 2001; 10 to 40 ms per new
table). Both keep a sensible width if nothing changed: 0 of 16 is compatible with changes of 20 points, 0 of 200 with 2.

Examples that are not independent (one query under several seeds or several sources) count by their *effective* number:
the number of independent examples whose mean would vary as much as the mean over clusters does. It is between the
number of clusters (if nothing changed) and the number of outcomes.

``docs/intervals.md`` has the measured coverage; ``benchmarks/intervals.py`` measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import gammaln, xlogy
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

from .arrays import as_known_pair, as_values, check_share, cluster_codes
from .significance import FINEST, grid_unit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN if the data do not determine its width (a single unit, or numbers without
            any spread). No interval has zero width.
        high: upper end of the interval.
        n: number of examples.
        units: number of independent units (clusters, or the examples themselves).
        excluded: how many further examples were left out because their outcome is unknown (NaN).
    """

    value: float
    low: float
    high: float
    n: int
    units: int
    excluded: int = 0


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of a few independent values with Student's interval.

    Use it for 2 to about 10 units, where a bootstrap interval would be too narrow, and for roughly normal values; take
    logarithms first if they span orders of magnitude.

    Args:
        values: one per unit; the interval of a single value, or of equal values, is NaN.
        confidence: confidence level of the interval.

    Raises:
        ValueError: if values are empty or not finite, or the confidence is outside (0, 1).
    """
    check_share("confidence", confidence)
    column = as_values("values", values)
    n, mean = column.size, float(column.mean())
    if n == 1 or not np.ptp(column) > 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, np.nan, np.nan, n, n)
    low, high = t.interval(confidence, n - 1, loc=mean, scale=column.std(ddof=1) / n**0.5)
    return Estimate(mean, float(low), float(high), n, n)


def proportion_interval(successes: float, n: float, *, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (from statsmodels), which is valid at 0 %, at 100 % and for small n.

    Args:
        successes: how many successes; a fraction if ``n`` is an effective number of examples.
        n: how many examples.
        confidence: confidence level of the interval.

    Raises:
        ValueError: unless ``0 <= successes <= n`` and ``n >= 1``.
    """
    check_share("confidence", confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n} is not a share; give 0 <= successes <= n, n >= 1")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Estimate(successes / n, float(low), float(high), round(n), round(n))


EXACT = 64
"""Up to this many examples every interval is exact. Above, Tango's is good unless nearly all answers change alike."""
ALIKE, MOST = 4, 256
"""If all but ``ALIKE`` answers are gained (or lost), intervals are exact up to ``MOST`` examples."""
NUISANCE = 30
"""Shares of lost answers among which the least favourable one is searched."""
STEPS = 10
"""Differences around the end of Tango's interval that are tried before bisection refines an exact end."""
TIES = 1e-9


def paired_proportions(
    baseline: ArrayLike, treated: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> Estimate:
    """Difference ``treated - baseline`` of two shares of the same examples, with a score interval.

    The interval is exact for up to ``EXACT`` independent examples and Tango's above. For clustered or averaged outcomes
    it is Tango's at the effective number of examples; see the module docstring.

    Args:
        baseline: outcome of each example without the treatment: 0 or 1, or an average of such outcomes (over seeds).
        treated: outcome of the same examples, in the same order, with the treatment.
        clusters: label of the independent unit of each example; None if every example is its own unit.
        confidence: confidence level of the interval.

    Returns:
        The estimate; examples that are NaN on either side are left out and counted in ``excluded``. The interval of a
        single cluster is NaN.

    Raises:
        ValueError: if lengths differ, no pair is known, or values are outside [0, 1].
    """
    check_share("confidence", confidence)
    before, after, known = as_known_pair(baseline=baseline, treated=treated)
    for name, side in (("baseline", before), ("treated", after)):
        if side.min() < 0 or side.max() > 1:
            raise ValueError(f"{name} must hold shares from 0 to 1, got {side.min():g} to {side.max():g}")
    labels = None if clusters is None else np.asarray(clusters)[known]
    return difference_interval(after - before, labels, confidence=confidence, excluded=int((~known).sum()))


def difference_interval(
    differences: Float[np.ndarray, " example"],
    clusters: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    excluded: int = 0,
) -> Estimate:
    """Mean of differences between -1 and 1 (of outcomes, or of averages of outcomes); see ``paired_proportions``."""
    codes = cluster_codes(clusters, differences.size)
    units = int(codes.max()) + 1
    value = float(differences.mean())
    sizes = np.bincount(codes, minlength=units)
    means = np.bincount(codes, weights=differences, minlength=units) / sizes
    if units == 1 and differences.size > 1:
        low, high = np.nan, np.nan
    elif np.ptp(sizes) == 0 and np.abs(means - np.rint(means)).max() < TIES:
        # Each unit was gained, lost or unchanged as a whole, so it counts as one example.
        low, high = _whole(int((means > 0.5).sum()), int((means < -0.5).sum()), units, confidence)
    else:
        n = effective_n(differences, codes, confidence)
        gained, lost = np.maximum(differences, 0).mean() * n, np.maximum(-differences, 0).mean() * n
        low, high = tango_interval(float(gained), float(lost), n, confidence=confidence)
    return Estimate(value, low, high, differences.size, units, excluded)


def effective_n(
    differences: Float[np.ndarray, " example"], codes: Int[np.ndarray, " example"], confidence: float = 0.95
) -> float:
    """Independent right-or-wrong pairs that would estimate the mean difference as well as these clusters do."""
    mean = differences.mean()
    parts = grid_unit(differences) or FINEST
    variance = float(np.abs(differences).mean() - mean**2)
    return _effective(differences - mean, codes, variance, confidence, parts)


def _effective(
    deviations: Float[np.ndarray, " example"],
    codes: Int[np.ndarray, " example"],
    variance: float,
    confidence: float,
    parts: int = 1,
) -> float:
    """Number of independent examples of a given variance whose mean would vary as much as the mean over clusters does.

    Args:
        deviations: deviation of each example from the mean.
        codes: cluster of each example.
        variance: variance of one outcome.
        confidence: confidence level of the interval. The result is reduced by the ratio of Student's quantile to the
            normal one, because the spread between few clusters is itself uncertain (Korn and Graubard 1998).
        parts: number of outcomes behind each example, if examples are averages.
    """
    units = int(codes.max()) + 1
    sizes = np.bincount(codes, minlength=units).astype(float)
    of_mean = float(np.square(np.bincount(codes, weights=deviations, minlength=units)).sum()) / deviations.size**2
    # Kish's number for units of different sizes; for equal sizes it is the number of units.
    least = float(sizes.sum() ** 2 / np.square(sizes).sum())
    if of_mean <= 0 or variance <= 0:
        return least
    tail = (1 + confidence) / 2
    shrunk = variance / of_mean * float(norm.ppf(tail) / t.ppf(tail, units - 1)) ** 2
    return float(np.clip(shrunk, least, deviations.size * parts))


def tango_interval(gained: float, lost: float, n: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Tango's score interval for a difference of paired shares: the differences that a score test does not reject.

    Args:
        gained: number of examples that were wrong before and are right after (a fraction for an effective number).
        lost: number of examples that were right before and are wrong after.
        n: number of all examples.
        confidence: confidence level of the interval.
    """
    reach, value = float(norm.ppf((1 + confidence) / 2)), (gained - lost) / n

    def beyond(difference: float, limit: float) -> float:
        return float(_score(np.array(gained), np.array(lost), n, difference)) - limit

    edge = 1 - 1e-12
    low = -1.0 if beyond(-edge, reach) <= 0 else float(brentq(beyond, -edge, value, args=(reach,)))
    high = 1.0 if beyond(edge, -reach) >= 0 else float(brentq(beyond, value, edge, args=(-reach,)))
    return low, high


@lru_cache(maxsize=4096)
def exact_interval(gained: int, lost: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact unconditional interval for a difference of paired shares.

    It contains the differences for which a table at least as extreme has a probability above ``1 - confidence`` under
    some share of changed examples.

    Args:
        gained, lost, n: as in ``tango_interval``; the cost grows with the square of ``n``.
        confidence: least probability of covering the true difference, whatever it is.
    """
    up, down = (counts.ravel().astype(float) for counts in np.indices((n + 1, n + 1)))
    up, down = up[up + down <= n], down[up + down <= n]
    ways = gammaln(n + 1) - gammaln(up + 1) - gammaln(down + 1) - gammaln(n - up - down + 1)

    def kept(difference: float) -> bool:
        shares = np.linspace(max(0.0, -difference), (1 - difference) / 2, NUISANCE)[:, None]
        limit = abs(float(_score(np.array(gained), np.array(lost), n, difference))) - TIES
        far = np.abs(_score(up, down, n, difference)) >= limit
        # Sum over the side with fewer tables.
        fewer = ~far if 2 * far.sum() > far.size else far
        same = np.maximum(0.0, 1 - 2 * shares - difference)
        logs = xlogy(up[fewer], shares + difference) + xlogy(down[fewer], shares)
        chance = np.exp(ways[fewer] + logs + xlogy((n - up - down)[fewer], same)).sum(axis=1)
        return float((chance if fewer is far else 1 - chance).max()) > 1 - confidence

    value, ends = (gained - lost) / n, []
    for tango in tango_interval(gained, lost, n, confidence=confidence):
        around = np.clip(value + (tango - value) * np.linspace(0.7, 1.6, STEPS), -1, 1).tolist()
        inside = [place for place, one in enumerate(around) if kept(one)]
        near, far = (around[inside[-1]] if inside else value, around[min(inside[-1] + 1 if inside else 0, STEPS - 1)])
        for _ in range(10 if near != far else 0):
            middle = (near + far) / 2
            near, far = (middle, far) if kept(middle) else (near, middle)
        ends.append(far)
    return ends[0], ends[1]


def paired_ratio(
    before: Float[np.ndarray, " example"],
    after: Float[np.ndarray, " example"],
    clusters: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> Estimate:
    """Ratio ``after / before`` of two shares of right answers over the same examples; ``before`` must not be 0.

    The score interval is that of Tang, Tang and Chan (Statistics in Medicine 22, 2003) at the effective number of
    examples.
    """
    codes = cluster_codes(clusters, before.size)
    units, ratio = int(codes.max()) + 1, float(after.mean() / before.mean())
    if units == 1 and before.size > 1:
        return Estimate(ratio, np.nan, np.nan, before.size, units)
    n = _effective(after - ratio * before, codes, float(np.square(after - ratio * before).mean()), confidence)
    both, gained, lost = (
        float(part.mean()) * n for part in (before * after, after * (1 - before), before * (1 - after))
    )
    low, high = tang_interval(both, gained, lost, n, confidence=confidence)
    return Estimate(ratio, low, high, before.size, units)


def tang_interval(
    both: float, gained: float, lost: float, n: float, *, confidence: float = 0.95
) -> tuple[float, float]:
    """Score interval for the ratio of paired shares ``(both + gained) / (both + lost)``; see ``paired_ratio``.

    Args:
        both: number of examples that are right before and after; ``both + lost`` must be above 0.
        gained, lost, n, confidence: as in ``tango_interval``.
    """
    reach, value = float(norm.ppf((1 + confidence) / 2)), (both + gained) / (both + lost)

    def beyond(ratio: float, limit: float) -> float:
        b = (both + lost) * ratio**2 - both - gained - 2 * lost
        c = lost * (1 - ratio) * (both + gained + lost) / n
        share = (np.sqrt(max(b * b - 4 * n * (1 + ratio) * c, 0.0)) - b) / (2 * n * (1 + ratio))
        variance = n * (1 + ratio) * share + (both + gained + lost) * (ratio - 1)
        above = both + gained - ratio * (both + lost)
        return (0.0 if abs(above) < TIES else above / np.sqrt(max(variance, 1e-300))) - limit

    far = 2 * value + 1
    while beyond(far, -reach) > 0:
        far *= 2
    low = 0.0 if value == 0 or beyond(1e-12, reach) <= 0 else float(brentq(beyond, 1e-12, value, args=(reach,)))
    return low, float(brentq(beyond, value, far, args=(-reach,)))


def clustered_share(
    values: Float[np.ndarray, " example"], clusters: ArrayLike | None, *, confidence: float = 0.95
) -> Estimate:
    """A share of clustered outcomes of 0 and 1: Wilson's interval at their effective number."""
    codes = cluster_codes(clusters, values.size)
    units, value = int(codes.max()) + 1, float(values.mean())
    if units == 1 and values.size > 1:
        return Estimate(value, np.nan, np.nan, values.size, units)
    n = _effective(values - value, codes, value * (1 - value), confidence)
    found = proportion_interval(value * n, n, confidence=confidence)
    return Estimate(value, found.low, found.high, values.size, units)


def _whole(gained: int, lost: int, n: int, confidence: float) -> tuple[float, float]:
    exact = n <= EXACT or (n <= MOST and max(gained, lost) >= n - ALIKE)
    interval = exact_interval if exact else tango_interval
    return interval(gained, lost, n, confidence=confidence)


def _score(
    gained: Float[np.ndarray, "*table"], lost: Float[np.ndarray, "*table"], n: float, difference: float
) -> Float[np.ndarray, "*table"]:
    """Score statistic of a hypothetical difference, with the share of lost answers at its maximum-likelihood value."""
    b = (2 * n - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    share = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    above = gained - lost - n * difference
    return np.where(np.abs(above) < TIES, 0.0, above / np.sqrt(np.maximum(variance, 1e-300)))
