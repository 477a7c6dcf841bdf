"""A workspace on a tiny model with tasks made in memory, for cells of experiments."""

from __future__ import annotations

from pathlib import Path

from cast_lens.engine import quiet
from cast_lens.experiments.config import RunConfig
from cast_lens.experiments.store import RunDirectory
from cast_lens.experiments.workspace import Workspace
from cast_lens.methods import residual_embedding
from cast_lens.tasks import Task
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

SOURCES = ("mood", "double")
TARGETS = ("tone", "mood")


def small_tasks() -> dict[str, Task]:
    """A label task and a free one as sources, and a label task that is a target only."""
    made = (label_task("mood"), word_task("double"), label_task("tone"))
    return {task.name: task for task in made}


def grid_config(**changes: object) -> RunConfig:
    """Two sources, two targets, one of them a source; a grid of four cells."""
    chosen: dict[str, object] = {
        "model": "tiny",
        "sources": SOURCES,
        "targets": TARGETS,
        "shots": 2,
        "samples": 6,
        "validation": 3,
        "test": 4,
        "layers": (1, 2),
        "strengths": (1.0, 2.0),
        "placebos": 1,
        "finalists": 2,
        "bootstrap": 50,
        **changes,
    }
    return RunConfig(**chosen)  # type: ignore[arg-type]


def grid_workspace(path: Path, **changes: object) -> Workspace:
    """A workspace that keeps its vectors and settings under ``path``."""
    model, config = tiny_model("llama"), grid_config(**changes)
    embed = residual_embedding(model)
    return Workspace(config, model, small_tasks(), RunDirectory(path), quiet, lambda text: None, embed)
