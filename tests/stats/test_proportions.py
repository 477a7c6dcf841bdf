"""Intervals for paired shares: published examples, exact coverage, and what clusters and copies are worth."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy.special import gammaln, xlogy

from cast_lens.stats import gain_split, mean_interval, paired_difference, paired_proportions, relative_boost
from cast_lens.stats.intervals import difference_interval, exact_interval, tang_interval, tango_interval
from tests.stats.test_transfer import outcomes


def pairs(gained: int, lost: int, n: int) -> tuple[list[int], list[int]]:
    same = n - gained - lost
    return [0] * gained + [1] * lost + [1] * same, [1] * gained + [0] * lost + [1] * same


@pytest.mark.parametrize(
    ("gained", "lost", "n", "confidence", "low", "high"),
    [
        # Bentur et al. 2009 and Cavo et al. 2012 in Fagerland, Lydersen and Laake, "Statistical Analysis of
        # Contingency Tables", chapter 8.
        (1, 7, 21, 0.95, -0.517, -0.026),
        (6, 16, 161, 0.95, -0.1240, -0.0054),
        # The worked example of the R package PropCIs, which goes from the second count to the first.
        (28, 25, 618, 0.90, -0.0148, 0.0247),
    ],
)
def test_published_examples(gained: int, lost: int, n: int, confidence: float, low: float, high: float) -> None:
    digits = 5e-4 if n == 21 else 5e-5
    assert tango_interval(gained, lost, n, confidence=confidence) == pytest.approx((low, high), abs=digits)
    mirrored = tango_interval(lost, gained, n, confidence=confidence)
    assert mirrored == pytest.approx((-high, -low), abs=digits)


@pytest.mark.parametrize(
    ("cells", "low", "high", "digits"),
    # The same two tables; columns are right before, rows right after.
    [((59, 6, 16, 161), 0.7476, 0.9876, 5e-5), ((1, 1, 7, 21), 0.065, 0.907, 5e-4)],
)
def test_published_ratios(cells: tuple[int, int, int, int], low: float, high: float, digits: float) -> None:
    assert tang_interval(*cells) == pytest.approx((low, high), abs=digits)
    both, gained, lost, n = cells
    before = np.repeat([1.0, 0.0, 1.0, 0.0], [both, gained, lost, n - both - gained - lost])
    after = np.repeat([1.0, 1.0, 0.0, 0.0], [both, gained, lost, n - both - gained - lost])
    found = relative_boost(before, after)
    assert (found.low + 1, found.high + 1) == pytest.approx((low, high), abs=digits)
    copied = relative_boost(np.tile(before, 4), np.tile(after, 4), clusters=np.tile(np.arange(n), 4))
    assert (copied.low, copied.high) == pytest.approx((found.low, found.high))


def test_the_share_of_lost_answers_under_a_ratio_is_the_likeliest() -> None:
    """The closed form inside the score against a search over all tables with that ratio."""
    both, gained, lost, n = 9, 7, 3, 30
    low, _ = tang_interval(both, gained, lost, n)
    p0 = np.linspace(1e-4, min(1.0, 1 / low), 1500)[:, None]
    p01 = np.linspace(1e-5, 1.0, 1500)[None, :]
    p10, p11, p00 = (low - 1) * p0 + p01, p0 - p01, 1 - low * p0 - p01
    fits = (p10 > 0) & (p11 > 0) & (p00 > 0)
    logs = [np.log(np.where(fits, one, 1.0)) for one in (p11, p10, p01 + 0 * p0, p00)]
    total = sum(count * log for count, log in zip((both, gained, lost, n - 19), logs, strict=True))
    i, j = np.unravel_index(np.where(fits, total, -np.inf).argmax(), fits.shape)
    variance = n * low * (p0[i, 0] * (low - 1) + 2 * p01[0, j])
    assert (both + gained - low * (both + lost)) / variance**0.5 == pytest.approx(1.959964, abs=0.02)


def test_boosts_of_nothing_have_a_width() -> None:
    found = relative_boost([1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0], clusters=list("aabbcc"))
    assert found.low < found.value == 0 < found.high
    gone = relative_boost([1, 0, 1, 0], [0, 0, 0, 0])
    assert (gone.value, gone.low) == (-1, -1)
    assert gone.high > -1


def test_nothing_changed_by_hand() -> None:
    # The score equation of 0 changes is n d^2 = z^2 d (1 - d), so d = z^2 / (n + z^2).
    end = 1.959964**2 / (200 + 1.959964**2)
    found = paired_difference([1] * 200, [1] * 200)
    assert (found.value, found.low, found.high) == pytest.approx((0, -end, end), abs=1e-6)
    # Exact, with 16: far enough out that 16 unchanged examples have at most 5 % chance, ((1 - d) ** 16 = 0.05) at the
    # least, and no wider than that of 2.5 %.
    low, high = exact_interval(0, 0, 16)
    assert 1 - 0.05 ** (1 / 16) <= high <= 1 - 0.025 ** (1 / 16)
    assert low == pytest.approx(-high, abs=1e-4)


def coverage(n: int, up: float, down: float) -> float:
    """Chance that the interval covers the true difference: a sum over all tables, no simulation."""
    covered = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            same = n - gained - lost
            log = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(same + 1)
            log += xlogy(gained, up) + xlogy(lost, down) + xlogy(same, max(0.0, 1 - up - down))
            if log < -14:  # all of them together less than 0.1 %
                continue
            found = difference_interval(np.repeat([1.0, -1.0, 0.0], [gained, lost, same]))
            assert found.low < found.high
            covered += float(np.exp(log)) * (found.low <= up - down <= found.high)
    return covered


@pytest.mark.parametrize(
    ("n", "up", "down"),
    [
        (16, 0.0, 0.0),
        (16, 0.02, 0.0),
        (16, 0.05, 0.02),
        (16, 0.3, 0.1),
        (16, 0.95, 0.0),
        (16, 1.0, 0.0),
        pytest.param(48, 0.02, 0.01, marks=pytest.mark.slow),
        (48, 0.0, 0.99),
        (100, 0.996, 0.0),
    ],
)
def test_exact_for_few_examples(n: int, up: float, down: float) -> None:
    assert coverage(n, up, down) >= 0.949


def test_copies_add_nothing_and_independent_repeats_add_something() -> None:
    before, after = pairs(3, 1, 12)
    single = paired_difference(before, after)
    copied = paired_difference(np.tile(before, 5), np.tile(after, 5), clusters=np.tile(np.arange(12), 5))
    assert astuple(copied)[:3] == pytest.approx(astuple(single)[:3])
    assert (copied.n, copied.units) == (60, 12)
    generator = np.random.default_rng(0)
    repeated = (generator.random(60) < 0.3).astype(float)
    clustered = paired_difference(np.zeros(60), repeated, clusters=np.tile(np.arange(12), 5))
    free = paired_difference(np.zeros(60), repeated)
    assert clustered.high - clustered.low == pytest.approx(free.high - free.low, rel=0.25)


@pytest.mark.parametrize("same", [0.0, 1.0, 0.5])
def test_no_width_is_never_zero_where_nothing_changed(same: float) -> None:
    clusters = np.repeat(np.arange(20), 3)
    values = np.full(60, same)
    found = paired_proportions(values, values, clusters=clusters)
    # Nothing tells how much the repeats of one query depend on each other: they count as one.
    assert (found.low, found.high) == pytest.approx(exact_interval(0, 0, 20), abs=1e-9)
    constant = paired_proportions(np.zeros(20), np.full(20, 0.5))
    assert constant.low < 0.5 < constant.high
    alone = paired_proportions(values, values, clusters=np.zeros(60))
    assert np.isnan([alone.low, alone.high]).all()


@pytest.mark.parametrize(("rate", "dependence"), [(0.02, 0.0), (0.02, 1.0), (0.2, 0.5), (0.95, 0.5)])
@pytest.mark.parametrize("averaged", [pytest.param(True, marks=pytest.mark.slow), False])
def test_clustered_intervals_cover(rate: float, dependence: float, averaged: bool) -> None:
    """Three repeats of 32 queries; a repeat takes its query's own fate or a fresh one."""
    generator = np.random.default_rng(0)
    trials, covered = 400, 0
    clusters = np.tile(np.arange(32), 3)
    for _ in range(trials):
        fate, fresh = generator.random(32) < rate, generator.random(96) < rate
        after = np.where(generator.random(96) < dependence, fate[clusters], fresh).astype(float)
        if averaged:
            found = paired_proportions(np.zeros(32), after.reshape(3, 32).mean(axis=0))
        else:
            found = paired_difference(np.zeros(96), after, clusters=clusters)
        assert found.low < found.high
        covered += found.low <= rate <= found.high
    assert covered / trials >= 0.92  # nominal 0.95, standard error 0.011; see docs/intervals.md for its least


