"""Cells on disk: written whole, found again, failures kept beside them."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pandas as pd
import pytest

from cast_lens.experiments.cells import Cell, Grid
from cast_lens.files import DamagedFile

CELLS = [Cell("setting", source="a", prepares=True), Cell("x", "t", "a"), Cell("x", "t", "b"), Cell("x", "t/u", "b")]


def rows(cell: Cell) -> pd.DataFrame:
    return pd.DataFrame({"key": [cell.key], "source": [cell.source]})


def test_keys_are_file_names_and_never_the_same() -> None:
    near = [Cell("x", "a b", "c"), Cell("x", "a", "b c"), Cell("x", "a-b", "c"), Cell("x", "a", "b", "c")]
    keys = [cell.key for cell in near]
    assert len(set(keys)) == len(keys)
    assert all("/" not in cell.key and " " not in cell.key for cell in [*near, *CELLS])
    assert Cell("x", "a", "y" * 300).key != Cell("x", "a", "y" * 301).key
    assert len(Cell("x", "a", "y" * 300).key) < 100


def test_a_plan_is_read_back_and_refuses_the_same_cell_twice(tmp_path: Path) -> None:
    Grid.planned(tmp_path, CELLS)
    assert Grid.read(tmp_path).cells == tuple(CELLS)
    with pytest.raises(ValueError, match="occur twice"):
        Grid.planned(tmp_path, [CELLS[1], CELLS[1]])


def test_finished_cells_are_not_open_and_join_in_the_order_of_the_plan(tmp_path: Path) -> None:
    grid = Grid.planned(tmp_path, CELLS)
    for cell in (CELLS[2], CELLS[0], CELLS[1]):
        assert grid.compute(cell, rows) == ""
    assert grid.open_cells(prepares=True, retry_failed=False) == []
    assert grid.open_cells(prepares=False, retry_failed=False) == [CELLS[3]]
    assert list(grid.rows()["x"]["key"]) == [CELLS[1].key, CELLS[2].key]


def test_a_failing_cell_leaves_its_traceback_and_is_done_again_only_when_asked(tmp_path: Path) -> None:
    grid = Grid.planned(tmp_path, CELLS)

    def broken(cell: Cell) -> pd.DataFrame:
        raise RuntimeError("no such thing")

    assert grid.compute(CELLS[1], broken) == "RuntimeError: no such thing"
    assert grid.failed() == [(CELLS[1], "RuntimeError: no such thing")]
    assert "broken" in json.loads(grid.failure(CELLS[1]).read_text())["traceback"]
    assert CELLS[1] not in grid.open_cells(prepares=False, retry_failed=False)
    assert CELLS[1] in grid.open_cells(prepares=False, retry_failed=True)
    assert grid.compute(CELLS[1], rows) == ""
    assert grid.failed() == []
    assert not grid.failure(CELLS[1]).exists()


def test_a_full_disk_and_a_damaged_file_are_no_failures_of_the_cell(tmp_path: Path) -> None:
    grid = Grid.planned(tmp_path, CELLS)
    for error in (OSError(errno.ENOSPC, "No space left on device"), DamagedFile("x is damaged")):

        def ended(cell: Cell, error: Exception = error) -> pd.DataFrame:
            raise error

        with pytest.raises(type(error), match=str(error.args[-1])):
            grid.compute(CELLS[1], ended)
    assert grid.failed() == []
    # Another system error is one: a file that this cell asks for.
    assert "FileNotFoundError" in grid.compute(CELLS[1], lambda cell: pd.read_csv("/no/such/file"))


@pytest.mark.parametrize("damage", ["half", "[{}]", '[{"kind": "x", "color": 1}]'])
def test_a_damaged_plan_is_named(tmp_path: Path, damage: str) -> None:
    Grid.planned(tmp_path, CELLS)
    (tmp_path / "plan.json").write_text(damage)
    with pytest.raises(ValueError, match=r"plan\.json is damaged .* delete it"):
        Grid.read(tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"plan\.json is missing"):
        Grid.read(tmp_path)


def test_an_interruption_is_no_failure(tmp_path: Path) -> None:
    grid = Grid.planned(tmp_path, CELLS)

    def stopped(cell: Cell) -> pd.DataFrame:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid.compute(CELLS[1], stopped)
    assert grid.failed() == []
    assert CELLS[1] in grid.open_cells(prepares=False, retry_failed=False)
