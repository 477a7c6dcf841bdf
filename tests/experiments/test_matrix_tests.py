"""Renaming rows and columns: exact where there are few, right in size under a null that makes cells depend."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from cast_lens.experiments.transfer_matrix import as_matrix, matrix_test, mean_gap
from cast_lens.stats import spearman


def test_correlation_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=12), generator.integers(0, 4, size=12).astype(float)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert np.isnan(spearman(x, np.ones(12)))
    assert np.isnan(spearman(x[:2], y[:2]))


def test_few_tasks_are_renamed_in_every_way() -> None:
    x = np.arange(6.0).reshape(3, 2)
    found = matrix_test(x, x)
    # 3! x 2! renamings; only the identity keeps the order, and none turns it round but the full reversal.
    assert (found.statistic, found.p, found.n) == (pytest.approx(1.0), pytest.approx(2 / 12), 6)


def test_ranks_once_or_in_every_arrangement_are_one_test() -> None:
    x, y = (np.random.default_rng(seed).integers(0, 5, size=(4, 3)).astype(float) for seed in (3, 4))
    fast = matrix_test(x, y, n_permutations=150)
    slow = matrix_test(x, y, lambda a, b: spearman(a, b), n_permutations=150)
    assert (fast.statistic, fast.p) == (pytest.approx(slow.statistic), slow.p)


def test_missing_pairs_are_left_out() -> None:
    frame = pd.DataFrame({"target": ["a", "a", "b"], "source": ["x", "y", "x"], "gain": [1.0, 2.0, 3.0]})
    matrix = as_matrix(frame, "gain")
    np.testing.assert_array_equal(matrix, [[1.0, 2.0], [3.0, np.nan]])
    assert matrix_test(matrix, matrix).n == 3
    nothing = matrix_test(np.ones((3, 3)), np.ones((3, 3)))
    assert np.isnan(nothing.statistic)
    assert nothing.p == 1.0


def test_families_are_compared_by_means() -> None:
    assert mean_gap(np.array([1.0, 1.0, 0.0, 0.0]), np.array([3.0, 5.0, 1.0, 1.0])) == 3.0
    assert np.isnan(mean_gap(np.ones(3), np.arange(3.0)))


def test_targets_that_gain_from_everything_are_no_evidence() -> None:
    # Gains and the predictor both have strong row effects that have nothing to do with each other: 24 cells, 6 targets.
    generator, hits = np.random.default_rng(1), 0
    for trial in range(200):
        x, y = (generator.normal(size=(6, 1)) + 0.1 * generator.normal(size=(6, 4)) for _ in range(2))
        hits += matrix_test(x, y, n_permutations=99, seed=trial).p <= 0.05
    # Binomial interval of 200 trials at 5 % and 99 permutations: 2 to 19 with probability 0.998.
    assert 2 <= hits <= 19
