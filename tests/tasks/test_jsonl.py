"""A bad line is named by file, line and field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cast_lens.tasks.jsonl import read_jsonl

from .small import Record, records, write_jsonl

GOOD = records(2, prefix="ok", answers=("yes", "no"), choices=("yes", "no"))


def with_fault(path: Path, **changes: Any) -> Path:
    """A file whose third line, after a blank one, has the fault; a change to ``...`` removes the field."""
    bad: Record = {**records(1, prefix="bad", answers=("yes",), choices=("yes", "no"))[0], **changes}
    write_jsonl(path, [GOOD[0], {k: v for k, v in bad.items() if v is not ...}])
    path.write_text(path.read_text(encoding="utf-8").replace("\n", "\n\n", 1), encoding="utf-8")
    return path


def test_records_are_read_as_written(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "input": " Größe? ",
        "choices": None,
        "answer": " x ",
        "lang": "de",
        "fields": {"a": "b"},
    }
    (line,) = read_jsonl(write_jsonl(tmp_path / "t.jsonl", [row]))
    assert (line.example.id, line.example.input, line.example.answer) == ("1", " Größe? ", "x")
    assert (line.example.language, line.example.fields, line.split) == ("de", {"a": "b"}, None)
    assert line.where == f"{tmp_path / 't.jsonl'}:1"


def test_blank_lines_a_byte_order_mark_and_odd_line_separators_do_no_harm(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{**GOOD[0], "input": "one\u2028line"}, GOOD[1]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    lines = read_jsonl(path, language="fr")
    assert [line.example.input for line in lines] == ["one\u2028line", "ok text 1"]
    assert [line.where.rpartition(":")[2] for line in lines] == ["1", "3"]
    assert {line.example.language for line in lines} == {"fr"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ...}, 'field "answer" is missing; the record has id, input, choices'),
        ({"input": ...}, 'field "input" is missing'),
        ({"id": ...}, 'field "id" is missing'),
        ({"input": "  "}, 'field "input" is empty'),
        ({"answer": ""}, 'field "answer" is empty'),
        ({"id": 7}, 'field "id": expected text, got a number 7'),
        ({"answer": True}, 'field "answer": expected text, got true/false True'),
        ({"input": ["a"]}, "field \"input\": expected text, got a list ['a']"),
        ({"answer": None}, 'field "answer": expected text, got null None'),
        ({"answer": "maybe"}, "field \"answer\": 'maybe' is not among the choices ['yes', 'no']"),
        ({"choices": "yes"}, "field \"choices\": expected a list of non-empty texts or null, got 'yes'"),
        ({"choices": ["yes", 3]}, 'field "choices": expected a list of non-empty texts'),
        ({"choices": ["yes"]}, 'field "choices": expected 2 to 26 of them, got 1'),
        ({"fields": {"a": 1}}, 'field "fields": expected an object of texts'),
        ({"fields": {"label": "B"}}, "field \"fields.label\": B is 'no', but the answer is 'yes'"),
        ({"lang": 3}, 'field "lang": expected text'),
        ({"split": None}, 'field "split": expected text, got null'),
        ({"id": "ok-0"}, "field \"id\": 'ok-0' was used before, at "),
    ],
)
def test_a_fault_is_named_by_file_line_and_field(tmp_path: Path, changes: Record, message: str) -> None:
    path = with_fault(tmp_path / "task" / "train.jsonl", **changes)
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        read_jsonl(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"id": "x", ', "broken JSON at column 13"),
        (b"[1, 2]", "expected a JSON object, got a list"),
        (b'{"id": "\xff"}', "not UTF-8 (byte 9 of the line)"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + raw + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        read_jsonl(path)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match=r"t\.jsonl has no records"):
        read_jsonl(tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match=r"none\.jsonl cannot be read: No such file"):
        read_jsonl(tmp_path / "none.jsonl")
