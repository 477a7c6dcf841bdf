"""Headlines hold the numbers of their tables and stay true when nothing came out."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.experiments import sentences
from cast_lens.experiments.outcomes import contrast_table, pooled_table
from tests.experiments.small import joined, outcomes, right


@pytest.mark.parametrize(
    ("value", "text"), [(0.031, "+3.1"), (-0.02, "−2.0"), (0.0004, "0.0"), (-0.0004, "0.0"), (float("nan"), "unknown")]
)
def test_points_have_a_sign_unless_they_are_nothing_or_unknown(value: float, text: str) -> None:
    assert sentences.points(value) == text


@pytest.mark.parametrize(
    ("count", "verdict", "told"),
    [
        (36, "gain", "1 of 1 pairs gain, 0 lose and 0 show neither"),
        (10, "not shown", "0 of 1 pairs gain, 0 lose and 1 show neither"),
        (0, "loss", "0 of 1 pairs gain, 1 lose and 0 show neither"),
    ],
)
def test_the_headline_is_what_the_tables_say(count: int, verdict: str, told: str) -> None:
    frames = [outcomes("zero-shot", right(10)), outcomes("cast", right(count))]
    rows = joined([*frames, outcomes("placebo: random direction", right(11))])
    result = contrast_table(rows, tested=lambda name: name == "cast", n_bootstrap=50, seed=0)
    methods = pooled_table(rows, n_bootstrap=50, seed=0)
    cast = result[(result["method"] == "cast") & (result["metric"] == "exact_match")]
    assert cast["verdict"].tolist() == [verdict]
    assert set(result.loc[result["method"] != "cast", "verdict"]) == {""}
    headline = sentences.transfer(methods, result)
    change = sentences.points((count - 10) / 40)
    assert headline.startswith(f"cast changes exact match by {change} points [")
    assert "from zero-shot's 25.0 %, over 1 pair and 40 answers" in headline
    assert "the strongest placebo (random direction) by +2.5 points [" in headline
    assert told in headline


def test_without_outcomes_the_headline_says_so() -> None:
    nothing = pd.DataFrame()
    result = contrast_table(nothing, tested=lambda name: True, n_bootstrap=50, seed=0)
    methods = pooled_table(nothing, n_bootstrap=50, seed=0)
    assert sentences.transfer(methods, result) == sentences.NOTHING
    assert sentences.tally(result) == ""


def test_an_interval_that_is_not_known_is_not_written() -> None:
    assert sentences.interval(-0.05, 0.0) == "[−5.0, 0.0]"
    assert sentences.interval(float("nan"), 0.1) == ""


def test_a_headline_leaves_out_what_is_not_known() -> None:
    assert sentences.headline(["one gains", "", "none loses"]) == "One gains; none loses."
    assert sentences.headline(["", ""]) == sentences.NOTHING
