"""A small task whose label follows from one phrase of the input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from cast_lens.tasks import Example, Task
from tests.small_tasks import label_task


def weather() -> Task:
    """Planted: the label follows from one word of the input."""
    task = label_task("weather", train=16, validation=8, test=8)

    def told(example: Example) -> Example:
        word = {"good": "the largest planet", "bad": "a dull mess"}[example.answer]
        return replace(example, input=f"{word} {example.id[-2:]}")

    parts: dict[str, Any] = {
        name: tuple(map(told, getattr(task, name))) for name in ("train", "validation", "test")
    }
    return replace(task, **parts)
