"""Command-line options, generated from the dataclasses that the commands fill.

Each field is an option: its annotation says how text is parsed, the ``Attributes`` section of the docstring is its
help, and what ``__post_init__`` checks is its range. Classes are parsed as text, not imported: importing an experiment
loads PyTorch, which takes seconds, and help and errors should appear at once.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_output import explained
from .experiments.catalogue import EXPERIMENTS
from .experiments.config import CHOICES, MOST_LAYERS, RANGES

PACKAGE = Path(__file__).parent
CORE = "experiments/config.py"
EMBEDDED = "smollm2-135m-instruct"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Recipe": ("preset",),
    "Model": ("model", "device", "dtype", "threads", "chat", "chat_arguments", "encoder"),
    "Tasks": ("sources", "targets", "tasks", "hub", "fields", "folder", "hold_out"),
    "Vectors": ("shots", "samples", "select", "budget"),
    "Steering": ("layers", "strengths", "operator", "position", "rule", "validation", "finalists"),
    "Evaluation": ("test", "placebos", "bootstrap", "seed"),
}
"""Headings of the options that all experiments share."""
UNKNOWN = object()
"""A default that is not known without importing the class."""


@dataclass(frozen=True, slots=True)
class ModelCommand:
    """Which model a command loads, and how.

    Attributes:
        model: the model to load: the embedded one, a name on the Hugging Face hub, a local folder or a .gguf file.
        device: where the model runs: cpu, cuda, mps, auto, or spread over all devices.
        dtype: the precision of the weights: auto, float32, bfloat16 or float16; auto is the checkpoint's own for large
            models where the device is no slower in it, and float32 otherwise.
    """

    model: str = EMBEDDED
    device: str = "cpu"
    dtype: str = "auto"


def check_model(name: str, *, hub: bool = True) -> None:
    """Refuse names that cannot be a model before anything heavy is loaded.

    Args:
        name: a hub name, a path, or the embedded model.
        hub: whether a name that is no path has to be one that the hub or its cache has.

    Raises:
        ValueError: for a path that does not exist, for what looks like the embedded model misspelt, and for a name that
            is not in the cache while the hub cannot be asked.
    """
    if Path(name).expanduser().exists():
        return
    if name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or name.endswith(".gguf"):
        raise ValueError(
            f"--model {name} does not exist; give a hub name, a folder with config.json and weights, or a .gguf file"
        )
    alike = difflib.get_close_matches(name.lower(), [EMBEDDED], cutoff=0.5) or name.lower().startswith("smol")
    if alike and name != EMBEDDED and "/" not in name:
        raise ValueError(f"--model {name} is unknown; did you mean {EMBEDDED}? A hub name is written owner/name")
    if hub and name != EMBEDDED:
        from .hub import check_hub_name  # It needs huggingface_hub, which help and the other checks do not.

        check_hub_name(name)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command.

    Attributes:
        name: name of the field.
        kind: ``int``, ``float``, ``bool`` or ``str``.
        many: whether it takes several comma-separated values.
        default: value of the field; ``UNKNOWN`` if only an import would show it.
        text: what it means.
        group: heading in the help.
        least: smallest number, where it is checked.
        most: largest number, where it is checked.
        choices: the admissible values, if there are few.
    """

    name: str
    kind: str
    many: bool
    default: Any
    text: str
    group: str
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help(self) -> str:
        """What it means, its default and its admissible values."""
        notes = []
        if self.default is not UNKNOWN and self.default not in ((), "", None) and self.kind != "bool":
            shown = self.default if self.many else (self.default,)
            notes.append(f"default: {', '.join(map(str, shown)).strip() or repr(self.default)}")
        if self.kind == "bool" and self.default is not UNKNOWN:
            notes.append(f"default: {'yes' if self.default else 'no'}")
        if self.least is not None:
            notes.append(f"{self.least} or more" if self.most is None else f"from {self.least} to {self.most:,}")
        if self.choices:
            notes.append(f"one of {', '.join(filter(None, self.choices))}")
        text = self.text if self.text.endswith(".") else f"{self.text}."
        text = text[0].upper() + text[1:]
        return f"{text} ({'; '.join(notes)})" if notes else text

    def parsed(self, text: str) -> Any:
        """The value that is written as that text.

        Raises:
            ValueError: naming the option, when the text is not such a value.
        """
        if not self.many:
            return self._one(text.strip() if self.kind != "str" else text)
        items = [item.strip() for item in text.split(",") if item.strip()]
        if not items:
            raise ValueError(f"{self.flag}: {text!r} names nothing; give comma-separated values")
        if self.name == "layers":
            return [layer for item in items for layer in self._layers(item)]
        return [self._one(item) for item in items]

    def _one(self, text: str) -> Any:
        if self.kind not in ("int", "float"):
            return text
        try:
            return int(text) if self.kind == "int" else float(text)
        except ValueError:
            whole = " whole" if self.kind == "int" and re.fullmatch(r"[-+]?\d*\.\d*", text) else ""
            raise ValueError(f"{self.flag}: {text[:40]!r} is not a{whole} number") from None

    def _layers(self, item: str) -> range:
        first, dash, last = item.partition("-")
        if not first:
            raise ValueError(f"{self.flag}: {item!r} is not a layer; layers are counted from 0")
        start, end = self._one(first), self._one(last if dash else first)
        if end < start:
            raise ValueError(f"{self.flag}: {item} runs backwards; write {end}-{start}")
        if end > MOST_LAYERS:
            raise ValueError(f"{self.flag}: {item}: no model has more than {MOST_LAYERS:,} layers")
        return range(start, end + 1)