def test_unknown_outcomes_are_left_out_and_counted() -> None:
    nan = float("nan")
    found = paired_difference([0, 0, 1, nan, 0], [1, nan, 1, 1, 0], clusters=list("abcde"))
    assert astuple(found)[:3] == pytest.approx(astuple(paired_difference([0, 1, 0], [1, 1, 0]))[:3])
    assert (found.n, found.excluded) == (3, 2)
    share = mean_interval([1, nan, 0, 1], clusters=list("aabc"))
    assert (share.n, share.units, share.excluded) == (3, 3, 1)
    with pytest.raises(ValueError, match="no example whose outcome is known"):
        paired_difference([nan], [1])
    frame = outcomes([1, 0, 0], [1, 1, 1], [1, 0, 0])
    frame["valid"] = [1.0, nan, 1.0]
    split = gain_split(frame, outcomes([1, 1, 1], [1, 1, 1], [1, 1, 1]))
    assert list(split["value"]) == [0.5, 0.0, 0.5]
    assert set(split["excluded"]) == {1}


def test_an_unchanged_split_has_intervals() -> None:
    frame = outcomes([1, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1])
    split = gain_split(frame, frame)
    assert (split["low"] < split["high"]).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match="treated must hold shares from 0 to 1"):
        paired_proportions([0, 1], [0, 2])
    with pytest.raises(ValueError, match=r"same examples .* baseline: 3, treated: 2"):
        paired_proportions([0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="missing or infinite"):
        paired_difference([0, 1], [0, float("inf")])
