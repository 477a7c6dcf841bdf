"""``explore`` makes vectors or a run directory an ``Exploration``: in a notebook, as a page on disk, or as an anywidget
that shares its picks with the kernel.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..experiments.store import RunDirectory
from ..files import atomic_write, read_frame, read_json
from ..geometry import parallelism, project_layers
from ..report.page import as_script, library
from ..tasks import Task, load_task
from ..vectors import DifferenceVectors
from .data import CONFIDENCE, view_data

HOW_TO = (
    "widget() needs anywidget: pip install 'cast-lens[notebooks]'. Without it the exploration shows itself as the last "
    "line of a cell, and save('explore.html') writes it as a page"
)
HEIGHT = 1180
"""Pixels of the frame in a notebook until the page has measured itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Exploration:
    """A view of difference vectors, ready to be shown.

    Attributes:
        data: everything that the view may show, as plain data.
    """

    data: Mapping[str, Any]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks."""
        return [task["name"] for task in self.data["tasks"]]

    @property
    def layers(self) -> list[int]:
        """Layers of the slider."""
        return list(self.data["layers"])

    def state(self) -> dict[str, Any]:
        """What is picked at first: every task, the middle layer, PCA, colours by task, no selection."""
        return {
            "data": self.data,
            "layer": self.layers[len(self.layers) // 2],
            "shown": self.tasks,
            "projection": "pca",
            "colour": "task",
            "selected": [],
        }

    def html(self) -> str:
        """The view as one page, plotly.js inside: no network, no kernel."""
        folder = Environment(loader=PackageLoader("cast_lens", "templates"), autoescape=True, undefined=StrictUndefined)
        page = folder.get_template("explore.html.j2")
        return page.render(title=self.data["title"], state=as_script(self.state()), library=library())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; any browser opens it."""
        return atomic_write(Path(path), self.html().encode())

    def widget(self) -> Any:
        """The view as an anywidget: ``layer``, ``shown``, ``projection``, ``colour`` and ``selected`` can be read and
        set from Python.

        Raises:
            ModuleNotFoundError: when anywidget is not installed.
        """
        return make_widget(self.state())

    def _repr_html_(self) -> str:
        page = html.escape(self.html(), quote=True)
        return (
            f'<iframe srcdoc="{page}" title="{html.escape(self.data["title"])}" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )

    def __repr__(self) -> str:
        return (
            f"Exploration of {len(self.tasks)} tasks at {len(self.layers)} layers; a notebook shows it, "
            "save('explore.html') writes it as a page"
        )


def make_widget(state: Mapping[str, Any]) -> Any:
    """An ``anywidget.AnyWidget`` with the given state.

    Raises:
        ModuleNotFoundError: when anywidget is not installed.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ModuleNotFoundError(HOW_TO) from None
    folder = resources.files("cast_lens") / "templates"
    script, style = ((folder / name).read_text(encoding="utf-8") for name in ("explore.js", "explore.css"))
    kinds = {"layer": traitlets.Int, "projection": traitlets.Unicode, "colour": traitlets.Unicode}
    traits = {
        name: kinds.get(name, traitlets.Dict if name == "data" else traitlets.List)().tag(sync=True) for name in state
    }
    members = {
        "__doc__": "Layer, tasks shown, projection, colour and selected samples, shared with the browser.",
        "_esm": f"{script}\nexport default {{ render }};\n",
        "_css": style,
        "library": traitlets.Unicode().tag(sync=True),
        **traits,
    }
    kind = type("ExplorationWidget", (anywidget.AnyWidget,), members)
    return kind(library=library(), **state)


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
            did or from the built-in suite; samples of tasks that are not found show their id.
        umap: layers to project by UMAP as well; compiling it takes half a minute. A run shows those that it has.
        n_bootstrap: replicates of the intervals, where no run has computed them.
        seed: seed of replicates and of UMAP.

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
        parallelism: parallelism frame of a run; None to compute it.
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
    paths = [RunDirectory(run_dir).vectors(f"differences.{name}") for name in names]
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
