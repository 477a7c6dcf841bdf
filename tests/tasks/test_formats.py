"""A bad line is named by file, line and field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cast_lens.tasks import load_task
from cast_lens.tasks.records import read_lines

from .small import Record, records, write_jsonl

GOOD = records(2, prefix="ok", answers=("yes", "no"), choices=("yes", "no"))


def with_fault(path: Path, **changes: Any) -> Path:
    """A file whose third line, after a blank one, has the fault; a change to ``...`` removes the field."""
    bad: Record = {**records(1, prefix="bad", answers=("yes",), choices=("yes", "no"))[0], **changes}
    write_jsonl(path, [GOOD[0], {k: v for k, v in bad.items() if v is not ...}])
    path.write_text(path.read_text(encoding="utf-8").replace("\n", "\n\n", 1), encoding="utf-8")
    return path


def test_records_are_read_as_written(tmp_path: Path) -> None:
    row = {"id": "1", "input": " Größe? ", "choices": None, "answer": " x ", "lang": "de", "fields": {"a": "b"}}
    (line,) = read_lines(write_jsonl(tmp_path / "t.jsonl", [row]))
    assert (line.example.id, line.example.input, line.example.answer) == ("1", " Größe? ", "x")
    assert (line.example.language, line.example.fields, line.split) == ("de", {"a": "b"}, None)
    assert line.where == f"{tmp_path / 't.jsonl'}:1"


def test_blank_lines_a_byte_order_mark_and_odd_line_separators_do_no_harm(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{**GOOD[0], "input": "one\u2028line"}, GOOD[1]])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    lines = read_lines(path, language="fr")
    assert [line.example.input for line in lines] == ["one\u2028line", "ok text 1"]
    assert [line.where.rpartition(":")[2] for line in lines] == ["1", "3"]
    assert {line.example.language for line in lines} == {"fr"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ...}, 'field "answer" is missing; the record has id, input, choices'),
        ({"input": ...}, 'field "input" is missing'),
        ({"input": "  "}, 'field "input" is empty'),
        ({"answer": ""}, 'field "answer" is empty'),
        ({"id": True}, 'field "id": expected text, got true/false True'),
        ({"input": {}}, 'field "input": expected text, got an object {}'),
        ({"answer": float("nan"), "choices": None}, 'field "answer": expected text, got a number nan'),
        ({"input": ["a"]}, "field \"input\": expected text, got a list ['a']"),
        ({"answer": None}, 'field "answer": expected text, got null None'),
        ({"answer": "maybe"}, "field \"answer\": 'maybe' is not among the choices ['yes', 'no']"),
        ({"choices": "yes"}, "field \"choices\": expected a list of non-empty texts or null, got 'yes'"),
        ({"choices": ["yes", None]}, 'field "choices": expected a list of non-empty texts'),
        ({"choices": ["yes"]}, "field \"choices\": expected two or more, got ['yes']"),
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
        read_lines(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"id": "x", ', "broken JSON at column 13"),
        (b"[1, 2]", "expected a JSON object, got a list"),
        (b'{"id": "\xff"}', "not UTF-8 (byte 9 of the line)"),
        (b'{"id": "x", "input": "\\ud83d", "answer": "yes"}', 'field "input": holds half of a character'),
        (b"[" * 100_000, "broken JSON: "),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + raw + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        read_lines(path)


def test_an_empty_or_missing_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match=r"t\.jsonl has no records"):
        read_lines(tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match=r"none\.jsonl cannot be read: No such file"):
        read_lines(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("record", "advice"),
    [
        # What looks like an answer is one, an id is neither, and what is known stays.
        ({"id": "0", "review": "b", "stars": "a longer one"}, "--fields input=review,answer=stars"),
        (
            {"uid": "long id 000", "premise": "p", "hypothesis": "h", "verdict": "v"},
            "premise+hypothesis,answer=verdict",
        ),
        ({"text": "t", "mood": "m"}, "--fields input=text,answer=mood"),
        # No mapping of names that are not there.
        ({"messages": [{"role": "user", "content": "q"}]}, 'Write each record as {"input": ..., "answer": ...}'),
    ],
)
def test_the_advice_fits_the_record(tmp_path: Path, record: Record, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        read_lines(write_jsonl(tmp_path / "t.jsonl", [record]))


def test_a_table_without_a_header_or_rows_is_told_as_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('"3","Title","Body"\n"4","Another","More"\n')
    with pytest.raises(ValueError, match="If the file's first line is no header, write one above it"):
        read_lines(path)
    path.write_text("text,label\n")
    with pytest.raises(ValueError, match=r"t\.csv has no records; write one row per example below the header"):
        read_lines(path)


def test_pairs_of_texts_are_records(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('[["hot", "cold"], ["up", "down"]]')
    assert answers(path) == [("hot", "cold"), ("up", "down")]


def test_a_number_counts_the_options_from_zero(tmp_path: Path) -> None:
    """As the hub's data sets of multiple choice do; text that is a number names no option."""
    asked = {"question": "Which?", "choices": ["red", "green", "blue"]}
    lines = read_lines(write_jsonl(tmp_path / "t.jsonl", [asked | {"answer": number} for number in (0, 2)]))
    assert [(line.example.answer, line.example.fields["label"]) for line in lines] == [("red", "A"), ("blue", "C")]
    (line,) = read_lines(write_jsonl(tmp_path / "t.jsonl", [{**asked, "choices": ["3", "2", "1"], "answer": 1}]))
    assert line.example.answer == "1"
    with pytest.raises(ValueError, match=r"'3' is not among the choices .*; a number counts the choices from 0"):
        read_lines(write_jsonl(tmp_path / "t.jsonl", [asked | {"answer": 3}]))
    with pytest.raises(ValueError, match="'1' is not among the choices"):
        read_lines(write_jsonl(tmp_path / "t.jsonl", [asked | {"answer": "1"}]))


