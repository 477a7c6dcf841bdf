"""What a task of a folder is and how it is worded: by its records, or as its ``task.json`` says."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any, get_args

from .answers import AnswerRule
from .formats import load_json
from .records import Line
from .templates import FAMILIES, KNOWN, PAPER, PLAIN, check_template, plain_instruction
from .types import Example, Kind, Template

_PAPER_INSTRUCTIONS = Path("cross_task_icl") / "instructions.json"
_TEXTS = ("kind", "family", "instruction", "template", "definition", "option", "answer_rule")
# Answers called labels are labels up to this number of different ones.
_MOST_LABELS = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """A ``task.json``: every part may be left out.

    Attributes:
        kind, family, instruction, labels: as in `Task`.
        template: the body of the template.
        definition, option: as in `Template`.
        answer_rule: as in `Task`.
        fields: the files' own names; see `cast_lens.tasks.records.read_lines`.
        where: the file, for errors and as the template's name.
    """

    kind: Kind | None = None
    family: str | None = None
    instruction: str | None = None
    labels: tuple[str, ...] | None = None
    template: str | None = None
    definition: str | None = None
    option: str | None = None
    answer_rule: AnswerRule | None = None
    fields: Mapping[str, str] | None = None
    where: str = ""


def read_settings(paths: Iterable[Path]) -> Settings:
    """Merge ``task.json`` files; a later one wins.

    Raises:
        ValueError: naming the file and the key: broken JSON, an unknown key, a wrong type.
    """
    settings = Settings()
    for path in paths:
        settings = replace(settings, **_checked(load_json(path.read_bytes(), str(path)), path), where=str(path))
    return settings


def infer_kind(lines: Sequence[Line], settings: Settings) -> Kind:
    """What kind of task the records are of: by ``task.json``, or else by their choices.

    No choices anywhere make free answers, unless the answer is called a label and labels repeat; the same choices on
    every record make a classification, other choices multiple choice.

    Raises:
        ValueError: naming the first record without choices where others have some, or the first one whose choices are
            not those of most others.
    """
    if settings.kind is not None:
        return settings.kind
    if settings.labels is not None:
        return "classification"
    sets = Counter(frozenset(line.example.choices) for line in lines)
    if set(sets) == {frozenset()}:
        labels = {line.example.answer for line in lines}
        # Three lines with two labels are a classification as well.
        repeated = 2 <= len(labels) <= min(_MOST_LABELS, max(2, len(lines) // 2)) and len(labels) < len(lines)
        return "classification" if repeated and all(line.labelled for line in lines) else "free"
    if frozenset() in sets:
        bare = next(line for line in lines if not line.example.choices)
        raise ValueError(
            f'{bare.where}: field "choices" is missing or null, but other records of the task have choices; '
            "give every record choices, or none"
        )
    (usual, count), *others = sets.most_common()
    if others and count > 1 and 2 * count >= len(lines):
        odd = next(line for line in lines if frozenset(line.example.choices) != usual)
        raise ValueError(
            f'{odd.where}: field "choices": got {list(odd.example.choices)}, but {count} of {len(lines)} records have '
            f'{sorted(usual)}; correct the record, or write {{"kind": "multiple-choice"}} into task.json if each '
            "record has options of its own"
        )
    return "multiple-choice" if others else "classification"


def settle(lines: Sequence[Line], kind: Kind, settings: Settings) -> tuple[str, ...]:
    """Check every record against the task's kind, and find its label words.

    Returns:
        the labels of a classification, in the order of ``task.json`` or of the first record; else nothing.

    Raises:
        ValueError: naming the record: options missing or superfluous, a label that is not one of the task's.
    """
    if kind != "multiple-choice":
        _refuse(
            lines,
            lambda example: len(example.answer.splitlines()) > 1,
            'field "answer": has a line end, but a model\'s answer is read up to the first one; write it in one line',
        )
    if kind == "free":
        _refuse(lines, lambda example: bool(example.choices), 'field "choices": free answers have none')
        return ()
    if kind == "multiple-choice":
        _refuse(lines, lambda example: not example.choices, 'field "choices": multiple choice needs options')
        _refuse(
            lines,
            lambda example: len(example.choices) > len(ascii_uppercase),
            f'field "choices": there are letters for {len(ascii_uppercase)} options only; leave some out, or, if they '
            "are the labels of the task, give every record the same ones",
        )
        _refuse(
            lines,
            lambda example: example.choices.count(example.answer) > 1 and "label" not in example.fields,
            'field "choices": the answer occurs twice; say which one it is by its letter, as "fields": {"label": "B"}',
        )
        return ()
    labels = settings.labels or lines[0].example.choices
    if not labels and all(line.labelled for line in lines):
        labels = tuple(dict.fromkeys(line.example.answer for line in lines))
    if len(set(labels)) < len(labels):
        raise ValueError(
            f'{lines[0].where}: field "choices": a label occurs twice in {list(labels)}; name each label once'
        )
    if not labels:
        raise ValueError(
            f"{settings.where or lines[0].where}: a classification needs its label words; "
            'give every record "choices", or "labels" in task.json'
        )
    for line in lines:
        if line.example.answer not in labels:
            raise ValueError(
                f'{line.where}: field "answer": {line.example.answer!r} is not a label; known are {list(labels)}'
            )
        if line.example.choices and set(line.example.choices) != set(labels):
            raise ValueError(
                f'{line.where}: field "choices": expected the labels {list(labels)}, got {list(line.example.choices)}'
            )
    return labels


def wording(
    name: str,
    kind: Kind,
    labels: tuple[str, ...],
    settings: Settings,
    examples: Sequence[Example],
    *,
    root: Path | None = None,
) -> tuple[Template, str, str]:
    """Template, instruction and family of a task.

    ``task.json`` comes first; then what arXiv 2405.10548 uses for a data set of that name (its instruction
    where the folder holds ``cross_task_icl/instructions.json``, ours otherwise), where kind, labels and fields are
    those of the data set, with a warning where they are not; then a plain one.

    Raises:
        ValueError: for a template, definition or option that could not be filled in.
    """
    base = name.partition(".")[0]
    known = KNOWN.get(base)
    misfit = known.misfit(kind, labels, examples) if known is not None else ""
    if known is not None and not misfit:
        paper = _paper_instruction(root, base)
        source = "own instruction" if paper is None else "paper's instruction"
        template = replace(known.template, name=f"{known.template.name}, {source}")
        instruction, family = known.instruction if paper is None else paper, known.family
    else:
        template, instruction, family = PLAIN[kind], plain_instruction(kind, labels), FAMILIES[kind]
    if misfit and settings.template is None:
        warnings.warn(
            f"{name}: this is not the public data set {base!r} ({misfit}), so the wording of arXiv {PAPER} is not "
            f"used but {template.name!r}; rename the folder, or word the task in task.json",
            stacklevel=2,
        )
    own = any((settings.template, settings.definition, settings.option))
    changes = {
        "body": settings.template,
        "definition": settings.definition,
        "option": settings.option,
        "name": f"{name}/task.json" if settings.where else f"{name}/own" if own else None,
    }
    template = replace(template, **{key: value for key, value in changes.items() if value is not None})
    if settings.instruction is not None:
        instruction = settings.instruction
        if settings.definition is None and not template.definition:
            template = replace(template, definition=Template("", "").definition)
    return template, instruction, settings.family or family


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
        entry = load_json(path.read_bytes(), str(path)).get(name)
        return entry["instruction"] if entry is not None else None
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: expected {{"<data set>": {{"instruction": "…"}}}}, got something else ({error}); '
            "correct or remove the file"
        ) from None


def _checked(raw: Any, path: Path) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    for key, value in raw.items():
        if key == "labels":
            texts = isinstance(value, list) and all(isinstance(label, str) and label.strip() for label in value)
            if not texts or len(set(value)) < 2 or len(set(value)) < len(value):
                raise ValueError(f'{path}: "labels": expected a list of two or more different texts, got {value!r}')
            if lined := [label for label in value if "\n" in label.strip()]:
                raise ValueError(f'{path}: "labels": {lined[0]!r} has a line end; labels are one line')
        elif key == "fields":
            if not isinstance(value, dict) or not all(isinstance(own, str) for own in value.values()):
                raise ValueError(f'{path}: "fields": expected names by field, as {{"input": "text"}}, got {value!r}')
        elif key not in _TEXTS:
            known = ", ".join((*_TEXTS, "labels", "fields"))
            raise ValueError(f'{path}: "{key}" is unknown; known are {known}')
        elif not isinstance(value, str):
            raise ValueError(f'{path}: "{key}": expected text, got {value!r}')
    for key, kinds in (("kind", get_args(Kind)), ("answer_rule", get_args(AnswerRule))):
        if raw.get(key) not in (None, *kinds):
            raise ValueError(f'{path}: "{key}": expected one of {", ".join(kinds)}, got {raw[key]!r}')
    return {key: tuple(label.strip() for label in value) if key == "labels" else value for key, value in raw.items()}
