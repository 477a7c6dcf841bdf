"""The former ``small``, for tests of experiments that are still to be rewritten."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cast_lens.experiments.bench import Bench, load_tasks
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.legacy import Experiment, Reading
from cast_lens.experiments.protocol import Tasks, prepare
from cast_lens.experiments.settings import ExperimentConfig
from cast_lens.experiments.store import RunDirectory
from tests.models.files import write_folder

SMALL = ExperimentConfig(
    sources=("review-sentiment",),
    targets=("yes-no-facts",),
    shots=2,
    samples=6,
    validation=2,
    test=3,
    layers=(1, 2),
    strengths=(1.0, 2.0),
    placebos=1,
    finalists=2,
    bootstrap=50,
    few_shots=(1, 2),
    budgets=(2, 3),
    selections=("cast", "random"),
    repeats=2,
    texts=2,
    queries=2,
)


def find(name: str) -> Experiment:
    """An experiment of the former form."""
    module = importlib.import_module(f"cast_lens.experiments.catalogue.{name.replace('-', '_')}")
    found: Experiment = module.EXPERIMENT
    return found


def small_config(folder: Path, **changes: Any) -> ExperimentConfig:
    """The small configuration with a tiny model, whose files are written to a folder."""
    if not any(folder.iterdir()):
        write_folder(folder)
    return replace(SMALL, model=str(folder), **changes)


def planned(name: str, config: ExperimentConfig) -> tuple[Tasks, list[Cell]]:
    """Tasks and cells of an experiment, without a model."""
    experiment = find(name)
    tasks = load_tasks(config, experiment.tasks(config))
    return tasks, list(experiment.plan(config, tasks))


def bench_of(name: str, config: ExperimentConfig, out: Path) -> Bench:
    """The bench that an experiment's cells are computed at; vectors and settings go to ``out``."""
    tasks, _ = planned(name, config)
    return Bench.loaded(config, dict(tasks), RunDirectory(out))


def computed(name: str, bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell, as the runner makes them."""
    return prepare(bench, cell) if cell.kind == "setting" else find(name).compute(bench, cell)


def rows_of(name: str, bench: Bench, cells: Iterable[Cell]) -> pd.DataFrame:
    """The joined rows of cells; preparing ones first, none of theirs kept."""
    frames = []
    for cell in sorted(cells, key=lambda one: not one.prepares):
        frame = computed(name, bench, cell)
        if not cell.prepares and len(frame):
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def right(count: int, *, of: int = 40) -> list[int]:
    """Outcomes of some queries, the first ``count`` right."""
    return [1] * count + [0] * (of - count)


def outcomes(
    method: str,
    right: Sequence[int],
    *,
    target: str = "t",
    source: str = "s",
    seed: int = 0,
    valid: Sequence[int] | None = None,
    choice: Sequence[int] | None = None,
    **more: Any,
) -> pd.DataFrame:
    """Rows as ``evaluate_conditions`` gives them, from 0 and 1 for each query."""
    return pd.DataFrame(
        {
            "target": target,
            "sample": [f"q{index}" for index in range(len(right))],
            "method": method,
            "source": "" if method == "zero-shot" else source,
            "layer": -1 if method == "zero-shot" else 1,
            "strength": 0.0 if method == "zero-shot" else 1.0,
            "seed": seed,
            "exact_match": [float(value) for value in right],
            "valid": [float(value) for value in (valid or [1] * len(right))],
            "choice_correct": [float(value) for value in (choice or right)],
            **more,
        }
    )


def joined(frames: Iterable[pd.DataFrame], **more: Any) -> pd.DataFrame:
    """Hand-made frames under each other."""
    return pd.concat(list(frames), ignore_index=True).assign(**more)


def words(reading: Reading) -> str:
    """All sentences of a reading; none of them may hold a missing number."""
    text = " ".join((*reading.answer, reading.compared, reading.limits))
    assert "nan" not in text.lower().replace("finance", ""), text
    return text
