"""Finished rows on their way to an experiment tracker: ``on_row`` callbacks for trackio and Weights & Biases.

``run_experiment(..., on_row=...)`` calls back with each row of a finished cell. A tracker that fails is named once and
left out: it must not cost a run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OnRow = Callable[[Mapping[str, Any]], None]
"""Called with one row of a finished cell, as a mapping from column to value."""


@contextmanager
def trackio_rows(project: str, *, name: str | None = None, config: Mapping[str, Any] | None = None) -> Iterator[OnRow]:
    """Rows as steps of a trackio run; the run ends with the block.

    Args:
        project: of the tracker.
        name: name of the run; the tracker's own choice when None.
        config: configuration that the tracker shows with the run.
    """
    import trackio

    trackio.init(project=project, name=name, config=dict(config or {}))
    try:
        yield surviving(trackio.log, "trackio")
    finally:
        trackio.finish()


@contextmanager
def wandb_rows(project: str, *, name: str | None = None, config: Mapping[str, Any] | None = None) -> Iterator[OnRow]:
    """Rows as steps of a Weights & Biases run; the run ends with the block. See ``trackio_rows``."""
    import wandb

    run = wandb.init(project=project, name=name, config=dict(config or {}))
    try:
        yield surviving(run.log, "wandb")
    finally:
        run.finish()


def surviving(log: Callable[[dict[str, Any]], object], tracker: str) -> OnRow:
    """A callback that sends what a tracker can draw, and that carries on without it when it fails.

    Args:
        log: the tracker's function.
        tracker: its name, for the warning.
    """
    failed = False

    def on_row(row: Mapping[str, Any]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            log({str(key): value for key, value in row.items() if not _missing(value)})
        except Exception as error:
            failed = True
            warnings.warn(f"{tracker} failed ({type(error).__name__}: {error}); rows are no longer sent", stacklevel=2)

    return on_row


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
