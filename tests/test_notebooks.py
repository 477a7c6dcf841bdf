"""The notebooks read well without being run: outputs kept and clean, cells short, no machine's path, public names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

import cast_lens

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
MEGABYTE = 2**20
# A cell that does more than this hides something that belongs in the package.
LONGEST_CELL = 10
WIDEST_LINE = 120
PATHS = re.compile(r"/(?:home|root|tmp|Users|work|workspace)/|[A-Z]:\\\\")


# Public rooms of a room, besides those that `cl.` completes.
DEEPER = ("cast_lens.methods.atv", "cast_lens.methods.adapters")
BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_they_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_clean(path: Path) -> None:
    assert path.stat().st_size < MEGABYTE
    assert not PATHS.search(path.read_text(encoding="utf-8"))
    cells = code(path)
    # The cell that installs may be left out; all others are run from top to bottom.
    first = 1 if cells[0].execution_count else 0
    for place, cell in enumerate(cells, start=first):
        assert cell.execution_count == (place or None), "run it from top to bottom: notebooks/execute.py --write"
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


def parsed(path: Path) -> Iterator[ast.Module]:
    """The code cells; a line of IPython's own, such as %pip, stands for nothing."""
    for cell in code(path):
        yield ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE))


def dotted(node: ast.expr) -> list[str]:
    """``cl.stats.gain_split`` as its parts; empty for anything that is not names and dots."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return [*before, node.attr] if before else []
    return []


def public(names: list[str]) -> bool:
    """Whether a name exists in the package, and in ``__all__`` of each room on the way."""
    found: object = cast_lens
    for place, name in enumerate(names):
        listed = getattr(found, "__all__", None) if isinstance(found, ModuleType) and place else None
        if name.startswith("_") or not hasattr(found, name) or (listed is not None and name not in listed):
            return False
        found = getattr(found, name)
        if not isinstance(found, ModuleType):
            # Attributes of classes and results are theirs.
            return all(not one.startswith("_") for one in names)
    return True


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_public_names_of_the_package(path: Path) -> None:
    used = 0
    for module in parsed(path):
        for node in ast.walk(module):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), "library code in a notebook"
            if isinstance(node, ast.Import):
                assert all(one.name == "cast_lens" for one in node.names if one.name.startswith("cast_lens"))
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cast_lens"):
                for one in node.names:
                    used += 1
                    if f"{node.module}.{one.name}" not in DEEPER:
                        assert public([*str(node.module).split(".")[1:], one.name]), ast.unparse(node)
            if isinstance(node, ast.Attribute) and (names := dotted(node)) and names[0] == "cl":
                assert public(names[1:]), ".".join(names)
                used += 1
    assert used


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_badge_and_a_cell_that_installs_come_first(path: Path) -> None:
    first, second = nbformat.read(path, as_version=4).cells[:2]
    assert first.source.startswith("# ")
    assert BADGE in first.source
    assert "find_spec" in second.source
    assert "%pip install" in second.source
    assert second.metadata["tags"] == ["install"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_how_many_intervals_and_placebos_are_named(path: Path) -> None:
    prose = " ".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for wanted in (r"\b\d+\b", "interval", "placebo|random direction"):
        assert re.search(wanted, prose, re.IGNORECASE), wanted
