"""Exact sign flips: against going through all of them, against McNemar, and where there is no common unit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cast_lens.stats import mcnemar_exact, paired_permutation_test
from cast_lens.stats.significance import exact_flip_p, on_grid


@pytest.mark.parametrize("unit", [1.0, 0.1, 1 / 3, 1 / 14])
@pytest.mark.parametrize("seed", range(4))
def test_all_flips_are_counted(unit: float, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-6, 9, size=9) * unit
    sums = [np.dot(signs, values) for signs in product((-1, 1), repeat=9)]
    naive = np.mean(np.abs(sums) >= abs(values.sum()) - 1e-9)
    assert exact_flip_p(values) == pytest.approx(naive)


def test_right_and_wrong_give_mcnemars_exact_test_without_a_floor() -> None:
    baseline, treated = np.zeros(60), np.ones(60)
    treated[50:] = 0
    baseline[45:48] = 1
    found = paired_permutation_test(baseline, treated, n_permutations=99)
    assert found.p == pytest.approx(mcnemar_exact(baseline, treated).p)
    assert paired_permutation_test(np.zeros(60), np.ones(60), n_permutations=99).p == pytest.approx(2 / 2**60)


def test_zeros_do_not_matter_and_a_balanced_sum_is_no_evidence() -> None:
    values = np.array([1.0, 2.0, 2.0, 3.0])
    assert exact_flip_p(np.concatenate([values, np.zeros(50)])) == exact_flip_p(values)
    assert exact_flip_p(np.array([1.0, -1.0, 0.5, -0.5])) == 1.0


def test_numbers_without_a_common_unit_are_left_to_random_flips() -> None:
    values = np.random.default_rng(0).normal(size=30)
    assert on_grid(values) is None
    assert exact_flip_p(values) is None
    assert paired_permutation_test(np.zeros(30), values + 9, n_permutations=99).p == pytest.approx(2 / 100)


def test_the_unit_is_the_coarsest() -> None:
    np.testing.assert_array_equal(on_grid(np.array([0.5, 1.5, -2.0])), [1, 3, -4])
