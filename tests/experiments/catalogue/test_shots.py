"""Numbers of demonstrations: which there are, the same queries behind all, planted steps, cells that repeat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.shots import Shots, all_vectors
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.stability import mean_cosines
from cast_lens.experiments.workspace import Workspace
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, right, rows_of, words

RUN = Shots(few_shots=(1, 2))


def made_up(short: int, long: int) -> dict[str, pd.DataFrame]:
    frames = [outcomes("zero-shot", right(10))]
    for k, count in ((1, short), (2, long)):
        frames += [outcomes(f"cast, k={k}", right(count)), outcomes(f"placebo: cast, k={k}", right(10))]
    return {"steered": joined(frames)}


def test_the_plan_refuses_samples_that_leave_no_demonstrations() -> None:
    _, cells = planned(RUN)
    assert [cell.kind for cell in cells] == ["setting", "vectors", "geometry", "steered"]
    # The train split holds 64: with 62 samples two demonstrations are left, which the run needs, but not four.
    with pytest.raises(ValueError, match="too few beside samples=62"):
        planned(Shots(few_shots=(4, 8)), replace(SMALL, samples=62))


@pytest.mark.parametrize(("short", "long", "told"), [(12, 36, "gain"), (20, 20, "not shown"), (36, 12, "loss")])
def test_steps_are_told_as_they_are(short: int, long: int, told: str) -> None:
    frames = RUN.tables(made_up(short, long), SMALL, {})
    steps = frames["steps"].set_index(["method", "against", "metric"])["difference"]
    assert steps["cast, k=2", "cast, k=1", "exact_match"] == pytest.approx((long - short) / 40)
    assert steps["cast, k=2", "placebo: cast, k=2", "exact_match"] == pytest.approx((long - 10) / 40)
    verdicts = frames["steps"].set_index(["method", "against", "metric"])["verdict"]
    assert verdicts["cast, k=2", "cast, k=1", "exact_match"] == told
    up, down = int(told == "gain"), int(told == "loss")
    sentence = words(RUN.findings(frames, SMALL))
    assert f"{up} of 1 steps to a longer list gain in exact match, {down} lose" in sentence
    assert "after Holm's correction over 9 tests" in sentence


def test_the_same_queries_stand_behind_every_list_and_longer_lists_hold_shorter_ones(workspace: Workspace) -> None:
    made = all_vectors(workspace, "review-sentiment", (1, 2))
    assert list(made) == [1, 2]
    assert made[1].sample_ids == made[2].sample_ids
    np.testing.assert_allclose(made[1].zero_shot, made[2].zero_shot, atol=1e-4)
    assert not np.allclose(made[1].few_shot, made[2].few_shot, atol=1e-2)


def test_geometry_is_that_of_the_vectors(workspace: Workspace) -> None:
    rows = computed(RUN, workspace, Cell("geometry", source="review-sentiment"))
    made = all_vectors(workspace, "review-sentiment", (1, 2))
    first, last = made[1].mean().directions, made[2].mean().directions
    one = rows[rows["shots"] == 1]
    np.testing.assert_allclose(one["cosine"], mean_cosines(first, last))
    np.testing.assert_allclose(one["norm"], first.norm(dim=-1), rtol=1e-6)
    np.testing.assert_allclose(rows.loc[rows["shots"] == 2, "cosine"], 1.0)
    assert rows["at_setting"].sum() == 2


@pytest.mark.slow
def test_cells_repeat_themselves_and_summarise(workspace: Workspace) -> None:
    _, cells = planned(RUN, workspace.config)
    rows = rows_of(RUN, workspace, cells)
    cell = next(cell for cell in cells if cell.kind == "steered")
    pd.testing.assert_frame_equal(computed(RUN, workspace, cell), computed(RUN, workspace, cell))
    frames = RUN.tables(rows, SMALL, {})
    assert set(frames["methods"]["shots"]) == {1, 2}
    assert frames["turns"].set_index("shots").loc[1, "sources"] == 1
    text = words(Shots(few_shots=(1, 2, 99)).findings(frames, SMALL))
    assert "Left out, beyond the train split or the context of every source: 99" in text
    assert {figure.name for figure in RUN.figures(frames, SMALL)} == {"gain", "turning"}
