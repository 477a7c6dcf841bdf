from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.geometry import arrow_cosines, parallelism, planted_differences, project


@pytest.mark.parametrize("cosine", [0.0, 0.3, 1.0])
def test_the_planted_cosine_is_there(cosine: float) -> None:
    tasks = planted_differences(["a", "b", "c"], cosine=cosine, scatter=0.0)
    found = parallelism(tasks, n_bootstrap=10)
    # float32 entries; the differences are 3 long.
    np.testing.assert_allclose(found["cosine"], cosine, atol=1e-5)


def test_scatter_belongs_to_the_sample_and_length_to_the_task() -> None:
    tasks = planted_differences(["a"], cosine=0.5, samples=400, scatter=0.5, shift=2.0, seed=1)
    lengths = tasks[0].at(0).norm(dim=-1)
    # A difference of length 2 and scatter of length 0.5 across it; 400 samples fix the mean to about 0.02.
    assert float((lengths**2).mean()) == pytest.approx(2**2 + 0.5**2, abs=0.1)
    assert float(lengths.std()) > 0


def test_the_seed_decides() -> None:
    one, same, other = (planted_differences(["a"], cosine=0, seed=seed)[0].few_shot for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)


def test_impossible_plants_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine=-0\.5 must be from 0 to 1"):
        planted_differences(["a", "b"], cosine=-0.5)
    with pytest.raises(ValueError, match="d_model=4 must be at least 5"):
        planted_differences(["a", "b"], cosine=0, d_model=4)


def test_arrow_cosines_are_those_of_the_drawing() -> None:
    ends = {"a": ((0, 0), (2, 0)), "b": ((5, 5), (5, 9)), "c": ((1, 1), (0, 0)), "still": ((3, 3), (3, 3))}
    rows = [
        (task, "s", side, 7, *point)
        for task, pair in ends.items()
        for side, point in zip(("zero-shot", "few-shot"), pair, strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["task", "sample_id", "condition", "layer", "x", "y"])
    found = arrow_cosines(frame).set_index(["task_a", "task_b"])["drawn_cosine"]
    assert found["a", "b"] == pytest.approx(0)
    assert found["a", "c"] == pytest.approx(-(0.5**0.5))
    assert np.isnan(found["a", "still"])
    assert len(found) == 6


def test_parallel_differences_are_drawn_parallel_and_pca_invents_parallels() -> None:
    parallel, apart = (
        arrow_cosines(project(planted_differences(["a", "b"], cosine=cosine), 0)) for cosine in (1.0, 0.0)
    )
    assert parallel["drawn_cosine"].item() > 0.99
    # Two far clouds take the first axis; the second is where both, though orthogonal, have a part.
    assert apart["drawn_cosine"].item() > 0.5
