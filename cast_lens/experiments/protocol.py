"""What an experiment is: a plan of cells, how a cell is computed, what the joined rows say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..tasks import Task
from .bench import Bench, load_tasks
from .cells import Cell
from .settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Tasks = Mapping[str, Task]
Frames = Mapping[str, "pd.DataFrame"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the numbers of an experiment say, for its chapter of the report.

    Attributes:
        answer: sentences with numbers, intervals and n; true whatever came out.
        compared: what was compared with what.
        limits: what cannot be concluded, one paragraph.
    """

    answer: tuple[str, ...]
    compared: str
    limits: str


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """One figure of an experiment with its words; see ``report.gallery.Exhibit``."""

    name: str
    title: str
    caption: str
    alt: str
    figure: go.Figure
    frame: pd.DataFrame


def sources_and_targets(config: ExperimentConfig) -> tuple[str, ...]:
    """The tasks that most experiments read."""
    return tuple(dict.fromkeys((*config.sources, *config.targets)))


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    Attributes:
        name: on the command line.
        question: what it answers, in one sentence.
        plan: the cells of a configuration, without a model.
        compute: rows of one cell. The same cell gives the same rows, whatever was computed before it.
        summarise: frames by name from the joined rows; ``result`` is the one that ``cast_lens.experiments.NAME``
            returns.
        read: sentences on these frames.
        draw: figures of these frames.
        tasks: names of the tasks that are read.
        tables: names of the frames that the report prints.
        alone: rows of one cell from the configuration alone. Where it is given, neither model nor tasks are loaded,
            and it takes the place of ``compute``.
        heading: over its chapter in a report; the name when empty.
    """

    name: str
    question: str
    plan: Callable[[ExperimentConfig, Tasks], Sequence[Cell]]
    compute: Callable[[Bench, Cell], pd.DataFrame]
    summarise: Callable[[pd.DataFrame, ExperimentConfig, Tasks], dict[str, pd.DataFrame]]
    read: Callable[[Frames, ExperimentConfig], Reading]
    draw: Callable[[Frames, ExperimentConfig], Sequence[Drawing]]
    tasks: Callable[[ExperimentConfig], Sequence[str]] = sources_and_targets
    tables: tuple[str, ...] = ()
    alone: Callable[[ExperimentConfig, Cell], pd.DataFrame] | None = None
    heading: str = ""

    @property
    def title(self) -> str:
        """What a report calls it."""
        return self.heading or self.name.replace("-", " ").capitalize()

    def read_tasks(self, config: ExperimentConfig) -> dict[str, Task]:
        """The tasks of a configuration, checked; none where the experiment stands alone.

        Raises:
            ValueError: as ``bench.load_tasks``.
        """
        return {} if self.alone else load_tasks(config, self.tasks(config))


def settings_first(
    config: ExperimentConfig, methods: Sequence[str] = ("cast",), *, draws: int = 1
) -> list[Cell]:
    """Cells that make vectors and choose layer and strength of every source, before anything is steered."""
    return [
        Cell("setting", source=source, variant=method, draw=draw, prepares=True)
        for draw in range(draws)
        for source in config.sources
        for method in methods
    ]


def prepare(bench: Bench, cell: Cell) -> pd.DataFrame:
    """The frame of a preparing cell: the setting that the bench then has on disk."""
    import pandas as pd

    setting = bench.setting(cell.source, cell.variant)
    row = {
        "source": cell.source,
        "method": cell.variant,
        "layer": setting.layer,
        "strength": setting.strength,
    }
    return pd.DataFrame([row])
