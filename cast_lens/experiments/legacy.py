"""Experiments of the former form under the new one, until the last of them is rewritten."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from . import protocol
from .cells import Cell
from .config import RunConfig
from .protocol import Findings, Frames, ReportFigure, Tasks, settings_first
from .settings import ExperimentConfig
from .workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Drawing", "Experiment", "Frames", "Reading", "Tasks", "settings_first", "wrapped"]
Drawing = ReportFigure


@dataclass(frozen=True, slots=True)
class Reading:
    """Former ``Findings``."""

    answer: tuple[str, ...]
    compared: str
    limits: str


def sources_and_targets(config: RunConfig) -> tuple[str, ...]:
    """The tasks that most experiments read."""
    return tuple(dict.fromkeys((*config.sources, *config.targets)))


@dataclass(frozen=True, slots=True)
class Experiment:
    """Former ``Experiment``."""

    name: str
    question: str
    plan: Callable[[ExperimentConfig, Tasks], Sequence[Cell]]
    compute: Callable[[Any, Cell], pd.DataFrame]
    summarise: Callable[[pd.DataFrame, ExperimentConfig, Tasks], dict[str, pd.DataFrame]]
    read: Callable[[Frames, ExperimentConfig], Reading]
    draw: Callable[[Frames, ExperimentConfig], Sequence[ReportFigure]]
    tasks: Callable[[ExperimentConfig], Sequence[str]] = sources_and_targets
    tables: tuple[str, ...] = ()
    heading: str = ""


class _Wrapped(protocol.Experiment):
    old: ClassVar[Experiment]

    def full(self, config: RunConfig) -> ExperimentConfig:
        core = {one.name: getattr(config, one.name) for one in fields(RunConfig)}
        return ExperimentConfig(**core, **asdict(cast(Any, self)))

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        small = ExperimentConfig(
            sources=config.sources, targets=config.targets, tasks=config.tasks, hub=config.hub
        )
        return {one.name: getattr(small.small(), one.name) for one in fields(cast(Any, cls))}

    def task_names(self, config: RunConfig) -> Sequence[str]:
        return self.old.tasks(self.full(config))

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        return list(self.old.plan(self.full(config), tasks))

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        config = self.full(workspace.config)
        parts = [getattr(workspace, one.name) for one in fields(Workspace)][1:]
        return self.old.compute(Workspace(config, *parts), cell)

    def tables(self, rows: protocol.Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        return self.old.summarise(protocol.joined(rows), self.full(config), tasks)

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        found = self.old.read(frames, self.full(config))
        return Findings(" ".join(found.answer), (found.compared, found.limits))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        yield from self.old.draw(frames, self.full(config))


def wrapped(old: Experiment) -> type[protocol.Experiment]:
    """A class of the new form for an experiment of the former one."""
    core = {one.name for one in fields(RunConfig)}
    own: list[tuple[str, Any, Any]] = [
        (one.name, one.type, field(default=one.default))
        for one in fields(ExperimentConfig)
        if one.name not in core and one.default is not MISSING
    ]
    about: Mapping[str, Any] = {
        "name": old.name,
        "title": old.heading or old.name.replace("-", " ").capitalize(),
        "compared": "",
        "limits": "",
        "shown": old.tables,
        "old": old,
    }
    made = make_dataclass("Wrapped", own, bases=(_Wrapped,), frozen=True, namespace=dict(about))
    return cast("type[protocol.Experiment]", made)
