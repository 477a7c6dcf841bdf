"""Examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "cast_lens.tasks.answers",
    "cast_lens.tasks.loading",
    "cast_lens.tasks.prompts",
    "cast_lens.tasks.sampling",
    "cast_lens.tasks.types",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), verbose=False)
    assert found.attempted > 0
    assert found.failed == 0
