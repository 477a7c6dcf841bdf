"""One file an experiment: a frozen configuration in, tidy frames out, each finished piece on disk.

``run`` does the main job. Every experiment of ``EXPERIMENTS`` is also a function of its name:
``cross_domain(config, out=None) -> DataFrame`` and so on; without ``out`` nothing is kept on disk.
"""

from __future__ import annotations

import importlib
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .catalogue import EXPERIMENTS

if TYPE_CHECKING:
    import pandas as pd

    from .config import RunConfig, make_config, read_toml
    from .contrasts import contrast_table
    from .main_job import run
    from .runner import run_experiment
    from .settings import ExperimentConfig

__all__ = [
    "EXPERIMENTS",
    "ExperimentConfig",
    "RunConfig",
    "contrast_table",
    "make_config",
    "read_toml",
    "run",
    "run_experiment",
]
_HOME = {
    "ExperimentConfig": "settings",
    "RunConfig": "config",
    "contrast_table": "contrasts",
    "make_config": "config",
    "read_toml": "config",
    "run": "main_job",
    "run_experiment": "runner",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name.replace("_", "-") in EXPERIMENTS:
        return partial(_experiment, name.replace("_", "-"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name.replace("-", "_") for name in EXPERIMENTS)])


def _experiment(
    name: str, config: ExperimentConfig, out: str | Path | None = None, **options: Any
) -> pd.DataFrame:
    """Run one experiment and return its frame ``result``; see ``run_experiment`` for the options."""
    from .runner import run_experiment

    if out is not None:
        return run_experiment(name, config, Path(out), **options)
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(name, config, Path(folder) / "run", **options)
