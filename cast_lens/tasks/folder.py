"""Loads tasks from a folder of JSONL files.

What a folder may hold, with names in any mixture:

    <task>/{train,validation,validation_pool,test,demos}.jsonl   the task <task>
    <task>/<language>/{train,…}.jsonl                            <task> (English) and <task>.<language>
    <group>/<task>/{train,…}.jsonl                               <task>, as in words/antonym
    <task>.jsonl                                                 one file; records have a "split" field

An inner folder whose name has two or three small letters is taken for a language.
A task that is not one of the known data sets says itself what it is: no choices anywhere make free answers,
the same choices everywhere a classification, other choices multiple choice. A ``task.json`` in the task's
folder (``<task>.task.json`` beside a single file) may set ``kind``, ``family``, ``instruction``, ``labels``,
and the format strings ``template`` (the body), ``definition``, ``option`` of a `Template`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .jsonl import Line, check_ids, read_jsonl
from .sampling import class_of
from .settings import check_wording, family_of, infer_kind, read_settings, settle, wording
from .splits import FILES, make_splits
from .templates import KNOWN
from .types import SPLITS, Example, Kind, Task, is_language


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """Where one task of a folder lies.

    Attributes:
        name: as `load_task` takes it.
        language: of records that name none.
        files: the JSONL file of each split; of the single-file form under ``""``.
        settings: ``task.json`` files, the later one wins.
        root: the folder that was searched.
    """

    name: str
    language: str
    files: Mapping[str, Path]
    root: Path
    settings: tuple[Path, ...] = ()


def discover(root: Path) -> dict[str, TaskFiles]:
    """Every task under a folder, by name, in alphabetical order.

    Args:
        root: the folder, a single task's folder, or one JSONL file.

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
            "or <task>.jsonl with a split field"
        )
    return found


def load_folder(task: TaskFiles, *, seed: int) -> Task:
    """Read a task that `discover` found.

    Raises:
        ValueError: naming file, line and field for a bad record; or what is wrong with ``task.json``.
    """
    lines = _read(task)
    every = [line for part in lines.values() for line in part]
    check_ids(every)
    settings = read_settings(task.settings)
    known = KNOWN.get(task.name.partition(".")[0])
    if settings.kind is None and settings.labels is None and known is not None:
        settings = replace(settings, kind=known.kind)
    kind = infer_kind(every, settings)
    labels = settle(every, kind, settings)
    template, instruction = wording(task.name, kind, labels, settings, root=task.root)
    check_wording(template, [line.example for line in every], kind, where=settings.where or task.name)
    examples = {name: [_bare(line.example, kind) for line in part] for name, part in lines.items()}
    splits = make_splits(examples, seed=seed, where=task.name, class_of=partial(class_of, kind))
    return Task(
        name=task.name,
        kind=kind,
        family=family_of(task.name, kind, settings),
        template=template,
        instruction=instruction,
        labels=labels,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        language=task.language,
        origin=str(task.root),
        dropped=splits.dropped,
    )


def _walk(root: Path) -> Iterator[TaskFiles]:
    if root.is_file():
        yield _single(root, root.parent)
        return
    if own := _files(root):
        yield TaskFiles(root.resolve().name, "en", own, root, _beside(root))
        return
    for path in sorted(root.iterdir()):
        if path.is_dir():
            yield from _walk_task(path, root)
        elif path.suffix == ".jsonl":
            yield _single(path, root)


def _walk_task(folder: Path, root: Path) -> Iterator[TaskFiles]:
    if own := _files(folder):
        yield TaskFiles(folder.name, "en", own, root, _beside(folder))
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if files := _files(inner):
            if is_language(inner.name):
                name = folder.name if inner.name == "en" else f"{folder.name}.{inner.name}"
                yield TaskFiles(name, inner.name, files, root, (*_beside(folder), *_beside(inner)))
            else:
                yield TaskFiles(inner.name, "en", files, root, _beside(inner))


def _files(folder: Path) -> dict[str, Path]:
    return {name: path for name in FILES if (path := folder / f"{name}.jsonl").is_file()}


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


def _read(task: TaskFiles) -> dict[str, list[Line]]:
    if "" not in task.files:
        return {name: read_jsonl(path, language=task.language) for name, path in task.files.items()}
    lines: dict[str, list[Line]] = {}
    for line in read_jsonl(task.files[""], language=task.language):
        if line.split not in FILES:
            raise ValueError(
                f'{line.where}: field "split": expected one of {", ".join(SPLITS)}, got {line.split!r}'
            )
        lines.setdefault(line.split, []).append(line)
    return lines


def _bare(example: Example, kind: Kind) -> Example:
    """Label names live on the task; options live on the example."""
    return example if kind == "multiple-choice" else replace(example, choices=())
