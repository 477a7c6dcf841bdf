"""Task files and folders as people have them.

What a folder may hold, with names in any mixture, and with any ending of `SUFFIXES`:

    <task>/{train,validation,validation_pool,test,demos}.jsonl   the task <task>
    <task>/<language>/{train,…}.jsonl                            <task> (English) and <task>.<language>
    <group>/<task>/{train,…}.jsonl                               <task>, as in words/antonym
    <task>.jsonl, <group>/<task>.jsonl                           one file; records may have a "split" field

A ``task.json`` in the task's folder (``<task>.task.json`` beside a single file) may say what the task is; see
`cast_lens.tasks.settings`. Files hold records as JSON lines, as a JSON array (or one object with a list per split or
per column), or as CSV or TSV with a header; what a record may hold is in `cast_lens.tasks.records`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .sampling import FILES, SPLIT_NAMES
from .types import is_language

TABLES = (".csv", ".tsv")
SUFFIXES = (".jsonl", ".ndjson", ".json", *TABLES)
# Not tasks, wherever they are.
_NOT_TASKS = ("task.json", "instructions.json")


_NAMES: Mapping[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
_SHOWN = 300
_QUOTED = re.compile(r'"((?:[^"]|"")*)"', re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Where the files of one task are.

    Attributes:
        name: as `load_task` takes it.
        language: language of records that name none.
        files: the file of each split; of the single-file form under ``""``.
        root: the folder that was searched.
        settings: ``task.json`` files, the later one wins.
    """

    name: str
    language: str
    files: Mapping[str, Path]
    root: Path
    settings: tuple[Path, ...] = ()


def discover(root: Path) -> dict[str, TaskFiles]:
    """Every task under a folder, by name, in alphabetical order.

    Args:
        root: the folder, a single task's folder, or one file.

    Raises:
        ValueError: when there is no such folder, when it holds no task, or when two tasks have one name.
    """
    if not root.exists():
        raise ValueError(f"tasks={str(root)!r}: there is no such folder or file")
    found: dict[str, TaskFiles] = {}
    for task in sorted(_walk(root), key=lambda task: task.name):
        if task.name in found:
            places = [str(next(iter(files.values()))) for files in (found[task.name].files, task.files)]
            raise ValueError(f"two tasks are called {task.name!r}: {places[0]} and {places[1]}; rename one of them")
        found[task.name] = task
    if not found:
        raise ValueError(
            f"tasks={str(root)!r} holds no task{_instead(root)}; expected <task>/train.jsonl and <task>/test.jsonl, "
            f"or one file per task ({', '.join(SUFFIXES)})"
        )
    return found


def _instead(root: Path) -> str:
    """What a folder without a task holds, for the error."""
    seen = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    if not seen:
        return ", it is empty"
    no_list = next((path.name for path in seen if path.suffix in SUFFIXES and path.name not in _NOT_TASKS), "")
    told = f"; {no_list} is an object, not a list of records" if no_list else ""
    return f" but {', '.join(path.name for path in seen[:3])}{' …' if len(seen) > 3 else ''}{told}"


def discover_one(path: Path) -> str:
    """The name of the only task at a path.

    Raises:
        ValueError: see `discover`.
    """
    (name,) = discover(path)
    return name


def _walk(root: Path) -> Iterator[TaskFiles]:
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise ValueError(f"tasks={str(root)!r} is not a {' or '.join(SUFFIXES)} file")
        yield _single(root, root.parent)
        return
    if own := _files(root):
        yield TaskFiles(root.resolve().name, "en", own, root, _beside(root))
        return
    for path in sorted(root.iterdir()):
        if path.is_dir():
            yield from _walk_task(path, root)
        elif _is_task(path):
            yield _single(path, root)


def _walk_task(folder: Path, root: Path) -> Iterator[TaskFiles]:
    if own := _files(folder):
        yield TaskFiles(folder.name, "en", own, root, _beside(folder))
    for path in sorted(folder.iterdir()):
        if path.is_file() and not own and _is_task(path):
            yield _single(path, root)
        elif path.is_dir() and (files := _files(path)):
            if is_language(path.name):
                name = folder.name if path.name == "en" else f"{folder.name}.{path.name}"
                yield TaskFiles(name, path.name, files, root, (*_beside(folder), *_beside(path)))
            else:
                yield TaskFiles(path.name, "en", files, root, _beside(path))


def _is_task(path: Path) -> bool:
    named = path.name in _NOT_TASKS or path.name.endswith(".task.json")
    return path.suffix in SUFFIXES and not named and not path.name.startswith(".") and holds_records(path)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each split of a folder.

    Raises:
        ValueError: where two files are of one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        split = SPLIT_NAMES.get(path.stem, path.stem)
        if split in FILES and path.suffix in SUFFIXES and path.is_file():
            if split in found:
                raise ValueError(f"{found[split]} and {path} are both the {split} split; remove one of them")
            found[split] = path
    return {split: found[split] for split in FILES if split in found}


def _beside(folder: Path) -> tuple[Path, ...]:
    return (path,) if (path := folder / "task.json").is_file() else ()


def _single(path: Path, root: Path) -> TaskFiles:
    settings = path.with_suffix(".task.json")
    name, _, language = path.stem.partition(".")
    known = is_language(language)
    return TaskFiles(
        name if known and language == "en" else path.stem,
        language if known else "en",
        {"": path},
        root,
        (settings,) if settings.is_file() else (),
    )


def read_records(path: Path) -> Iterator[tuple[Any, str]]:
    """The records of a file, by its ending one of `SUFFIXES`, each with its place (``file:line``).

    A ``.txt`` file holds one text per line, or one record in JSON.

    Raises:
        ValueError: for a file that cannot be read, that is not UTF-8, or that breaks its format, with the line.
    """
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; give a {' or '.join(SUFFIXES)} file") from error
    return _records(_decoded(raw, path), path)


