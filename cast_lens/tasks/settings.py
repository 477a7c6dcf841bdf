"""What a task of a folder is and how it is worded: by its records, or as its ``task.json`` says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from .jsonl import Line
from .templates import FAMILIES, KNOWN, PLAIN, check_template, plain_instruction
from .types import Example, Kind, Template

_PAPER_INSTRUCTIONS = Path("cross_task_icl") / "instructions.json"
_TEXTS = ("kind", "family", "instruction", "template", "definition", "option")


@dataclass(frozen=True, slots=True)
class Settings:
    """A ``task.json``: every part may be left out.

    Attributes:
        kind, family, instruction, labels: as in `Task`.
        template: the body of the template.
        definition, option: as in `Template`.
        where: the file, for errors and as the template's name.
    """

    kind: Kind | None = None
    family: str | None = None
    instruction: str | None = None
    labels: tuple[str, ...] | None = None
    template: str | None = None
    definition: str | None = None
    option: str | None = None
    where: str = ""


def read_settings(paths: Iterable[Path]) -> Settings:
    """Merge ``task.json`` files; a later one wins.

    Raises:
        ValueError: naming the file and the key: broken JSON, an unknown key, a wrong type.
    """
    settings = Settings()
    for path in paths:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: broken JSON: {error}") from None
        settings = replace(settings, **_checked(raw, path), where=str(path))
    return settings


def infer_kind(lines: Sequence[Line], settings: Settings) -> Kind:
    """What kind of task the records are of: by ``task.json``, or else by their choices.

    No choices anywhere make free answers, the same choices on every record a classification, other choices
    multiple choice.

    Raises:
        ValueError: naming the first record without choices where others have some.
    """
    if settings.kind is not None:
        return settings.kind
    if settings.labels is not None:
        return "classification"
    with_choices = [line for line in lines if line.example.choices]
    if not with_choices:
        return "free"
    if len(with_choices) < len(lines):
        bare = next(line for line in lines if not line.example.choices)
        raise ValueError(
            f'{bare.where}: field "choices" is missing or null, but other records of the task have choices; '
            "give every record choices, or none"
        )
    same = len({frozenset(line.example.choices) for line in lines}) == 1
    return "classification" if same else "multiple-choice"


def settle(lines: Sequence[Line], kind: Kind, settings: Settings) -> tuple[str, ...]:
    """Check every record against the task's kind, and find its label words.

    Returns:
        the labels of a classification, in the order of ``task.json`` or of the first record; else nothing.

    Raises:
        ValueError: naming the record: options missing or superfluous, a label that is none.
    """
    if kind == "free":
        _refuse(lines, lambda example: bool(example.choices), 'field "choices": free answers have none')
        return ()
    if kind == "multiple-choice":
        _refuse(lines, lambda example: not example.choices, 'field "choices": multiple choice needs options')
        return ()
    labels = settings.labels or lines[0].example.choices
    if not labels:
        raise ValueError(
            f"{settings.where or lines[0].where}: a classification needs its label words; "
            'give every record "choices", or "labels" in task.json'
        )
    for line in lines:
        if line.example.answer not in labels:
            raise ValueError(
                f'{line.where}: field "answer": {line.example.answer!r} is no label; known are {list(labels)}'
            )
        if line.example.choices and set(line.example.choices) != set(labels):
            raise ValueError(
                f'{line.where}: field "choices": expected the labels {list(labels)}, '
                f"got {list(line.example.choices)}"
            )
    return labels


def wording(
    name: str, kind: Kind, labels: tuple[str, ...], settings: Settings, *, root: Path | None = None
) -> tuple[Template, str]:
    """Template and instruction of a task.

    ``task.json`` comes first, then what arXiv 2405.10548 uses for a data set that we know (its instruction
    where the folder holds ``cross_task_icl/instructions.json``, ours otherwise), then a plain one.

    Raises:
        ValueError: for a template, definition or option that could not be filled in.
    """
    base = name.partition(".")[0]
    known = KNOWN.get(base)
    if known is not None and known.kind == kind:
        paper = _paper_instruction(root, base)
        source = "own instruction" if paper is None else "paper's instruction"
        template = replace(known.template, name=f"{known.template.name}, {source}")
        instruction = known.instruction if paper is None else paper
    else:
        template, instruction = PLAIN[kind], plain_instruction(kind, labels)
    changes = {
        "body": settings.template,
        "definition": settings.definition,
        "option": settings.option,
        "name": f"{name}/task.json" if settings.where else None,
    }
    template = replace(template, **{key: value for key, value in changes.items() if value is not None})
    if settings.instruction is not None:
        instruction = settings.instruction
        if settings.definition is None and not template.definition:
            template = replace(template, definition=Template("", "").definition)
    return template, instruction


def family_of(name: str, kind: Kind, settings: Settings) -> str:
    """The family that figures group the task under."""
    known = KNOWN.get(name.partition(".")[0])
    return settings.family or (known.family if known is not None and known.kind == kind else FAMILIES[kind])


def check_wording(template: Template, examples: Iterable[Example], kind: Kind, *, where: str) -> None:
    """Refuse a template that some example could not fill.

    Raises:
        ValueError: naming the task and what the template asks for.
    """
    examples = list(examples)
    shared = set.intersection(*(set(example.fields) for example in examples)) if examples else set()
    offered = {"input"} | shared | ({"options"} if kind == "multiple-choice" else set())
    check_template(template, frozenset(offered), where=where)


def _refuse(lines: Iterable[Line], bad: Callable[[Example], bool], message: str) -> None:
    for line in lines:
        if bad(line.example):
            raise ValueError(f"{line.where}: {message}")


def _paper_instruction(root: Path | None, name: str) -> str | None:
    path = root / _PAPER_INSTRUCTIONS if root is not None else None
    if path is None or not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8")).get(name)
        return entry["instruction"] if entry is not None else None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected {{"<data set>": {{"instruction": "…"}}}}, got something else ({error}); '
            "correct or remove the file"
        ) from None


def _checked(raw: Any, path: Path) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    for key, value in raw.items():
        if key == "labels":
            texts = isinstance(value, list) and all(
                isinstance(label, str) and label.strip() for label in value
            )
            if not texts or len(set(value)) < 2 or len(set(value)) < len(value):
                raise ValueError(
                    f'{path}: "labels": expected a list of two or more different texts, got {value!r}'
                )
        elif key not in _TEXTS:
            raise ValueError(f'{path}: "{key}" is unknown; known are {", ".join((*_TEXTS, "labels"))}')
        elif not isinstance(value, str):
            raise ValueError(f'{path}: "{key}": expected text, got {value!r}')
    if raw.get("kind") not in (None, *get_args(Kind)):
        raise ValueError(f'{path}: "kind": expected one of {", ".join(get_args(Kind))}, got {raw["kind"]!r}')
    return {key: tuple(value) if key == "labels" else value for key, value in raw.items()}
