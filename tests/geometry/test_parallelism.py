from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.geometry import cosine_matrix, parallelism
from cast_lens.geometry.parallelism import random_cosine_band
from cast_lens.geometry.resampling import resample_counts, weighted_inner
from cast_lens.vectors import DifferenceVectors

from .planted import as_differences, axis, planted


def naive_cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.fixture(scope="module")
def noisy() -> list[DifferenceVectors]:
    directions = [axis(0) + axis(1), axis(0) - 0.5 * axis(2), axis(3)]
    return [
        planted(f"task {index}", direction, n=12 + index, layers=3, noise=1.5, seed=index)
        for index, direction in enumerate(directions)
    ]


def test_planted_cosines_come_out() -> None:
    tasks = [planted("a", axis(0)), planted("b", 3 * axis(0)), planted("c", axis(1)), planted("d", -axis(0))]
    frame = parallelism(tasks, n_bootstrap=50).set_index(["task_a", "task_b"])
    wanted = {("a", "b"): 1, ("a", "c"): 0, ("a", "d"): -1, ("b", "c"): 0, ("b", "d"): -1, ("c", "d"): 0}
    assert frame["cosine"].to_dict() == pytest.approx(wanted, abs=1e-6)  # activations are float32
    assert frame["ceiling"].to_numpy() == pytest.approx(1, abs=1e-6)
    assert (frame["high"] - frame["low"]).max() < 1e-6


def test_cosines_and_columns_match_a_loop(noisy: list[DifferenceVectors]) -> None:
    frame = parallelism(noisy, n_bootstrap=20)
    assert len(frame) == 3 * 3
    for row in frame.itertuples():
        first, second = (next(one for one in noisy if one.task == name) for name in (row.task_a, row.task_b))
        left, right = (one.at(row.layer).double().numpy() for one in (first, second))
        assert row.cosine == pytest.approx(naive_cosine(left.mean(0), right.mean(0)), abs=1e-12)
        assert (row.n_a, row.n_b) == (len(first), len(second))
        shares = []
        for values in (left, right):
            products = [values[i] @ values[j] for i in range(len(values)) for j in range(len(values)) if i != j]
            shares.append(np.mean(products) / (values.mean(0) @ values.mean(0)))
        assert row.ceiling == pytest.approx(np.sqrt(shares[0] * shares[1]), abs=1e-12)
        assert row.corrected == pytest.approx(row.cosine / row.ceiling)


def test_interval_matches_a_loop_over_replicates(noisy: list[DifferenceVectors]) -> None:
    pair, layer, seed = noisy[:2], 1, 5
    frame = parallelism(pair, n_bootstrap=40, seed=seed)
    counts = [resample_counts(one, 40, seed) for one in pair]
    cosines = []
    for replicate in range(40):
        means, lengths = [], []
        for one, count in zip(pair, counts, strict=True):
            drawn = np.repeat(one.at(layer).double().numpy(), count[replicate], axis=0)
            n = len(drawn)
            means.append(drawn.mean(0))
            lengths.append(np.mean([drawn[i] @ drawn[j] for i in range(n) for j in range(n) if i != j]))
        cosines.append(np.clip(means[0] @ means[1] / np.sqrt(lengths[0] * lengths[1]), -1, 1))
    row = frame[frame["layer"] == layer].iloc[0]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(cosines, [0.025, 0.975])), abs=1e-10)


def test_weighted_inner_matches_explicit_sums() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(n, 7)) for n in (3, 5, 2)]
    weights = [rng.normal(size=(4, n)) for n in (3, 5, 2)]
    stacked = np.concatenate(values)
    sums = np.stack([weight @ value for weight, value in zip(weights, values, strict=True)])
    expected = np.einsum("ard,brd->abr", sums, sums)
    np.testing.assert_allclose(weighted_inner(stacked @ stacked.T, weights), expected, atol=1e-12)


def test_task_order_and_company_change_nothing(noisy: list[DifferenceVectors]) -> None:
    frame = parallelism(noisy, n_bootstrap=30)
    turned = parallelism(noisy[::-1], n_bootstrap=30)
    swapped = turned.rename(columns={"task_a": "task_b", "task_b": "task_a", "n_a": "n_b", "n_b": "n_a"})
    keys = ["task_a", "task_b", "layer"]
    expected = frame.sort_values(keys, ignore_index=True)
    # Sums run in another order, so float64 rounding may differ.
    pd.testing.assert_frame_equal(swapped[frame.columns].sort_values(keys, ignore_index=True), expected, rtol=1e-9)
    alone = parallelism([noisy[0], noisy[2]], n_bootstrap=30)
    together = frame[(frame["task_a"] == "task 0") & (frame["task_b"] == "task 2")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, together, rtol=1e-9)


