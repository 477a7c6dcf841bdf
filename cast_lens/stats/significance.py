"""Tests of no effect, p-values that allow for how many tests there are, and what a comparison can detect.

Permutation tests say in their docstring what is exchanged, because that is the hypothesis. Random permutations count
the observed arrangement too, ``(1 + hits) / (1 + permutations)``, so that p is never 0 and false positives are as rare
as it says. Where few examples allow it, all arrangements are enumerated. Where the terms are multiples of one unit
(right minus wrong is -1, 0 or 1, an average over ten draws a multiple of a tenth) the exact distribution of the sum is
computed: it has no floor of one over the number of permutations, which no correction over hundreds of tests survives,
needs no seed, and costs less.
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
"""Numbers permuted at a time, so that a test of many examples holds about 32 MB."""


@dataclass(frozen=True, slots=True)
class HypothesisTest:
    """What a test found.

    Attributes:
        statistic: the observed value.
        p: probability of one at least as extreme if the null holds; two-sided unless the test says otherwise.
        n: examples behind it.
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
        treated: outcome of the same examples with it.
        clusters: examples with one label are exchanged together; every example on its own when None.
        n_permutations: random exchanges. With few examples, and for outcomes that are multiples of one unit (right
            or wrong, or averages of it), all of them are counted instead, exactly, and p has no floor.
        seed: of the exchanges.
        mid_p: count arrangements that tie with the observed one half, where all are counted: the mid-p value, which
            is less conservative where few examples changed (``mcnemar_mid_p`` on plain outcomes).

    Returns:
        The mean difference as statistic.

    Raises:
        ValueError: on columns of different lengths or that are empty or not finite.
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
    """Does the mean difference of a task have a part along a direction that is given beforehand?

    The null: along the direction, the few-shot and the zero-shot side of a sample may be exchanged, so the
    sign of each sample's projection is a coin flip. The direction counts as fixed (another task's steering
    vector, say): the test says nothing on how well it was estimated itself, nor that the cosine is high.

    Args:
        direction: [d_model], made without these samples.
        differences: [sample, d_model].
        n_permutations: random flips; all of them with few samples.
        seed: of the flips.

    Returns:
        The cosine between the direction and the mean difference as statistic.

    Raises:
        ValueError: on different widths, or a direction or mean difference that is zero.
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
    """Do two tasks' differences share one direction, the shortfall of their cosine from 1 being noise?

    The null: differences, each scaled to length 1, may be exchanged between the tasks. One-sided: p is small
    when the cosine of the two means is lower than that of random regroupings. A large p does not prove
    that they are the same.

    Args:
        left: differences of one task, [sample, d_model].
        right: differences of the other.
        n_permutations: random regroupings.
        seed: of the regroupings.

    Returns:
        The cosine of the mean unit differences as statistic.

    Raises:
        ValueError: on different widths, or a difference that is zero.
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
    """Is an effect larger than those of its placebos? Its rank among them is the test.

    The null: the treatment is one more draw from what the placebos were drawn from. One-sided: p is small when the
    effect exceeds theirs. With m placebos p cannot fall below ``1 / (m + 1)``, so 19 are the least that can reach
    5 %.

    Args:
        observed: effect of the treatment.
        placebos: effect of each placebo, measured in the same way on the same examples.

    Returns:
        The effect beyond the placebos' mean as statistic; ``n`` is the number of placebos.

    Raises:
        ValueError: on no placebos, or effects that are not finite.
    """
    effects, effect = as_values("placebos", placebos), as_values("observed", [observed])[0]
    # Means of the same outcomes in another order differ by rounding; a tie counts against the treatment.
    hits = int((effects >= effect - 1e-12 * max(1.0, abs(effect))).sum())
    return HypothesisTest(float(effect - effects.mean()), (1 + hits) / (1 + effects.size), effects.size)


def _sign_flip_p(values: Float[np.ndarray, " unit"], n_permutations: int, seed: int, mid_p: bool = False) -> float:
    """Two-sided p of the sum of values whose signs are coin flips."""
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
    # Sums that cancel exactly have no direction; counted as no agreement.
    return np.where(lengths > 0, crossed / np.sqrt(np.where(lengths > 0, lengths, 1.0)), 0.0)


