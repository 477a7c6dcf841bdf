"""Generated sentences agree with the numbers, whichever way these turn out."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.report.sentences import (
    interval_counts,
    parallelism_reading,
    placebo_summary,
    split_summary,
)
from tests.plots import synthetic


def one_pair(total: float, choice: float, *, half: float = 0.08, method: str = "steered") -> pd.DataFrame:
    """One steered pair whose intervals reach ``half`` to either side."""
    parts = {"total": total, "format": total - choice, "choice": choice}
    ends = {f"{name}_low": value - half for name, value in parts.items()}
    ends |= {f"{name}_high": value + half for name, value in parts.items()}
    return pd.DataFrame([{"target": "t", "source": "s", "method": method, "n": 48, **parts, **ends}])


@pytest.mark.parametrize(
    ("total", "choice", "expected"),
    [
        (
            0.35,
            0.02,
            "raised exact match by 35.0 percentage points on average over 4 target–source pairs: +33.0 ",
        ),
        (0.35, 0.02, "and +2.0 from the choice of it (which admissible answer). Most of the gain is format."),
        (0.20, 0.18, "Most of the gain is choice."),
        (0.20, 0.10, "The gain is neither format nor choice alone."),
        (0.20, -0.20, "+40.0 from the format"),
        (0.20, -0.20, "All of the gain is format; choice went the other way."),
        (0.20, 0.30, "All of the gain is choice; format went the other way."),
        (0.0, -0.1, "left exact match unchanged on average over 4 target–source pairs: +10.0 from"),
        (0.0004, 0.0, "There is no gain to explain on average."),
        (-0.12, -0.02, "lowered exact match by 12.0 percentage points"),
        (-0.12, -0.02, "Most of the loss is format."),
        (-0.12, 0.05, "All of the loss is format; choice went the other way."),
        (0.0234, -0.0236, "by 2.3 percentage points on average over 4 target–source pairs: +4.7 from"),
    ],
)
def test_the_gain_is_told_as_it_is(total: float, choice: float, expected: str) -> None:
    lead, _ = split_summary(synthetic.split(total=total, choice=choice))
    assert lead.startswith("Adding another task's vector ")
    assert expected in lead


def test_placebos_do_not_enter_the_average() -> None:
    split = synthetic.split(total=0.2)
    split.loc[split["method"] != "steered", "total"] = -0.9
    assert "raised exact match by 20.0 percentage points" in split_summary(split)[0]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (
            0.0,
            "covers zero for all 4 pairs. For no pair can it be said that the model chooses better or worse",
        ),
        (
            0.2,
            "lies above zero for all 4 pairs. So, each at 95 %,",
        ),
        (
            -0.2,
            "lies below zero for all 4 pairs. So, each at 95 %,",
        ),
    ],
)
def test_intervals_that_cover_zero_are_told(choice: float, expected: str) -> None:
    _, sure = split_summary(synthetic.split(total=0.3, choice=choice))
    assert f"that of the choice part {expected}" in sure


def test_mixed_intervals_are_counted() -> None:
    split = synthetic.split(total=0.3, choice=0.0)
    steered = split.index[split["method"] == "steered"]
    split.loc[steered[0], ["choice_low", "choice_high"]] = 0.01, 0.2
    split.loc[steered[1], ["choice_low", "choice_high"]] = -0.2, -0.01
    _, sure = split_summary(split)
    assert "lies above zero for 1 pair, lies below zero for 1 pair and covers zero for 2 pairs" in sure
    assert "chooses better for 1 and worse for 1" in sure
    assert interval_counts(split.loc[steered], "choice") == (1, 1, 2)


def test_an_interval_that_ends_at_zero_covers_it() -> None:
    pair = one_pair(0.1, 0.08)
    assert pair["choice_low"].item() == 0
    assert interval_counts(pair, "choice") == (0, 0, 1)


@pytest.mark.parametrize(("choice", "word"), [(0.1, "better"), (-0.1, "worse")])
def test_one_pair_is_named(choice: float, word: str) -> None:
    lead, sure = split_summary(one_pair(0.3, choice))
    assert "on t with the vector of s" in lead
    assert f"So the steered model chooses {word}." in sure
    assert "[" in sure, "with its interval"


def test_a_tasks_own_vector_is_no_transfer() -> None:
    own = one_pair(0.9, 0.0, method="steered (own vector)")
    assert "by 10.0 percentage" in split_summary(pd.concat([one_pair(0.1, 0.0), own]))[0]
    assert split_summary(own)[0].startswith("Adding a task's own vector raised exact match by 90.0 ")
    assert split_summary(own.assign(method="few-shot"))[0].startswith("No steered pair")


def test_placebos_are_told_apart() -> None:
    split = pd.concat(
        [
            one_pair(0.3, 0.0),
            one_pair(0.28, 0.0, method="placebo: shuffled labels"),
            one_pair(-0.1, 0.0, method="placebo: random direction"),
            one_pair(0.0, 0.0, method="placebo: random direction"),
        ]
    )
    assert placebo_summary(split) == (
        "Placebos at the same layer and strength: +28.0 points for a vector from demonstrations with shuffled answers "
        "and −5.0 points for a random direction of the same length."
    )
    assert placebo_summary(one_pair(0.3, 0.0)) == ""


def test_parallelism_is_read_by_family() -> None:
    frame = synthetic.parallelism()
    same = frame["family_a"] == frame["family_b"]
    within, across = (frame.loc[rows, "cosine"].mean() for rows in (same, ~same))
    told = parallelism_reading(frame)
    assert f"of one family have a cosine of {within:.2f}, those of two families {across:.2f}" in told
    assert "are more parallel than" in told
    assert "furthest apart at layer 28" in told


def test_families_that_do_not_matter_are_not_made_to() -> None:
    frame = synthetic.parallelism()
    frame["cosine"] = 0.5
    assert "are no more parallel than" in parallelism_reading(frame)


def test_the_null_is_counted_by_whole_intervals() -> None:
    frame = synthetic.parallelism().assign(low=0.5, null_pairs_high=0.6)
    frame.loc[: len(frame) // 2 - 1, "low"] = 0.7
    assert "In 50 % of all pairs and layers the whole interval lies above" in parallelism_reading(frame)


def test_one_family_alone_is_not_compared() -> None:
    frame = synthetic.parallelism(synthetic.TASKS[:2])
    assert parallelism_reading(frame).startswith("All pairs here are of one family")
    bare = frame.drop(columns=["family_a", "family_b"])
    assert parallelism_reading(bare).startswith("Over all layers and pairs of tasks the cosine is")
