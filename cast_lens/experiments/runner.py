"""Runs an experiment, or goes on with it: plan, cells, summary, each on disk before the next."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..engine import Progress, quiet
from ..files import atomic_write
from ..models import load_model
from .catalogue import find
from .cells import Cell, Grid
from .config import RunConfig, config_of
from .protocol import Experiment, Tasks, prepare
from .store import RunDirectory, frame_bytes, open_run
from .workspace import Load, Say, Workspace, label_counts


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

    Returns:
        the frame ``result`` of the experiment; all frames are in ``out/experiments/NAME``.

    Raises:
        ValueError: bad input, before any work starts; a directory in use, or of another configuration.
        RuntimeError: when every cell failed, or a worker process died.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    name, started = experiment.name, time.time()
    config = replace(config, threads=config.threads or torch.get_num_threads())
    tasks = experiment.read_tasks(config)
    cells = experiment.plan(config, tasks)
    with open_run(out, config) as directory, _threads(config.threads):
        same_options(directory, experiment)
        grid = Grid.planned(directory.path / "experiments" / name, cells)
        compute = _InProcess(experiment, config, tasks, directory, load, progress, say)
        for prepares in (True, False):
            todo = grid.open_cells(prepares=prepares, retry_failed=retry_failed)
            if todo:
                say(
                    f"{name}: {len(todo)} of {len(grid.cells)} cells to do{' (preparing)' if prepares else ''}"
                )
                if workers == 1 or len(todo) == 1:
                    compute.run(grid, todo)
                else:
                    _in_workers(experiment, config, out, grid, todo, workers, say)
        return _finish(experiment, config, tasks, grid, directory, time.time() - started, say)


def same_options(directory: RunDirectory, experiment: Experiment) -> None:
    """Write the options of an experiment, or compare them with those that it was begun with.

    Raises:
        ValueError: when they differ.
    """
    name, wanted = f"experiments/{experiment.name}/options.json", experiment.options()
    found = directory.read_json(name)
    if found is None:
        directory.write_json(name, wanted)
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
    failed = grid.failed()
    for cell, error in failed:
        say(f"{experiment.name}: cell {cell.key} failed: {error}")
    rows = grid.rows()
    if not rows:
        raise RuntimeError(
            f"{experiment.name}: no cell has a result; tracebacks are in {grid.path / 'failed'}. "
            "Mend the cause and give --retry-failed"
        )
    frames = experiment.tables(rows, config, tasks)
    frames["labels"] = label_counts(config, tasks)
    files = {f"rows/{kind}": frame for kind, frame in rows.items()} | frames
    for key, frame in files.items():
        atomic_write(grid.path / f"{key}.parquet", frame_bytes(frame))
    kept = directory.read_json(f"experiments/{experiment.name}/summary.json") or {"seconds": 0.0}
    directory.write_json(
        f"experiments/{experiment.name}/summary.json",
        {
            "question": experiment.question,
            "cells": len(grid.cells),
            "done": len(grid.done()),
            "failed": [[cell.key, error] for cell, error in failed],
            "seconds": kept["seconds"] + seconds,
        },
    )
    return frames["result"]


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

    def run(self, grid: Grid, cells: Sequence[Cell]) -> None:
        """Compute cells one after the other."""
        self.workspace()
        clock = _Clock(len(cells), grid.path.name, self.say)
        for cell in cells:
            clock.tick(cell, grid.compute(cell, self.make))


class _Clock:
    """Says how far the cells are, and how long the rest may take."""

    def __init__(self, total: int, name: str, say: Say) -> None:
        self.total, self.name, self.say, self.done, self.started = total, name, say, 0, time.time()

    def tick(self, cell: Cell, error: str) -> None:
        """One more cell is done."""
        self.done += 1
        left = (time.time() - self.started) / self.done * (self.total - self.done)
        ending = f", about {left:.0f} s left" if left < 120 else f", about {left / 60:.0f} min left"
        what = f"failed: {error}" if error else "done"
        self.say(f"{self.name}: {self.done}/{self.total} {cell.key.rsplit('-', 1)[0]} {what}{ending}")


def _in_workers(
    experiment: Experiment,
    config: RunConfig,
    out: Path,
    grid: Grid,
    cells: Sequence[Cell],
    workers: int,
    say: Say,
) -> None:
    context = multiprocessing.get_context("spawn")
    name = experiment.name
    clock = _Clock(len(cells), name, say)
    start = partial(_start_worker, name, experiment.options(), config, out)
    try:
        with ProcessPoolExecutor(min(workers, len(cells)), context, initializer=start) as pool:
            waiting = {pool.submit(_work, grid, cell): cell for cell in cells}
            for future in as_completed(waiting):
                clock.tick(waiting[future], future.result())
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{name}: a worker process died (out of memory?). Finished cells are kept: give the same command again, "
            "perhaps with fewer --workers"
        ) from error


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
