"""One chapter an experiment: question, answer, figures, numbers with intervals, what cannot be concluded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..experiments.catalogue import EXPERIMENTS, find
from ..experiments.cells import Grid
from ..experiments.config import config_of
from ..experiments.protocol import Experiment
from ..experiments.settings import ExperimentConfig
from .exhibit import Exhibit, file_name
from .numbers import Rows, printed

LONGEST = 40
"""Rows of a table in the page; the rest is in its parquet file."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A frame as the page prints it."""

    name: str
    columns: Sequence[str]
    rows: Rows
    left_out: int


@dataclass(frozen=True, slots=True, eq=False)
class Chapter:
    """What the page says of one experiment.

    Attributes:
        name: of the experiment.
        title: heading.
        question: that it answers.
        answer: sentences with numbers; empty while it has no result.
        compared: what was compared with what.
        limits: what cannot be concluded.
        state: how many cells are done, and how long they took.
        failures: cells that failed, with their errors.
        exhibits: figures.
        tables: numbers.
    """

    name: str
    title: str
    question: str
    answer: Sequence[str]
    compared: str
    limits: str
    state: str
    failures: Sequence[str]
    exhibits: Sequence[Exhibit]
    tables: Sequence[Table]


def read_chapters(run_dir: Path, config: Mapping[str, Any]) -> list[Chapter]:
    """The experiments of a run directory, finished or not, in the order of the catalogue."""
    known = [name for name in EXPERIMENTS if (run_dir / "experiments" / name / "plan.json").is_file()]
    if not known:
        return []
    names = {field.name for field in fields(ExperimentConfig)}
    settings = config_of(ExperimentConfig, {key: value for key, value in config.items() if key in names})
    return [_chapter(find(name), run_dir / "experiments" / name, settings) for name in known]


def _chapter(experiment: Experiment, path: Path, config: ExperimentConfig) -> Chapter:
    grid = Grid.read(path)
    failures = [f"{cell.key}: {error}" for cell, error in grid.failed()]
    frames = {file.stem: pd.read_parquet(file) for file in sorted(path.glob("*.parquet"))}
    about = experiment.name, experiment.title, experiment.question
    if "result" not in frames or frames["result"].empty:
        return Chapter(*about, (), "", "", _state(grid), failures, (), ())
    reading = experiment.read(frames, config)
    return Chapter(
        *about,
        reading.answer,
        reading.compared,
        reading.limits,
        _state(grid),
        failures,
        [
            Exhibit(
                file_name(f"{experiment.name.replace('-', '_')}_{one.name}"),
                experiment.name,
                one.title,
                one.caption,
                one.alt,
                one.figure,
                one.frame,
            )
            for one in experiment.draw(frames, config)
        ],
        [_table(name, frames[name]) for name in experiment.tables if name in frames and len(frames[name])],
    )


def _state(grid: Grid) -> str:
    done, total = len(grid.done()), len(grid.cells)
    found = "All cells are finished" if done == total else f"{done} of {total} cells are finished"
    summary = grid.path / "summary.json"
    if summary.is_file():
        seconds = float(json.loads(summary.read_text(encoding="utf-8"))["seconds"])
        found += f", in {seconds:.0f} s" if seconds < 120 else f", in {seconds / 60:.0f} min"
    return f"{found} ({total})." if done == total else f"{found}."


def _table(name: str, frame: pd.DataFrame) -> Table:
    columns, rows = printed(frame.head(LONGEST))
    return Table(name, columns, rows, max(0, len(frame) - LONGEST))
