"""Distance and gain: planted order, no order, and where prompting fails judged on other queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.dissimilarity import Dissimilarity, grouped
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.transfer_matrix import DISTANCES
from tests.experiments.made_rows import Right, crossed, harms, helps, nothing
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = Dissimilarity()
TARGETS, SOURCES = ("t0", "t1", "t2", "t3"), ("s0", "s1", "s2")


def far(target: str, source: str) -> float:
    return float(TARGETS.index(target) + 4 * SOURCES.index(source))


def made(
    right: Right, prompted: Right, *, targets: tuple[str, ...] = TARGETS, sources: tuple[str, ...] = SOURCES
) -> dict[str, pd.DataFrame]:
    """Steered and prompted outcomes; all distances are one number of the pair."""
    steered = crossed(targets, sources, right)
    shown = crossed(targets, sources, prompted)
    shown = shown[shown["method"] == "cast"].assign(method="cross-task few-shot")
    rows = [
        {"target": target, "source": source, **dict.fromkeys(DISTANCES, far(target, source))}
        for target in targets
        for source in sources
    ]
    return {"steered": steered, "prompted": shown, "distances": pd.DataFrame(rows)}


def worse_far_away(target: str, source: str, method: str, query: int) -> bool:
    """Prompting answers fewer queries the further the pair; 12 pairs, 12 queries."""
    return query >= far(target, source)


def test_targets_alone_have_cells() -> None:
    cells = RUN.plan(grid_config(), small_tasks())
    kinds = [(cell.kind, cell.target) for cell in cells if not cell.prepares]
    assert kinds == [(kind, name) for name in ("tone", "mood") for kind in ("steered", "prompted", "distances")]


def test_a_planted_order_is_found() -> None:
    steered = crossed(TARGETS, SOURCES, helps, n=12)
    shown = crossed(TARGETS, SOURCES, worse_far_away, n=12)
    shown = shown[shown["method"] == "cast"].assign(method="cross-task few-shot")
    rows = {**made(helps, helps), "steered": steered, "prompted": shown}
    frames = RUN.tables(rows, grid_config(), small_tasks())
    found = frames["correlations"].set_index(["metric", "distance", "outcome"])
    for name in DISTANCES:
        assert found.loc[("exact_match", name, "difference"), "correlation"] == pytest.approx(1.0)
        assert found.loc[("exact_match", name, "prompted_gain"), "correlation"] == pytest.approx(-1.0)
        assert np.isnan(found.loc[("exact_match", name, "steered_gain"), "p_value"])
    assert found["n_tests"].iloc[0] == 2 * len(DISTANCES) * 2
    groups = frames["groups"].query("metric == 'exact_match' and distance == 'embedding'")
    means = groups.set_index(["method", "group"])["gain"]
    assert means["cross-task few-shot", 0] > means["cross-task few-shot", 1] > means["cross-task few-shot", 2]
    assert groups.groupby("method")["pairs"].sum().eq(12).all()
    result = frames["result"].query("metric == 'exact_match' and target == 't3' and source == 's2'").iloc[0]
    assert result["difference"] == pytest.approx(11 / 12)
    assert (result["steered_gain"], result["placebo_gain"]) == (pytest.approx(8 / 12), 0.0)


def test_failing_is_judged_on_other_queries() -> None:
    def prompted(target: str, source: str, method: str, query: int) -> bool:
        # Right on every even query: better than zero-shot on the even ones, as bad as it gets on the others.
        return query % 2 == 0

    rows = made(nothing, prompted, targets=TARGETS[:2], sources=SOURCES[:2])
    frames = RUN.tables(rows, grid_config(), small_tasks())
    found = frames["failing"].query("metric == 'exact_match' and method == 'cross-task few-shot'")
    by_side = found.set_index("prompting_fails")["gain"].to_dict()
    # Where the odd queries fail the even ones are measured, which gain half of the points.
    assert by_side == {True: 0.5, False: -0.5}


def test_groups_keep_few_values_apart_and_cut_many_in_thirds() -> None:
    assert grouped(pd.Series([1.0, 0.0, 1.0])).tolist() == [1, 0, 1]
    assert grouped(pd.Series(np.arange(9.0))).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("right", "prompted", "said"),
    [(helps, nothing, "by +50.0 points"), (nothing, nothing, "by 0.0 points"), (harms, helps, "by −100.0 points")],
)
def test_the_headline_fits_what_came_out(right: Right, prompted: Right, said: str) -> None:
    rows = made(right, prompted, targets=TARGETS[:2], sources=SOURCES[:2])
    frames = RUN.tables(rows, grid_config(), small_tasks())
    assert said in words(RUN.findings(frames, grid_config()))
    assert len(list(RUN.figures(frames, grid_config()))) == len(DISTANCES)


@pytest.mark.parametrize("kinds", [(), ("steered",), ("prompted",), ("steered", "prompted"), ("distances",)])
def test_missing_cells_leave_tables_with_columns(kinds: tuple[str, ...]) -> None:
    rows = made(helps, nothing, targets=TARGETS[:2], sources=SOURCES[:2])
    frames = RUN.tables({kind: rows[kind] for kind in kinds}, grid_config(), small_tasks())
    assert all("metric" in frame for frame in frames.values())
    words(RUN.findings(frames, grid_config()))
    list(RUN.figures(frames, grid_config()))


@pytest.mark.slow
def test_cells_repeat(tmp_path: Path) -> None:
    first, second = grid_workspace(tmp_path / "a"), grid_workspace(tmp_path / "b")
    frames = {}
    for kind in ("steered", "prompted", "distances"):
        cell = Cell(kind, "tone")
        frames[kind] = RUN.compute(first, cell)
        pd.testing.assert_frame_equal(frames[kind], RUN.compute(second, cell))
    assert set(frames["prompted"]["source"]) == {"mood", "double"}
    assert len(frames["distances"]) == 2
    assert set(RUN.compute(first, Cell("distances", "mood"))["source"]) == {"double"}
    found = RUN.tables(frames, grid_config(), small_tasks())
    assert len(found["result"]) == 2 * 2