def test_sample_order_and_scale_change_no_estimate(noisy: list[DifferenceVectors]) -> None:
    one = noisy[0]
    order = torch.randperm(len(one), generator=torch.Generator().manual_seed(0))
    shuffled = DifferenceVectors(
        7 * one.few_shot[order],
        7 * one.zero_shot[order],
        one.layers,
        tuple(one.sample_ids[int(index)] for index in order),
        one.provenance,
    )
    columns = ["cosine", "ceiling", "corrected"]
    before, after = (parallelism([first, noisy[1]], n_bootstrap=10)[columns] for first in (one, shuffled))
    pd.testing.assert_frame_equal(before, after, rtol=1e-5)  # scaling float32 rounds


def test_seed_decides_the_intervals(noisy: list[DifferenceVectors]) -> None:
    first, again, other = (parallelism(noisy, n_bootstrap=30, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["low"] != other["low"]).all()
    assert (first["cosine"] == other["cosine"]).all()


@pytest.mark.parametrize("noise", [pytest.param(0.5, marks=pytest.mark.slow), 2.0])
def test_interval_covers_a_planted_cosine(noise: float) -> None:
    # Every layer is one trial; n = 64 samples whose noise is up to twice as long as the mean.
    trials, cosine = 300, 0.5
    second = cosine * axis(0) + np.sqrt(1 - cosine**2) * axis(1)
    tasks = [
        planted("a", axis(0), n=64, layers=trials, noise=noise, seed=1),
        planted("b", second, n=64, layers=trials, noise=noise, seed=2),
    ]
    frame = parallelism(tasks, n_bootstrap=300)
    covered = (frame["low"] / frame["ceiling"] <= cosine) & (cosine <= frame["high"] / frame["ceiling"])
    # Nominal 95 %; all trials share one set of redraws, so their shares scatter more than a binomial's 0.013.
    assert 0.90 <= covered.mean() <= 0.99
    assert frame["corrected"].mean() == pytest.approx(cosine, abs=0.02)


def test_interval_is_not_pulled_below_the_estimate() -> None:
    # The plain bootstrap fails here: means of redraws are noisier still, and all their cosines lie too low.
    tasks = [planted(name, axis(0, 256), n=16, noise=3.0, seed=seed) for seed, name in enumerate("ab")]
    row = parallelism(tasks, n_bootstrap=500).iloc[0]
    assert row["low"] < row["cosine"] < row["high"]
    assert row["cosine"] < 0.8 < row["corrected"]


def test_tasks_are_redrawn_independently() -> None:
    first, second = (resample_counts(planted(name, axis(0)), 50, 0) for name in "ab")
    assert (first.sum(axis=1) == 32).all()
    assert (first != second).any()


def test_intervals_stay_within_cosines() -> None:
    # Scatter of one sample's length: a redrawn mean freed of noise is often too short, its cosine above 1.
    tasks = [planted(name, axis(0), n=4, layers=40, noise=3.0, seed=seed) for seed, name in enumerate("ab")]
    frame = parallelism(tasks, n_bootstrap=100)
    assert frame["high"].max() == 1
    assert frame["low"].min() >= -1


def test_ceiling_is_missing_where_the_mean_is_noise() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=(6, 1, 8))
    signs = np.array([1, 1, 1, -1, -1, -1])[:, None, None]
    few = zero + signs * axis(0, 8) + 1e-3 * axis(1, 8)
    row = parallelism([as_differences("noise", few, zero), planted("b", axis(0, 8))], n_bootstrap=20).iloc[0]
    assert row[["ceiling", "corrected"]].isna().all()
    assert np.isfinite(row[["cosine", "low", "high"]].to_numpy(float)).all()


def test_random_band_matches_random_directions() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(20000, 12))
    cosines = directions[:, 0] / np.linalg.norm(directions, axis=1)
    low, high = random_cosine_band(12, confidence=0.9)
    # Standard error of the share at 20000 draws is 0.002.
    assert np.mean((low <= cosines) & (cosines <= high)) == pytest.approx(0.9, abs=0.008)
    assert random_cosine_band(3) == pytest.approx((-0.95, 0.95))  # uniform on a sphere: Archimedes


def test_pair_null_holds_what_two_random_pairings_give() -> None:
    # Isotropic zero-shot activations: averages of random pairs are random directions, so both nulls agree.
    tasks = [planted(name, axis(0), n=40, seed=seed) for seed, name in enumerate("ab")]
    row = parallelism(tasks, n_bootstrap=4000).iloc[0]
    assert row["null_pairs_mean"] == pytest.approx(0, abs=0.02)  # standard error 0.2 / sqrt(4000)
    assert row["null_pairs_high"] == pytest.approx(row["null_random_high"], abs=0.06)
    assert row["null_pairs_low"] == pytest.approx(row["null_random_low"], abs=0.06)


