"""Scaling curves: points and last doublings, planted growth and plateaus, the end of the context."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.scaling import Scaling, sizes
from cast_lens.experiments.workspace import Workspace
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, right, rows_of, words

RUN = Scaling(few_shots=(1, 2, 40), budgets=(3,), repeats=2)


def made_up(steered: tuple[int, int, int], shown: tuple[int, int]) -> dict[str, pd.DataFrame]:
    """Right answers of 60 with 1, 4 and 10 samples, and with 1 and 2 demonstrations."""
    frames = [outcomes("zero-shot", right(10, of=60)), outcomes("placebo: random direction", right(10, of=60))]
    for n, count in zip((1, 4, 10), steered, strict=True):
        frames.append(outcomes(f"cast, {n}", right(count, of=60)))
    for k, count in zip((1, 2), shown, strict=True):
        frames.append(outcomes(f"few-shot, {k}", right(count, of=60), source=""))
    return {"steered": joined(frames, tokens=100, context=512)}


def read(rows: dict[str, pd.DataFrame]) -> tuple[dict[str, pd.DataFrame], str]:
    frames = RUN.tables(rows, SMALL, {})
    return frames, words(RUN.findings(frames, SMALL))


def ends(frames: dict[str, pd.DataFrame]) -> pd.Series:
    """The verdict on the last doubling of each curve."""
    return frames["growth"].query("last and metric == 'exact_match'").set_index("curve")["verdict"]


def test_the_plan_ends_where_the_train_split_does() -> None:
    _, cells = planned(Scaling(few_shots=(1, 16, 500), repeats=7))
    numbers = {cell.number for cell in cells if cell.kind != "steered" and not cell.prepares}
    assert numbers == {1, 16}
    draws = [cell.variant for cell in cells if cell.kind == "in-task" and cell.number == 16]
    assert draws == ["0", "1"]
    assert sizes(SMALL, (3, 8)) == [1, 2, 3, 6]


def test_the_last_doubling_is_the_largest_number_against_the_largest_half() -> None:
    frames, _ = read(made_up((10, 20, 40), (30, 30)))
    last = frames["growth"].query("last and metric == 'exact_match'").set_index("curve")
    assert (last.loc["cast", "number_from"], last.loc["cast", "number_to"]) == (4, 10)
    assert last.loc["cast", "difference"] == pytest.approx(20 / 60)
    assert last.loc["cast", "per_doubling"] == pytest.approx(20 / 60 / np.log2(2.5))
    assert last.loc["few-shot", "difference"] == 0.0


def test_growth_against_a_plateau_agrees_with_the_claim() -> None:
    frames, text = read(made_up((10, 20, 40), (30, 30)))
    assert ends(frames).to_dict() == {"cast": "gain", "few-shot": "not shown"}
    assert "from 4 to 10 source samples by +33.3 points" in text
    assert "context was full" not in text
    curves = frames["growth"].query("metric == 'exact_match' and not same_curve").set_index("against")
    assert curves.loc["few-shot, 2", "difference"] == pytest.approx(10 / 60)
    assert curves.loc["placebo: random direction", "difference"] == pytest.approx(30 / 60)


def test_no_growth_is_not_called_growth() -> None:
    frames, text = read(made_up((20, 20, 20), (10, 30)))
    assert ends(frames).to_dict() == {"cast": "not shown", "few-shot": "gain"}
    assert "source samples by 0.0 points" in text


def test_a_falling_curve_is_said_to_fall() -> None:
    frames, _ = read(made_up((50, 50, 20), (30, 30)))
    assert ends(frames)["cast"] == "loss"


@pytest.mark.parametrize("kind", ["steered", "in-task"])
def test_what_is_missing_leaves_tables_with_columns(kind: str) -> None:
    rows = made_up((10, 20, 40), (30, 30))["steered"]
    part = rows[rows["method"].str.startswith("few-shot") == (kind == "in-task")]
    frames, _ = read({kind: part})
    assert {"verdict", "last", "number_from"} <= set(frames["growth"])
    assert all("metric" in frames[name] for name in ("result", "curves"))
    frames, text = read({})
    assert "No condition has an outcome" in text
    assert list(RUN.figures(frames, SMALL)) == []


@pytest.mark.slow
def test_cells_repeat_themselves_and_what_does_not_fit_is_named(workspace: Workspace) -> None:
    _, cells = planned(RUN, workspace.config)
    rows = rows_of(RUN, workspace, cells)
    for kind in ("steered", "in-task", "cross-task"):
        cell = next(cell for cell in cells if cell.kind == kind)
        pd.testing.assert_frame_equal(computed(RUN, workspace, cell), computed(RUN, workspace, cell))
    draws = rows["steered"].groupby("method")["seed"].nunique()
    assert draws[["cast, 1", "cast, 2", "cast, 3", "cast, 6"]].tolist() == [2, 2, 2, 1]
    frames = RUN.tables(rows, SMALL, {})
    assert set(frames["left_out"]["method"]) == {"few-shot, 40", "cross-task few-shot, 40"}
    assert "because the context was full: few-shot, 40" in words(RUN.findings(frames, SMALL))
    assert "scaling_exact_match" in {figure.name for figure in RUN.figures(frames, SMALL)}


def test_figures_show_the_placebo_from_end_to_end() -> None:
    frames = RUN.tables(made_up((20, 20, 20), (15, 25)), SMALL, {})
    (shown,) = [one for one in RUN.figures(frames, SMALL) if one.name == "scaling_exact_match"]
    (level,) = [trace for trace in shown.figure.data if (trace.name or "").startswith("placebo")]
    assert (list(level.x), list(level.y), level.line.dash) == ([1, 10], [0.0, 0.0], "dot")
    placebo = shown.frame[shown.frame["method"].str.startswith("placebo")]
    assert (placebo["n"] == 60).all()
