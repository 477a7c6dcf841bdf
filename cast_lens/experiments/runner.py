"""Runs an experiment, or goes on with it: plan, cells, summary, each on disk before the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..engine import Progress, quiet
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
    shard: Share | None = None,
    ray: RayCluster | None = None,
    on_row: Callable[[Mapping[str, Any]], object] | None = None,
) -> pd.DataFrame:
    """Run one experiment in a run directory, or continue it.

    Experiments in one directory share their vectors and settings. The numbers depend neither on ``workers`` nor on
    ``shard`` or ``ray``.

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
        shard: work beside other processes, on any machine that sees ``out``; whoever ends last writes the tables.
        ray: let the workers of a Ray cluster compute; this process alone writes.
        on_row: called in this process with each row of a cell that was computed now; see ``share.tracking``.

    Returns:
        the frame ``result`` of the experiment; all frames are in ``out/experiments/NAME``. Of a shard that is not the
        last to end, an empty frame.

    Raises:
        ValueError: bad input, before any work starts; a directory in use, or of another configuration.
        RuntimeError: when every cell failed, or all workers died.
    """
    _check_how(workers, shard, ray, overwrite)
    started = time.time()
    config = replace(config, threads=config.threads or torch.get_num_threads())
    shared = shard is not None
    # What can be refused at once comes first; nothing is written before the model is there and everything fits it.
    if not overwrite:
        check_run(out, config, shared=shared)
        check_options(RunDirectory(out), experiment)
    if not shared and claimed(out):
        raise InUse(f"{out} is in use by shards; wait for them, join them with --shard, or choose another --out")
    tasks = experiment.read_tasks(config)
    grid = Grid.of(out / "experiments" / experiment.name, experiment.plan(config, tasks))
    stages = [
        [cell for cell in grid.cells if cell.prepares == prepares]
        if overwrite
        else grid.open_cells(prepares=prepares, retry_failed=retry_failed)
        for prepares in (True, False)
    ]
    todo = sum(map(len, stages))

    def here(kind: Callable[..., Executor] = Here) -> Executor:
        return kind(experiment, config, tasks, RunDirectory(out), load, progress, say)

    with _threads(config.threads), ExitStack() as stack:
        if shard is not None:
            compute = stack.enter_context(here(partial(Shard, shard, Claims(grid.path / "claims"))))
        elif ray is not None and todo:
            from .ray_executor import OnRay

            compute = stack.enter_context(OnRay(ray, experiment, config, tasks, RunDirectory(out), say))
        elif workers == 1 or todo <= 1:
            compute = stack.enter_context(here())
        else:
            compute = stack.enter_context(Pool(experiment, config, out, min(workers, todo), say))
        facts = compute.ready() if todo else None
        if overwrite:
            discard_run(out)
        directory = stack.enter_context(open_run(out, config, shared=shared))
        begun(out)
        _begin(experiment, grid, directory, facts)
        told = partial(_tell_rows, grid, on_row) if on_row is not None else _silent
        clock = Clock([cell for stage in stages for cell in stage], experiment.name, say, told)
        for stage in stages:
            compute.run(grid, stage, clock)
        if not shared:
            return _finish(experiment, config, tasks, grid, directory, time.time() - started, say)
        return _finish_last(experiment, config, tasks, grid, directory, time.time() - started, say)


def _tell_rows(grid: Grid, on_row: Callable[[Mapping[str, Any]], object], cell: Cell) -> None:
    if not cell.prepares:
        for row in read_frame(grid.file(cell)).to_dict("records"):
            on_row({"cell": cell.key, "kind": cell.kind, **{str(key): value for key, value in row.items()}})


def _silent(cell: Cell) -> None:
    """Tell nobody."""


def _check_how(workers: int, shard: Share | None, ray: RayCluster | None, overwrite: bool) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"workers={workers} must be from 1 to {MOST_WORKERS}")
    if shard is not None and (workers > 1 or ray is not None or overwrite):
        raise ValueError(
            "shard goes with neither workers, ray nor overwrite: a shard is one process among others on the folder; "
            "start more shards, and discard an old run before the first of them"
        )


def _begin(experiment: Experiment, grid: Grid, directory: RunDirectory, facts: dict[str, Any] | None) -> None:
    Grid.planned(grid.path, grid.cells)
    directory.write_json(_options_file(experiment), experiment.options())
    if facts is not None:
        directory.write_json("model.json", facts)


def _finish_last(
    experiment: Experiment,
    config: RunConfig,
    tasks: Tasks,
    grid: Grid,
    directory: RunDirectory,
    seconds: float,
    say: Say,
) -> pd.DataFrame:
    """Summarise if no cell is open any more; of two that end at once, one after the other, with the same frames."""
    if any(grid.open_cells(prepares=prepares, retry_failed=False) for prepares in (True, False)):
        say(f"{experiment.name}: this shard is done; others go on, and the last of them writes the tables")
        return pd.DataFrame()
    with sole(directory.path, wait=True):
        return _finish(experiment, config, tasks, grid, directory, seconds, say)


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
    rows, again = (grid.rows(), f"tracebacks are in {grid.path / 'failed'}. Mend the cause and give --retry-failed")
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


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
