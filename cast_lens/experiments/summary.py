"""From outcomes, one row an example, to tables with intervals, tests and the split into format and choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..tasks import Task
from .config import RunConfig
from .contrasts import contrast_table, split_rows
from .store import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

# Comparisons that a reader may take for findings; placebos and prompts are what they are compared with.
TESTED = ("steered", "steered (own vector)")


def write_summary(directory: RunDirectory, config: RunConfig, tasks: Mapping[str, Task]) -> None:
    """Write ``outcomes``, ``sweep``, ``transfer`` and ``split`` from the frames of single sources and targets."""
    import pandas as pd

    def joined(kind: str, names: tuple[str, ...]) -> pd.DataFrame:
        paths = [directory.path / "frames" / kind / f"{name}.parquet" for name in names]
        return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)

    outcomes = joined("outcomes", config.targets)
    directory.write_frame("outcomes", outcomes)
    directory.write_frame("sweep", joined("sweep", config.sources))
    families = {name: task.family for name, task in tasks.items()}
    options = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    directory.frame("transfer", lambda: transfer_table(outcomes, families, **options))
    directory.frame("split", lambda: split_table(outcomes, **options))


def transfer_table(
    outcomes: pd.DataFrame, families: Mapping[str, str], *, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """One row a target, source, method and metric, against zero-shot; see ``contrast_table``.

    ``target_family`` and ``source_family`` stand beside the tasks. p-values are Holm-adjusted over all steered cells.
    """
    found = contrast_table(outcomes, tested=TESTED.__contains__, n_bootstrap=n_bootstrap, seed=seed)
    first = ["target", "target_family", "source", "source_family", "method", "metric"]
    found = found.assign(
        target_family=found["target"].map(families),
        source_family=[families.get(name, "") for name in found["source"]],
    )
    return found[first + [name for name in found.columns if name not in first]]


def split_table(outcomes: pd.DataFrame, *, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """The exact-match gain of each steered cell, split into format and choice; see ``split_rows``."""
    return split_rows(
        outcomes,
        keys=("target", "source", "method", "seed"),
        wanted=lambda method: method.startswith(("steered", "placebo")),
        n_bootstrap=n_bootstrap,
        seed=seed,
    )
