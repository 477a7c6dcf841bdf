"""The house: imports point one way, one room loads models, two touch hooks, and importing is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cast_lens

PACKAGE = Path(cast_lens.__file__).parent
# Rooms may import rooms of a lower rank only.
RANK = {
    "files": -1,
    "tasks": 0,
    "interventions": 0,
    "sublayers": 0.5,
    "stats": 0,
    "plots": 0,
    "vectors": 1,
    "gguf": 2,
    "placebos": 2,
    "geometry": 2,
    "selection": 2,
    "models": 3,
    "engine": 4,
    "positions": 4,
    "extraction": 5,
    "hooks": 5,
    "steering": 6,
    "effects": 6,
    "evaluation": 6,
    "methods": 7,
    "share": 7,
    "recommend": 8,
    "backends": 8,
    "experiments": 8,
    "report": 9,
    "explore": 10,
    "cli_options": 10,
    "cli": 11,
    "__main__": 12,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    package = ("cast_lens", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} if node.module else {f"{module}.{alias.name}" for alias in node.names}
    return found


def own_rooms(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path) if name.startswith("cast_lens.")]
    return {part[1] for part in parts} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    upward = {other for other in own_rooms(path) if other != here and RANK[other] >= RANK[here]}
    # A vector's methods that are given a model ask the models' room whether it is the right one.
    at_top = {name.split(".")[1] for name in imported(path, top_level=True) if name.startswith("cast_lens.")}
    upward -= {"models", "share"} - at_top if here == "vectors" else set()
    assert not upward, f"{path.name} of room {here} imports {sorted(upward)}"


def test_every_room_has_its_rank() -> None:
    assert {room(path) for path in FILES} <= set(RANK)


def test_only_models_loads_models() -> None:
    loaders = ("transformer_lens.loading_from_pretrained", "transformer_lens.pretrained")
    users = {room(path) for path in FILES for name in imported(path) if name.startswith(loaders)}
    assert users == {"models"}


def test_hooks_stay_in_their_rooms() -> None:
    words = ("run_with_hooks", "add_hook(", ".hooks(")
    users = {room(path) for path in FILES if any(word in path.read_text(encoding="utf-8") for word in words)}
    # models gives transformers' own modules the hook points of TransformerLens.
    assert users <= {"engine", "steering", "hooks", "models"}


def test_plots_see_frames_only() -> None:
    used = {name.split(".")[0] for path in FILES if room(path) == "plots" for name in imported(path)}
    assert not used & {"torch", "transformer_lens", "transformers"}


def test_importing_the_package_and_its_command_line_is_light() -> None:
    heavy = ("torch", "transformers", "pandas", "plotly", "sklearn", "umap", "scipy")
    code = f"import sys, cast_lens, cast_lens.cli; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist() -> None:
    for name in cast_lens.__all__:
        assert getattr(cast_lens, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cast_lens.nothing
