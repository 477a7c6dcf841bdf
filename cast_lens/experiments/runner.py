"""Runs an experiment, or goes on with it: plan, cells, summary, each on disk before the next."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..engine import Progress, quiet
from ..files import read_json, write_frame
from ..models import load_model
from .catalogue import find
from .cells import Cell, Grid
from .config import RunConfig, config_of
from .protocol import Experiment, Tasks, prepare
from .store import RunDirectory, check_run, discard_run, open_run
from .workspace import Load, Say, Workspace, label_counts, model_facts

MOST_WORKERS = 256


def run(config: RunConfig, out: Path, **how: Any) -> Path:
    """Run the main job, the experiment ``transfer`` at its defaults; see ``run_experiment`` for what ``how`` takes.

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
    progress: Progress = quiet,
    say: Say = lambda text: None,
    begun: Callable[[Path], object] = lambda path: None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Run one experiment in a run directory, or continue it.

    Experiments in one directory share their vectors and settings. The numbers do not depend on ``workers``.

    Args:
        experiment: what to run, with its options.
        config: what all experiments of a directory share.
        out: run directory; one of the same configuration is continued.
        workers: processes; each loads the model and uses ``config.threads`` threads.
        retry_failed: compute again cells that failed before.
        load: loads the model for this process; one that remembers it serves several experiments in a row.
        progress: wraps batches, when this process does the work.
        say: called with a line on what is being done.
        begun: called with ``out`` once everything was checked and the directory is open.
        overwrite: discard what an earlier run wrote to the directory, once everything was checked.

    Returns:
        the frame ``result`` of the experiment; all frames are in ``out/experiments/NAME``.

    Raises:
        ValueError: bad input, before any work starts; a directory in use, or of another configuration.
        RuntimeError: when every cell failed, or a worker process died.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers={workers} must be from 1 to {MOST_WORKERS}")
    started = time.time()
    config = replace(config, threads=config.threads or torch.get_num_threads())
    # What can be refused at once comes first; nothing is written before the model is there and everything fits it.
    if not overwrite:
        check_run(out, config)
        check_options(RunDirectory(out), experiment)
    tasks = experiment.read_tasks(config)
    grid = Grid.of(out / "experiments" / experiment.name, experiment.plan(config, tasks))
    stages = [
        [cell for cell in grid.cells if cell.prepares == prepares]
        if overwrite
        else grid.open_cells(prepares=prepares, retry_failed=retry_failed)
        for prepares in (True, False)
    ]
    todo = sum(map(len, stages))
    here = workers == 1 or todo <= 1
    with _threads(config.threads), ExitStack() as stack:
        compute: _InProcess | _InWorkers
        if here:
            compute = _InProcess(experiment, config, tasks, RunDirectory(out), load, progress, say)
        else:
            compute = stack.enter_context(_InWorkers(experiment, config, out, min(workers, todo), say))
        facts = compute.ready() if todo else None
        if overwrite:
            discard_run(out)
        directory = stack.enter_context(open_run(out, config))
        begun(out)
        Grid.planned(grid.path, grid.cells)
        directory.write_json(_options_file(experiment), experiment.options())
        if facts is not None:
            directory.write_json("model.json", facts)
        clock = _Clock([cell for stage in stages for cell in stage], experiment.name, say)
        for stage in stages:
            compute.run(grid, stage, clock)
        return _finish(experiment, config, tasks, grid, directory, time.time() - started, say)


def _options_file(experiment: Experiment) -> str:
    return f"experiments/{experiment.name}/options.json"


