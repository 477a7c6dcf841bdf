"""One file per experiment: a frozen configuration in, tidy frames out, each finished piece on disk.

``run(config, out)`` does the main job, the experiment ``transfer``. Every experiment of ``EXPERIMENTS`` is also a
function of its name, which takes the experiment's own options by keyword and returns its table ``result``:
``shots(config, out=None, few_shots=(1, 4))`` and so on; without ``out`` nothing is kept on disk.
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

    from .choose_setting import chosen_setting, sweep_source
    from .config import RunConfig, make_config, read_toml
    from .outcomes import contrast_table, pooled_table, side_by_side
    from .runner import run, run_experiment

__all__ = [
    "EXPERIMENTS",
    "RunConfig",
    "chosen_setting",
    "contrast_table",
    "make_config",
    "pooled_table",
    "read_toml",
    "run",
    "run_experiment",
    "side_by_side",
    "sweep_source",
]
_HOME = {
    "RunConfig": "config",
    "chosen_setting": "choose_setting",
    "contrast_table": "outcomes",
    "make_config": "config",
    "pooled_table": "outcomes",
    "read_toml": "config",
    "run": "runner",
    "run_experiment": "runner",
    "side_by_side": "outcomes",
    "sweep_source": "choose_setting",
}

RUNNING = ("workers", "retry_failed", "load", "progress", "say")
"""Keywords of ``run_experiment``; all others are options of the experiment."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name.replace("_", "-") in EXPERIMENTS:
        return partial(_experiment, name.replace("_", "-"))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *(name.replace("-", "_") for name in EXPERIMENTS)])


def _experiment(name: str, config: RunConfig, out: str | Path | None = None, **options: Any) -> pd.DataFrame:
    """Run one experiment and return its table ``result``.

    Args:
        name: name of the experiment.
        config: what all experiments share.
        out: run directory; without one nothing is kept on disk.
        options: options of the experiment, and those of ``run_experiment`` (``workers``, ``say``, ...).
    """
    from .catalogue import find
    from .runner import run_experiment

    how = {key: options.pop(key) for key in RUNNING if key in options}
    experiment = find(name)(**options)
    if out is not None:
        return run_experiment(experiment, config, Path(out), **how)
    with tempfile.TemporaryDirectory() as folder:
        return run_experiment(experiment, config, Path(folder) / "run", **how)
