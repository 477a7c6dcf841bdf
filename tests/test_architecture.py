"""Imports point one way, files and functions keep to their sizes, and tensors in signatures have shapes."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cast_lens

PACKAGE = Path(cast_lens.__file__).parent
# Rooms may import rooms of a lower rank only.
RANK = {
    "files": -1,
    "hub": -1,
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
    "share": 6,
    "recommend": 8.5,
    "backends": 7,
    "experiments": 8,
    "report": 9,
    "explore": 10,
    "cli_output": 10,
    "cli_options": 10.2,
    "cli_vectors": 10.4,
    "cli": 11,
    "__main__": 12,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Absolute names of the modules that a file imports."""
    tree = tree_of(path)
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


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in (*FILES, PACKAGE / "__init__.py"):
        parts = ("cast_lens", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def run_at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: neither those in functions nor those for type checkers."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from run_at_import([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from run_at_import([*node.body, *(line for handler in node.handlers for line in handler.body)])


def imported_modules(name: str, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a module imports when it is imported itself."""
    package = name.split(".") if known[name].name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in run_at_import(tree_of(known[name]).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        found |= {f"{module}.{alias.name}" if f"{module}.{alias.name}" in known else module for alias in node.names}
    return (found & set(known)) - {name}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_import_goes_in_a_circle() -> None:
    known = modules()
    # Raises CycleError, which names the circle.
    TopologicalSorter({name: imported_modules(name, known) for name in known}).prepare()


def test_experiments_do_not_import_the_report() -> None:
    assert not [path.name for path in FILES if room(path) == "experiments" and "report" in own_rooms(path)]


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor comments, nor docstrings."""
    text, kinds = path.read_text(encoding="utf-8"), (ast.Module, ast.ClassDef, ast.FunctionDef)
    prose: set[int] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in blank]
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - prose)


# What TransformerLens calls a model, in 3.9 and 4: nearly every file imports this one.
SMALL = {"models/lens.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_worth_opening(path: Path) -> None:
    if path.name not in ("__init__.py", "__main__.py") and str(path.relative_to(PACKAGE)) not in SMALL:
        assert code_lines(path) >= 25, "merge it into the file that uses it"


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef))


def test_no_function_is_longer_than_a_screen() -> None:
    lengths = {f"{path.name}: {f.name}": (f.end_lineno or 0) - f.lineno + 1 for path in FILES for f in functions(path)}
    assert not {name: length for name, length in lengths.items() if length > 60}


def public_functions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def without_shape(annotation: ast.expr) -> bool:
    """Whether an annotation holds a tensor or array outside ``Float[...]`` and its like.

    The tensors of a state dictionary have all shapes: ``dict[str, Tensor]`` says what there is to say.
    """
    if isinstance(annotation, ast.Subscript):
        if ast.unparse(annotation.value) in ("Float", "Int", "Bool", "Shaped"):
            return False
        if ast.unparse(annotation) == "dict[str, Tensor]":
            return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return ast.unparse(annotation).rpartition(".")[2] in ("Tensor", "ndarray")
    return any(without_shape(part) for part in ast.iter_child_nodes(annotation) if isinstance(part, ast.expr))


def test_tensors_in_public_signatures_have_shapes() -> None:
    bare = []
    for path in FILES:
        for function in public_functions(tree_of(path).body):
            given = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
            annotations = [*(one.annotation for one in given), function.returns]
            if any(without_shape(one) for one in annotations if one is not None):
                bare.append(f"{path.name}: {function.name}")
    assert not bare


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
