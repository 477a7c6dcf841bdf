"""What tests of experiments share: a small configuration on a tiny model, its bench, and outcomes made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cast_lens.experiments.cells import Cell
from cast_lens.experiments.config import RunConfig
from cast_lens.experiments.protocol import Experiment, Findings, Tasks, prepare
from cast_lens.experiments.store import RunDirectory
from cast_lens.experiments.workspace import Workspace
from tests.models.files import write_folder

SMALL = RunConfig(
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
    threads=1,
)


def small_config(folder: Path, **changes: Any) -> RunConfig:
    """The small configuration with a tiny model, whose files are written to a folder."""
    if not any(folder.iterdir()):
        write_folder(folder)
    return replace(SMALL, model=str(folder), **changes)


def pairs_config(folder: Path, **changes: Any) -> RunConfig:
    """Two sources and two targets, one of them a source as well and one of free answers, with a tiny model."""
    wanted = {
        "sources": ("review-sentiment", "yes-no-facts"),
        "targets": ("yes-no-facts", "present-past"),
        "samples": 4,
        "validation": 3,
        "test": 4,
        "placebos": 2,
        "threads": 1,
    }
    return small_config(folder, **{**wanted, **changes})


def planned(experiment: Experiment, config: RunConfig = SMALL) -> tuple[Tasks, list[Cell]]:
    """Tasks and cells of an experiment, without a model."""
    tasks = experiment.read_tasks(config)
    return tasks, experiment.plan(config, tasks)


def workspace_of(experiment: Experiment, config: RunConfig, out: Path) -> Workspace:
    """The workspace in which an experiment's cells are computed; vectors and settings go to ``out``."""
    return Workspace.loaded(config, experiment.read_tasks(config), RunDirectory(out))


def computed(experiment: Experiment, workspace: Workspace, cell: Cell) -> pd.DataFrame:
    """Rows of one cell, as the runner makes them."""
    return prepare(workspace, cell) if cell.kind == "setting" else experiment.compute(workspace, cell)


def rows_of(experiment: Experiment, workspace: Workspace, cells: Iterable[Cell]) -> dict[str, pd.DataFrame]:
    """The rows of cells by kind; preparing ones are computed first, and none of theirs kept."""
    frames: dict[str, list[pd.DataFrame]] = {}
    for cell in sorted(cells, key=lambda one: not one.prepares):
        frame = computed(experiment, workspace, cell)
        if not cell.prepares and len(frame):
            frames.setdefault(cell.kind, []).append(frame)
    return {kind: pd.concat(found, ignore_index=True) for kind, found in frames.items()}


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


def words(findings: Findings) -> str:
    """All sentences of findings; none of them may hold a missing number."""
    text = " ".join((findings.headline, *findings.left_out))
    assert "nan" not in text.lower().replace("finance", ""), text
    return text
