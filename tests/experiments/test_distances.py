"""Distances between tasks, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cast_lens.experiments.transfer_matrix import (
    answers_of,
    cosine,
    embedding_distance,
    family_distance,
    label_distance,
    parallelism_distance,
    residual_cosine,
)
from cast_lens.tasks import Example
from tests.experiments.small_grid import grid_workspace
from tests.small_tasks import label_task, word_task


def test_answers_are_labels_letters_or_nothing() -> None:
    assert answers_of(label_task()) == {"good", "bad"}
    assert answers_of(word_task()) == frozenset()
    options = tuple(Example(f"q{i}", f"question {i}", "x", choices=("x", "y", "z")) for i in range(3))
    assert answers_of(replace(label_task(), kind="multiple-choice", labels=(), train=options)) == {"a", "b", "c"}


def test_distances_of_a_task_to_itself_are_zero(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    for distance in (family_distance, label_distance, embedding_distance, parallelism_distance):
        # Cosines in float64 of equal vectors: 1 up to rounding.
        assert distance(workspace, "mood", "mood") == pytest.approx(0.0, abs=1e-12)
    assert residual_cosine(workspace, "mood", "mood") == pytest.approx(1.0)


def test_kinds_of_answers_part_tasks(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    assert (family_distance(workspace, "mood", "tone"), family_distance(workspace, "mood", "double")) == (0.0, 1.0)
    assert (label_distance(workspace, "mood", "tone"), label_distance(workspace, "mood", "double")) == (0.0, 1.0)
    assert label_distance(workspace, "double", "double") == 0.0
    half = replace(workspace.tasks["tone"], labels=("GOOD", "poor", "fair"))
    mixed = replace(workspace, tasks={**workspace.tasks, "tone": half})
    assert label_distance(mixed, "mood", "tone") == 1 - 1 / 4


def test_parallelism_is_the_cosine_of_mean_differences(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    layer = workspace.setting("mood").layer
    means = [workspace.differences(name).at(layer).double().mean(dim=0).numpy() for name in ("mood", "tone")]
    expected = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert parallelism_distance(workspace, "mood", "tone") == pytest.approx(1 - expected)
    assert cosine(torch.zeros(3), torch.ones(3)) == 0.0
