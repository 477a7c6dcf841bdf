"""Macro-F1: against scikit-learn, its test under a true null, its interval under a planted effect."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from cast_lens.stats import macro_f1, macro_f1_contrast


def drawn(generator: np.random.Generator, gold: list[str], right: float) -> list[str]:
    labels = sorted(set(gold))
    return [one if generator.random() < right else str(generator.choice(labels)) for one in gold]


def test_it_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    for classes in (2, 3, 5):
        gold = [f"c{index}" for index in generator.integers(0, classes, size=31)]
        predicted = [*drawn(generator, gold, 0.5)[:-1], "another"]
        assert macro_f1(gold, predicted) == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))


def test_a_contrast_is_the_difference_of_both_and_averages_draws() -> None:
    generator = np.random.default_rng(1)
    gold = [f"c{index}" for index in generator.integers(0, 3, size=40)]
    before, first, second = (drawn(generator, gold, right) for right in (0.2, 0.7, 0.4))
    found = macro_f1_contrast(gold, before, [first, second], n_bootstrap=50, n_permutations=99)
    assert found.baseline == pytest.approx(macro_f1(gold, before))
    assert found.value.value == pytest.approx((macro_f1(gold, first) + macro_f1(gold, second)) / 2)
    assert found.gain.value == pytest.approx(found.value.value - found.baseline)
    again = macro_f1_contrast(gold, before, [first], n_bootstrap=50, n_permutations=99)
    same = macro_f1_contrast(gold, before, [before], n_bootstrap=50, n_permutations=99)
    assert len(again.resampled) == 50
    assert same.p == 1.0
    assert same.gain.value == 0.0
    assert np.isnan(same.gain.low)


def test_under_the_null_few_p_values_are_small_and_intervals_cover_zero() -> None:
    generator = np.random.default_rng(2)
    small, covered = [], []
    for seed in range(150):
        gold = [f"c{index}" for index in generator.integers(0, 3, size=60)]
        sides = [drawn(generator, gold, 0.5) for _ in range(2)]
        found = macro_f1_contrast(gold, sides[0], [sides[1]], n_bootstrap=300, n_permutations=199, seed=seed)
        small.append(found.p <= 0.05)
        covered.append(found.gain.low <= 0 <= found.gain.high)
    # Three standard errors of 150 draws around 5 and 95 %.
    assert np.mean(small) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 150)


def test_a_planted_effect_is_found() -> None:
    generator = np.random.default_rng(3)
    gold = ["a", "b", "c"] * 40
    found = macro_f1_contrast(gold, drawn(generator, gold, 0.3), [drawn(generator, gold, 0.9)])
    assert found.p < 0.01
    assert found.gain.low > 0.2


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 for 2"):
        macro_f1(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="treated is empty"):
        macro_f1_contrast(["a"], ["a"], [])
