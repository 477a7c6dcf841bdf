"""What a run directory holds, read as far as the run got: one chapter per experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..experiments.catalogue import EXPERIMENTS, find
from ..experiments.cells import Grid
from ..experiments.config import RunConfig, config_of
from ..experiments.protocol import Experiment, ReportFigure
from ..experiments.store import IDENTITY, RunDirectory
from ..files import read_frame, read_json
from .tables import Table, label_table, missing_labels, table


@dataclass(frozen=True, slots=True, eq=False)
class Chapter:
    """What the page says of one experiment.

    Attributes:
        name: name of the experiment.
        title: heading.
        question: that it answers.
        headline: one sentence with numbers; empty before there is a result.
        warnings: what was left out, and labels that no used example has.
        compared: what was compared with what.
        limits: what cannot be concluded.
        state: how many cells are done, how long they took, and which failed.
        figures: named ``EXPERIMENT_FIGURE``.
        tables: numbers.
        labels: how often each label occurs among the examples used.
        note: why there is nothing to show; empty otherwise.
    """

    name: str
    title: str
    question: str
    headline: str = ""
    warnings: Sequence[str] = ()
    compared: str = ""
    limits: str = ""
    state: str = ""
    figures: Sequence[ReportFigure] = ()
    tables: Sequence[Table] = ()
    labels: Table | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """One run directory as it is on disk.

    Attributes:
        path: path of the run directory.
        config: what all its experiments share.
        versions: versions of the packages that it was begun with.
        model: name, fingerprint, size; empty when the run ended before the model was loaded.
        chapters: the experiments, in the order of the catalogue.
    """

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    chapters: Sequence[Chapter]

    @property
    def figures(self) -> list[ReportFigure]:
        """All figures in the order of the page."""
        return [one for chapter in self.chapters for one in chapter.figures]


def read_run(run_dir: Path, *, figures: bool = True) -> RunRecord:
    """Read a run directory, finished or not.

    Args:
        run_dir: of the run.
        figures: False leaves them out, where only sentences and tables are wanted: they take a second or two.

    Raises:
        ValueError: when there is no such directory, it holds no run, or one of an earlier version alone.
    """
    if not (run_dir / "config.json").is_file():
        raise ValueError(f"{run_dir} holds no run (no config.json); give the directory that a run wrote to")
    directory = RunDirectory(run_dir)
    config, versions = (directory.read_json(f"{name}.json") or {} for name in ("config", "versions"))
    versions.pop(IDENTITY, None)
    names = [name for name in EXPERIMENTS if (run_dir / "experiments" / name / "plan.json").is_file()]
    earlier = [name for name in names if not (run_dir / "experiments" / name / "options.json").is_file()]
    old_job = (run_dir / "frames" / "outcomes").is_dir() or (run_dir / "frames" / "transfer.parquet").is_file()
    if (earlier or old_job) and len(earlier) == len(names):
        raise ValueError(
            f"{run_dir} was written by an earlier version of cast_lens ({versions.get('cast_lens', 'unknown')}), whose "
            "tables this version does not read. Its report.html, its figures and its parquet files can still be "
            "opened; for a new report run the same configuration again with another --out"
        )
    known = {field.name for field in fields(RunConfig)}
    settings = config_of(RunConfig, {key: value for key, value in config.items() if key in known})
    return RunRecord(
        path=run_dir,
        config=config,
        versions=versions,
        model=_json(run_dir / "model.json"),
        chapters=[_chapter(find(name), run_dir / "experiments" / name, settings, figures) for name in names],
    )


def _chapter(kind: type[Experiment], path: Path, config: RunConfig, figures: bool) -> Chapter:
    """The chapter of one experiment; what other code wrote is named and does not take the others down."""
    empty = Chapter(kind.name, kind.title, EXPERIMENTS[kind.name])
    if not (path / "options.json").is_file():
        return replace(
            empty,
            note="This chapter was written by an earlier version of cast_lens, whose tables this version does not "
            "read. Run the experiment again in another directory.",
        )
    try:
        experiment = config_of(kind, _json(path / "options.json"))
        return _read(experiment, empty, path, config, figures)
    # Frames of other code may break anything that reads them.
    except Exception as error:
        return replace(
            empty,
            note=f"This chapter cannot be read ({type(error).__name__}: {error}): its files are damaged or were "
            "written by other code. Run the experiment again in another directory.",
        )


def _read(experiment: Experiment, empty: Chapter, path: Path, config: RunConfig, figures: bool) -> Chapter:
    grid = Grid.read(path)
    begun = replace(empty, state=_state(grid))
    if not (path / "result.parquet").is_file():
        return replace(
            begun, note="No result yet. The same command continues the experiment and writes the report again."
        )
    frames = {file.stem: read_frame(file) for file in sorted(path.glob("*.parquet"))}
    findings, labels = experiment.findings(frames, config), frames.get("labels", pd.DataFrame())
    return replace(
        begun,
        headline=findings.headline,
        warnings=[*missing_labels(labels), *findings.left_out],
        compared=" ".join((experiment.compared, *experiment.notes(config))),
        limits=experiment.limits,
        figures=[
            replace(one, name=file_name(f"{experiment.name.replace('-', '_')}_{one.name}"))
            for one in (experiment.figures(frames, config) if figures else ())
        ],
        tables=[table(name, frames[name]) for name in experiment.shown if len(frames.get(name, ()))],
        labels=label_table(labels) if len(labels) else None,
    )


def _state(grid: Grid) -> str:
    done, total, failed = len(grid.done()), len(grid.cells), grid.failed()
    found = f"All {total} cells are finished" if done == total else f"{done} of {total} cells are finished"
    summary = _json(grid.path / "summary.json")
    if summary:
        found += f", in {duration(float(summary['seconds']))}"
    named = "; ".join(f"{cell.key}: {error}" for cell, error in failed)
    return f"{found}. Failed and left out: {named}." if failed else f"{found}."


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def file_name(task: str) -> str:
    """A task's name as part of a file name: the names of hub data sets hold slashes."""
    return re.sub(r"[^\w.-]+", "-", task)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) or {}
