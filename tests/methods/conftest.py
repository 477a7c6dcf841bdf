"""What tests of trained methods share: one model of each architecture, loaded from one folder, and two small tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import Task
from tests.models.files import write_folder
from tests.small_tasks import label_task, word_task

Pair = Callable[..., tuple[HookedTransformer, str]]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A hooked model of an architecture and the folder that it comes from; loaded once, so tests leave both alone."""
    known: dict[str, tuple[HookedTransformer, str]] = {}

    def loaded(architecture: str = "llama") -> tuple[HookedTransformer, str]:
        if architecture not in known:
            folder: Path = tmp_path_factory.mktemp(architecture)
            write_folder(folder, architecture)
            known[architecture] = load_model(folder), str(folder)
        return known[architecture]

    return loaded


@pytest.fixture(scope="session")
def tasks() -> list[Task]:
    """One with label words and one with free answers."""
    return [label_task("mood", train=8), word_task("double", train=8)]