def test_true_and_false_are_labels_under_any_name(tmp_path: Path) -> None:
    rows = [{"question": f"Is it {i}?", "answer": i % 2 == 0} for i in range(20)]
    assert load_task("t", tasks=write_jsonl(tmp_path / "t.jsonl", rows)).labels == ("True", "False")


WORDS = [{"input": f"word {i}", "output": f"drow {i}"} for i in range(6)]


def answers(path: Path, **more: Any) -> list[tuple[str, str]]:
    return [(line.example.input, line.example.answer) for line in read_lines(path, **more)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", json.dumps(WORDS, indent=1)),
        ("a.json", json.dumps(WORDS)),
        ("a.jsonl", json.dumps(WORDS)),
        ("a.json", "\ufeff" + json.dumps(WORDS)),
        ("a.json", "\n".join(json.dumps(word) for word in WORDS)),
        ("a.ndjson", "\n".join(json.dumps(word) for word in WORDS)),
        ("a.json", json.dumps({"examples": WORDS})),
        ("a.json", json.dumps({"train": WORDS[:4], "test": WORDS[4:]}, indent=2)),
        ("a.json", json.dumps({"input": [w["input"] for w in WORDS], "output": [w["output"] for w in WORDS]})),
        ("a.csv", "input,output\n" + "".join(f"{w['input']},{w['output']}\r\n" for w in WORDS)),
        ("a.csv", "nr;output;input\n" + "".join(f"1;{w['output']};{w['input']}\n" for w in WORDS)),
        ("a.tsv", "input\toutput\n\n" + "".join(f"{w['input']}\t{w['output']}\n" for w in WORDS)),
    ],
)
def test_the_same_records_in_every_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert answers(tmp_path / name) == [(word["input"], word["output"]) for word in WORDS]
    ids = [line.example.id for line in read_lines(tmp_path / name)]
    assert ids == [f"a-{number}" for number in range(1, 7)]


@pytest.mark.parametrize(
    ("record", "read"),
    [
        ({"text": "x", "label": "good"}, ("x", "good")),
        ({"sentence": "x", "target": "y", "idx": 4}, ("x", "y")),
        ({"question": "x", "answer": "y", "label": 3}, ("x", "y")),
        ({"text": "x", "label": 1, "label_text": "good"}, ("x", "good")),
        ({"prompt": "x", "completion": 7}, ("x", "7")),
        ({"input": "x", "answer": 0.5, "id": 9}, ("x", "0.5")),
        ({"premise": "p", "hypothesis": "h", "label": "yes"}, ("p\nh", "yes")),
        ({"instruction": "Say it.", "input": "", "output": "it"}, ("Say it.", "it")),
        ({"question": "x", "choices": ["u", "v"], "answer": "B"}, ("x", "v")),
        ({"question": "x", "options": {"A": "u", "B": "v"}, "answer": "A"}, ("x", "u")),
        ({"question": "x", "choices": {"text": ["u", "v"], "label": ["1", "2"]}, "answerKey": "2"}, ("x", "v")),
        ({"passage": "p", "question": "q", "answer": True}, ("p\nq", "True")),
    ],
)
def test_obvious_names_are_understood(tmp_path: Path, record: Record, read: tuple[str, str]) -> None:
    (line,) = read_lines(write_jsonl(tmp_path / "t.jsonl", [record]))
    assert (line.example.input, line.example.answer) == read
    if "premise" in record:
        assert line.example.fields == {"premise": "p", "hypothesis": "h"}


