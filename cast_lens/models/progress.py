"""What a reader sees while a model is fetched, converted or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging


@contextmanager
def step(message: str) -> Iterator[None]:
    """Show ``message`` and the time it takes on standard error; a plain line where that is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(message, highlight=False)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(message, total=None)
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence transformers' own bars where nothing is downloaded: they flash by in a second."""
    if not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
