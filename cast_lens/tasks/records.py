"""Turns the records of files and lists into examples, and names every fault by file, line and field.

A record is ``{"id", "input", "answer"}`` with optional ``choices`` (label names, or the options of a multiple-choice
item; null for free answers), ``fields`` (named parts of the input), ``lang`` and ``split``. Other names are understood
where they are obvious (`SYNONYMS`, `PAIRS`, `CONTRASTS`); where they are not, the error shows the first record and the
mapping to write. An id that is missing is the name of the file with the number of the record.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from .formats import TABLES, kind_of, read_records, shown
from .sampling import SPLIT_NAMES
from .types import Example

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "id": (),
    "input": ("text", "sentence", "question", "prompt", "query", "content"),
    "answer": (
        "output",
        "target",
        "label_text",
        "label",
        "gold_label",
        "answerKey",
        "completion",
        "response",
        "gold",
        "class",
    ),
    "choices": ("options",),
    "fields": (),
    "lang": ("language",),
    "split": (),
}
# Two texts that together are the input; both can be shown apart by a template.
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("passage", "question"),
    ("context", "question"),
    ("instruction", "input"),
)
# Two texts of which one is wanted: with a question its two answers, without one an example of each class.
CONTRASTS = (
    ("positive", "negative"),
    ("pos", "neg"),
    ("chosen", "rejected"),
    ("good", "bad"),
    ("sentence_good", "sentence_bad"),
    ("answer_matching_behavior", "answer_not_matching_behavior"),
)
# Answers under these names are labels, if they repeat; so are true and false under any name.
_LABELS = ("label", "label_text", "gold_label", "class")
# Names that a message would rather take for an answer, and for no text of an example.
_ANSWERS = re.compile("label|gold|answer|target|class|verdict|categor|sentiment|output|rating|stars", re.IGNORECASE)
_IDS = re.compile(r"(.*[_-])?(id|idx|index|guid|uid|no|number)", re.IGNORECASE)

Record = dict[str, Any]
Columns = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Line:
    """One record and its place.

    Attributes:
        example: the record; ``choices`` are those of the record, be they labels or options.
        split: the record's own ``split`` field, where it has one.
        where: ``file:line``, for errors.
        labelled: whether the answer's field is called a label.
    """

    example: Example
    split: str | None
    where: str
    labelled: bool = False


def read_lines(path: Path, *, language: str = "en", fields: Mapping[str, str] | None = None) -> list[Line]:
    """Every record of a file, checked.

    Args:
        path: a UTF-8 file, by its ending one of `SUFFIXES`; blank lines are skipped.
        language: for records without ``lang``.
        fields: the file's own names, as ``{"input": "premise+hypothesis", "answer": "verdict"}``: several are joined by
            line ends. Names beside those of a record become fields for the template.

    Raises:
        ValueError: naming file, line and field: broken JSON or UTF-8, a missing or empty field, a wrong type,
            an answer that is not among the choices, an id that was used before.
    """
    lines = lines_of(read_records(path), stem=path.stem, language=language, fields=fields)
    if not lines:
        wanted = "one row per example below the header" if path.suffix in TABLES else "one JSON object per line"
        raise ValueError(f"{path} has no records; write {wanted}")
    return lines


def lines_of(
    records: Iterable[tuple[Any, str]], *, stem: str, language: str = "en", fields: Mapping[str, str] | None = None
) -> list[Line]:
    """Records with their places as lines; arguments and errors as in `read_lines`.

    Args:
        records: each with its place, for errors.
        stem: what ids that are missing begin with.
        language, fields: see `read_lines`.
    """
    lines: list[Line] = []
    columns: dict[str, tuple[str, ...]] | None = None
    for number, (record, where) in enumerate(records, start=1):
        if isinstance(record, list) and len(record) == 2 and all(isinstance(part, str) for part in record):
            record = dict(zip(("input", "answer"), record, strict=True))
        if not isinstance(record, dict):
            raise ValueError(
                f"{where}: expected a JSON object, got {kind_of(record)} {shown(record)}; write a record as "
                '{"input": ..., "answer": ...}, or as the pair [input, answer]'
            )
        _check_unicode(record, where)
        columns = _columns(record, fields, where) if columns is None else columns
        # An empty cell of a table is nothing; what may be left out is looked for in each record.
        needed = {*columns["input"], *columns["answer"]}
        record = {name: value for name, value in record.items() if value != "" or name in needed}
        lines += _expanded(record, _guessed(record) | columns, f"{stem}-{number}", where, language)
    check_ids(lines)
    return lines


def check_ids(lines: Sequence[Line]) -> None:
    """Refuse an id that two records share.

    Raises:
        ValueError: naming both places.
    """
    seen: dict[str, str] = {}
    for line in lines:
        if line.example.id in seen:
            raise ValueError(
                f'{line.where}: field "id": {line.example.id!r} was used before, at {seen[line.example.id]}; '
                "ids are unique within a task, over all its splits. Rename one, or leave the ids out"
            )
        seen[line.example.id] = line.where


def _check_unicode(record: Record, where: str) -> None:
    """Refuse half of a character (a lone surrogate), which no file and no tokenizer can hold."""
    for name, value in record.items():
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            f"{name}{text}".encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{where}: field {json.dumps(name)}: holds half of a character (a lone surrogate such as \\ud83d); "
                "write the record again from its source"
            ) from None
        except RecursionError:
            raise ValueError(f"{where}: field {json.dumps(name)}: nested too deeply") from None


def _guessed(record: Record) -> dict[str, tuple[str, ...]]:
    """Which names of a record give its fields, as far as that is obvious."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in SYNONYMS if name in record}
    for name, others in SYNONYMS.items():
        same = [other for other in others if other in record]
        if name not in found and (len(same) == 1 or same[:1] == ["label_text"]):
            found[name] = (same[0],)
    pair = next((pair for pair in PAIRS if all(name in record for name in pair)), None)
    if pair is not None and (pair[1] == "input" or "input" not in record):
        found["input"] = pair
    contrast = next((pair for pair in CONTRASTS if all(name in record for name in pair)), None)
    if contrast is not None and "answer" not in found:
        found["answer"] = contrast
        found.setdefault("input", ())
    return found