@cache
def declared(file: str, owner: str, group: str = "") -> tuple[Option, ...]:
    """The fields of a dataclass as options.

    Args:
        file: where the class is written, from the package on.
        owner: name of the class; empty for the first one that derives from ``Experiment``.
        group: heading for options that ``GROUPS`` does not place.
    """
    module = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    found = next(
        node
        for node in module.body
        if isinstance(node, ast.ClassDef) and (node.name == owner if owner else _is_experiment(node))
    )
    constants, texts = dict(_constants(module)), _attributes(ast.get_docstring(found) or "")
    core, checked = file == CORE, set(_checked(found))
    # Inherited ones may be described and checked where they are inherited.
    options = [
        replace(one, text=texts.get(one.name, one.text), least=1 if one.name in checked else one.least)
        for place, base in _bases(module, found, file)
        for one in declared(place, base, group)
    ]
    for node in found.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, kind = node.target.id, ast.unparse(node.annotation)
        if kind.startswith("ClassVar"):
            continue
        base = re.search(r"\b(int|float|bool)\b", kind)
        least, most = RANGES.get(name, (None, None)) if core else (1 if name in checked else None, None)
        places = (title for title, names in GROUPS.items() if name in names)
        options.append(
            Option(
                name,
                base[1] if base else "str",
                kind.startswith("tuple"),
                _value(node.value, constants),
                texts.get(name, name),
                next(places, group) if core or group == "Command" else group,
                least,
                most,
                CHOICES.get(name, ()) if core else (),
            )
        )
    return tuple(options)


