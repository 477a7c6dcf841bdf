"""Progress bars, as an argument: in a notebook they are drawn by default, anywhere else the library is silent.

- ``automatic``, the default of functions that take long: bars in a notebook, nothing elsewhere;
- ``bars``: in a terminal and in a notebook;
- ``quiet``: nowhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
# What is over sooner needs no bar; a page that is redrawn more often than this only costs.
PATIENCE, REDRAWN = 1.0, 0.25


@runtime_checkable
class Progress(Protocol):
    """Wraps an iterable: ``progress(items, title, total)``."""

    def __call__(self, items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
        """Yield the items one by one while showing progress."""
        ...


def quiet(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """No progress bar."""
    return items


def automatic(items: Iterable[Item], title: str, total: int) -> Iterable[Item]:
    """A bar in a notebook for what takes longer than a second, removed when it is done; nothing anywhere else."""
    return _on_page(items, title, total) if in_notebook() and not _Drawn.busy else items


def bars(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """A bar with count, elapsed time and time left: on standard error if that is a terminal, or in a notebook."""
    if in_notebook():
        yield from _on_page(items, title, total)
        return
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
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as drawn:
        yield from drawn.track(items, total=total, description=title)


def in_notebook() -> bool:
    """Whether a front end shows HTML: Jupyter, Colab, VS Code; not IPython in a terminal."""
    found = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(found, "kernel", None) is not None


class _Drawn:
    """Whether a bar is on the page: what a drawn loop calls draws none of its own."""

    busy = False


def _on_page(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """HTML that is redrawn in place: it needs no widgets and no extension."""
    from IPython.display import HTML, display

    begun = shown = time.monotonic()
    handle: Any = None
    _Drawn.busy, before = True, _Drawn.busy
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - begun >= PATIENCE and (handle is None or now - shown >= REDRAWN):
                page, shown = HTML(_bar(title, done, total, now - begun)), now
                if handle is None:
                    handle = display(page, display_id=True)
                else:
                    handle.update(page)
            yield item
    finally:
        _Drawn.busy = before
        if handle is not None:
            handle.update(HTML(""))


def _bar(title: str, done: int, total: int, seconds: float) -> str:
    left = f", {_clock(seconds * (total - done) / done)} left" if done else ""
    return (
        f'<label style="display:flex;gap:.8em;align-items:center;flex-wrap:wrap">{escape(title)}'
        f'<progress value="{done}" max="{total}"></progress>{done} of {total}, {_clock(seconds)}{left}</label>'
    )


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
