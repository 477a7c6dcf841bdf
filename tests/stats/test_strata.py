"""The exchange of a choice with random draws: closed forms, the null's false positives, a planted choice."""

from __future__ import annotations

import numpy as np
import pytest

from cast_lens.stats import stratified_placebo_test


def test_one_stratum_is_the_rank_of_the_effect() -> None:
    found = stratified_placebo_test([5.0], [[1.0, 2.0, 3.0]])
    assert found.statistic == pytest.approx(3.0)
    assert found.p == pytest.approx(1 / 4)
    assert found.n == 1


def test_all_relabellings_of_two_strata_are_counted_exactly() -> None:
    # Scores are +-1 in each stratum, so the four means are -1, 0, 0, 1: two of them are as far out as 1.
    found = stratified_placebo_test([1.0, 1.0], [[0.0], [0.0]])
    assert found.statistic == pytest.approx(1.0)
    assert found.p == pytest.approx(2 / 4)


def test_a_loss_counts_as_a_gain_does() -> None:
    draws = [np.arange(9.0), np.arange(9.0)]
    up, down = (stratified_placebo_test([end, end], draws) for end in (20.0, -12.0))
    assert up.p == down.p == pytest.approx(1 / 100)
    assert down.statistic == pytest.approx(-16.0)


def test_exact_and_random_relabellings_agree() -> None:
    generator = np.random.default_rng(0)
    draws = [generator.normal(size=6) for _ in range(3)]
    exact = stratified_placebo_test([0.8, 0.9, 1.0], draws)
    drawn = stratified_placebo_test([0.8, 0.9, 1.0], draws, n_permutations=342, seed=1)
    # 343 relabellings: three standard errors of a share of 342 draws.
    assert drawn.p == pytest.approx(exact.p, abs=3 * np.sqrt(0.25 / 342))
    assert drawn.p != exact.p


def test_false_positives_stay_within_their_level() -> None:
    generator = np.random.default_rng(1)
    trials = 600
    hits = 0
    for _ in range(trials):
        pools = generator.normal(size=(3, 8))
        hits += stratified_placebo_test(pools[:, 0], list(pools[:, 1:])).p < 0.05
    # The exact binomial 99.9 % interval around 5 % of 600 trials.
    assert 13 <= hits <= 51


def test_a_planted_choice_is_found() -> None:
    generator = np.random.default_rng(2)
    pools = generator.normal(size=(4, 11))
    found = stratified_placebo_test(pools[:, 0] + 3, list(pools[:, 1:]))
    assert found.p < 0.01
    assert found.statistic > 1.5


@pytest.mark.parametrize("placebos", [[[1.0]], [[1.0], []]])
def test_strata_must_match_and_have_placebos(placebos: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="placebos"):
        stratified_placebo_test([1.0, 2.0], placebos)
