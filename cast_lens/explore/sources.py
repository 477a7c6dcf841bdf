"""``explore``: the vectors of a run directory, or the caller's own, made into a view."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..files import read_frame, read_json
from ..geometry import parallelism, project_layers
from ..tasks import Task, load_task
from ..vectors import DifferenceVectors
from .data import CONFIDENCE, view_data
from .view import Exploration


def explore(
    run_or_vectors: str | os.PathLike[str] | Sequence[DifferenceVectors] | DifferenceVectors,
    *,
    tasks: Sequence[Task] = (),
    umap: Sequence[int] = (),
    n_bootstrap: int = 300,
    seed: int = 0,
) -> Exploration:
    """A view to pick tasks, layer, projection and colour in; cosines and arrows follow.

    In a notebook, let it be the last line of a cell. Anywhere, ``explore(...).save("explore.html")``.

    Args:
        run_or_vectors: a run directory (its vectors are enough, finished or not), or difference vectors, one per task.
        tasks: give the samples' texts, answers and families. Without them tasks are loaded by name, as the run
            did or from the suite that ships; samples of tasks that are not found show their id.
        umap: layers to project by UMAP as well; compiling it takes half a minute. A run shows those that it has.
        n_bootstrap: replicates of the intervals, where no run has computed them.
        seed: of replicates and of UMAP.

    Raises:
        ValueError: when the directory holds no run or no vectors, or the vectors cannot be compared (see
            ``geometry.parallelism``).
    """
    source = read_source(run_or_vectors, tasks)
    differences = source.differences
    curves = source.parallelism
    if curves is None and len(differences) > 1:
        curves = parallelism(differences, n_bootstrap=n_bootstrap, seed=seed, confidence=CONFIDENCE)
    planes = source.umap
    if umap:
        planes = project_layers(differences, layers=sorted(set(umap)), method="umap", seed=seed)
    return Exploration(view_data(differences, source.tasks, curves, planes))


@dataclass(frozen=True, slots=True, eq=False)
class ExploredVectors:
    """What a view is made of.

    Attributes:
        differences: one per task.
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
) -> ExploredVectors:
    """The vectors and what is known of their samples.

    Raises:
        ValueError: when the directory holds no run, or no vectors, or nothing was given.
    """
    known = {task.name: task for task in tasks}
    if isinstance(given, str | os.PathLike):
        return _from_run(Path(given), known)
    differences = (given,) if isinstance(given, DifferenceVectors) else tuple(given)
    if not differences or not all(isinstance(one, DifferenceVectors) for one in differences):
        raise ValueError(
            "explore takes a run directory or one DifferenceVectors per task, as difference_vectors makes them, "
            f"got {type(given).__name__} of {[type(one).__name__ for one in differences][:4]}"
        )
    return ExploredVectors(differences, known | _tasks_by_name(differences, known, folder="", hub=False))


def _from_run(run_dir: Path, known: Mapping[str, Task]) -> ExploredVectors:
    path = run_dir / "config.json"
    if not path.is_file():
        raise ValueError(f"{run_dir} holds no run (no config.json); give the directory that a run wrote to")
    config = read_json(path)
    names = dict.fromkeys((*config.get("sources", ()), *config.get("targets", ())))
    paths = [run_dir / "vectors" / f"differences.{name}.safetensors" for name in names]
    differences = tuple(DifferenceVectors.load(path) for path in paths if path.is_file())
    if not differences:
        raise ValueError(
            f"{run_dir} holds no difference vectors (vectors/differences.*.safetensors) yet; "
            "continue the run with the same command"
        )
    folder, hub = str(config.get("tasks", "")), bool(config.get("hub", False))
    tasks = {**known, **_tasks_by_name(differences, known, folder=folder, hub=hub)}
    curves, planes = (_frame(run_dir, name) for name in ("parallelism", "projection"))
    here = {one.task for one in differences}
    if curves is not None and set(curves["task_a"]) | set(curves["task_b"]) != here:
        curves = None
    if planes is not None:
        planes = planes[planes["explained_x"].isna()]
    whole = planes is not None and len(planes) and set(planes["task"]) == here
    return ExploredVectors(differences, tasks, curves, planes if whole else None)


def _frame(run_dir: Path, name: str) -> pd.DataFrame | None:
    """A table of the experiment ``transfer``, when it is finished."""
    path = run_dir / "experiments" / "transfer" / f"{name}.parquet"
    return read_frame(path) if path.is_file() else None


def _tasks_by_name(
    differences: Sequence[DifferenceVectors], known: Mapping[str, Task], *, folder: str, hub: bool
) -> dict[str, Task]:
    """Tasks by name, as far as they can be loaded and hold every sample."""
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