# Units tried: 1, 1/2, … Numbers without a common unit do not fall on so coarse a grid by accident.
FINEST = 360
ROUNDING = 1e-7
# Steps of the convolution; 300 examples in units of 1/360 take a tenth of it.
MOST_STEPS = 300_000_000


def exact_flip_p(values: Float[np.ndarray, " unit"], *, mid_p: bool = False) -> float | None:
    """Two-sided p of the sum of values whose signs are coin flips; None when they are multiples of no common unit.

    Args:
        values: finite; those that are 0 do not matter.
        mid_p: count the chance of exactly the observed sum (and of its mirror image) half.
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
    # chances[s]: that the terms which keep a plus sign add up to s; the sum is then 2 s - total.
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


# Exchanges summed at a time.
SUMMED_AT_ONCE = 200_000


def stratified_placebo_test(
    observed: ArrayLike, placebos: Sequence[ArrayLike], *, n_permutations: int = 9999, seed: int = 0
) -> HypothesisTest:
    """Does the mean effect over strata differ from what random draws in its place would give?

    In every stratum (a source task, say) the treatment was applied once and its placebos were drawn at random. The
    null: the treatment is one more such draw. Then each of them was as likely to be called the treatment, in every
    stratum on its own; the p-value is the share of these relabellings whose mean is as far from its expectation.

    With S strata of m placebos p cannot fall below ``1 / (m + 1) ** S``. Strata count equally, whatever their number of
    examples. The outcomes behind the effects may depend on each other within a stratum, as examples and targets do.

    Args:
        observed: effect of the treatment in each stratum.
        placebos: for each stratum the effects of its random draws, measured in the same way.
        n_permutations: random relabellings; where there are no more than that, all of them are enumerated, exactly.
        seed: of the relabellings.

    Returns:
        The mean over strata of the treatment's effect beyond its placebos' mean as statistic, and the two-sided p;
        ``n`` is the number of strata.

    Raises:
        ValueError: strata that do not match, a stratum without placebos, or effects that are not finite.
    """
    effects = as_values("observed", observed)
    if len(placebos) != effects.size:
        raise ValueError(f"observed has {effects.size} strata and placebos {len(placebos)}; give one for each")
    pools = [
        np.concatenate([[own], as_values("placebos", draws)]) for own, draws in zip(effects, placebos, strict=True)
    ]
    # What each member of a stratum would score if it were the treatment: its distance from the others' mean.
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
    """What McNemar's test found.

    Attributes:
        p: two-sided; exact or mid-p, as the test says.
        gained: examples wrong before and right after.
        lost: examples right before and wrong after.
        n: examples in all.
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
        """Share of examples whose answer changed between right and wrong; what power depends on."""
        return (self.gained + self.lost) / self.n


def mcnemar_exact(baseline: ArrayLike, treated: ArrayLike) -> McNemar:
    """Exact McNemar test of right and wrong on the same examples: among those that changed, a fair coin.

    With few changed examples it is conservative: the share of p < 0.05 under the null is far below 5 % (0.04 % where
    2 % of 100 answers change), and effects are missed that ``mcnemar_mid_p`` finds. Without any change p is 1.

    Raises:
        ValueError: on outcomes other than 0 and 1, or columns of different lengths.
    """
    return _mcnemar(baseline, treated, mid_p=False)


def mcnemar_mid_p(baseline: ArrayLike, treated: ArrayLike) -> McNemar:
    """McNemar's test with its mid-p value: the observed split counts half (Fagerland, Lydersen and Laake 2013).

    Nearer to its level than the exact test: at most 4.9 % false positives at 5 % in ``docs/intervals.md``. That is an
    average over how many answers change; at a given number of changed answers it can reach 7.7 %. Where fewer than 5
    examples changed nothing can be significant at 5 %, whatever the truth.

    Raises:
        ValueError: as ``mcnemar_exact``.
    """
    return _mcnemar(baseline, treated, mid_p=True)


