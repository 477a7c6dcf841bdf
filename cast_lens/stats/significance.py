"""Tests of no effect, p-values corrected for multiple tests, and the power of comparisons.

The docstring of each permutation test says what is exchanged, because that is the null hypothesis. Random permutations
include the observed arrangement, ``(1 + hits) / (1 + permutations)``, so that p is never 0 and the false-positive rate
is what p says. With few examples all arrangements are enumerated. If the terms are multiples of a common unit (right
minus wrong is -1, 0 or 1, an average over ten draws a multiple of a tenth), the exact distribution of the sum is
computed. It needs no seed, costs less, and has no smallest p of one over the number of permutations, which no
correction over hundreds of tests survives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from math import prod
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binom, permutation_test

from .arrays import as_outcomes, as_pair, as_values, check_share, cluster_codes

BATCH = 4_000_000
"""How many numbers are permuted at once, so that a test of many examples takes about 32 MB."""


@dataclass(frozen=True, slots=True)
class HypothesisTest:
    """The result of a test.

    Attributes:
        statistic: the observed value.
        p: probability of a value at least as extreme under the null; two-sided unless the test says otherwise.
        n: number of examples.
    """

    statistic: float
    p: float
    n: int


def paired_permutation_test(
    baseline: ArrayLike,
    treated: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_permutations: int = 9999,
    seed: int = 0,
    mid_p: bool = False,
) -> HypothesisTest:
    """Is the mean of ``treated - baseline`` zero? Both outcomes of an example are exchanged at random.

    Args:
        baseline: outcome of each example without the treatment.
        treated: outcome of the same examples with the treatment.
        clusters: examples with the same label are exchanged together; None to exchange each example on its own.
        n_permutations: number of random exchanges. With few examples, and for outcomes that are multiples of a common
            unit (right or wrong, or averages of it), all exchanges are counted exactly instead.
        seed: seed of the exchanges.
        mid_p: give the mid-p value if all exchanges are counted: arrangements that tie with the observed one count
            half. It is less conservative if few examples changed (for plain outcomes see ``mcnemar_mid_p``).

    Returns:
        The mean difference as statistic.

    Raises:
        ValueError: if columns differ in length, are empty or not finite.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    codes = cluster_codes(clusters, before.size)
    p = _sign_flip_p(np.bincount(codes, weights=after - before), n_permutations, seed, mid_p)
    return HypothesisTest(float((after - before).mean()), p, before.size)


