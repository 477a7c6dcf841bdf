from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from cast_lens.stats import gain_split, negative_transfer_rate, recovered_fraction, relative_boost


def outcomes(exact: list[int], valid: list[int], choice: list[int]) -> pd.DataFrame:
    frame = pd.DataFrame({"exact_match": exact, "valid": valid, "choice_correct": choice})
    return frame.assign(sample_id=[f"s{index}" for index in range(len(frame))])


def values(frame: pd.DataFrame) -> list[float]:
    assert list(frame["part"]) == ["total", "format", "choice"]
    return list(frame["value"])


def random_outcomes(rng: np.random.Generator, n: int, valid: float, right: float) -> pd.DataFrame:
    is_valid, is_right = rng.random(n) < valid, rng.random(n) < right
    return outcomes(list(is_valid & is_right), list(is_valid), list(is_right))


def test_examples_by_hand() -> None:
    # c before 1, 0, 1, 0 and after 1, 1, 1, 0; v turns on for the last two: format 1, choice 1, over 4
    # examples.
    # A valid answer speaks for itself, whatever the label-restricted choice of the first and last says.
    before = outcomes([1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0])
    after = outcomes([1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1])
    frame = gain_split(before, after)
    assert values(frame) == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    assert list(frame["baseline"]) == pytest.approx([1 / 4, 1 / 2, 1 / 2])
    assert list(frame["steered"]) == pytest.approx([3 / 4, 1, 3 / 4])


def test_parts_add_up_and_turn_with_the_sides() -> None:
    rng = np.random.default_rng(0)
    for shares in ((0.1, 0.5, 0.9, 0.6), (0.0, 0.4, 1.0, 0.4), (1.0, 0.2, 0.0, 0.9), (0.0, 0.5, 0.0, 0.5)):
        before, after = random_outcomes(rng, 30, *shares[:2]), random_outcomes(rng, 30, *shares[2:])
        total, form, choice = values(gain_split(before, after))
        assert form + choice == pytest.approx(total, abs=1e-12)
        assert total == pytest.approx(after["exact_match"].mean() - before["exact_match"].mean())
        back = values(gain_split(after, before))
        assert back == pytest.approx([-total, -form, -choice], abs=1e-12)


def test_a_repaired_format_is_all_format() -> None:
    # Nothing valid before, everything after, the same choice throughout: what the label-restricted accuracy
    # knows.
    choice = [1, 0, 1, 0, 0]
    frame = gain_split(outcomes([0] * 5, [0] * 5, choice), outcomes(choice, [1] * 5, choice))
    assert values(frame) == pytest.approx([0.4, 0.4, 0])


def test_better_choices_in_a_valid_format_are_all_choice() -> None:
    before, after = [1, 0, 0, 0], [1, 1, 0, 1]
    frame = gain_split(outcomes(before, [1] * 4, before), outcomes(after, [1] * 4, after))
    assert values(frame) == pytest.approx([0.5, 0, 0.5])


def test_choices_that_never_change_are_not_blamed_where_only_easy_examples_were_valid() -> None:
    # The product of rates would split this into +0.56 of format and -0.36 of choice.
    choice = [1] * 4 + [0] * 6
    before = outcomes([1, 1] + [0] * 8, [1, 1] + [0] * 8, choice)
    after = outcomes(choice, [1] * 10, choice)
    assert values(gain_split(before, after)) == pytest.approx([0.2, 0.2, 0])


def test_rows_are_matched_by_sample() -> None:
    rng = np.random.default_rng(0)
    before, after = random_outcomes(rng, 12, 0.5, 0.5), random_outcomes(rng, 12, 0.9, 0.5)
    expected = gain_split(before, after)
    shuffled = after.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(gain_split(before, shuffled), expected)
    wrong = gain_split(before, shuffled, on=())
    assert values(wrong) != pytest.approx(values(expected))


def test_intervals_cover_the_planted_parts() -> None:
    # Validity 0.5 to 0.9 and choice 0.4 to 0.6, independent: format 0.4 * 0.5, choice 0.2 * 0.7 at either
    # level.
    rng = np.random.default_rng(0)
    trials = 150
    wanted = np.array([0.34, 0.2, 0.14])
    covered = np.zeros(3)
    for _ in range(trials):
        before, after = random_outcomes(rng, 80, 0.5, 0.4), random_outcomes(rng, 80, 0.9, 0.6)
        frame = gain_split(before, after)
        covered += (frame["low"].to_numpy() <= wanted) & (wanted <= frame["high"].to_numpy())
    # Standard error of a share is 1.8 % at 150 trials.
    assert ((covered / trials >= 0.90) & (covered / trials <= 0.99)).all()