def _columns(record: Record, fields: Mapping[str, str] | None, where: str) -> dict[str, tuple[str, ...]]:
    """Which names of a file give input, answer and what a mapping names, by its first record.

    Raises:
        ValueError: with that record and the mapping to write, where it cannot be guessed.
    """
    found = _guessed(record)
    mapped = {name: tuple(part.strip() for part in own.split("+")) for name, own in (fields or {}).items()}
    for name, parts in mapped.items():
        if missing := [part for part in parts if part not in record]:
            raise ValueError(
                f"{where}: fields names {missing[0]!r} for {name!r}; the record has {', '.join(map(str, record))}"
            )
    found |= mapped
    if absent := [name for name in ("input", "answer") if name not in found]:
        table = Path(where.rpartition(":")[0]).suffix in TABLES
        raise ValueError(
            f'{where}: field "{absent[0]}" is missing; the record has {", ".join(map(str, record)) or "no fields"}. '
            + ("If the file's first line is no header, write one above it. " if table else "")
            + f"{_advice(record, found)} The first record: {shown(record)}"
        )
    return mapped | {name: found[name] for name in ("input", "answer")}


def _advice(record: Record, found: Columns) -> str:
    """The mapping to write for a record of which too little is known."""
    known = {part for name in ("input", "answer") for part in found.get(name, ())}
    plain = [name for name in record if isinstance(record[name], str | int | float) and name not in known]
    texts = sorted(
        (name for name in plain if not _IDS.fullmatch(name)),
        key=lambda name: (_ANSWERS.search(name) is None, len(str(record[name]))),
    )
    guess = {name: "+".join(found[name]) for name in ("input", "answer") if found.get(name)}
    if "answer" not in guess and texts:
        guess["answer"] = texts.pop(0)
    if "input" not in guess and texts:
        guess["input"] = texts.pop()
    if len(guess) < 2:
        return 'Write each record as {"input": ..., "answer": ...}, both of them text.'
    pairs = f"input={guess['input']},answer={guess['answer']}"
    return f"Say which field is which, e.g. --fields {pairs} (in Python fields={{...}})."


def _expanded(record: Record, columns: Columns, spare_id: str, where: str, language: str) -> list[Line]:
    """The lines of a record: one, or of a pair of contrasting texts one for each."""
    answer = columns["answer"]
    if len(answer) == 1:
        return [_line(record, columns, spare_id, where, language)]
    wanted, other = (_text(record, (name,), "answer", where).strip() for name in answer)
    name = _text(record, columns["id"], "id", where) if "id" in columns else spare_id
    split = {"split": record[columns["split"][0]]} if "split" in columns else {}
    if columns["input"]:
        # Sorted, so that the place among the options says nothing.
        made = {"id": name, "input": _text(record, columns["input"], "input", where), "answer": wanted}
        return [_plain(made | split | {"choices": sorted((wanted, other))}, where, language)]
    texts = zip(answer, (wanted, other), strict=True)
    return [
        _plain({"id": f"{name}-{label}", "input": text, "answer": label, "choices": answer} | split, where, language)
        for label, text in texts
    ]


