"""The notebooks read well without being run: outputs kept and clean, cells short, no path of a machine."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
MEGABYTE = 2**20
# A cell that does more than this hides something that belongs in the package.
LONGEST_CELL = 10
WIDEST_LINE = 120
PATHS = re.compile(r"/(?:home|root|tmp|Users|work|workspace)/|[A-Z]:\\\\")


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_they_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_clean(path: Path) -> None:
    assert path.stat().st_size < MEGABYTE
    assert not PATHS.search(path.read_text(encoding="utf-8"))
    for place, cell in enumerate(code(path), start=1):
        assert cell.execution_count == place, "run it from top to bottom: notebooks/execute.py --write"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short(path: Path) -> None:
    for cell in code(path):
        lines = cell.source.splitlines()
        assert len(lines) <= LONGEST_CELL, cell.source
        assert max(map(len, lines)) <= WIDEST_LINE, cell.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_line_says_how_to_see_your_own_model(path: Path) -> None:
    lines = [line for cell in code(path) for line in cell.source.splitlines()]
    assert sum("# to see yours" in line for line in lines) == 1
