"""Side effects: what is own and what is elsewhere, planted losses, and sentences that fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.side_effects import SideEffects
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.transfer_matrix import RANDOM
from tests.experiments.made_rows import Right, crossed, harms, helps, nothing
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = SideEffects(texts=3)


def with_text(right: Right, rise: float) -> dict[str, pd.DataFrame]:
    rows = crossed(("tone", "mood"), ("mood",), right)
    texts = []
    for text in range(3):
        for variant, method in enumerate(("zero-shot", "cast", RANDOM)):
            row = {"source": "mood", "method": method, "variant": variant, "seed": 0, "text": text}
            row |= {"layer": 2 if variant else -1, "strength": 1.0, "operator": "add", "position": "last"}
            texts.append({**row, "tokens": 5, "nll": 3.0 + text + rise * (variant == 1), "kl": rise * (variant == 1)})
    return {"tasks": rows, "text": pd.DataFrame(texts)}


def test_every_task_with_a_test_split_is_steered() -> None:
    cells = [(cell.kind, cell.target, cell.source) for cell in RUN.plan(grid_config(), small_tasks())]
    assert cells[2:] == [
        ("tasks", "tone", ""),
        ("tasks", "mood", ""),
        ("tasks", "double", ""),
        ("text", "", "mood"),
        ("text", "", "double"),
    ]


def test_losses_elsewhere_and_gains_at_home_are_told_apart() -> None:
    def right(target: str, source: str, method: str, query: int) -> bool:
        return (target == "mood") if method == "cast" else query < 4

    frames = RUN.tables(with_text(right, np.log(3.0)), grid_config(), small_tasks())
    result = frames["result"].set_index(["scope", "method", "metric"])
    away = result.loc[("another task", "cast", "exact_match")]
    assert (away["gain"], away["baseline"], away["n_tests"]) == (-0.5, 0.5, 3)
    assert (away["changed"], away["n"]) == (0.5, 8)
    assert result.loc[("own task", "cast (own vector)", "exact_match"), "gain"] == 0.5
    assert np.isnan(result.loc[("own task", "cast (own vector)", "exact_match"), "p_adjusted"])
    pareto = frames["pareto"].set_index(["method", "metric"])
    assert pareto.loc[("cast", "exact_match"), ["gain", "side_effect"]].tolist() == [0.5, 0.5]
    assert pareto.loc[(RANDOM, "exact_match"), ["gain", "side_effect"]].tolist() == [0.0, 0.0]
    text = frames["text"].set_index("method")
    assert text["ratio"].tolist() == pytest.approx([3.0, 1.0])
    assert frames["changed"].set_index("method")["changed"].to_dict() == {"cast": 0.5, RANDOM: 0.0}


@pytest.mark.parametrize(("right", "said"), [(helps, "+50.0 points"), (nothing, "0.0 points"), (harms, "−50.0 points")])
def test_sentences_fit_what_came_out(right: Right, said: str) -> None:
    frames = RUN.tables(with_text(right, 0.0), grid_config(), small_tasks())
    text = words(RUN.findings(frames, grid_config()))
    assert said in text
    assert "On plain text the perplexity is 1.00 times the unsteered one" in text
    names = {one.name for one in RUN.figures(frames, grid_config())}
    assert names == {"pareto-exact_match", "pareto-choice_correct", "matrix"}


def test_sources_that_are_never_steered_have_no_trade_off() -> None:
    rows = {"tasks": crossed(("tone",), ("mood",), harms)}
    frames = RUN.tables(rows, grid_config(), small_tasks())
    assert frames["pareto"].empty
    assert [one.name for one in RUN.figures(frames, grid_config())] == ["matrix"]
    assert "cast changes exact match by −50.0 points" in words(RUN.findings(frames, grid_config()))


@pytest.mark.slow
def test_cells_repeat_and_are_shared_through_the_directory(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path / "a")
    for cell in (Cell("tasks", "tone"), Cell("text", source="mood")):
        first = RUN.compute(workspace, cell)
        pd.testing.assert_frame_equal(first, RUN.compute(grid_workspace(tmp_path / "b"), cell))
    assert (tmp_path / "a" / "frames" / "crossed" / "tone.parquet").is_file()
    outcomes = RUN.compute(workspace, Cell("tasks", "mood"))
    assert set(outcomes["method"]) == {"zero-shot", "cast", "cast (own vector)", RANDOM}
    assert outcomes.groupby(["method", "source"])["sample"].agg(tuple).nunique() == 1
    assert (outcomes["own"] == (outcomes["source"] == "mood")).all()
