"""Greedy DPP: the same items as determinants computed anew at each step; copies come last."""

from __future__ import annotations

import numpy as np
import pytest

from cast_lens.selection import greedy_dpp


def literal(units: np.ndarray, relevance: np.ndarray, count: int) -> list[int]:
    kernel = relevance[:, None] * (1 + units @ units.T) / 2 * relevance[None]
    chosen: list[int] = []
    for _ in range(count):
        open_ = [index for index in range(len(units)) if index not in chosen]
        weights = [np.linalg.det(kernel[np.ix_([*chosen, one], [*chosen, one])]) for one in open_]
        chosen.append(open_[int(np.argmax(weights))])
    return chosen


def test_it_takes_what_raises_the_determinant_most() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        units = generator.normal(size=(20, 6))
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        relevance = generator.uniform(0.2, 1.0, size=20)
        assert greedy_dpp(units, relevance, 5).tolist() == literal(units, relevance, 5)


def test_the_most_relevant_is_first_and_its_copy_comes_last() -> None:
    units = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = greedy_dpp(units, np.array([0.9, 0.89, 0.5, 0.4]), 4).tolist()
    assert found[0] == 0
    assert found[-1] == 1
    assert sorted(found) == [0, 1, 2, 3]


def test_a_count_beyond_the_items_is_refused() -> None:
    with pytest.raises(ValueError, match="count=3 must be from 1 to 2"):
        greedy_dpp(np.eye(2), np.ones(2), 3)