def test_clusters_of_the_split() -> None:
    rng = np.random.default_rng(0)
    before, after = random_outcomes(rng, 40, 0.5, 0.5), random_outcomes(rng, 40, 0.9, 0.5)
    doubled = pd.concat([before, before], ignore_index=True).assign(copy=np.repeat([0, 1], 40))
    twice = pd.concat([after, after], ignore_index=True).assign(copy=np.repeat([0, 1], 40))
    on = ("sample_id", "copy")
    clustered = gain_split(doubled, twice, on=on, cluster="sample_id")
    naive, single = (gain_split(doubled, twice, on=on), gain_split(before, after))
    widths = [(frame["high"] - frame["low"]).iloc[0] for frame in (clustered, naive, single)]
    assert widths[0] == pytest.approx(widths[2], rel=0.1)  # copies add no evidence
    assert widths[1] == pytest.approx(widths[2] / np.sqrt(2), rel=0.15)


def test_split_errors() -> None:
    fine = outcomes([1, 0], [1, 1], [1, 0])
    with pytest.raises(ValueError, match=r"steered lacks the columns \['valid'\]"):
        gain_split(fine, fine.drop(columns="valid"))
    with pytest.raises(ValueError, match="baseline has 1 exact matches that are not valid"):
        gain_split(outcomes([1, 0], [0, 1], [1, 0]), fine)
    with pytest.raises(ValueError, match="the same examples once each"):
        gain_split(fine, outcomes([1], [1], [1]))
    with pytest.raises(ValueError, match="the same examples once each"):
        gain_split(pd.concat([fine, fine]), pd.concat([fine, fine]))
    with pytest.raises(ValueError, match="must hold 0 or 1"):
        gain_split(fine, fine.assign(valid=[1, 2]))
    with pytest.raises(ValueError, match="cluster='seed' is not a column"):
        gain_split(fine, fine, cluster="seed")


def test_relative_boost_is_the_ratio_of_grand_means() -> None:
    # LLaMA-2 7B in arXiv 2405.10548: zero-shot 18.45 on average, 38.06 with one cross-task example: + 106.3
    # %.
    zero = np.array([4.6, 34.3, 4.2, 8.0, 41.1])
    crossed = np.array([37.0, 38.8, 27.3, 45.4, 41.8])
    found = relative_boost(zero, crossed)
    assert found.value == pytest.approx(1.063, abs=0.005)
    assert found.low < found.value < found.high
    assert np.isnan(relative_boost([0, 0], [0, 1]).value)
    with pytest.raises(ValueError, match="needs accuracies"):
        relative_boost([-1, 0], [0, 1])


def test_relative_boost_covers_a_planted_ratio() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        baseline = rng.random(150) < 0.4
        treated = baseline | (rng.random(150) < 1 / 3)
        found = relative_boost(baseline, treated, n_bootstrap=300, seed=trial)
        covered += found.low <= 0.5 <= found.high
    assert 0.91 <= covered / 300 <= 0.98  # standard error 1.3 %


def test_recovered_fraction_by_hand() -> None:
    found = recovered_fraction([0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0])
    assert found.value == pytest.approx(0.5)
    # A certain denominator of 1: a t interval for the mean of 1, 0, 1, 0, standard error sqrt(1/3) / 2.
    assert found.high - found.value == pytest.approx(3.18245 * np.sqrt(1 / 3) / 2, abs=1e-4)
    same = recovered_fraction([0, 0, 0], [1, 1, 1], [1, 1, 1])
    assert (same.low, same.value, same.high) == (1, 1, 1)


def test_fieller_ends_where_a_t_test_does() -> None:
    rng = np.random.default_rng(0)
    zero = rng.normal(size=40)
    few, steered = zero + 1 + rng.normal(size=40), zero + 0.5 + rng.normal(size=40)
    steered += 0.8 * (few - zero - 1)  # the two gains go together
    found = recovered_fraction(zero, few, steered)
    for end in (found.low, found.high):
        assert ttest_1samp(steered - zero - end * (few - zero), 0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high


def test_recovered_fraction_covers_a_planted_share() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        zero = rng.normal(size=60)
        found = recovered_fraction(zero, zero + 1 + rng.normal(size=60), zero + 0.6 + rng.normal(size=60))
        covered += found.low <= 0.6 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


def test_recovered_fraction_of_no_gain_is_unbounded() -> None:
    found = recovered_fraction([0, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0])
    assert np.isnan(found.value)
    assert (found.low, found.high) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="2 examples or more"):
        recovered_fraction([0], [1], [1])


def test_negative_transfer_counts_cells_below_their_baseline() -> None:
    found = negative_transfer_rate([0.5, 0.5, 0.5, 0.5], [0.4, 0.5, 0.6, 0.1])
    assert found.value == 0.5
    assert found.n == 4
    assert 0 < found.low < 0.5 < found.high < 1
