"""What a training run tells while it runs: a callable that gets every step, and a bar that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step of training, or the validation after an epoch.

    Attributes:
        number: steps done so far.
        total: steps there will be unless training stops early.
        epoch: counted from 1.
        loss: mean over the step's prompts, nats a token.
        validation: latest validation loss; None before the first.
        best: lowest validation loss so far.
        validated: whether this is the validation after an epoch.
        note: why training ended, at the end.
    """

    number: int
    total: int
    epoch: int
    loss: float
    validation: float | None = None
    best: float | None = None
    validated: bool = False
    note: str = ""


Watch = Callable[[Step], None]


def silent(step: Step) -> None:
    """Say nothing."""


# Weight of the latest step in the loss that is shown: single steps jump too much to read.
SMOOTHING = 0.1


@contextmanager
def loss_bar() -> Iterator[Watch]:
    """A bar with the smoothed loss and the time left, on a terminal; elsewhere one line an epoch on standard error.

    Yields:
        what to pass as ``watch``.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    drawn = console.is_terminal or console.is_jupyter
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("at most"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, disable=not drawn) as bar:
        shown = bar.add_task("train", total=None, loss="")
        smoothed: list[float] = []

        def watch(step: Step) -> None:
            if not step.validated:
                before = smoothed[-1] if smoothed else step.loss
                smoothed[:] = [before + SMOOTHING * (step.loss - before)]
            loss = smoothed[-1] if smoothed else step.loss
            text = f"loss {loss:.3f}"
            if step.validation is not None:
                text += f", validation {step.validation:.3f} (best {step.best:.3f})"
            bar.update(
                shown, completed=step.number, total=step.total, description=f"epoch {step.epoch}", loss=text
            )
            if step.note or (step.validated and not drawn):
                end = f": {step.note}" if step.note else ""
                console.print(f"epoch {step.epoch}, step {step.number}, {text}{end}", highlight=False)

        yield watch
