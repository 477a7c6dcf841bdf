"""Student's interval: the textbook's numbers, coverage, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from cast_lens.stats import t_interval


def test_three_values_by_hand() -> None:
    # Standard deviation 1, and the 97.5 % point of t with 2 degrees of freedom is 4.302653.
    found = t_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - found.value == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert found.value - found.low == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert (found.n, found.units) == (3, 3)


def test_it_covers_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(0).normal(5.0, 2.0, size=(2000, 3))
    found = [t_interval(row, confidence=0.8) for row in drawn]
    covered = np.mean([one.low <= 5.0 <= one.high for one in found])
    # Four standard errors of a share over 2000.
    assert abs(covered - 0.8) < 4 * (0.8 * 0.2 / 2000) ** 0.5


def test_a_single_value_has_no_interval() -> None:
    found = t_interval([3.0])
    assert found.value == 3.0
    assert np.isnan([found.low, found.high]).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="missing or infinite"):
        t_interval([1.0, np.nan])
    with pytest.raises(ValueError, match="confidence=2 must lie between 0 and 1"):
        t_interval([1.0, 2.0], confidence=2)
