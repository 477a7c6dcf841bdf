"""Progress bars, as an argument: the library stays silent unless it is given one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")


@runtime_checkable
class Progress(Protocol):
    """Wraps an iterable: ``progress(items, title, total)``."""

    def __call__(self, items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
        """The items, one by one, while drawing whatever it draws."""
        ...


def quiet(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """No progress bar."""
    return items


def bars(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """A bar with count, elapsed time and time left (rich) on standard error; nothing where that is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    with Bars(*columns, console=console, transient=True, disable=not shown) as drawn:
        yield from drawn.track(items, total=total, description=title)
