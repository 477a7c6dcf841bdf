"""``explore``: what it is given, and what it makes of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..geometry import parallelism
from ..tasks import Task
from ..vectors import DifferenceVectors
from .facts import CONFIDENCE, explored
from .sources import read_source
from .view import Exploration

if TYPE_CHECKING:
    import pandas as pd


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
        run_or_vectors: a run directory (its vectors are enough, finished or not), or difference vectors, one a task.
        tasks: give the samples' texts, answers and families. Without them tasks are loaded by name, as the run
            did or from the suite that ships; samples of tasks that are not found show their id.
        umap: layers to project by UMAP as well; compiling it takes half a minute. A run shows the ones that it has.
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
    return Exploration(
        explored(differences, source.tasks, curves, _flat(source.umap, differences, umap, seed))
    )


def _flat(
    known: pd.DataFrame | None, differences: Sequence[DifferenceVectors], layers: Sequence[int], seed: int
) -> pd.DataFrame | None:
    """UMAP of a run, or made now."""
    if not layers:
        return known
    from ..geometry import project_layers

    return project_layers(differences, layers=sorted(set(layers)), method="umap", seed=seed)