def cosine_test(
    direction: Float[np.ndarray, " d_model"],
    differences: Float[np.ndarray, "sample d_model"],
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> HypothesisTest:
    """Does the mean difference of a task have a component along a fixed direction?

    The null: along the direction, the few-shot and the zero-shot side of a sample can be exchanged, so the sign of each
    sample's projection is random. The direction is treated as fixed (another task's steering vector, for example): the
    test does not account for how well it was estimated, and does not show that the cosine is high.

    Args:
        direction: [d_model], computed without these samples.
        differences: [sample, d_model].
        n_permutations: number of random sign flips; with few samples all of them are counted.
        seed: seed of the flips.

    Returns:
        The cosine between the direction and the mean difference as statistic.

    Raises:
        ValueError: if the widths differ, or the direction or the mean difference is zero.
    """
    along, rows = np.asarray(direction, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if along.ndim != 1 or rows.ndim != 2 or rows.shape[1] != along.size or not len(rows):
        raise ValueError(f"direction {along.shape} and differences {rows.shape} must be [d_model], [sample, d_model]")
    projections = rows @ along
    cosine = _cosine(along, rows.mean(axis=0))
    return HypothesisTest(cosine, _sign_flip_p(projections, n_permutations, seed), len(rows))


def common_direction_test(
    left: Float[np.ndarray, "sample_a d_model"],
    right: Float[np.ndarray, "sample_b d_model"],
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> HypothesisTest:
    """Do the differences of two tasks share one direction, so that their cosine is below 1 only because of noise?

    The null: differences, each scaled to length 1, can be exchanged between the tasks. The test is one-sided: p is
    small if the cosine of the two means is lower than for random regroupings. A large p does not prove that the
    directions are the same.

    Args:
        left: differences of one task, [sample, d_model].
        right: differences of the other task.
        n_permutations: number of random regroupings.
        seed: seed of the regroupings.

    Returns:
        The cosine of the mean unit differences as statistic.

    Raises:
        ValueError: if the widths differ, or a difference is zero.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (left, right)]
    if any(side.ndim != 2 or not len(side) for side in sides) or sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"left {sides[0].shape} and right {sides[1].shape} must be [sample, d_model] of one width")
    rows = np.concatenate(sides)
    lengths = np.linalg.norm(rows, axis=1)
    if not lengths.all():
        raise ValueError(f"difference {int(np.argmin(lengths))} of left and right is zero: it has no direction")
    units = rows / lengths[:, None]
    grouped = np.arange(len(rows)) < len(sides[0])
    observed = _group_cosines(units @ units.T, grouped[None])[0]
    generator = np.random.default_rng(seed)
    size = max(1, BATCH // len(rows))
    hits = 0
    for start in range(0, n_permutations, size):
        batch = np.tile(grouped, (min(size, n_permutations - start), 1))
        hits += int((_group_cosines(units @ units.T, generator.permuted(batch, axis=1)) <= observed + 1e-12).sum())
    return HypothesisTest(float(observed), (1 + hits) / (1 + n_permutations), len(rows))


def placebo_test(observed: float, placebos: ArrayLike) -> HypothesisTest:
    """Is an effect larger than those of its placebos? The test is its rank among them.

    The null: the treatment is one more draw from the distribution of the placebos. The test is one-sided: p is small if
    the effect exceeds theirs. With m placebos p cannot fall below ``1 / (m + 1)``, so 5 % needs at least 19 placebos.

    Args:
        observed: effect of the treatment.
        placebos: effect of each placebo, measured in the same way on the same examples.

    Returns:
        The effect minus the placebos' mean as statistic; ``n`` is the number of placebos.

    Raises:
        ValueError: if there are no placebos, or effects are not finite.
    """
    effects, effect = as_values("placebos", placebos), as_values("observed", [observed])[0]
    # Means of the same outcomes in another order differ by rounding; a tie counts against the treatment.
    hits = int((effects >= effect - 1e-12 * max(1.0, abs(effect))).sum())
    return HypothesisTest(float(effect - effects.mean()), (1 + hits) / (1 + effects.size), effects.size)


def _sign_flip_p(values: Float[np.ndarray, " unit"], n_permutations: int, seed: int, mid_p: bool = False) -> float:
    """Two-sided p of a sum whose terms have random signs."""
    if values.size < 2 or not values.any():
        return 1.0
    exact = exact_flip_p(values, mid_p=mid_p)
    if exact is not None:
        return exact
    found = permutation_test(
        (values, -values),
        lambda kept, flipped, axis: kept.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_permutations,
        batch=max(1, BATCH // values.size),
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _cosine(left: Float[np.ndarray, " d_model"], right: Float[np.ndarray, " d_model"]) -> float:
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    if not lengths > 0:
        raise ValueError("direction or mean difference is zero, so the cosine is undefined")
    return float(np.clip(left @ right / lengths, -1.0, 1.0))


def _group_cosines(
    gram: Float[np.ndarray, "row row"], grouped: Bool[np.ndarray, "permutation row"]
) -> Float[np.ndarray, " permutation"]:
    """Cosine between the sums over rows inside and outside each grouping [permutation, row]."""
    inside, outside = grouped.astype(np.float64), (~grouped).astype(np.float64)
    along = inside @ gram
    crossed = (along * outside).sum(axis=1)
    lengths = (along * inside).sum(axis=1) * ((outside @ gram) * outside).sum(axis=1)
    # Sums that cancel exactly have no direction and count as no agreement.
    return np.where(lengths > 0, crossed / np.sqrt(np.where(lengths > 0, lengths, 1.0)), 0.0)


# Units 1, 1/2, … that are tried. Numbers without a common unit do not fall on such a coarse grid by accident.
FINEST = 360
ROUNDING = 1e-7
# Limit for the steps of the convolution; 300 examples in units of 1/360 take a tenth of it.
MOST_STEPS = 300_000_000


def exact_flip_p(values: Float[np.ndarray, " unit"], *, mid_p: bool = False) -> float | None:
    """Exact two-sided p of a sum whose terms have random signs; None if the terms have no common unit.

    Args:
        values: finite numbers; zeros do not matter.
        mid_p: count the probability of exactly the observed sum (and of its mirror image) half.
    """
    steps = on_grid(values)
    if steps is None:
        return None
    sizes = np.abs(steps[steps != 0])
    if sizes.size == 0:
        return 1.0
    sizes = np.sort(sizes // np.gcd.reduce(sizes))
    total = int(sizes.sum())
    if sizes.size * total > MOST_STEPS:
        return None
    # chances[s] is the probability that the terms with a plus sign add up to s; the sum is then 2 s - total.
    chances, reached = np.zeros(total + 1), 0
    chances[0] = 1.0
    for size in sizes.tolist():
        halved = chances[: reached + 1] / 2
        chances[: reached + 1] = halved
        chances[size : size + reached + 1] += halved
        reached += size
    observed = abs(int(steps.sum())) // int(np.gcd.reduce(np.abs(steps[steps != 0])))
    sums = np.abs(2 * np.arange(total + 1) - total)
    p = chances[sums >= observed].sum()
    if mid_p and observed > 0:
        p -= chances[sums == observed].sum() / 2
    return float(min(1.0, p))


def on_grid(values: Float[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"] | None:
    """The values as multiples of the coarsest unit ``1 / q`` that fits them all, or None."""
    parts = grid_unit(values)
    return None if parts is None else np.rint(values * parts).astype(np.int64)


def grid_unit(values: Float[np.ndarray, " unit"]) -> int | None:
    """The smallest q for which all values are multiples of ``1 / q``, or None."""
    for parts in range(1, FINEST + 1):
        if np.abs(values * parts - np.rint(values * parts)).max() < ROUNDING:
            return parts
    return None


# How many exchanges are summed at once.
SUMMED_AT_ONCE = 200_000


def stratified_placebo_test(
    observed: ArrayLike, placebos: Sequence[ArrayLike], *, n_permutations: int = 9999, seed: int = 0
) -> HypothesisTest:
    """Does the mean effect over strata differ from that of random draws in place of the treatment?

    In every stratum (a source task, for example) the treatment was applied once and its placebos were drawn at random.
    The null: the treatment is one more such draw. Each draw of a stratum is then equally likely to be the treatment,
    and the p-value is the share of these relabellings whose mean is at least as far from its expectation.

    With S strata of m placebos p cannot fall below ``1 / (m + 1) ** S``. All strata have the same weight, whatever
    their number of examples. Outcomes within a stratum need not be independent.

    Args:
        observed: effect of the treatment in each stratum.
        placebos: effects of the random draws of each stratum, measured in the same way.
        n_permutations: number of random relabellings; if there are no more than that, all of them are enumerated.
        seed: seed of the relabellings.

    Returns:
        The mean over strata of the effect minus its placebos' mean as statistic, and the two-sided p; ``n`` is the
        number of strata.

    Raises:
        ValueError: if strata do not match, a stratum has no placebos, or effects are not finite.
    """
    effects = as_values("observed", observed)
    if len(placebos) != effects.size:
        raise ValueError(f"observed has {effects.size} strata and placebos {len(placebos)}; give one for each")
    pools = [
        np.concatenate([[own], as_values("placebos", draws)]) for own, draws in zip(effects, placebos, strict=True)
    ]
    # The score of each member of a stratum if it were the treatment: its distance from the others' mean.
    scores = [(pool - pool.mean()) * pool.size / (pool.size - 1) for pool in pools]
    statistic = float(np.mean([score[0] for score in scores]))
    return HypothesisTest(statistic, _relabelled(scores, statistic, n_permutations, seed), effects.size)


def _relabelled(
    scores: Sequence[Float[np.ndarray, " draw"]], statistic: float, n_permutations: int, seed: int
) -> float:
    limit = abs(statistic) - 1e-12 * max(1.0, abs(statistic))
    total = prod(score.size for score in scores)
    if total <= n_permutations:
        every = product(*scores)
        hits = 0
        while block := list(islice(every, SUMMED_AT_ONCE)):
            hits += int((np.abs(np.mean(block, axis=1)) >= limit).sum())
        return hits / total
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.choice(score, size=n_permutations) for score in scores])
    hits = int((np.abs(drawn.mean(axis=0)) >= limit).sum())
    return (1 + hits) / (1 + n_permutations)


METHODS = ("holm", "benjamini-hochberg")


@dataclass(frozen=True, slots=True)
class McNemar:
    """The result of McNemar's test.

    Attributes:
        p: two-sided p-value, exact or mid-p.
        gained: number of examples that were wrong before and are right after.
        lost: number of examples that were right before and are wrong after.
        n: number of all examples.
    """

    p: float
    gained: int
    lost: int
    n: int

    @property
    def difference(self) -> float:
        """Change in the share of right answers."""
        return (self.gained - self.lost) / self.n

    @property
    def discordance(self) -> float:
        """Share of examples whose answer changed between right and wrong; it determines the power."""
        return (self.gained + self.lost) / self.n


def mcnemar_exact(baseline: ArrayLike, treated: ArrayLike) -> McNemar:
    """Exact McNemar test of right and wrong answers to the same examples: a binomial test of those that changed.

    With few changed examples it is conservative: under the null far fewer than 5 % of p-values are below 0.05 (0.04 %
    if 2 % of 100 answers change), and it misses effects that ``mcnemar_mid_p`` finds. Without any change p is 1.

    Raises:
        ValueError: if outcomes are not 0 or 1, or lengths differ.
    """
    return _mcnemar(baseline, treated, mid_p=False)


def mcnemar_mid_p(baseline: ArrayLike, treated: ArrayLike) -> McNemar:
    """McNemar's test with its mid-p value: the observed split counts half (Fagerland, Lydersen and Laake 2013).

    It is closer to its nominal level than the exact test: at most 4.9 % false positives at 5 % in
    ``docs/intervals.md``, averaged over how many answers change; given that number it can reach 7.7 %. If fewer than 5
    examples changed, nothing can be significant at 5 %.

    Raises:
        ValueError: see ``mcnemar_exact``.
    """
    return _mcnemar(baseline, treated, mid_p=True)


def mcnemar_p_values(
    gained: Int[np.ndarray, "*test"], lost: Int[np.ndarray, "*test"], *, mid_p: bool = True
) -> Float[np.ndarray, "*test"]:
    """Two-sided p-values of many McNemar tests at once, from how many examples were gained and lost."""
    changed, fewer = gained + lost, np.minimum(gained, lost)
    tail = binom.cdf(fewer, changed, 0.5)
    if mid_p:
        # A tie is not evidence of anything: p is exactly 1, without rounding error.
        tail = np.where(gained == lost, 0.5, tail - binom.pmf(fewer, changed, 0.5) / 2)
    return np.minimum(1.0, 2 * tail)


def _mcnemar(baseline: ArrayLike, treated: ArrayLike, *, mid_p: bool) -> McNemar:
    before, after = as_outcomes(baseline=baseline, treated=treated)
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    p = mcnemar_p_values(np.array(gained), np.array(lost), mid_p=mid_p)
    return McNemar(float(p), gained, lost, before.size)


def adjust_p_values(
    frame: pd.DataFrame,
    *,
    column: str = "p",
    method: Literal["holm", "benjamini-hochberg"] = "holm",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """A table of tests with p-values corrected for multiple testing.

    Args:
        frame: one row per test; rows without a p-value count as not tested.
        column: the column of p-values.
        method: ``holm`` bounds the probability of any false rejection, ``benjamini-hochberg`` the expected share of
            false rejections among all (for independent or positively dependent tests).
        alpha: level of that bound.

    Returns:
        A new frame with the columns ``p_adjusted``, ``rejected``, ``tests`` (how many tests were corrected for) and
        ``correction`` (the method).

    Raises:
        ValueError: for an unknown method or column, or p-values outside [0, 1].
    """
    check_share("alpha", alpha)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
    if column not in frame:
        raise ValueError(f"column={column!r} is not in the frame; it has {list(frame.columns)}")
    p = frame[column].to_numpy(dtype=np.float64)
    tested = ~np.isnan(p)
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise ValueError(f"column={column!r} must hold p-values between 0 and 1")
    adjusted = np.full(p.size, np.nan)
    adjusted[tested] = _adjusted(p[tested], method)
    rejected = np.where(tested, adjusted <= alpha, False)
    return frame.assign(p_adjusted=adjusted, rejected=rejected, tests=int(tested.sum()), correction=method)


def _adjusted(p: Float[np.ndarray, " test"], method: str) -> Float[np.ndarray, " test"]:
    """Adjusted p-values as in statsmodels, whose function spends a second per call on garbage collection."""
    order, found = np.argsort(p, kind="stable"), np.empty(p.size)
    if method == "holm":
        scaled = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    else:
        raw = p[order] * p.size / np.arange(1, p.size + 1)
        scaled = np.minimum.accumulate(raw[::-1])[::-1]
    found[order] = np.minimum(scaled, 1.0)
    return found


def mcnemar_power(n: int, *, discordance: float, effect: float, alpha: float = 0.05, mid_p: bool = False) -> float:
    """Power of McNemar's test, summed exactly over the number of changed examples.

    Args:
        n: number of examples, each under both conditions.
        discordance: share of examples whose answer changes between right and wrong.
        effect: gained minus lost examples, as a share of n; at most the discordance.
        alpha: two-sided level.
        mid_p: whether the test is ``mcnemar_mid_p`` instead of ``mcnemar_exact``.

    Raises:
        ValueError: if n is below 1, or the shares are impossible.
    """
    check_share("alpha", alpha)
    if n < 1 or not 0 < discordance <= 1 or abs(effect) > discordance:
        raise ValueError(
            f"n={n}, discordance={discordance}, effect={effect}: n must be 1 or more, discordance in (0, 1], "
            "and the effect no larger than the discordance, since only changed answers can make a difference"
        )
    changed = np.arange(n + 1)
    critical = binom.ppf(alpha / 2, changed, 0.5)
    # The largest count that is still rejected: the quantile itself only if its tail does not exceed alpha / 2.
    tail = binom.cdf(critical, changed, 0.5) - (binom.pmf(critical, changed, 0.5) / 2 if mid_p else 0.0)
    critical = np.where(tail <= alpha / 2, critical, critical - 1)
    gained = (1 + effect / discordance) / 2
    rejected = binom.cdf(critical, changed, gained) + binom.sf(changed - critical - 1, changed, gained)
    return float((binom.pmf(changed, n, discordance) * rejected).sum())


def minimal_detectable_effect(
    n: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8, mid_p: bool = False
) -> float:
    """Smallest change in accuracy that a paired comparison of n examples detects with the given power.

    A smaller observed difference is not evidence of no effect. The result is exact for the test that ``mid_p`` selects.

    Args:
        n: number of examples, each under both conditions.
        discordance: share of examples expected to change between right and wrong (``McNemar.discordance``).
        alpha: two-sided level.
        power: probability of detecting it.
        mid_p: as in ``mcnemar_power``.

    Returns:
        A share between 0 and the discordance; NaN if even the largest possible effect would be missed too often.

    Raises:
        ValueError: see ``mcnemar_power``; if power is not between alpha and 1.
    """
    check_share("power", power)
    if power <= alpha:
        raise ValueError(f"power={power} must exceed alpha={alpha}, which is the power at no effect")

    def excess(effect: float) -> float:
        return mcnemar_power(n, discordance=discordance, effect=effect, alpha=alpha, mid_p=mid_p) - power

    return float(brentq(excess, 0.0, discordance)) if excess(discordance) > 0 else float("nan")
