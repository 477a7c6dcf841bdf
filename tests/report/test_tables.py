"""Tables of the page: an interval stands with the number that it belongs to, shares are in per cent."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.report.tables import label_table, missing_labels, printed
from tests.plots import synthetic


def cells(**row: object) -> dict[str, str]:
    heads, rows = printed(pd.DataFrame([row]))
    assert len(rows) == 1
    return dict(zip(heads, rows[0], strict=True))


def test_the_interval_of_a_comparison_is_that_of_the_difference() -> None:
    found = cells(metric="exact_match", value=0.188, against_value=0.19, difference=-0.002, low=-0.01, high=0.007)
    assert found == {
        "metric": "exact_match",
        "value, %": "18.8",
        "against value, %": "19.0",
        "difference, %": "−0.2 [−1.0, +0.7]",
    }


def test_without_a_difference_it_is_that_of_the_value() -> None:
    found = cells(metric="valid", value=0.5, low=0.4, high=0.6, n=48)
    assert found == {"metric": "valid", "value, %": "50.0 [40.0, 60.0]", "n": "48"}


def test_ends_that_carry_a_name_go_to_that_name() -> None:
    found = cells(gain=0.1, gain_low=-0.05, gain_high=0.25, gain_least=-0.3, kl=1.5, kl_low=1.25, kl_high=2.0)
    assert found == {"gain, %": "+10.0 [−5.0, +25.0]", "gain least, %": "−30.0", "kl": "1.5 [1.25, 2]"}


def test_ends_of_a_beginning_go_to_the_one_column_with_it() -> None:
    found = cells(halves_gain=0.25, halves_low=0.125, halves_high=0.5, random_cosine=0.9)
    assert found == {"halves gain, %": "+25.0 [+12.5, +50.0]", "random cosine": "0.9"}
    assert cells(random_cosine=0.98, random_low=0.97, random_high=0.99) == {"random cosine": "0.98 [0.97, 0.99]"}


@pytest.mark.parametrize(
    ("value", "text"), [(float("nan"), ""), (True, "yes"), (3.0, "3"), (-2, "−2"), ("x", "x"), (None, "")]
)
def test_other_entries(value: object, text: str) -> None:
    assert cells(anything=value) == {"anything": text}


def test_what_is_unknown_has_no_interval() -> None:
    assert cells(gain=float("nan"), gain_low=0.1, gain_high=0.2) == {"gain, %": ""}
    assert cells(gain=0.1, gain_low=float("nan"), gain_high=float("nan")) == {"gain, %": "+10.0"}


def test_what_a_value_is_depends_on_its_metric_not_on_its_name() -> None:
    mixed = pd.DataFrame(
        {
            "metric": ["exact_match", "gold_logprob"],
            "value": [0.25, -3.5],
            "low": [0.2, -4.25],
            "high": [0.3, -3.0],
            "gain": [0.05, -0.125],
        }
    )
    heads, rows = printed(mixed)
    assert heads == ["metric", "value", "gain"]
    assert rows[0] == ["exact_match", "25.0 [20.0, 30.0] %", "+5.0 %"]
    assert rows[1] == ["gold_logprob", "−3.5 [−4.25, −3]", "−0.125"]
    slopes = cells(measure="slope", value=0.4, low=0.3, high=0.5)
    assert slopes == {"measure": "slope", "value": "0.4 [0.3, 0.5]"}
    assert cells(metric="valid", value=0.4) == {"metric": "valid", "value, %": "40.0"}
    assert cells(distance="cosine", value=0.4) == {"distance": "cosine", "value": "0.4"}


@pytest.mark.parametrize("value", [-0.0, -0.0004, 0.0004])
def test_zero_has_no_sign(value: float) -> None:
    assert cells(gain=value, gain_low=-0.1, gain_high=0.1) == {"gain, %": "0.0 [−10.0, +10.0]"}
    assert cells(anything=-0.0) == {"anything": "0"}
    assert cells(slope=0.0) == {"slope": "0"}


def test_infinite_numbers_are_printed() -> None:
    assert cells(boost=float("inf"), other=float("-inf")) == {"boost, %": "+inf", "other": "−inf"}


def test_labels_that_no_used_example_has_are_named() -> None:
    frame = synthetic.labels()
    (warning,) = missing_labels(frame)
    assert warning.startswith("None of the 48 test examples of finance-sentiment is labelled negative")
    assert missing_labels(frame[frame["task"] == "review-sentiment"]) == []
    assert label_table(frame).rows == [
        ["finance-sentiment", "test", "48", "positive 48, negative 0"],
        ["review-sentiment", "samples", "40", "positive 20, negative 20"],
    ]
