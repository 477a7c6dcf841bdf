"""Numbers of demonstrations: which there are, the same queries behind all, planted steps, cells that repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.bench import Bench
from cast_lens.experiments.catalogue import find
from cast_lens.experiments.catalogue.shots import all_vectors
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.stability import mean_cosines
from tests.experiments.small import (
    SMALL,
    bench_of,
    computed,
    joined,
    outcomes,
    planned,
    right,
    rows_of,
    small_config,
    words,
)

NAME = "shots"
RUN = find(NAME)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = small_config(tmp_path_factory.mktemp("tiny"))
    return bench_of(NAME, config, tmp_path_factory.mktemp("out"))


def made_up(short: int, long: int) -> pd.DataFrame:
    frames = [outcomes("zero-shot", right(10))]
    for k, count in ((1, short), (2, long)):
        frames += [outcomes(f"cast, k={k}", right(count)), outcomes(f"placebo: cast, k={k}", right(10))]
    return joined(frames, part="steered")


def test_the_plan_refuses_samples_that_leave_no_demonstrations() -> None:
    _, cells = planned(NAME, SMALL)
    assert [cell.kind for cell in cells] == ["setting", "vectors", "geometry", "steered"]
    # The train split holds 64: with 62 samples two demonstrations are left, which the run needs, but not four.
    with pytest.raises(ValueError, match="too few beside samples=62"):
        planned(NAME, replace(SMALL, samples=62, few_shots=(4, 8)))


@pytest.mark.parametrize(
    ("short", "long", "told"),
    [
        (12, 36, "In exact match these steps stand after Holm's correction over 9 tests: from cast, k=1"),
        (20, 20, "In exact match no longer list differs"),
        (36, 12, "from cast, k=1 to cast, k=2 −60.0 points"),
    ],
)
def test_steps_are_told_as_they_are(short: int, long: int, told: str) -> None:
    frames = RUN.summarise(made_up(short, long), SMALL, {})
    steps = frames["steps"].set_index(["method", "against", "metric"])["difference"]
    assert steps["cast, k=2", "cast, k=1", "exact_match"] == pytest.approx((long - short) / 40)
    assert steps["cast, k=2", "placebo: cast, k=2", "exact_match"] == pytest.approx((long - 10) / 40)
    assert told in words(RUN.read(frames, SMALL))


def test_the_same_queries_stand_behind_every_list_and_longer_lists_hold_shorter_ones(bench: Bench) -> None:
    made = all_vectors(bench, "review-sentiment")
    assert list(made) == [1, 2]
    assert made[1].sample_ids == made[2].sample_ids
    np.testing.assert_allclose(made[1].zero_shot, made[2].zero_shot, atol=1e-4)
    assert not np.allclose(made[1].few_shot, made[2].few_shot, atol=1e-2)


def test_geometry_is_that_of_the_vectors(bench: Bench) -> None:
    rows = computed(NAME, bench, Cell("geometry", source="review-sentiment"))
    made = all_vectors(bench, "review-sentiment")
    first, last = made[1].mean().directions, made[2].mean().directions
    one = rows[rows["shots"] == 1]
    np.testing.assert_allclose(one["cosine"], mean_cosines(first, last))
    np.testing.assert_allclose(one["norm"], first.norm(dim=-1), rtol=1e-6)
    np.testing.assert_allclose(rows.loc[rows["shots"] == 2, "cosine"], 1.0)
    assert rows["at_setting"].sum() == 2


def test_cells_repeat_themselves_and_summarise(bench: Bench) -> None:
    _, cells = planned(NAME, bench.config)  # type: ignore[arg-type]
    rows = rows_of(NAME, bench, cells)
    cell = next(cell for cell in cells if cell.kind == "steered")
    pd.testing.assert_frame_equal(computed(NAME, bench, cell), computed(NAME, bench, cell))
    frames = RUN.summarise(rows, SMALL, {})
    assert set(frames["methods"]["shots"]) == {1, 2}
    assert "over 1 sources: k = 1: " in words(RUN.read(frames, SMALL))
    text = words(RUN.read(frames, replace(SMALL, few_shots=(1, 2, 99))))
    assert "Left out, beyond the train split or the context of every source: 99" in text
    assert {drawing.name for drawing in RUN.draw(frames, SMALL)} == {"gain", "turning"}