def test_pair_null_widens_when_activations_vary_along_one_axis() -> None:
    rng = np.random.default_rng(0)
    tasks = []
    for name in "ab":
        zero = 0.1 * rng.normal(size=(30, 1, 24)) + 10 * rng.normal(size=(30, 1, 1)) * axis(5)
        tasks.append(as_differences(name, zero + axis(0), zero))
    row = parallelism(tasks, n_bootstrap=200).iloc[0]
    assert row["null_pairs_high"] > 0.9 > row["null_random_high"]
    assert row["null_pairs_low"] < -0.9


def test_pair_null_ignores_a_common_offset(noisy: list[DifferenceVectors]) -> None:
    moved = [
        as_differences(one.task, one.few_shot.numpy() + 1000 * axis(4), one.zero_shot.numpy() + 1000 * axis(4))
        for one in noisy
    ]
    columns = ["null_pairs_mean", "null_pairs_low", "null_pairs_high"]
    before, after = (parallelism(tasks, n_bootstrap=50)[columns] for tasks in (noisy, moved))
    pd.testing.assert_frame_equal(before, after, atol=1e-3)  # float32 holds 1000 + x to about 6e-5


def test_pair_null_is_missing_when_activations_do_not_vary() -> None:
    same = np.repeat(np.random.default_rng(0).normal(size=(1, 1, 24)), 5, axis=0)
    tasks = [as_differences("same", same + axis(0), same), planted("b", axis(0))]
    row = parallelism(tasks, n_bootstrap=20).iloc[0]
    assert row[["null_pairs_mean", "null_pairs_low", "null_pairs_high"]].isna().all()
    assert row["cosine"] == pytest.approx(1, abs=1e-6)


def test_cosine_matrix_agrees_with_parallelism(noisy: list[DifferenceVectors]) -> None:
    square = cosine_matrix(noisy, 2).pivot(index="task_a", columns="task_b", values="cosine")
    np.testing.assert_array_equal(np.diag(square), 1.0)
    np.testing.assert_array_equal(square, square.T)
    for row in parallelism(noisy, n_bootstrap=5).query("layer == 2").itertuples():
        assert square.loc[row.task_a, row.task_b] == pytest.approx(row.cosine, abs=1e-12)


def test_clustering_puts_families_together() -> None:
    directions = {"a1": axis(0), "b1": axis(1), "a2": axis(0), "b2": axis(1)}
    tasks = [
        planted(name, direction + 0.1 * axis(5 + index), seed=index)
        for index, (name, direction) in enumerate(directions.items())
    ]
    plain = cosine_matrix(tasks, 0)
    assert list(plain["task_a"].unique()) == ["a1", "b1", "a2", "b2"]
    clustered = cosine_matrix(tasks, 0, clustered=True)
    families = [name[0] for name in clustered["task_a"].unique()]
    assert families in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
    assert list(clustered["task_b"][:4]) == list(clustered["task_a"].unique())
    keys = ["task_a", "task_b"]
    pd.testing.assert_frame_equal(
        plain.sort_values(keys, ignore_index=True), clustered.sort_values(keys, ignore_index=True)
    )


def relabelled(one: DifferenceVectors, *, task: str, fingerprint: str = "model") -> DifferenceVectors:
    return replace(one, provenance=replace(one.provenance, task=task, fingerprint=fingerprint))


def test_what_cannot_be_compared_is_refused(noisy: list[DifferenceVectors]) -> None:
    first, second = noisy[:2]
    with pytest.raises(ValueError, match="2 or more are needed"):
        parallelism([first])
    # TypeError where types are checked at run time, which is before ours.
    with pytest.raises((ValueError, TypeError), match=r"wrap a single one|Expected type"):
        parallelism(first)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"task \['task 0'\] more than once"):
        parallelism([first, relabelled(second, task="task 0")])
    with pytest.raises(ValueError, match="different models"):
        parallelism([first, relabelled(second, task="b", fingerprint="other")])
    with pytest.raises(ValueError, match="differ in layers or width"):
        parallelism([first, planted("b", axis(0), layers=2)])
    with pytest.raises(ValueError, match="differ in layers or width"):
        parallelism([first, planted("b", axis(0, 8), layers=3)])
    with pytest.raises(ValueError, match="1 sample; at least 2"):
        parallelism([first, planted("b", axis(0), layers=3, n=1)])
    with pytest.raises(ValueError, match="n_bootstrap=1 must"):
        parallelism(noisy, n_bootstrap=1)
    with pytest.raises(ValueError, match=r"confidence=95\.0 must"):
        parallelism(noisy, confidence=95.0)
    with pytest.raises(ValueError, match="layer=7 is not in this"):
        cosine_matrix(noisy, 7)


def test_a_zero_mean_is_refused() -> None:
    cancelling = np.stack([axis(0), -axis(0)])[:, None]
    tasks = [as_differences("none", cancelling, np.zeros_like(cancelling)), planted("b", axis(0))]
    with pytest.raises(ValueError, match="mean difference of 'none' at layer 0 is zero"):
        parallelism(tasks)
    with pytest.raises(ValueError, match="mean difference of 'none' at layer 0 is zero"):
        cosine_matrix(tasks, 0)
