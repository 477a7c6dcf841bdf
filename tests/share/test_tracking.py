"""Rows reach a tracker, and a tracker that fails costs nothing but itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from cast_lens.experiments import run_experiment
from cast_lens.share.tracking import surviving, trackio_rows, wandb_rows
from tests.experiments.small import small_config
from tests.experiments.test_executors import RUN


class _Tracker(SimpleNamespace):
    """Remembers what it is asked for, as both trackers take it."""

    def __init__(self) -> None:
        super().__init__(rows=[], started=None, over=False)

    def init(self, **given: Any) -> _Tracker:
        self.started = given
        return self

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.over = True


@pytest.mark.parametrize(("name", "rows"), [("trackio", trackio_rows), ("wandb", wandb_rows)])
def test_each_row_of_a_finished_cell_arrives(
    name: str, rows: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tracker = _Tracker()
    monkeypatch.setitem(sys.modules, name, tracker)
    (tmp_path / "tiny").mkdir()
    config = small_config(tmp_path / "tiny", threads=1)
    with rows("transfers", name="first", config={"seed": 0}) as on_row:
        run_experiment(RUN, config, tmp_path / "out", on_row=on_row)
    assert tracker.started == {"project": "transfers", "name": "first", "config": {"seed": 0}}
    assert tracker.over
    written = [pd.read_parquet(path) for path in (tmp_path / "out/experiments" / RUN.name / "rows").glob("*.parquet")]
    assert len(tracker.rows) == sum(map(len, written)) > 0
    assert all("nan" not in map(str, row.values()) for row in tracker.rows)


def test_a_tracker_that_fails_is_left_out() -> None:
    asked: list[dict[str, Any]] = []

    def log(row: dict[str, Any]) -> None:
        asked.append(row)
        raise ConnectionError("no network")

    on_row = surviving(log, "trackio")
    with pytest.warns(UserWarning, match="trackio failed .*no network"):
        on_row({"gain": 1.0})
    on_row({"gain": 2.0})
    assert len(asked) == 1
