"""Where the vectors of a view come from: a run directory, or the caller."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..report.record import RunRecord, read_run
from ..tasks import Task, load_task
from ..vectors import DifferenceVectors

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What a view is made of.

    Attributes:
        differences: one a task.
        tasks: those of them whose examples are known, by name.
        parallelism: of a run; None to compute it.
        umap: rows of a run's projection; None when it has none.
    """

    differences: tuple[DifferenceVectors, ...]
    tasks: Mapping[str, Task]
    parallelism: pd.DataFrame | None = None
    umap: pd.DataFrame | None = None


def read_source(
    given: str | os.PathLike[str] | Sequence[DifferenceVectors] | DifferenceVectors, tasks: Sequence[Task]
) -> Source:
    """The vectors and what is known of their samples.

    Raises:
        ValueError: when the directory holds no run, or no vectors, or nothing was given.
    """
    known = {task.name: task for task in tasks}
    if isinstance(given, str | os.PathLike):
        return _from_run(read_run(Path(given)), known)
    differences = (given,) if isinstance(given, DifferenceVectors) else tuple(given)
    if not differences or not all(isinstance(one, DifferenceVectors) for one in differences):
        raise ValueError(
            "explore takes a run directory or one DifferenceVectors a task, as difference_vectors makes them, "
            f"got {type(given).__name__} of {[type(one).__name__ for one in differences][:4]}"
        )
    return Source(differences, known | _shipped(differences, known, folder="", hub=False))


def _from_run(record: RunRecord, known: Mapping[str, Task]) -> Source:
    names = dict.fromkeys((*record.sources, *record.targets))
    paths = [record.path / "vectors" / f"differences.{name}.safetensors" for name in names]
    differences = tuple(DifferenceVectors.load(path) for path in paths if path.is_file())
    if not differences:
        raise ValueError(
            f"{record.path} holds no difference vectors (vectors/differences.*.safetensors) yet; "
            "continue the run with the same command"
        )
    folder, hub = str(record.config.get("tasks", "")), bool(record.config.get("hub", False))
    tasks = {**known, **_shipped(differences, known, folder=folder, hub=hub)}
    curves, planes = record.frames.get("parallelism"), record.frames.get("projection")
    here = {one.task for one in differences}
    if curves is not None and set(curves["task_a"]) | set(curves["task_b"]) != here:
        curves = None
    if planes is not None:
        planes = planes[planes["explained_x"].isna()]
    whole = planes is not None and len(planes) and set(planes["task"]) == here
    return Source(differences, tasks, curves, planes if whole else None)


def _shipped(
    differences: Sequence[DifferenceVectors], known: Mapping[str, Task], *, folder: str, hub: bool
) -> dict[str, Task]:
    """Tasks by name, as far as they are there and hold every sample."""
    found = {}
    for one in differences:
        if one.task in known:
            continue
        try:
            task = load_task(one.task, tasks=folder or None, hub=hub, seed=one.provenance.seed)
        except (ValueError, OSError):
            # Not fatal: its samples show their ids in place of their texts.
            continue
        ids = {example.id for part in (task.train, task.validation, task.test) for example in part}
        if ids.issuperset(one.sample_ids):
            found[one.task] = task
    return found