def test_what_cannot_be_guessed_shows_the_first_record_and_the_mapping(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"body": "a long text", "verdict": "no", "n": 3}])
    with pytest.raises(
        ValueError, match=r"t\.jsonl:1: field \"input\" is missing; the record has body, verdict, n\. "
    ) as found:
        read_lines(path)
    assert "--fields input=body,answer=" in str(found.value)
    assert '{"body": "a long text", "verdict": "no", "n": 3}' in str(found.value)
    assert answers(path, fields={"input": "body", "answer": "verdict"}) == [("a long text", "no")]
    (line,) = read_lines(path, fields={"input": "body+verdict", "answer": "n", "claim": "body"})
    assert (line.example.input, line.example.answer) == ("a long text\nno", "3")
    assert line.example.fields == {"body": "a long text", "verdict": "no", "claim": "a long text"}
    with pytest.raises(
        ValueError, match=r"t\.jsonl:1: fields names 'title' for 'input'; the record has body, verdict, n"
    ):
        read_lines(path, fields={"input": "title", "answer": "n"})
    write_jsonl(path, [{"text": "x", "output": "y", "target": "z"}])
    with pytest.raises(ValueError, match=r"field \"answer\" is missing"):
        read_lines(path)


def test_contrasting_texts_are_two_classes_or_two_options(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"positive": "I love it", "negative": "I hate it"}])
    first, second = (line.example for line in read_lines(path))
    assert (first.input, first.answer, first.choices) == ("I love it", "positive", ("positive", "negative"))
    assert (second.input, second.answer, second.id) == ("I hate it", "negative", "t-1-negative")
    asked = {"question": "Would you?", "answer_matching_behavior": "(B)", "answer_not_matching_behavior": "(A)"}
    (line,) = read_lines(write_jsonl(path, [asked]))
    assert (line.example.input, line.example.answer, line.example.choices) == ("Would you?", "(B)", ("(A)", "(B)"))


def test_tables_say_what_is_wrong_and_where(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('text,label\n"a\nb",x\nc,y,z\n')
    with pytest.raises(ValueError, match=r"t\.csv:4: expected 2 cells, as the header has \(text, label\), got 3"):
        read_lines(path)
    path.write_bytes("text,label\nGröße,x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv:2: not UTF-8 \(byte 3 of the line\); save the file as UTF-8"):
        read_lines(path)
    path.write_text("text,label,text\na,b,c\n")
    with pytest.raises(ValueError, match=r"t\.csv:1: the header names a column twice"):
        read_lines(path)
    path.write_text("text,label\n,x\n")
    with pytest.raises(ValueError, match=r't\.csv:2: field "input" \(here "text"\) is empty'):
        read_lines(path)


def test_a_table_without_quoting_keeps_its_quotation_marks(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('sentence\tlabel\n"so it goes\tgood\nan 8" disk\tbad\n')
    assert answers(path) == [('"so it goes', "good"), ('an 8" disk', "bad")]
    path.write_text('sentence\tlabel\n"so ""it"" goes"\tgood\n"a\nb"\tbad\n')
    assert answers(path) == [('so "it" goes', "good"), ("a\nb", "bad")]


def test_a_broken_array_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('[\n {"input": "a", "output": "b"},\n {"input": "c" "output": "d"}\n]')
    with pytest.raises(ValueError, match=r"t\.json:3: broken JSON at column 16"):
        read_lines(path)
    path.write_text('[\n {"input": "a", "output": "b"},\n {"input": "c", "output": ""}\n]')
    with pytest.raises(ValueError, match=r't\.json:3: field "answer" \(here "output"\) is empty'):
        read_lines(path)
    path.write_text('[{"input": "a", "output": "b"}')
    with pytest.raises(ValueError, match="the array does not end"):
        read_lines(path)
    path.write_text('{"name": "settings"}')
    with pytest.raises(ValueError, match=r"t\.json:1: field \"input\" is missing"):
        read_lines(path)
