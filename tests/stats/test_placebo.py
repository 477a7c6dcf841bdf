from __future__ import annotations

import numpy as np
import pytest

from cast_lens.stats import placebo_test


def test_the_rank_is_the_p_value() -> None:
    found = placebo_test(5.0, [1.0, 2.0, 6.0, 3.0])
    assert (found.p, found.statistic, found.n) == (2 / 5, 2.0, 4)


def test_p_cannot_fall_below_one_in_m_plus_one_and_ties_count_against() -> None:
    assert placebo_test(9.0, np.zeros(19)).p == 1 / 20
    assert placebo_test(0.1 + 0.2, [0.3, 0.0]).p == 2 / 3


def test_false_positives_are_as_rare_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 20))
    rejected = np.mean([placebo_test(row[0], row[1:]).p <= 0.05 for row in draws])
    # 4,000 trials of 5 %: a standard error of 0.35 points.
    assert rejected == pytest.approx(0.05, abs=0.014)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="placebos"):
        placebo_test(1.0, [])
    with pytest.raises(ValueError, match="observed"):
        placebo_test(float("nan"), [1.0])
