"""Finds the tasks of a folder.

What a folder may hold, with names in any mixture, and with any ending of `cast_lens.tasks.formats.SUFFIXES`:

    <task>/{train,validation,validation_pool,test,demos}.jsonl   the task <task>
    <task>/<language>/{train,…}.jsonl                            <task> (English) and <task>.<language>
    <group>/<task>/{train,…}.jsonl                               <task>, as in words/antonym
    <task>.jsonl, <group>/<task>.jsonl                           one file; records may have a "split" field

A ``task.json`` in the task's folder (``<task>.task.json`` beside a single file) may say what the task is; see
`cast_lens.tasks.settings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .formats import SPLIT_NAMES, SUFFIXES, holds_records
from .splits import FILES
from .types import is_language

# Not tasks, wherever they are.
_NOT_TASKS = ("task.json", "instructions.json")


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Where the files of one task are.

    Attributes:
        name: as `load_task` takes it.
        language: of records that name none.
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
            raise ValueError(
                f"two tasks are called {task.name!r}: {places[0]} and {places[1]}; rename one of them"
            )
        found[task.name] = task
    if not found:
        raise ValueError(
            f"tasks={str(root)!r} holds no task; expected <task>/train.jsonl and <task>/test.jsonl, "
            f"or one file per task ({', '.join(SUFFIXES)})"
        )
    return found


def _walk(root: Path) -> Iterator[TaskFiles]:
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise ValueError(f"tasks={str(root)!r} is no {' or '.join(SUFFIXES)} file")
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
