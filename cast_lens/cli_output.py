"""What the command line prints, and how mistakes, warnings and interruptions end in one line."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; the first column is never cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    # Names are typed again by users, so they are never cut, however narrow the terminal.
    widest = max((len(str(row[0])) for row in rows), default=0)
    for column in columns:
        first = column == columns[0]
        table.add_column(column, no_wrap=first, min_width=widest if first else None, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


def explained(job: Callable[[], None], *, quiet: bool = False, verbose: bool = False) -> None:
    """Run a command; mistakes and full disks end in one clear line, and an interruption says how to continue.

    The exit status is 2 for a mistake in the command, 1 for any other error, and 130 after an interruption.
    """
    try:
        with _warnings_in_a_line():
            job()
    except ValueError as error:
        say(f"cast-lens: {error}")
        raise typer.Exit(2) from None
    except OSError as error:
        say(f"cast-lens: {one_line(error)}. Finished work is kept; fix this and give the same command to continue")
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("cast-lens: interrupted. Finished work is kept; the same command continues it.")
        raise typer.Exit(130) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if verbose:
            say_traceback(error)
        say(f"cast-lens: {one_line(error)}; --verbose, where the command has it, shows the traceback")
        raise typer.Exit(1) from None


def one_line(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text.rstrip(".") if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def say_traceback(error: BaseException) -> None:
    """Print the traceback of an error to standard error."""
    say("".join(traceback.format_exception(error)))


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        # Other warnings are for the maintainers of the libraries that raise them.
        if issubclass(category, UserWarning):
            say(f"cast-lens: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def say(text: str) -> None:
    """Print a line to standard error."""
    typer.echo(text, err=True)


def silent(_: object) -> None:
    """Say nothing."""


class Lasting:
    """A stream that survives its reader: once a pipe is closed, output is dropped and the work goes on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write to the stream."""
        return self._kept(self._stream.write, text) or 0

    def flush(self) -> None:
        """Flush the stream."""
        self._kept(self._stream.flush)

    def _kept(self, do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return None
