from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from cast_lens.geometry import cohesion
from cast_lens.geometry.resampling import resample_counts

from .planted import as_differences, axis, planted


def unit_rows(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_measures_match_loops_and_a_full_svd() -> None:
    one = planted("a", axis(0, 6), n=9, layers=2, noise=1.0)
    row = cohesion([one], n_bootstrap=10).query("layer == 1").iloc[0]
    values = one.at(1).double().numpy()
    units = unit_rows(values)
    pairs = [units[i] @ units[j] for i, j in combinations(range(9), 2)]
    assert row["pairwise_cosine"] == pytest.approx(np.mean(pairs), abs=1e-12)
    left_out = [unit_rows(np.delete(values, i, axis=0).mean(0)[None])[0] @ units[i] for i in range(9)]
    assert row["mean_cosine"] == pytest.approx(np.mean(left_out), abs=1e-12)
    for column, matrix in (("pc1_uncentred", values), ("pc1_centred", values - values.mean(0))):
        squares = np.linalg.svd(matrix, compute_uv=False) ** 2
        assert row[column] == pytest.approx(squares[0] / squares.sum(), abs=1e-10)
    assert row["n"] == 9


def test_interval_matches_a_loop_over_replicates() -> None:
    one = planted("a", axis(0, 6), n=7, noise=1.0)
    units = unit_rows(one.at(0).double().numpy())
    replicates = []
    for count in resample_counts(one, 30, 2):
        drawn = np.repeat(np.arange(7), count)
        replicates.append(np.mean([units[i] @ units[j] for i in drawn for j in drawn if i != j]))
    row = cohesion([one], n_bootstrap=30, seed=2).iloc[0]
    np.testing.assert_allclose([row["low"], row["high"]], np.quantile(replicates, [0.025, 0.975]), atol=1e-12)


def test_one_direction_is_full_cohesion() -> None:
    row = cohesion([planted("a", axis(0))], n_bootstrap=20).iloc[0]
    wanted = {"pairwise_cosine": 1, "low": 1, "high": 1, "mean_cosine": 1, "pc1_uncentred": 1}
    assert row[list(wanted)].to_dict() == pytest.approx(wanted, abs=1e-5)


def test_identical_differences_have_no_centred_axis() -> None:
    few = np.repeat(axis(0)[None, None], 5, axis=0)
    row = cohesion([as_differences("a", few, np.zeros_like(few))], n_bootstrap=5).iloc[0]
    assert row["pc1_centred"] == 0
    assert row["separability"] == np.inf


def test_orthogonal_differences_have_none() -> None:
    few = np.eye(6)[:, None]
    row = cohesion([as_differences("a", few, np.zeros_like(few))], n_bootstrap=20).iloc[0]
    assert row["pairwise_cosine"] == pytest.approx(0, abs=1e-12)
    assert row["pc1_uncentred"] == pytest.approx(1 / 6)
    assert row["pc1_centred"] == pytest.approx(1 / 5)


def test_interval_covers_the_expected_cohesion() -> None:
    frame = cohesion([planted("a", axis(0), n=40, layers=300, noise=1.5)], n_bootstrap=200)
    expected = frame["pairwise_cosine"].mean()
    covered = (frame["low"] <= expected) & (expected <= frame["high"])
    # Trials share one set of redraws, hence the wide margin around 95 %.
    assert 0.90 <= covered.mean() <= 0.99


def test_separability_recovers_a_planted_gap() -> None:
    # Independent few-shot and zero-shot activations of unit variance, gap 3, and a direction found well.
    rng = np.random.default_rng(0)
    zero, few = rng.normal(size=(2, 400, 1, 8))
    row = cohesion([as_differences("a", few + 3 * axis(0, 8), zero)], n_bootstrap=2).iloc[0]
    assert row["separability"] == pytest.approx(3, abs=0.25)  # standard error of d' at n = 400: about 0.1


def test_separability_of_noise_is_zero_on_average() -> None:
    # The in-sample d' of the same data is about 2 sqrt(d_model / n) = 4: cross-fitting avoids that.
    rng = np.random.default_rng(0)
    zero, few = rng.normal(size=(2, 16, 100, 64))
    frame = cohesion([as_differences("noise", few, zero)], n_bootstrap=2, n_splits=4)
    assert frame["separability"].mean() == pytest.approx(0, abs=0.15)


def test_separability_matches_a_loop() -> None:
    rng = np.random.default_rng(0)
    zero, few = rng.normal(size=(2, 4, 1, 3))
    few = few + axis(0, 3)
    one = as_differences("a", few, zero)
    few, zero = one.few_shot[:, 0].double().numpy(), one.zero_shot[:, 0].double().numpy()
    scores: dict[tuple[int, ...], float] = {}
    for half in combinations(range(4), 2):
        rest = [i for i in range(4) if i not in half]
        direction = (few - zero)[list(half)].mean(0)
        ahead, behind = few[rest] @ direction, zero[rest] @ direction
        pooled = np.sqrt((ahead.var(ddof=1) + behind.var(ddof=1)) / 2)
        scores[half] = (ahead.mean() - behind.mean()) / pooled
    folds = [(scores[half] + scores[tuple(sorted(set(range(4)) - set(half)))]) / 2 for half in scores]
    single = cohesion([one], n_bootstrap=2, n_splits=1)["separability"].iloc[0]
    assert min(abs(single - fold) for fold in folds) < 1e-9
    many = cohesion([one], n_bootstrap=2, n_splits=3000)["separability"].iloc[0]
    assert many == pytest.approx(np.mean(folds), abs=4 * np.std(folds) / np.sqrt(3000))


def test_few_samples_leave_gaps_rather_than_false_precision() -> None:
    three, two = (cohesion([planted("a", axis(0), n=n, noise=1.0)], n_bootstrap=200).iloc[0] for n in (3, 2))
    assert three["low"] < three["pairwise_cosine"] < three["high"]
    assert np.isnan(three["separability"])
    assert two[["low", "high", "separability"]].isna().all()
    assert np.isfinite(two["pairwise_cosine"])


def test_scale_changes_nothing_and_seed_only_what_is_random() -> None:
    one = planted("a", axis(0), n=10, noise=1.0)
    scaled = as_differences("a", 4 * one.few_shot.numpy(), 4 * one.zero_shot.numpy())
    pd.testing.assert_frame_equal(cohesion([one], n_bootstrap=20), cohesion([scaled], n_bootstrap=20))
    first, second = (cohesion([one], n_bootstrap=20, seed=seed) for seed in (0, 1))
    assert first["low"].iloc[0] != second["low"].iloc[0]
    assert first["pairwise_cosine"].iloc[0] == second["pairwise_cosine"].iloc[0]


def test_errors() -> None:
    with pytest.raises(ValueError, match="n_splits=0 must"):
        cohesion([planted("a", axis(0))], n_splits=0)
    with pytest.raises(ValueError, match="0 tasks, but 1 or more"):
        cohesion([])


def test_d_prime_means_what_it_says() -> None:
    # Equal normal distributions d' apart are told apart with accuracy Phi(d' / 2).
    rng = np.random.default_rng(1)
    zero, few = rng.normal(size=(2, 500, 1, 4))
    few = few + 2 * axis(0, 4)
    d_prime = cohesion([as_differences("a", few, zero)], n_bootstrap=2)["separability"].iloc[0]
    fresh_zero, fresh_few = rng.normal(size=(2, 4000))
    accuracy = np.mean(np.concatenate([fresh_zero < 1, fresh_few + 2 > 1]))
    assert norm.cdf(d_prime / 2) == pytest.approx(accuracy, abs=0.03)
