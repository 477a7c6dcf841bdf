"""Examples in docstrings run, and print what they say.

Examples of functions that need a model use these names: ``model`` (tiny and random, 4 layers of width 64), ``task``,
``prompts`` (two zero-shot prompts of it), ``differences`` and ``other`` (of two tasks), and ``vector``.
"""

from __future__ import annotations

import doctest
import importlib
from functools import cache
from typing import Any

import pytest

import cast_lens as cl
from tests.tiny import tiny_model

MODULES = (
    "cast_lens.models.load",
    "cast_lens.stats.bootstrap",
    "cast_lens.stats.transfer",
    "cast_lens.tasks.answers",
    "cast_lens.tasks.loading",
    "cast_lens.tasks.prompts",
    "cast_lens.tasks.sampling",
    "cast_lens.tasks.types",
    "cast_lens.vectors",
)
WITH_MODEL = (
    "cast_lens.engine.capture",
    "cast_lens.engine.sweep",
    "cast_lens.evaluation",
    "cast_lens.extraction",
    "cast_lens.geometry.parallelism",
    "cast_lens.placebos",
    "cast_lens.steering",
)


@cache
def names() -> dict[str, Any]:
    model, task, other = tiny_model("llama"), cl.load_task("review-sentiment"), cl.load_task("antonym")
    how = cl.Extraction(samples=4, shots=2)
    differences = cl.difference_vectors(model, task, how)
    return {
        "model": model,
        "task": task,
        "prompts": cl.zero_shot_prompts(task, task.test[:2]),
        "differences": differences,
        "other": cl.difference_vectors(model, other, how),
        "vector": differences.mean(),
    }


@pytest.mark.parametrize("name", [*MODULES, *WITH_MODEL])
def test_examples(name: str) -> None:
    given = dict(names()) if name in WITH_MODEL else {}
    found = doctest.testmod(importlib.import_module(name), verbose=False, extraglobs=given)
    assert found.attempted > 0
    assert found.failed == 0
