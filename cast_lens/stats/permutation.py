"""Permutation tests of no effect.

Each docstring says what is exchanged, because that is the hypothesis. Random permutations count the observed
arrangement too, ``(1 + hits) / (1 + permutations)``, so that p is never 0 and false positives are as rare as
it says; where few examples allow, all arrangements are enumerated instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.stats import permutation_test

from .arrays import as_pair, as_values, cluster_codes
from .sign_flip import exact_flip_p

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