def _plain(record: Record, where: str, language: str) -> Line:
    record["choices"] = list(record["choices"])
    return _line(record, {name: (name,) for name in record}, "", where, language)


def _line(record: Record, columns: Columns, spare_id: str, where: str, language: str) -> Line:
    answer_name = columns["answer"][0]
    choices, marks = _choices(record.get(columns["choices"][0]) if "choices" in columns else None, where)
    answer = _text(record, columns["answer"], "answer", where).strip()
    fields = _fields(record.get("fields"), where)
    fields |= {
        part: _text(record, (part,), part, where)
        for part in columns["input"]
        if len(columns["input"]) > 1 and record.get(part)
    }
    fields |= {name: _text(record, parts, name, where) for name, parts in columns.items() if name not in SYNONYMS}
    given = record[answer_name]
    if choices and answer not in choices and answer in marks:
        fields["label"] = ascii_uppercase[marks.index(answer)]
        answer = choices[marks.index(answer)]
    elif choices and answer not in choices and type(given) is int and 0 <= given < len(choices):
        fields["label"] = ascii_uppercase[given]
        answer = choices[given]
    if choices and answer not in choices:
        counted = "; a number counts the choices from 0" if type(given) is int else ""
        raise ValueError(f'{where}: field "answer": {answer!r} is not among the choices {list(choices)}{counted}')
    _check_letter(fields, choices, answer, where)
    split = _text(record, columns["split"], "split", where) if "split" in columns else None
    example = Example(
        id=_text(record, columns["id"], "id", where) if "id" in columns else spare_id,
        input=_text(record, columns["input"], "input", where),
        answer=answer,
        choices=choices,
        fields=fields,
        language=_text(record, columns["lang"], "lang", where)
        if "lang" in columns and record.get(columns["lang"][0]) is not None
        else language,
    )
    return Line(example, SPLIT_NAMES.get(split or "", split), where, answer_name in _LABELS or isinstance(given, bool))


def _text(record: Record, columns: Sequence[str], field: str, where: str) -> str:
    """The text of a field; numbers are written out, parts joined by line ends (empty ones left out)."""
    parts, told = [], ""
    for name in columns:
        told = f'field "{field}"' + ("" if name == field else f' (here "{name}")')
        if name not in record:
            raise ValueError(f"{where}: {told} is missing; the record has {', '.join(record) or 'no fields'}")
        value = record[name]
        if isinstance(value, bool) and field == "answer":
            value = str(value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and field in ("id", "input", "answer"):
            value = str(value)
        if not isinstance(value, str):
            raise ValueError(f"{where}: {told}: expected text, got {kind_of(value)} {value!r}")
        parts.append(value)
    if not any(part.strip() for part in parts):
        raise ValueError(f"{where}: {told} is empty")
    return "\n".join(part for part in parts if part.strip())


def _choices(value: Any, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options and their marks: letters, or what the file calls them."""
    if value is None:
        return (), ()
    marks: list[Any] = list(ascii_uppercase)
    if isinstance(value, dict) and {"text", "label"} <= set(value):
        value, marks = value["text"], value["label"]
    elif isinstance(value, dict):
        value, marks = list(value.values()), list(value)
    if isinstance(value, list):
        value = [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value]
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise ValueError(f'{where}: field "choices": expected a list of non-empty texts or null, got {value!r}')
    if len(value) < 2:
        raise ValueError(f'{where}: field "choices": expected two or more, got {value!r}')
    return tuple(one.strip() for one in value), tuple(str(mark) for mark in marks[: len(value)])


def _fields(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(part, str) for part in value.values()):
        raise ValueError(f'{where}: field "fields": expected an object of texts, got {value!r}')
    return dict(value)


def _check_letter(fields: Mapping[str, str], choices: tuple[str, ...], answer: str, where: str) -> None:
    """``fields.label``, where it is a letter of an option, has to name the answer."""
    named = dict(zip(ascii_uppercase, choices, strict=False))
    if (letter := fields.get("label")) in named and letter is not None and named[letter] != answer:
        raise ValueError(
            f'{where}: field "fields.label": {letter} is {named[letter]!r}, but the answer is {answer!r}; '
            "correct one of them"
        )
