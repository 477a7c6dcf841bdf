"""Reads JSONL task files, one record a line, and names every fault by file, line and field.

A record is ``{"id", "input", "answer"}`` with optional ``choices`` (label names, or the options of a
multiple-choice item; null for free answers), ``fields`` (named parts of the input), ``lang`` and ``split``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from .types import Example

_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true/false",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One record and where it stood.

    Attributes:
        example: the record; ``choices`` are those of the record, be they labels or options.
        split: the record's own ``split`` field, where it has one.
        where: ``file:line``, for errors.
    """

    example: Example
    split: str | None
    where: str


def read_jsonl(path: Path, *, language: str = "en") -> list[Line]:
    """Every record of a file, checked.

    Args:
        path: a UTF-8 file; blank lines are skipped.
        language: for records without ``lang``.

    Raises:
        ValueError: naming file, line and field: broken JSON or UTF-8, a missing or empty field, a wrong type,
            an answer that is not among the choices, an id that was used before.
    """
    try:
        raw_lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give a JSONL file") from error
    numbered = ((f"{path}:{number}", raw) for number, raw in enumerate(raw_lines, start=1))
    lines = [_line(_record(raw, where), where, language) for where, raw in numbered if raw.strip()]
    if not lines:
        raise ValueError(f"{path} has no records; write one JSON object a line")
    check_ids(lines)
    return lines


def check_ids(lines: list[Line]) -> None:
    """Refuse an id that two records share.

    Raises:
        ValueError: naming both places.
    """
    seen: dict[str, str] = {}
    for line in lines:
        if line.example.id in seen:
            raise ValueError(
                f'{line.where}: field "id": {line.example.id!r} was used before, at {seen[line.example.id]}; '
                "ids are unique within a task, over all its splits"
            )
        seen[line.example.id] = line.where


def _record(raw: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: broken JSON at column {error.colno}: {error.msg}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected a JSON object, got {_kind_of(record)}")
    return record


def _line(record: dict[str, Any], where: str, language: str) -> Line:
    choices = _choices(record.get("choices"), where)
    answer = _text(record, "answer", where).strip()
    if choices and answer not in choices:
        raise ValueError(f'{where}: field "answer": {answer!r} is not among the choices {list(choices)}')
    fields = _fields(record.get("fields"), where)
    _check_letter(fields, choices, answer, where)
    example = Example(
        id=_text(record, "id", where),
        input=_text(record, "input", where),
        answer=answer,
        choices=choices,
        fields=fields,
        language=_text(record, "lang", where) if record.get("lang") is not None else language,
    )
    return Line(example, _text(record, "split", where) if "split" in record else None, where)


def _text(record: dict[str, Any], field: str, where: str) -> str:
    if field not in record:
        raise ValueError(
            f'{where}: field "{field}" is missing; the record has {", ".join(record) or "no fields"}'
        )
    value = record[field]
    if not isinstance(value, str):
        raise ValueError(f'{where}: field "{field}": expected text, got {_kind_of(value)} {value!r}')
    if not value.strip():
        raise ValueError(f'{where}: field "{field}" is empty')
    return value


def _choices(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) and choice.strip() for choice in value):
        raise ValueError(
            f'{where}: field "choices": expected a list of non-empty texts or null, got {value!r}'
        )
    if not 2 <= len(value) <= len(ascii_uppercase):
        raise ValueError(
            f'{where}: field "choices": expected 2 to {len(ascii_uppercase)} of them, got {len(value)}; '
            "use null for free answers"
        )
    return tuple(choice.strip() for choice in value)


def _fields(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
        raise ValueError(f'{where}: field "fields": expected an object of texts, got {value!r}')
    return value


def _check_letter(fields: Mapping[str, str], choices: tuple[str, ...], answer: str, where: str) -> None:
    """``fields.label``, where it is a letter of an option, has to name the answer."""
    named = dict(zip(ascii_uppercase, choices, strict=False))
    if (letter := fields.get("label")) in named and letter is not None and named[letter] != answer:
        raise ValueError(
            f'{where}: field "fields.label": {letter} is {named[letter]!r}, but the answer is {answer!r}; '
            "correct one of them"
        )


def _kind_of(value: Any) -> str:
    return _NAMES.get(type(value), "a number")
