"""The matrix: planted hubs and families, nothing where nothing is, sentences that fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.transferability import Transferability
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.transfer_matrix import RANDOM
from cast_lens.tasks import Task
from tests.experiments.made_rows import Right, crossed, harms, helps, nothing
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks
from tests.small_tasks import label_task

RUN = Transferability()
SOURCES = ("a1", "b1")
TARGETS = ("a2", "a3", "a4", "b2", "b3", "b4")


def tasks() -> dict[str, Task]:
    made = {name: label_task(name) for name in (*SOURCES, *TARGETS)}
    return {name: replace(task, family=name[0]) for name, task in made.items()}


def kin(target: str, source: str, method: str, query: int) -> bool:
    """A vector helps its own family and harms the other."""
    return target[0] == source[0] if method == "cast" else query < 4


def test_sources_are_targets_of_each_other() -> None:
    cells = RUN.plan(grid_config(), small_tasks())
    assert [cell.target for cell in cells if cell.kind == "steered"] == ["tone", "mood", "double"]


def test_planted_families_and_clusters_are_found() -> None:
    rows = {"steered": crossed(TARGETS, SOURCES, kin)}
    frames = RUN.tables(rows, grid_config(), tasks())
    structure = frames["structure"].set_index(["method", "metric", "question"])
    gap = structure.loc[("cast", "exact_match", "same family minus other families")]
    assert gap["statistic"] == 1.0
    # 6! x 2! renamings, of which the 3! x 3! x 2 that keep families whole, with either name, show as much either way.
    assert gap["p_value"] < 0.15
    found = structure.loc[("cast", "exact_match", "silhouette of target clusters")]
    assert found["statistic"] == pytest.approx(1.0)
    members = frames["clusters"].query("method == 'cast' and metric == 'exact_match' and role == 'target'")
    groups = members.groupby("cluster")["task"].agg(lambda names: {name[0] for name in names})
    assert sorted(map(sorted, groups)) == [["a"], ["b"]]
    assert np.isnan(structure.loc[("cast", "exact_match", "silhouette of source clusters"), "statistic"])
    placebo = structure.loc[(RANDOM, "exact_match", "same family minus other families")]
    assert placebo["statistic"] == 0.0


def test_hubs_are_named_with_their_numbers() -> None:
    def right(target: str, source: str, method: str, query: int) -> bool:
        return source == "a1" if method == "cast" else query < 4

    frames = RUN.tables({"steered": crossed(TARGETS, SOURCES, right)}, grid_config(), tasks())
    margins = frames["hubs"].query("method == 'cast' and metric == 'exact_match' and role == 'source'")
    assert margins.set_index("task")["gain"].to_dict() == {"a1": 0.5, "b1": -0.5}


@pytest.mark.parametrize(("right", "said"), [(helps, "+50.0 points"), (nothing, "0.0 points"), (harms, "−50.0 points")])
def test_the_headline_fits_what_came_out(right: Right, said: str) -> None:
    frames = RUN.tables({"steered": crossed(TARGETS, SOURCES, right)}, grid_config(), tasks())
    assert said in words(RUN.findings(frames, grid_config()))
    assert frames["structure"]["detail"].str.contains("tasks that do not differ").any()
    assert {one.name for one in RUN.figures(frames, grid_config())} == {"matrix", "hubs"}


def test_a_source_is_not_a_target_of_its_own() -> None:
    rows = {"steered": crossed(("a1", "b1", "a2"), SOURCES, helps)}
    frames = RUN.tables(rows, grid_config(), tasks())
    pairs = frames["result"].query("method == 'cast' and metric == 'exact_match'")
    assert (pairs["target"] != pairs["source"]).all()
    assert len(pairs) == 4


def test_a_cell_repeats(tmp_path: Path) -> None:
    cell = Cell("steered", "tone")
    pd.testing.assert_frame_equal(
        RUN.compute(grid_workspace(tmp_path / "a"), cell), RUN.compute(grid_workspace(tmp_path / "b"), cell)
    )


def test_without_rows_tables_have_columns() -> None:
    frames = RUN.tables({}, grid_config(), tasks())
    assert {"verdict", "target_family"} <= set(frames["result"])
    assert list(RUN.figures(frames, grid_config())) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, grid_config()))
