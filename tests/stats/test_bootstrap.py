from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, norm

from cast_lens.stats import mean_interval, paired_difference, proportion_interval
from cast_lens.stats.bootstrap import bootstrap_means


def naive_bca(values: np.ndarray, n_bootstrap: int, seed: int) -> tuple[float, float]:
    """BCa as written by Efron (1987), loop by loop."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.array([values[rng.integers(0, n, n)].mean() for _ in range(n_bootstrap)])
    below = (np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2
    left_out = np.array([np.delete(values, index).mean() for index in range(n)])
    pull = left_out.mean() - left_out
    acceleration = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    shift = norm.ppf(below)
    levels = [
        norm.cdf(shift + (shift + quantile) / (1 - acceleration * (shift + quantile)))
        for quantile in norm.ppf([0.025, 0.975])
    ]
    return tuple(np.quantile(means, levels))


def test_mean_interval_is_bca() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    found = mean_interval(values, n_bootstrap=20000, seed=1)
    assert found.value == pytest.approx(values.mean())
    # Two different sets of 20000 replicates: their 2.5 % quantiles differ by about 1 % of the width.
    low, high = naive_bca(values, 20000, seed=2)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))
    assert found.high - found.value > found.value - found.low  # skewed data, skewed interval


def test_matches_scipy_on_the_plain_mean() -> None:
    values = np.random.default_rng(3).normal(size=25)
    rng = np.random.default_rng(7)
    expected = bootstrap((values,), np.mean, n_resamples=500, random_state=rng).confidence_interval
    found = mean_interval(values, n_bootstrap=500, seed=7)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("distribution", [pytest.param("exponential", marks=pytest.mark.slow), "outcomes"])
def test_paired_interval_covers_a_planted_effect(distribution: str) -> None:
    rng = np.random.default_rng(0)
    trials, n, effect = 500, 60, 0.2
    covered = 0
    for trial in range(trials):
        baseline = rng.normal(size=n)
        if distribution == "exponential":
            treated = baseline + effect + rng.exponential(size=n) - 1
        else:
            baseline = (rng.random(n) < 0.4).astype(float)
            treated = np.where(rng.random(n) < 1 / 3, 1.0, baseline)  # a third of the wrong 60 % turn right
        found = paired_difference(baseline, treated, n_bootstrap=300, seed=trial)
        covered += found.low <= effect <= found.high
    # Nominal 95 %; the standard error of the share is 1 % at 500 trials.
    assert 0.93 <= covered / trials <= 0.97


def test_clusters_widen_the_interval_and_restore_coverage() -> None:
    rng = np.random.default_rng(0)
    trials, covered = 200, {"clustered": 0, "naive": 0}
    labels = np.repeat(np.arange(30), 5)
    for trial in range(trials):
        values = rng.normal(size=30)[labels] + 0.3 * rng.normal(size=150)
        for name, clusters in (("clustered", labels), ("naive", None)):
            found = mean_interval(values, clusters=clusters, n_bootstrap=200, seed=trial)
            covered[name] += found.low <= 0 <= found.high
    assert 0.90 <= covered["clustered"] / trials <= 0.98  # 30 clusters: a little under 95 %
    assert covered["naive"] / trials < 0.75


def test_clusters_of_unequal_size_count_by_their_examples() -> None:
    values, labels = np.array([0.0, 0.0, 0.0, 6.0]), ["a", "a", "a", "b"]
    columns = np.stack([values, np.ones(4)], axis=1)
    mean, ones = bootstrap_means(columns, lambda means: means, clusters=labels, n_bootstrap=200)
    assert mean.value == pytest.approx(1.5)
    assert (mean.n, mean.units) == (4, 2)
    assert ones.value == 1.0
    assert np.isnan([ones.low, ones.high]).all()


def test_one_cluster_an_example_is_no_clustering() -> None:
    values = np.random.default_rng(0).normal(size=20)
    named = mean_interval(values, clusters=[f"{index:02}" for index in range(20)], n_bootstrap=100)
    assert astuple(named) == pytest.approx(astuple(mean_interval(values, n_bootstrap=100)))


def test_no_interval_has_zero_width() -> None:
    # All right: Wilson's interval, as for a share. By clusters: as many as there are clusters.
    assert mean_interval([1.0] * 30) == proportion_interval(30, 30)
    clustered = mean_interval(np.ones(6), clusters=list("aabbcc"))
    wilson = proportion_interval(3, 3)
    assert (clustered.low, clustered.high) == pytest.approx((wilson.low, wilson.high))
    unchanged = paired_difference([1, 0, 1, 1], [1, 0, 1, 1])
    assert unchanged.low < unchanged.value == 0 < unchanged.high
    # Other numbers without any spread tell nothing about how much further ones would differ.
    for still in (mean_interval(np.full(6, 0.1), clusters=list("abbccc")), paired_difference([2, 3], [4, 5])):
        assert np.isnan([still.low, still.high]).all()


def test_a_single_unit_has_no_interval() -> None:
    for found in (mean_interval([0.5]), mean_interval([0.5, 1.5], clusters=["a", "a"])):
        assert np.isnan([found.low, found.high]).all()
        assert np.isfinite(found.value)


def test_two_examples_still_give_an_ordered_interval() -> None:
    found = mean_interval([0.0, 1.0])
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_seed_and_confidence() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4) != mean_interval(values, seed=5)
    narrow, wide = mean_interval(values, confidence=0.5), mean_interval(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_global_generator_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    mean_interval([0.0, 1.0, 2.0], n_bootstrap=10)
    assert np.random.random() == expected  # noqa: NPY002


def test_order_of_examples_matters_only_for_pairing() -> None:
    baseline, treated = np.array([0, 0, 1, 1]), np.array([1, 0, 1, 1])
    assert paired_difference(baseline, treated).value == paired_difference(baseline, treated[::-1]).value
    series = paired_difference(pd.Series(baseline), pd.Series(treated.astype(bool)))
    assert series == paired_difference(baseline, treated)


def test_wilson_by_hand() -> None:
    # Centre (p + z^2 / 2n) / (1 + z^2 / n) and half width from the score equation, for 8 of 10.
    z = 1.959963984540054
    centre = (0.8 + z**2 / 20) / (1 + z**2 / 10)
    half = z / (1 + z**2 / 10) * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400)
    found = proportion_interval(8, 10)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, centre - half, centre + half), abs=1e-9)
    none = proportion_interval(0, 20)
    assert none.low == pytest.approx(0, abs=1e-12)
    assert none.high == pytest.approx(z**2 / (20 + z**2), abs=1e-9)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"same examples .* baseline: 3, treated: 2"):
        paired_difference([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="values holds 1 missing"):
        mean_interval([1.0, np.inf])
    with pytest.raises(ValueError, match=r"one number per example, got shape \(0,\)"):
        mean_interval([])
    with pytest.raises(ValueError, match="one label for each of the 2 examples"):
        mean_interval([1.0, 2.0], clusters=["a"])
    with pytest.raises(ValueError, match="n_bootstrap=1 must"):
        mean_interval([1.0, 2.0], n_bootstrap=1)
    with pytest.raises(ValueError, match=r"confidence=95\.0 must"):
        mean_interval([1.0, 2.0], confidence=95.0)
    with pytest.raises(ValueError, match="successes=3 of n=2"):
        proportion_interval(3, 2)
