"""The best cell of a grid: its width, its luck, and the tests beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.layer_strength import (
    best_cell,
    changes,
    held_out_gains,
    optimum,
    packed,
    unpacked,
    width,
)
from cast_lens.stats import mcnemar_mid_p, proportion_interval


def test_outcomes_survive_packing() -> None:
    rows = pd.Series([packed(pd.Series([1.0, 0.0, 1.0])), packed(pd.Series([False, False, True]))])
    np.testing.assert_array_equal(unpacked(rows), [[True, False, True], [False, False, True]])
    assert packed(pd.Series([1.0, float("nan")])) == ""


def test_p_values_are_those_of_the_single_test() -> None:
    before = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    after = np.array([[1, 1, 1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
    found = changes("m", after.astype(bool), before.astype(bool))
    for row, one in enumerate(after):
        single = mcnemar_mid_p(before, one)
        wilson = proportion_interval(int(one.sum()), len(one))
        assert (found["m_gained"][row], found["m_lost"][row]) == (single.gained, single.lost)
        assert found["m_p"][row] == pytest.approx(single.p)
        assert (found["m_low"][row], found["m_high"][row]) == pytest.approx((wilson.low, wilson.high))
    assert found["m_p"][1] == 1.0


def test_noise_alone_has_a_best_cell_and_no_gain_on_the_other_half() -> None:
    generator = np.random.default_rng(0)
    best, held_out = [], []
    for seed in range(60):
        gains = generator.integers(-1, 2, size=(40, 24)).astype(float)
        best.append(gains[best_cell(gains, np.zeros(40))].mean())
        held_out.append(held_out_gains(gains, seed=seed, halvings=10).mean())
    assert min(best) > 0.15
    # The mean over 60 data sets of 24 examples, each with variance 2 / 3, has a standard error near 0.03 at most.
    assert abs(np.mean(held_out)) < 0.08


def test_a_planted_cell_keeps_its_gain_on_the_other_half() -> None:
    gains = np.zeros((9, 20))
    gains[4] = 1.0
    np.testing.assert_allclose(held_out_gains(gains, seed=0), 1.0)
    with pytest.raises(ValueError, match="have no halves"):
        held_out_gains(gains[:, :1], seed=0)


def test_equal_cells_are_told_apart_by_the_tie_break() -> None:
    assert best_cell(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), np.array([-2.0, -1.0, 5.0])) == 1


def test_width_counts_cells_near_the_best() -> None:
    cells = pd.DataFrame({"layer": [1, 2, 3, 4], "strength": [1.0, 2.0, 1.0, 4.0]})
    found = width(cells, np.array([0.1, 0.5, 0.4, -0.2]))
    assert found == {"losing_share": 0.25, "near_share": 0.5, "near_layers": "2 to 3", "near_strengths": "1 to 2"}
    assert np.isnan(width(cells, np.array([0.0, 0.0, -0.1, -0.2]))["near_share"])


def test_the_optimum_says_what_was_chosen_and_what_was_best() -> None:
    cells = pd.DataFrame(
        {"layer": [1, 2], "strength": [1.0, 1.0], "chosen": [True, False], "gold_logprob": [-1.0, -2.0]}
    )
    gains = np.array([[1.0, 0.0, -1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    row, examples = optimum(cells, gains, seed=0)
    assert (row["chosen_layer"], row["gain"], row["p_value"]) == (1, 0.0, 1.0)
    assert (row["oracle_layer"], row["oracle_gain"], row["cells"], row["n"]) == (2, 0.75, 2, 4)
    assert row["luck"] == pytest.approx(0.75 - examples["oracle on the other half"].mean())