def check_options(directory: RunDirectory, experiment: Experiment) -> None:
    """Compare the options of an experiment with those that it was begun with; without a finished cell any will do.

    Raises:
        ValueError: when they differ.
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


def _finish(
    experiment: Experiment,
    config: RunConfig,
    tasks: Tasks,
    grid: Grid,
    directory: RunDirectory,
    seconds: float,
    say: Say,
) -> pd.DataFrame:
    """Summarise what is there, and say what is not."""
    failed, summary = grid.failed(), f"experiments/{experiment.name}/summary.json"
    for cell, error in failed:
        say(f"{experiment.name}: cell {cell.key} failed: {error}")
    kept = directory.read_json(summary) or {"seconds": 0.0}
    about = {
        "question": experiment.question,
        "cells": len(grid.cells),
        "done": len(grid.done()),
        "failed": [[cell.key, error] for cell, error in failed],
        "seconds": kept["seconds"] + seconds,
    }
    directory.write_json(summary, about)
    rows, again = (
        grid.rows(),
        f"tracebacks are in {grid.path / 'failed'}. Mend the cause and give --retry-failed",
    )
    if not rows:
        raise RuntimeError(f"{experiment.name}: no cell has a result; {again}")
    try:
        frames = experiment.tables(rows, config, tasks)
    except Exception as error:
        if not failed:
            raise
        raise RuntimeError(
            f"{experiment.name}: without the failed cells there is nothing to tell ({type(error).__name__}: {error}); "
            f"{again}"
        ) from error
    frames["labels"] = label_counts(config, tasks)
    files = {f"rows/{kind}": frame for kind, frame in rows.items()} | frames
    for key, frame in files.items():
        write_frame(grid.path / f"{key}.parquet", frame)
    return frames["result"]


def failed_cells(out: Path, name: str) -> int:
    """How many cells of an experiment have failed and were not made since."""
    summary = read_json(out / "experiments" / name / "summary.json") or {}
    return len(summary.get("failed", ()))


class _InProcess:
    """Cells in this process; the model is loaded when the first one needs it."""

    def __init__(
        self,
        experiment: Experiment,
        config: RunConfig,
        tasks: Tasks,
        directory: RunDirectory,
        load: Load = load_model,
        progress: Progress = quiet,
        say: Say = lambda text: None,
    ) -> None:
        self.experiment, self.config, self.tasks = experiment, config, tasks
        self.directory, self.load, self.progress, self.say = directory, load, progress, say
        self._workspace: Workspace | None = None

    def workspace(self) -> Workspace:
        """Model and tasks, checked against what will be read."""
        if self._workspace is None:
            self._workspace = Workspace.loaded(
                self.config,
                dict(self.tasks),
                self.directory,
                load=self.load,
                progress=self.progress,
                say=self.say,
            )
        return self._workspace

    def make(self, cell: Cell) -> pd.DataFrame:
        """Rows of one cell."""
        workspace = self.workspace().drawn(cell.draw)
        if cell.kind == "setting" and cell.prepares:
            return prepare(workspace, cell)
        return self.experiment.compute(workspace, cell)

    def ready(self) -> dict[str, Any]:
        """Load and check everything, before anything is written; what the model is."""
        return model_facts(self.workspace())

    def run(self, grid: Grid, cells: Sequence[Cell], clock: _Clock) -> None:
        """Compute cells one after the other."""
        for cell in cells:
            clock.tick(cell, grid.compute(cell, self.make))


class _InWorkers:
    """Cells in processes of their own, each with the model."""

    def __init__(self, experiment: Experiment, config: RunConfig, out: Path, workers: int, say: Say) -> None:
        self.name, self.workers, self.say = experiment.name, workers, say
        start = partial(_start_worker, experiment.name, experiment.options(), config, out)
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(workers, context, initializer=start)

    def __enter__(self) -> _InWorkers:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def ready(self) -> dict[str, Any]:
        """Load and check everything in every worker, before anything is written; what the model is."""
        self.say(f"{self.name}: loading the model in {self.workers} processes")
        with self._alive():
            jobs = [self.pool.submit(_ready) for _ in range(self.workers)]
            facts = [job.result() for job in jobs]
        return facts[0]

    def run(self, grid: Grid, cells: Sequence[Cell], clock: _Clock) -> None:
        """Compute cells, several at a time."""
        with self._alive():
            waiting = {self.pool.submit(_work, grid, cell): cell for cell in cells}
            for future in as_completed(waiting):
                clock.tick(waiting[future], future.result())

    @contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{self.name}: a worker process died (out of memory?). Finished cells are kept: give the same command "
                "again, perhaps with fewer --workers"
            ) from error


class _Clock:
    """Says how far the cells are, and how long the rest may take: as long as finished cells of the same kind."""

    def __init__(self, cells: Sequence[Cell], name: str, say: Say) -> None:
        self.name, self.say, self.total, self.done = name, say, len(cells), 0
        self.left = Counter(self._kind(cell) for cell in cells)
        self.made: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}
        self.before = time.time()

    @staticmethod
    def _kind(cell: Cell) -> str:
        return f"{cell.kind} {cell.prepares}"

    def tick(self, cell: Cell, error: str) -> None:
        """One more cell is done."""
        kind, now = self._kind(cell), time.time()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self.before
        self.before = now
        self.left[kind] -= 1
        self.made[kind] += 1
        self.done += 1
        usual = sum(self.seconds.values()) / self.done
        rest = sum(
            count * (self.seconds[kind] / self.made[kind] if self.made[kind] else usual)
            for kind, count in self.left.items()
        )
        ending = f", about {rest:.0f} s left" if rest < 120 else f", about {rest / 60:.0f} min left"
        what = f"failed: {error}" if error else "done"
        self.say(
            f"{self.name}: {self.done} of {self.total}, {cell.key.rsplit('-', 1)[0]} {what}"
            f"{ending if self.done < self.total else ''}"
        )


_worker: _InProcess | None = None


def _start_worker(name: str, options: dict[str, Any], config: RunConfig, out: Path) -> None:
    """In a worker: load what its cells need, and end when the parent does."""
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(config.threads)
    experiment = config_of(find(name), options)
    tasks = experiment.read_tasks(config)
    _worker = _InProcess(experiment, config, tasks, RunDirectory(out))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # A killed parent leaves a worker that would wait for cells for ever.
        os._exit(1)


def _ready() -> dict[str, Any]:
    assert _worker is not None
    return _worker.ready()


def _work(grid: Grid, cell: Cell) -> str:
    assert _worker is not None
    return grid.compute(cell, _worker.make)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