def holds_records(path: Path) -> bool:
    """Whether a file of a folder is one of records: any but a ``.json`` that is an object of something else."""
    if path.suffix != ".json":
        return path.suffix in SUFFIXES
    try:
        found = json.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError, OSError):
        return True  # It is named when it is read.
    return not isinstance(found, dict) or _listed(found) is not None


def load_json(raw: bytes, where: str) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: naming the place, for what is neither UTF-8 nor JSON.
    """
    text = _decoded(raw.removeprefix(b"\xef\xbb\xbf"), where)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}:{error.lineno}: broken JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: broken JSON: {error}") from None


def _decoded(raw: bytes, where: Path | str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        byte = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise ValueError(f"{where}:{line}: not UTF-8 (byte {byte} of the line); save the file as UTF-8") from None


def _records(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    if path.suffix in TABLES:
        return _table(text, path)
    start = text.lstrip()[:1]
    if path.suffix == ".txt" and start != "{":
        lines = enumerate(text.splitlines(), start=1)
        return iter([(line.strip(), f"{path}:{number}") for number, line in lines if line.strip()])
    first = text.lstrip().split("\n", 1)[0].strip()
    if start == "[" and (path.suffix == ".json" or not first.endswith("]") or first[1:].lstrip()[:1] == "{"):
        return _array(text, path)
    if start == "{" and path.suffix == ".json" and not first.endswith("}"):
        return _object(load_json(text.encode("utf-8", "surrogatepass"), str(path)), path)
    if start == "{" and path.suffix == ".json" and "\n" not in text.strip():
        whole = load_json(text.encode("utf-8", "surrogatepass"), str(path))
        return iter([(whole, f"{path}:1")]) if _listed(whole) is None else _object(whole, path)
    return _json_lines(text, path)


def _json_lines(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _value(line, None, path, number)[0], f"{path}:{number}"


def _array(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    """The items of a JSON array, each with its line."""
    place, number = text.index("[") + 1, 1 + text.count("\n", 0, text.index("["))
    while True:
        after = _BETWEEN.match(text, place)
        assert after is not None
        number += text.count("\n", place, after.end())
        place = after.end()
        if text[place : place + 1] in ("]", ""):
            break
        item, end = _value(text, place, path, number)
        yield item, f"{path}:{number}"
        number += text.count("\n", place, end)
        place = end
    if text[place:].strip() != "]":
        raise ValueError(f"{path}:{number}: broken JSON: the array does not end in a single ]")


def _value(text: str, place: int | None, path: Path, number: int) -> tuple[Any, int]:
    """A JSON value that begins at a place of a text, or is the whole line ``number``; and its end."""
    try:
        return (json.loads(text), len(text)) if place is None else json.JSONDecoder().raw_decode(text, place)
    except json.JSONDecodeError as error:
        line = number if place is None else error.lineno
        raise ValueError(f"{path}:{line}: broken JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}:{number}: broken JSON: {error}") from None


def _listed(found: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The records of an object that lists them per split, under one name, or by columns; else None."""
    lists = {key: value for key, value in found.items() if isinstance(value, list) and value}
    records = {key: value for key, value in lists.items() if isinstance(value[0], dict)}
    if records and all(SPLIT_NAMES.get(key, key) in ("train", "validation", "test") for key in records):
        return [{"split": key, **record} for key, rows in records.items() for record in rows]
    if len(records) == 1:
        return next(iter(records.values()))
    if len(lists) == len(found) > 1 and len({len(value) for value in lists.values()}) == 1 and not records:
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    return None


def _object(found: Any, path: Path) -> Iterator[tuple[Any, str]]:
    records = _listed(found) if isinstance(found, dict) else None
    if records is None:
        raise ValueError(
            f"{path}:1: expected a list of records, or an object that lists them per split or per column; "
            f"got {kind_of(found)} {shown(found)}"
        )
    for number, record in enumerate(records, start=1):
        yield record, f"{path}: record {number}"


def _table(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    head = text.split("\n", 1)[0]
    mark = "\t" if path.suffix == ".tsv" else max(",;\t|", key=lambda one: (head.count(one), one == ","))
    # Many TSV files do not quote: a lone quotation mark would swallow what follows.
    rows = list(_rows(text, path, mark, quoted=False)) if mark == "\t" else []
    if not rows or any(len(row) != len(rows[0][0]) for row, _ in rows):
        rows = list(_rows(text, path, mark, quoted=True))
    header = [name.strip() for name in rows[0][0]] if rows else []
    if len(set(header)) < len(header):
        raise ValueError(f"{path}:1: the header names a column twice: {', '.join(header)}; rename one")
    for row, number in rows[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"{path}:{number}: expected {len(header)} cells, as the header has ({', '.join(header)}), got "
                f"{len(row)}; quote cells that hold {mark!r}"
            )
        yield dict(zip(header, row, strict=True)), f"{path}:{number}"


def _rows(text: str, path: Path, mark: str, *, quoted: bool) -> Iterator[tuple[list[str], int]]:
    whole = io.StringIO(text, newline="")
    style: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(whole, delimiter=mark, quoting=style)
    number = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield row if quoted else [_unquoted(cell) for cell in row], number
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: {error}") from None


def _unquoted(cell: str) -> str:
    """A cell without the quotation marks around the whole of it."""
    found = _QUOTED.fullmatch(cell)
    return found[1].replace('""', '"') if found else cell


def kind_of(value: Any) -> str:
    """What a JSON value is, for errors."""
    return _NAMES.get(type(value), "a number")


def shown(value: Any) -> str:
    """The beginning of a JSON value, for errors."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
