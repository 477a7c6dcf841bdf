from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.geometry import project, project_layers
from cast_lens.vectors import DifferenceVectors

from .planted import as_differences, axis, planted


@pytest.fixture(scope="module")
def tasks() -> list[DifferenceVectors]:
    return [planted("a", 2 * axis(0), n=8, layers=2), planted("b", axis(1), n=10, layers=2, seed=1)]


@pytest.mark.parametrize("d_model", [5, 60])
def test_pca_matches_a_full_svd(d_model: int) -> None:
    pair = [planted(name, 3 * axis(0, d_model), n=8, seed=seed) for seed, name in enumerate("ab")]
    frame = project(pair, 0)
    rows = np.concatenate([side[:, 0].double().numpy() for one in pair for side in (one.zero_shot, one.few_shot)])
    rows = rows - rows.mean(0)
    left, lengths, _ = np.linalg.svd(rows, full_matrices=False)
    expected = np.abs(left[:, :2] * lengths[:2])
    np.testing.assert_allclose(np.abs(frame[["x", "y"]]), expected, atol=1e-8)
    shares = lengths**2 / (lengths**2).sum()
    np.testing.assert_allclose(frame[["explained_x", "explained_y"]].iloc[0], shares[:2], atol=1e-12)


def test_rows_are_samples_of_both_sides(tasks: list[DifferenceVectors]) -> None:
    frame = project(tasks, 1)
    assert list(frame.columns) == [
        *("task", "sample_id", "condition", "layer", "x", "y"),
        *("explained_x", "explained_y"),
    ]
    assert len(frame) == 2 * (8 + 10)
    assert not frame.duplicated(["task", "sample_id", "condition"]).any()
    assert frame.groupby(["task", "condition"]).size().to_dict() == {
        ("a", "few-shot"): 8,
        ("a", "zero-shot"): 8,
        ("b", "few-shot"): 10,
        ("b", "zero-shot"): 10,
    }


def test_few_shot_lies_on_the_positive_side(tasks: list[DifferenceVectors]) -> None:
    for sign in (1, -1):
        turned = [as_differences(one.task, sign * one.few_shot.numpy(), sign * one.zero_shot.numpy()) for one in tasks]
        means = project(turned, 0).groupby("condition")[["x", "y"]].mean()
        assert (means.loc["few-shot"] > means.loc["zero-shot"]).all()


def test_parallel_differences_are_parallel_in_the_plane() -> None:
    offsets = [10 * axis(3), -10 * axis(3)]
    pair = []
    for seed, offset in enumerate(offsets):
        zero = 0.01 * np.random.default_rng(seed).normal(size=(6, 1, 24)) + offset
        pair.append(as_differences("ab"[seed], zero + 4 * axis(0), zero))
    frame = project(pair, 0)
    arrows = {
        task: rows.query("condition == 'few-shot'")[["x", "y"]].mean()
        - rows.query("condition == 'zero-shot'")[["x", "y"]].mean()
        for task, rows in frame.groupby("task")
    }
    np.testing.assert_allclose(arrows["a"], arrows["b"], atol=0.05)
    np.testing.assert_allclose(arrows["a"], [0, 4], atol=0.05)
    assert frame["explained_x"].iloc[0] + frame["explained_y"].iloc[0] > 0.99


def test_one_axis_of_variation_leaves_the_other_empty() -> None:
    zero = np.arange(4.0)[:, None, None] * axis(0)
    frame = project([as_differences("a", zero + axis(0), zero)], 0)
    assert frame["explained_x"].iloc[0] == pytest.approx(1)
    assert frame["y"].abs().max() < 1e-6


def test_several_layers_stand_under_each_other(tasks: list[DifferenceVectors]) -> None:
    every = project_layers(tasks)
    pd.testing.assert_frame_equal(every, pd.concat([project(tasks, 0), project(tasks, 1)], ignore_index=True))
    pd.testing.assert_frame_equal(project_layers(tasks, layers=[1]), project(tasks, 1))


@pytest.mark.slow
@pytest.mark.xdist_group("umap")
def test_umap_is_seeded_and_keeps_far_groups_apart() -> None:
    zero = np.random.default_rng(0).normal(size=(20, 1, 24))
    one = as_differences("a", zero + 50 * axis(0), zero)
    first, again, other = (project([one], 0, method="umap", seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert (first["x"] != other["x"]).any()
    assert first[["explained_x", "explained_y"]].isna().all(axis=None)
    centres = first.groupby("condition")[["x", "y"]].mean()
    gap = np.linalg.norm(centres.loc["few-shot"] - centres.loc["zero-shot"])
    spread = first.groupby("condition")[["x", "y"]].std().to_numpy().max()
    assert gap > 3 * spread


def test_errors(tasks: list[DifferenceVectors]) -> None:
    with pytest.raises(ValueError, match=r"more than 15 activations .* got 6"):
        project([planted("a", axis(0), n=3)], 0, method="umap")
    # TypeError where types are checked at run time, which is before ours.
    with pytest.raises((ValueError, TypeError), match="tsne"):
        project(tasks, 0, method="tsne")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer=9 is not in this"):
        project(tasks, 9)
    with pytest.raises(ValueError, match="layers is empty"):
        project_layers(tasks, layers=[])
    same = np.ones((3, 1, 4))
    with pytest.raises(ValueError, match="all the same"):
        project([as_differences("a", same, same)], 0)
