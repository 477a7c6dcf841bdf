"""The geometry stage of a run: frames on how difference vectors lie to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..geometry import alignment, cohesion, cosine_matrix, entropy_by_layer, parallelism, project_layers
from ..tasks import Task
from ..vectors import DifferenceVectors
from .config import RunConfig
from .store import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

# Layers that are projected for pictures: enough for a slider, few enough for a page.
PROJECTED_LAYERS = 8
# UMAP needs more points than neighbours; below this a picture of it would say nothing.
UMAP_POINTS = 40


def projected_layers(layers: Sequence[int], count: int = PROJECTED_LAYERS) -> tuple[int, ...]:
    """Evenly spaced layers, the last one included."""
    if len(layers) <= count:
        return tuple(layers)
    step = (len(layers) - 1) / (count - 1)
    return tuple(layers[round(index * step)] for index in range(count))


def write_geometry(
    directory: RunDirectory,
    differences: Sequence[DifferenceVectors],
    tasks: Mapping[str, Task],
    config: RunConfig,
) -> None:
    """Write ``parallelism, alignment, cohesion, entropy, cosines, projection`` to the run directory."""
    options = {"seed": config.seed, "n_bootstrap": config.bootstrap}
    family = {name: task.family for name, task in tasks.items()}
    layers = projected_layers(differences[0].layers)

    def pairs() -> pd.DataFrame:
        found = parallelism(differences, **options)
        return found.assign(family_a=found["task_a"].map(family), family_b=found["task_b"].map(family))

    if len(differences) > 1:
        directory.frame("parallelism", pairs)
        directory.frame("cosines", lambda: _concat([cosine_matrix(differences, layer) for layer in layers]))
    directory.frame("alignment", lambda: alignment(differences, **options))
    directory.frame("cohesion", lambda: cohesion(differences, **options))
    directory.frame("entropy", lambda: entropy_by_layer(differences))
    directory.frame("projection", lambda: _projection(differences, tasks, layers, config))


def _projection(
    differences: Sequence[DifferenceVectors],
    tasks: Mapping[str, Task],
    layers: Sequence[int],
    config: RunConfig,
) -> pd.DataFrame:
    frames = [project_layers(differences, layers=layers, seed=config.seed)]
    if config.umap and sum(len(one) for one in differences) >= UMAP_POINTS:
        middle = layers[len(layers) // 2]
        frames.append(project_layers(differences, layers=(middle,), method="umap", seed=config.seed))
    found = _concat(frames)
    text = {(name, example.id): example.input for name, task in tasks.items() for example in task.train}
    keys = zip(found["task"], found["sample_id"], strict=True)
    return found.assign(text=[text.get(key, "") for key in keys])


def _concat(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(list(frames), ignore_index=True)