def mcnemar_p_values(
    gained: Int[np.ndarray, "*test"], lost: Int[np.ndarray, "*test"], *, mid_p: bool = True
) -> Float[np.ndarray, "*test"]:
    """Two-sided p-values of many McNemar tests at once, from the numbers of examples gained and lost."""
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
    """A table of tests with p-values that allow for how many there are.

    Args:
        frame: one row per test; rows without a p-value were not tested and do not count.
        column: holds the p-values.
        method: ``holm`` bounds the chance of any false rejection, ``benjamini-hochberg`` the expected share
            of false ones among the rejections (for independent or positively dependent tests).
        alpha: level of that bound.

    Returns:
        A new frame with the columns ``p_adjusted``, ``rejected``, ``tests`` (how many were corrected for) and
        ``correction`` (the method).

    Raises:
        ValueError: on an unknown method or column, or p-values outside [0, 1].
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
    """Adjusted p-values; those of statsmodels, whose function collects garbage for a second at each call."""
    order, found = np.argsort(p, kind="stable"), np.empty(p.size)
    if method == "holm":
        scaled = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    else:
        raw = p[order] * p.size / np.arange(1, p.size + 1)
        scaled = np.minimum.accumulate(raw[::-1])[::-1]
    found[order] = np.minimum(scaled, 1.0)
    return found


def mcnemar_power(n: int, *, discordance: float, effect: float, alpha: float = 0.05, mid_p: bool = False) -> float:
    """Chance that McNemar's test finds an effect: a sum over the number of changed examples, without approximation.

    Args:
        n: examples, each under both conditions.
        discordance: share of examples whose answer changes between right and wrong.
        effect: gained minus lost, as a share of n; at most the discordance.
        alpha: two-sided level.
        mid_p: whether the test is ``mcnemar_mid_p``; ``mcnemar_exact`` otherwise.

    Raises:
        ValueError: on n below 1, or shares that cannot be.
    """
    check_share("alpha", alpha)
    if n < 1 or not 0 < discordance <= 1 or abs(effect) > discordance:
        raise ValueError(
            f"n={n}, discordance={discordance}, effect={effect}: n must be 1 or more, discordance in (0, 1], "
            "and the effect no larger than the discordance, since only changed answers can make a difference"
        )
    changed = np.arange(n + 1)
    critical = binom.ppf(alpha / 2, changed, 0.5)
    # The largest count that is still rejected: the quantile itself only where its tail is no larger than alpha / 2.
    tail = binom.cdf(critical, changed, 0.5) - (binom.pmf(critical, changed, 0.5) / 2 if mid_p else 0.0)
    critical = np.where(tail <= alpha / 2, critical, critical - 1)
    gained = (1 + effect / discordance) / 2
    rejected = binom.cdf(critical, changed, gained) + binom.sf(changed - critical - 1, changed, gained)
    return float((binom.pmf(changed, n, discordance) * rejected).sum())


def minimal_detectable_effect(
    n: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8, mid_p: bool = False
) -> float:
    """Smallest change in accuracy that a paired comparison of n examples finds with the given power.

    A difference below it is not evidence that there is no effect. Exact, for the test that ``mid_p`` names.

    Args:
        n: examples, each under both conditions.
        discordance: share of examples expected to change between right and wrong (``McNemar.discordance``).
        alpha: two-sided level.
        power: wanted chance of finding it.
        mid_p: as in ``mcnemar_power``.

    Returns:
        A share between 0 and the discordance; NaN when even the largest possible effect would be missed too
        often.

    Raises:
        ValueError: as ``mcnemar_power``, or when power does not lie between alpha and 1.
    """
    check_share("power", power)
    if power <= alpha:
        raise ValueError(f"power={power} must exceed alpha={alpha}, which is the power at no effect")

    def excess(effect: float) -> float:
        return mcnemar_power(n, discordance=discordance, effect=effect, alpha=alpha, mid_p=mid_p) - power

    return float(brentq(excess, 0.0, discordance)) if excess(discordance) > 0 else float("nan")
