"""Runs or resumes an experiment: plan, cells, summary, each on disk before the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..engine import Progress, automatic
from ..files import read_frame, read_json, write_frame
from ..models import load_model
from .catalogue import find
from .cells import Cell, Grid
from .config import RunConfig
from .executors import Claims, Clock, Executor, Here, Pool, RayCluster, Shard, Share, claimed
from .protocol import Experiment, Tasks
from .store import InUse, RunDirectory, check_run, discard_run, open_run, sole
from .workspace import Load, Say, label_counts

MOST_WORKERS = 256


def run(config: RunConfig, out: Path, **how: Any) -> Path:
    """Run the main experiment, ``transfer``, with its default options; ``how`` are arguments of ``run_experiment``.

    Returns:
        the run directory, for ``cast_lens.report.publish``.
    """
    run_experiment(find("transfer")(), config, out, **how)
    return out


def run_experiment(
    experiment: Experiment,
    config: RunConfig,
    out: Path,
    *,
    workers: int = 1,
    retry_failed: bool = False,
    load: Load = load_model,
    progress: Progress = automatic,
    say: Say = lambda text: None,
    begun: Callable[[Path], object] = lambda path: None,
    overwrite: bool = False,
    shard: Share | None = None,
    ray: RayCluster | None = None,
    on_row: Callable[[Mapping[str, Any]], object] | None = None,
) -> pd.DataFrame:
    """Run one experiment in a run directory, or continue it.

    Experiments in one directory share their vectors and settings. The numbers depend neither on ``workers`` nor on
    ``shard`` or ``ray``.

    Args:
        experiment: the experiment with its options.
        config: configuration that all experiments of a directory share.
        out: run directory; a run of the same configuration is continued.
        workers: number of processes; each loads the model and uses ``config.threads`` threads.
        retry_failed: compute cells again that failed before.
        load: loads the model for this process; a cached function serves several experiments.
        progress: wraps batches, if this process does the work.
        say: called with a line about the current step.
        begun: called with ``out`` after all checks, when the directory is open.
        overwrite: discard what an earlier run wrote to the directory, after all checks.
        shard: share the work with other processes, on any machine with access to ``out``; the last writes the tables.
        ray: let the workers of a Ray cluster compute; only this process writes.
        on_row: called in this process with each row of a newly computed cell; see ``share.tracking``.

    Returns:
        the frame ``result`` of the experiment (empty for a shard that is not the last to end); all frames are in
        ``out/experiments/NAME``.

    Raises:
        ValueError: for bad input, before any work starts; for a directory in use, or of another configuration.
        RuntimeError: if every cell failed, or all workers died.
    """
    _check_how(workers, shard, ray, overwrite)
    config = replace(config, threads=config.threads or torch.get_num_threads())
    # Cheap checks come first; nothing is written before the model is loaded and everything fits it.
    job = _Job.planned(experiment, config, out, shared=shard is not None, overwrite=overwrite, say=say)
    stages = job.stages(everything=overwrite, retry_failed=retry_failed)
    todo = sum(map(len, stages))
    with _threads(config.threads):
        cluster = ray if todo else None
        executor = job.executor(workers=min(workers, todo), shard=shard, ray=cluster, here=(load, progress))
        return job.run(stages, executor, discard=overwrite, begun=begun, on_row=on_row)


@dataclass(frozen=True, slots=True)
class _Job:
    """One experiment in one run directory, with its options, tasks and cells."""

    experiment: Experiment
    config: RunConfig
    tasks: Tasks
    grid: Grid
    directory: RunDirectory
    shared: bool
    say: Say

    @classmethod
    def planned(
        cls, experiment: Experiment, config: RunConfig, out: Path, *, shared: bool, overwrite: bool, say: Say
    ) -> _Job:
        """Check the directory, read the tasks and plan the cells; nothing is written."""
        directory = RunDirectory(out)
        if not overwrite:
            check_run(out, config, shared=shared)
            check_options(directory, experiment)
        if not shared and claimed(out):
            raise InUse(f"{out} is in use by shards; wait for them, join them with --shard, or choose another --out")
        tasks = experiment.read_tasks(config)
        grid = Grid.of(out / "experiments" / experiment.name, experiment.plan(config, tasks))
        return cls(experiment, config, tasks, grid, directory, shared, say)

    def stages(self, *, everything: bool, retry_failed: bool) -> list[list[Cell]]:
        """The cells to compute: first the preparing ones, then the others."""
        if everything:
            return [[cell for cell in self.grid.cells if cell.prepares == prepares] for prepares in (True, False)]
        return [self.grid.open_cells(prepares=prepares, retry_failed=retry_failed) for prepares in (True, False)]

    def executor(
        self, *, workers: int, shard: Share | None, ray: RayCluster | None, here: tuple[Load, Progress]
    ) -> Executor:
        """The executor that computes the cells."""
        given = (self.experiment, self.config, self.tasks, self.directory)
        if shard is not None:
            return Shard(shard, Claims(self.grid.path / "claims"), *given, *here, self.say)
        if ray is not None:
            from .ray_executor import OnRay

            return OnRay(ray, *given, self.say)
        if workers <= 1:
            return Here(*given, *here, self.say)
        return Pool(self.experiment, self.config, self.directory.path, workers, self.say)

    def run(
        self,
        stages: Sequence[Sequence[Cell]],
        executor: Executor,
        *,
        discard: bool,
        begun: Callable[[Path], object],
        on_row: Callable[[Mapping[str, Any]], object] | None,
    ) -> pd.DataFrame:
        """Load the model, open the directory, compute the cells of each stage, and write the tables."""
        started, path = time.time(), self.directory.path
        cells = [cell for stage in stages for cell in stage]
        finished = partial(_report_rows, self.grid, on_row) if on_row is not None else _ignore
        with ExitStack() as stack:
            workers = stack.enter_context(executor)
            facts = workers.ready() if cells else None
            if discard:
                discard_run(path)
            stack.enter_context(open_run(path, self.config, shared=self.shared))
            begun(path)
            self.begin(facts)
            clock = Clock(cells, self.experiment.name, self.say, finished)
            for stage in stages:
                workers.run(self.grid, stage, clock)
            return self.summarise(time.time() - started)

    def begin(self, facts: dict[str, Any] | None) -> None:
        """Write the plan, the options, and facts about the model if it was loaded."""
        Grid.planned(self.grid.path, self.grid.cells)
        self.directory.write_json(_options_file(self.experiment), self.experiment.options())
        if facts is not None:
            self.directory.write_json("model.json", facts)

    def summarise(self, seconds: float) -> pd.DataFrame:
        """Write the tables. A shard does so only if other shards have no cell left.

        If two shards end at the same time, they write the same frames one after the other.
        """
        name = self.experiment.name
        if not self.shared:
            return self._write_tables(seconds)
        if any(self.stages(everything=False, retry_failed=False)):
            self.say(
                f"{name}: this shard is done; the others are still computing, and the last of them writes the tables"
            )
            return pd.DataFrame()
        with sole(self.directory.path, wait=True):
            return self._write_tables(seconds)

    def _write_tables(self, seconds: float) -> pd.DataFrame:
        name, failed = self.experiment.name, self.grid.failed()
        for cell, error in failed:
            self.say(f"{name}: cell {cell.key} failed: {error}")
        self._write_summary(failed, seconds)
        rows = self.grid.rows()
        again = f"tracebacks are in {self.grid.path / 'failed'}. Fix the cause and give --retry-failed"
        if not rows:
            raise RuntimeError(f"{name}: no cell has a result; {again}")
        try:
            frames = self.experiment.tables(rows, self.config, self.tasks)
        except Exception as error:
            if not failed:
                raise
            raise RuntimeError(
                f"{name}: without the failed cells no table can be made ({type(error).__name__}: {error}); {again}"
            ) from error
        frames["labels"] = label_counts(self.config, self.tasks)
        files = {f"rows/{kind}": frame for kind, frame in rows.items()} | frames
        for key, frame in files.items():
            write_frame(self.grid.path / f"{key}.parquet", frame)
        return frames["result"]

    def _write_summary(self, failed: Sequence[tuple[Cell, str]], seconds: float) -> None:
        file = f"experiments/{self.experiment.name}/summary.json"
        before = self.directory.read_json(file) or {"seconds": 0.0}
        about = {
            "question": self.experiment.question,
            "cells": len(self.grid.cells),
            "done": len(self.grid.done()),
            "failed": [[cell.key, error] for cell, error in failed],
            "seconds": before["seconds"] + seconds,
        }
        self.directory.write_json(file, about)


def _report_rows(grid: Grid, on_row: Callable[[Mapping[str, Any]], object], cell: Cell) -> None:
    if not cell.prepares:
        for row in read_frame(grid.file(cell)).to_dict("records"):
            on_row({"cell": cell.key, "kind": cell.kind, **{str(key): value for key, value in row.items()}})


def _ignore(cell: Cell) -> None:
    """Do nothing with a finished cell."""


def _check_how(workers: int, shard: Share | None, ray: RayCluster | None, overwrite: bool) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers={workers} must be from 1 to {MOST_WORKERS}")
    if shard is not None and (workers > 1 or ray is not None or overwrite):
        raise ValueError(
            "shard goes with neither workers, ray nor overwrite: a shard is one process among others on the folder; "
            "start more shards, and discard an old run before the first of them"
        )


def _options_file(experiment: Experiment) -> str:
    return f"experiments/{experiment.name}/options.json"


def check_options(directory: RunDirectory, experiment: Experiment) -> None:
    """Check that an experiment continues with the options that it began with, once a cell is finished.

    Raises:
        ValueError: if the options differ.
    """
    wanted, found = experiment.options(), directory.read_json(_options_file(experiment))
    cells = directory.path / "experiments" / experiment.name / "cells"
    if found is None or next(cells.glob("[!.]*.parquet"), None) is None:
        return
    changed = [key for key in wanted if found.get(key) != wanted[key]]
    if changed:
        detail = "; ".join(f"{key} was {found.get(key)!r}, is {wanted[key]!r}" for key in changed[:3])
        raise ValueError(
            f"{directory.path} holds {experiment.name} with other options ({detail}); choose another --out, "
            "or give the same options to continue it"
        )


def failed_cells(out: Path, name: str) -> int:
    """How many cells of an experiment have failed and were not completed since."""
    summary = read_json(out / "experiments" / name / "summary.json") or {}
    return len(summary.get("failed", ()))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
