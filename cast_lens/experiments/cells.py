"""A grid of cells, each on disk before the next begins.

An experiment is a list of ``Cell``. Each finished cell is one parquet file, written whole or not at all, so that a run
that is killed at any moment resumes where it stopped and ends with the same frame, bit for bit; at most one cell per
worker is computed twice. A cell that fails leaves its traceback in ``failed/`` and does not stop the others.

    experiments/NAME/plan.json        the cells, in order
    experiments/NAME/cells/KEY.parquet
    experiments/NAME/failed/KEY.json  cell, error and traceback
"""

from __future__ import annotations

import hashlib
import json
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from ..files import DamagedFile, damaged, disk_failed, read_frame, read_json, write_frame, write_json


@dataclass(frozen=True, slots=True)
class Cell:
    """One piece of an experiment's work: what is computed and written at once.

    Attributes:
        kind: what is done; an experiment's ``compute`` decides by it.
        target, source: tasks, where the cell has them.
        variant: a method, a template, a language.
        number: a count or a seed.
        draw: which draw of samples and demonstrations; see ``Workspace.drawn``.
        prepares: makes something that later cells read (a vector, a sweep) and no row of the result. All
            preparing cells are finished before the others begin.
    """

    kind: str
    target: str = ""
    source: str = ""
    variant: str = ""
    number: int = 0
    draw: int = 0
    prepares: bool = False

    @property
    def key(self) -> str:
        """File name: readable, and never the same for two cells."""
        parts = [self.kind, self.target, self.source, self.variant, str(self.number)]
        parts += [f"draw {self.draw}"] if self.draw else []
        words = re.sub(r"[^\w.]+", "-", " ".join(part for part in parts if part)).strip("-")
        return f"{words[:80]}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """What became of a cell.

    Attributes:
        frame: its rows; None when it failed.
        error: why, in a line; empty when it did not fail.
        traceback: where.
    """

    frame: pd.DataFrame | None
    error: str = ""
    traceback: str = ""


def attempt(cell: Cell, make: Callable[[Cell], pd.DataFrame]) -> Made:
    """Make a cell, or say why it could not be made.

    Raises:
        DamagedFile, OSError: a damaged file or a full disk, which is not the fault of the cell.
    """
    try:
        return Made(make(cell))
    except DamagedFile:
        raise
    except Exception as error:
        if disk_failed(error):
            raise
        return Made(None, f"{type(error).__name__}: {error}", traceback.format_exc())


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of one experiment on disk.

    Attributes:
        path: ``experiments/NAME`` of a run directory.
        cells: in the order in which they are run and joined.
    """

    path: Path
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, path: Path, cells: Sequence[Cell]) -> Grid:
        """The cells of a plan; nothing is written.

        Raises:
            ValueError: when two cells are the same.
        """
        keys = [cell.key for cell in cells]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"{path.name}: cells occur twice in the plan: {', '.join(twice[:4])}")
        return cls(path, tuple(cells))

    @classmethod
    def planned(cls, path: Path, cells: Sequence[Cell]) -> Grid:
        """The cells of a plan, which is written; the same cells give the same plan.

        Raises:
            ValueError: when two cells are the same.
        """
        grid = cls.of(path, cells)
        write_json(path / "plan.json", [asdict(cell) for cell in cells])
        return grid

    @classmethod
    def read(cls, path: Path) -> Grid:
        """The plan that ``planned`` wrote.

        Raises:
            ValueError: when it is missing or damaged.
        """
        file = path / "plan.json"
        rows = read_json(file)
        if rows is None:
            raise ValueError(f"{file} is missing; the command that ran the experiment writes it again")
        try:
            return cls(path, tuple(Cell(**row) for row in rows))
        except TypeError as error:
            raise damaged(file, error) from None

    def file(self, cell: Cell) -> Path:
        """Where the cell's frame is, or will be."""
        return self.path / "cells" / f"{cell.key}.parquet"

    def failure(self, cell: Cell) -> Path:
        """Where the cell's traceback is, when it failed."""
        return self.path / "failed" / f"{cell.key}.json"

    def done(self) -> list[Cell]:
        """Finished cells."""
        return [cell for cell in self.cells if self.file(cell).is_file()]

    def failed(self) -> list[tuple[Cell, str]]:
        """Cells that failed and have not been finished since, with their errors in a line."""
        found = []
        for cell in self.cells:
            if self.failure(cell).is_file() and not self.file(cell).is_file():
                found.append((cell, str(read_json(self.failure(cell)).get("error", "unknown error"))))
        return found

    def open_cells(self, *, prepares: bool, retry_failed: bool) -> list[Cell]:
        """Cells still to do."""
        return [
            cell
            for cell in self.cells
            if cell.prepares == prepares
            and not self.file(cell).is_file()
            and (retry_failed or not self.failure(cell).is_file())
        ]

    def compute(self, cell: Cell, make: Callable[[Cell], pd.DataFrame]) -> str:
        """Make a cell and write it, or write why it could not be made.

        Returns:
            the error in a line; empty when the cell is finished.

        Raises:
            DamagedFile, OSError: a damaged file or a full disk, which is not the fault of the cell.
        """
        made = attempt(cell, make)
        self.keep(cell, made)
        return made.error

    def keep(self, cell: Cell, made: Made) -> None:
        """Write what became of a cell: its frame, or its failure."""
        if made.frame is None:
            write_json(self.failure(cell), {"cell": asdict(cell), "error": made.error, "traceback": made.traceback})
            return
        write_frame(self.file(cell), made.frame)
        self.failure(cell).unlink(missing_ok=True)

    def rows(self) -> dict[str, pd.DataFrame]:
        """Finished results by kind of cell, each in the plan's order; a kind without a row is missing."""
        found: dict[str, list[pd.DataFrame]] = {}
        for cell in self.cells:
            if not cell.prepares and self.file(cell).is_file():
                frame = read_frame(self.file(cell))
                if len(frame):
                    found.setdefault(cell.kind, []).append(frame)
        return {kind: pd.concat(frames, ignore_index=True) for kind, frames in found.items()}