def called(folder: str, name: str) -> list[tuple[str, str]]:
    """The first two texts, second one first, of every call of that name in the files of a folder."""
    found = []
    for path in sorted((PACKAGE / folder).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if f"{name}(" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                first, second = (ast.literal_eval(one) for one in node.args[:2])
                found.append((str(second), str(first)))
    return found


def _bases(module: ast.Module, owner: ast.ClassDef, file: str) -> Iterator[tuple[str, str]]:
    """File and name of the classes whose fields a class inherits."""
    homes = {node.name: file for node in module.body if isinstance(node, ast.ClassDef)}
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            home = (PACKAGE / file).parents[node.level - 1] / f"{node.module.replace('.', '/')}.py"
            homes |= {alias.name: str(home.relative_to(PACKAGE)) for alias in node.names}
    for base in owner.bases:
        if isinstance(base, ast.Name) and base.id in homes and base.id != "Experiment":
            yield homes[base.id], base.id


def _is_experiment(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Experiment" for base in node.bases)


def experiment_options(name: str) -> tuple[Option, ...]:
    """The options of one experiment beyond those that all of them share."""
    return declared(f"experiments/catalogue/{name.replace('-', '_')}.py", "", f"Only for {name}")


def core_options() -> tuple[Option, ...]:
    """The options that all experiments share, in the order of ``GROUPS``."""
    order = list(GROUPS)
    found = declared(CORE, "RunConfig", "Other")
    return tuple(sorted(found, key=lambda one: order.index(one.group) if one.group in order else len(order)))


def all_options() -> tuple[Option, ...]:
    """The options of all experiments together; an option of several experiments appears once."""
    found = {one.name: one for one in core_options()}
    for name in EXPERIMENTS:
        for one in experiment_options(name):
            found.setdefault(one.name, replace(one, group="Single experiments"))
    return tuple(found.values())


def _constants(module: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in module.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _value(node: ast.expr | None, constants: Mapping[str, ast.expr]) -> Any:
    if isinstance(node, ast.Name) and node.id in constants:
        node = constants[node.id]
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


def _checked(owner: ast.ClassDef) -> Iterator[str]:
    """Fields that ``at_least_one`` and ``increasing`` check."""
    for node in ast.walk(owner):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("at_least_one", "increasing")
        ):
            yield from (str(one.value) for one in node.args if isinstance(one, ast.Constant))


def _attributes(docstring: str) -> dict[str, str]:
    """The entries under ``Attributes:`` by name; ``a, b: text`` is one for each."""
    section = re.split(r"\n(?=\S)", docstring.partition("Attributes:\n")[2])[0]
    found: dict[str, str] = {}
    for entry in re.split(r"(?:^|\n)    (?=\w[\w, ]*:)", section):
        names, _, text = entry.strip().partition(":")
        text = " ".join(text.replace("``", "").split())
        found |= {name.strip(): text for name in names.split(",") if name.strip()}
    return found


def command(
    run: Callable[[dict[str, Any]], None], options: Sequence[Option], argument: str = ""
) -> Callable[..., None]:
    """A function with one parameter per option, for ``typer``; ``run`` gets those that were given, as values.

    Args:
        run: called with the values by name.
        options: the options of the command.
        argument: help of a positional argument ``path``; empty for none.
    """
    by_name = {one.name: one for one in options}

    def called(**given: Any) -> None:
        def job() -> None:
            values = {name: value for name, value in given.items() if value is not None}
            run(
                {
                    name: by_name[name].parsed(value) if isinstance(value, str) and name in by_name else value
                    for name, value in values.items()
                }
            )

        explained(job, quiet=bool(given.get("quiet")), verbose=bool(given.get("verbose")))

    parameters = [_parameter(one) for one in options]
    if argument:
        kind = Annotated[Path, typer.Argument(help=argument)]
        parameters.insert(0, inspect.Parameter("path", _KEYWORD, annotation=kind))
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(option: Option) -> inspect.Parameter:
    kind: Any
    if option.kind == "bool":
        # A switch of the command itself is off by default and needs no opposite.
        plain = option.group == "Command"
        flags = (option.flag,) if plain else (f"{option.flag}/--no-{option.flag[2:]}",)
        kind = Annotated[
            bool | None, typer.Option(*flags, help=option.help, rich_help_panel=option.group, show_default=False)
        ]
    else:
        names = {"int": "NUMBER", "float": "NUMBER", "str": "TEXT"}[option.kind]
        kind = Annotated[
            str | None,
            typer.Option(
                option.flag,
                help=option.help,
                rich_help_panel=option.group,
                show_default=False,
                metavar=f"{names},..." if option.many else names,
                autocompletion=_completion(option),
            ),
        ]
    return inspect.Parameter(option.name, _KEYWORD, default=None, annotation=kind)


def _completion(option: Option) -> Callable[[str], list[str]]:
    """What TAB offers for an option; in a list, for the item after the last comma."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if option.many else ("", "", incomplete)
        return [f"{before}{comma}{name}" for name in _known(option) if name.startswith(last)]

    return complete


def _known(option: Option) -> Sequence[str]:
    if option.choices:
        return tuple(filter(None, option.choices))
    if option.name in ("sources", "targets", "hold_out"):
        from .tasks import list_tasks

        return [info.name for info in list_tasks()]
    if option.name == "model":
        return [EMBEDDED]
    return option.default if option.many and option.default is not UNKNOWN and option.kind == "str" else ()
