from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.geometry import alignment, alignment_samples
from cast_lens.geometry.resampling import resample_counts
from cast_lens.vectors import DifferenceVectors

from .planted import as_differences, axis, planted


@pytest.fixture(scope="module")
def tasks() -> list[DifferenceVectors]:
    return [
        planted("a", axis(0, 8), n=9, layers=2, noise=1.0, seed=0),
        planted("b", axis(0, 8) + axis(1, 8), n=6, layers=2, noise=1.0, seed=1),
    ]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_each_sample_matches_a_loop(tasks: list[DifferenceVectors]) -> None:
    frame = alignment_samples(tasks)
    assert len(frame) == 2 * 2 * (9 + 6)
    named = {one.task: one for one in tasks}
    for row in frame.itertuples():
        own = named[row.task].at(row.layer).double().numpy()
        index = named[row.task].sample_ids.index(row.sample_id)
        others = named[row.other].at(row.layer).double().numpy()
        if row.task == row.other:
            others = np.delete(others, index, axis=0)
        assert row.cosine == pytest.approx(unit(own[index]) @ unit(others.mean(0)), abs=1e-12)


def test_means_are_the_means_of_the_samples(tasks: list[DifferenceVectors]) -> None:
    keys = ["task", "other", "layer"]
    means = alignment_samples(tasks).groupby(keys)["cosine"].mean()
    frame = alignment(tasks, n_bootstrap=20)
    pd.testing.assert_series_equal(frame.set_index(keys)["cosine"].sort_index(), means, rtol=1e-12)
    assert frame.groupby("task")["n"].unique().map(list).to_dict() == {"a": [9], "b": [6]}


def mean_product(rows: np.ndarray) -> float:
    n = len(rows)
    return float(np.mean([rows[i] @ rows[j] for i in range(n) for j in range(n) if i != j]))


def naive_replicate(tasks: list[DifferenceVectors], counts: list[np.ndarray], task: int, other: int) -> float:
    """Draw the samples, leave out copies of the sample itself, and take lengths from different draws only."""
    own, others = (tasks[index].at(1).double().numpy() for index in (task, other))
    cosines = []
    for index in np.repeat(np.arange(len(own)), counts[task]):
        count = counts[other].copy()
        if task == other:
            count[index] = 0
        drawn = np.repeat(others, count, axis=0)
        cosines.append(unit(own[index]) @ drawn.mean(0) / np.sqrt(mean_product(drawn)))
    # Lengths freed of noise may carry a cosine past 1; within a task every sample has a length of its own.
    return float(np.mean(np.clip(cosines, -1, 1)) if task == other else np.clip(np.mean(cosines), -1, 1))


@pytest.mark.parametrize(("task", "other"), [(0, 0), (0, 1), (1, 0)])
def test_interval_matches_a_loop_over_replicates(task: int, other: int) -> None:
    drawn = [planted(name, axis(0, 8), n=7, layers=2, noise=1.0, seed=seed) for seed, name in enumerate("ab")]
    counts = [resample_counts(one, 25, 3) for one in drawn]
    replicates = [naive_replicate(drawn, [count[r] for count in counts], task, other) for r in range(25)]
    frame = alignment(drawn, n_bootstrap=25, seed=3).set_index(["task", "other", "layer"])
    row = frame.loc[("ab"[task], "ab"[other], 1)]
    expected = np.quantile(replicates, [0.025, 0.975])
    np.testing.assert_allclose([row["low"], row["high"]], expected, atol=1e-9)
    assert expected[1] - expected[0] > 0.02


def test_own_cosine_is_not_inflated() -> None:
    # Pure noise: with the sample inside its mean the cosine would be about 1 / sqrt(8) = 0.35.
    noise = as_differences("noise", np.random.default_rng(0).normal(size=(8, 200, 64)), np.zeros((8, 200, 64)))
    frame = alignment([noise], n_bootstrap=5)
    assert frame["cosine"].mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("pair", [("a", "a"), ("a", "b")])
def test_interval_covers_the_expected_cosine(pair: tuple[str, str]) -> None:
    drawn = [planted(name, axis(0), n=40, layers=200, noise=2.0, seed=seed) for seed, name in enumerate("ab")]
    frame = alignment(drawn, n_bootstrap=200).set_index(["task", "other"]).loc[[pair]]
    expected = frame["cosine"].mean()
    covered = (frame["low"] <= expected) & (expected <= frame["high"])
    # Trials share one set of redraws, hence the wide margin around 95 %.
    assert 0.90 <= covered.mean() <= 0.995


def test_parallel_tasks_align_and_orthogonal_ones_do_not() -> None:
    drawn = [planted("a", axis(0)), planted("b", 2 * axis(0)), planted("c", axis(1))]
    cosine = alignment(drawn, n_bootstrap=10).set_index(["task", "other"])["cosine"]
    assert cosine["a", "a"] == pytest.approx(1, abs=1e-6)
    assert cosine["a", "b"] == pytest.approx(1, abs=1e-6)
    assert cosine["c", "a"] == pytest.approx(0, abs=1e-6)


def test_two_samples_have_a_cosine_but_no_interval() -> None:
    row = alignment([planted("a", axis(0), n=2, noise=1.0)], n_bootstrap=50).iloc[0]
    assert np.isfinite(row["cosine"])
    assert row[["low", "high"]].isna().all()


def test_redraws_of_a_single_sample_do_not_cost_the_interval() -> None:
    # With 4 samples about one redraw in 64 is four copies of one of them, whose alignment is undefined.
    row = alignment([planted("a", axis(0), n=4, noise=1.0)], n_bootstrap=1000).iloc[0]
    assert row["low"] < row["cosine"] < row["high"]


def test_a_zero_difference_is_refused() -> None:
    values = np.stack([axis(0), np.zeros(24), axis(0)])[:, None]
    with pytest.raises(ValueError, match="sample 'a-1' of 'a' is zero at layer 0"):
        alignment([as_differences("a", values, np.zeros_like(values))])
