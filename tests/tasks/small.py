"""Tiny tasks and task folders that tests write themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cast_lens.tasks.templates import PLAIN
from cast_lens.tasks.types import Example, Kind, Task

Record = dict[str, Any]


def example(number: int, answer: str, *, prefix: str = "train", choices: tuple[str, ...] = ()) -> Example:
    return Example(f"{prefix}-{number:03d}", f"{prefix} text {number}", answer, choices)


def labelled_task(labels: tuple[str, ...] = ("good", "bad"), *, size: int = 12) -> Task:
    """A classification whose answers go round the labels."""
    splits = {
        split: tuple(example(i, labels[i % len(labels)], prefix=split) for i in range(size))
        for split in ("train", "validation", "test")
    }
    return _task("labelled", "classification", labels, splits, instruction="Judge it.")


def lettered_task(*, size: int = 12, options: int = 3) -> Task:
    """Multiple choice whose right letters go round."""
    texts = tuple(f"option {i}" for i in range(options))
    splits = {
        split: tuple(example(i, texts[i % options], prefix=split, choices=texts) for i in range(size))
        for split in ("train", "validation", "test")
    }
    return _task("lettered", "multiple-choice", (), splits, instruction="Choose.")


def free_task(*, size: int = 12) -> Task:
    """Free answers, all different."""
    splits = {
        split: tuple(example(i, f"answer {i}", prefix=split) for i in range(size))
        for split in ("train", "validation", "test")
    }
    return _task("words", "free", (), splits)


def _task(
    name: str, kind: Kind, labels: tuple[str, ...], splits: Mapping[str, tuple[Example, ...]], *, instruction: str = ""
) -> Task:
    family = {"classification": "classification", "multiple-choice": "multiple-choice", "free": "word"}[kind]
    return Task(
        name,
        kind,
        family,
        PLAIN[kind],
        instruction,
        labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
    )


def records(
    count: int, *, prefix: str, answers: tuple[str, ...], choices: tuple[str, ...] | None = None, **more: Any
) -> list[Record]:
    """Records in the schema of a task folder; their answers go round."""
    return [
        {
            "id": f"{prefix}-{i}",
            "input": f"{prefix} text {i}",
            "choices": list(choices) if choices else None,
            "answer": answers[i % len(answers)],
            **more,
        }
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: Iterable[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_task(folder: Path, *, train: int = 10, test: int = 6, **kind: Any) -> Path:
    """A folder with train.jsonl and test.jsonl."""
    write_jsonl(folder / "train.jsonl", records(train, prefix="train", **kind))
    write_jsonl(folder / "test.jsonl", records(test, prefix="test", **kind))
    return folder
