"""What an experiment is: options, a plan of cells, how a cell is computed, what the tables of all cells say.

One experiment is one file of ``catalogue``: a frozen dataclass whose fields are its options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go

from ..tasks import Task
from .catalogue import EXPERIMENTS
from .cells import Cell
from .config import RunConfig
from .workspace import Workspace, load_tasks

Tasks = Mapping[str, Task]
Rows = Mapping[str, pd.DataFrame]
"""What the finished cells hold, by kind of cell; a kind without a finished cell is missing."""
Frames = Mapping[str, pd.DataFrame]
"""The tables of an experiment by name."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the numbers of an experiment say.

    Attributes:
        headline: one sentence, computed from a table; true whatever came out.
        left_out: what was asked for and could not be computed, each in one sentence.
    """

    headline: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ReportFigure:
    """One figure with its words.

    Attributes:
        name: name of its files, within the experiment.
        title: heading.
        caption: how to read it.
        alt: what it shows, for those who do not see it.
        figure: the figure.
        frame: the numbers behind it.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: go.Figure
    frame: pd.DataFrame

    @property
    def counted(self) -> str:
        """How many samples, answers or whatever the caption speaks of are behind a number; empty when unknown."""
        known = self.frame.get("n", pd.Series(dtype=float)).dropna()
        if known.empty:
            return ""
        least, most = int(known.min()), int(known.max())
        return f"n = {least:,}." if least == most else f"n = {least:,} to {most:,}."


@dataclass(frozen=True, slots=True)
class Experiment(ABC):
    """One experiment; the fields of a subclass are its options, in addition to the ``RunConfig`` that all share.

    Attributes:
        name: on the command line, a key of ``catalogue.EXPERIMENTS``.
        title: heading of its chapter in a report.
        compared: what was compared with what, one paragraph.
        limits: what cannot be concluded, one paragraph.
        shown: names of the tables that the report prints, in order.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    compared: ClassVar[str]
    limits: ClassVar[str]
    shown: ClassVar[tuple[str, ...]] = ()

    @property
    def question(self) -> str:
        """What it answers, in one sentence."""
        return EXPERIMENTS[self.name]

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Values of a small version for the options that were not given."""
        return {}

    def options(self) -> dict[str, Any]:
        """Its options for JSON: lists in place of tuples."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def task_names(self, config: RunConfig) -> Sequence[str]:
        """The tasks that it reads."""
        return tuple(dict.fromkeys((*config.sources, *config.targets)))

    def read_tasks(self, config: RunConfig) -> dict[str, Task]:
        """The tasks of a configuration, checked.

        Raises:
            ValueError: as ``load_tasks``.
        """
        return load_tasks(config, self.task_names(config))

    @abstractmethod
    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """The cells of a configuration, without a model.

        Raises:
            ValueError: a configuration that the experiment cannot be asked, with the way out.
        """

    @abstractmethod
    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """The rows of one cell; the same cell gives the same rows, whatever was computed before it."""

    @abstractmethod
    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """Tables by name from the rows that there are; ``result`` is what ``cast_lens.experiments.NAME`` returns."""

    @abstractmethod
    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The headline, and what is missing."""

    def notes(self, config: RunConfig) -> tuple[str, ...]:
        """What a reader has to know of how this run was done, beside ``compared``; whole sentences."""
        return ()

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The figures that can be drawn from these tables."""
        yield from ()


def at_least_one(options: object, *names: str) -> None:
    """Refuse counts below 1.

    Raises:
        ValueError: with the name of the option.
    """
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must be at least 1")


def increasing(options: object, *names: str) -> None:
    """Refuse lists of counts that are empty, out of order or below 1.

    Raises:
        ValueError: with the name of the option.
    """
    for name in names:
        given = getattr(options, name)
        if not given or min(given) < 1 or list(given) != sorted(set(given)):
            raise ValueError(f"{name}={list(given)} must be one or more increasing numbers from 1")


def joined(rows: Rows, *kinds: str) -> pd.DataFrame:
    """The rows of several kinds of cells in one frame; empty when there are none.

    Args:
        rows: by kind.
        kinds: which; all of them when none is named.
    """
    found = [rows[kind] for kind in kinds or rows if kind in rows and len(rows[kind])]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def settings_first(config: RunConfig, methods: Sequence[str] = ("cast",), *, draws: int = 1) -> list[Cell]:
    """Cells that make vectors and choose layer and strength of every source, before anything is steered."""
    return [
        Cell("setting", source=source, variant=method, draw=draw, prepares=True)
        for draw in range(draws)
        for source in config.sources
        for method in methods
    ]


def different_pairs(config: RunConfig, targets: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Every target with every source that is another task.

    Args:
        config: gives the sources, and the targets if ``targets`` is None.
        targets: the tasks that are steered.

    Raises:
        ValueError: if no source differs from a target.
    """
    steered = config.targets if targets is None else targets
    pairs = [(target, source) for target in steered for source in config.sources if source != target]
    if not pairs:
        raise ValueError(
            f"sources={list(config.sources)} and targets={list(config.targets)} hold no pair of different tasks, "
            "which this experiment needs; give another source or target"
        )
    return pairs


def prepare(workspace: Workspace, cell: Cell) -> pd.DataFrame:
    """The frame of a preparing cell: the setting that the workspace then has on disk."""
    setting = workspace.setting(cell.source, cell.variant)
    row = {"source": cell.source, "method": cell.variant, "layer": setting.layer, "strength": setting.strength}
    return pd.DataFrame([row])
