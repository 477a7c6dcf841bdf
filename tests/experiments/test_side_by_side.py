"""Two conditions side by side: which queries are paired, what is averaged, what counts as one unit."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.experiments.outcomes import once, side_by_side
from tests.experiments.small import joined, outcomes


def compare(rows: pd.DataFrame, pairs: list[tuple[str, str]], **options: object) -> pd.DataFrame:
    return side_by_side(rows, pairs, seed=0, **options)  # type: ignore[arg-type]


def test_draws_are_averaged_before_they_are_compared() -> None:
    rows = joined(
        [outcomes("b", [1, 0, 0, 0], seed=0), outcomes("b", [1, 1, 0, 0], seed=1), outcomes("a", [1, 1, 1, 0])]
    )
    row = compare(rows, [("a", "b")], metrics=("exact_match",)).iloc[0]
    assert (row["n"], row["value"], row["against_value"]) == (4, 0.75, 0.375)
    assert row["difference"] == pytest.approx(0.375)


def test_a_method_without_a_source_stands_beside_every_source() -> None:
    rows = joined(
        [
            outcomes("few-shot", [1, 1], source=""),
            outcomes("cast", [0, 0], source="s"),
            outcomes("cast", [1, 1], source="u"),
        ]
    )
    row = compare(rows, [("cast", "few-shot")], metrics=("exact_match",)).iloc[0]
    assert row["n"] == 4
    assert row["difference"] == pytest.approx(-0.5)


def test_a_query_met_by_many_sources_counts_as_one_unit() -> None:
    """Ten copies of two queries hold no more evidence than the two."""
    copies = [outcomes("a", [1, 1], source=f"s{i}") for i in range(10)]
    copies += [outcomes("b", [0, 0], source=f"s{i}") for i in range(10)]
    row = compare(joined(copies), [("a", "b")], metrics=("exact_match",)).iloc[0]
    assert row["n"] == 20
    # Two flips of four reach the observed sum, and as ties they count half.
    assert row["p_value"] == pytest.approx(0.25)
    alone = compare(joined([outcomes("a", [1, 1]), outcomes("b", [0, 0])]), [("a", "b")]).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((alone["low"], alone["high"]))


def test_outcomes_unknown_on_one_side_are_left_out_and_counted() -> None:
    rows = joined([outcomes("a", [1, 1, 0, 0]), outcomes("b", [0, 1, 0, 0])])
    rows.loc[rows["method"] == "a", "exact_match"] = [1.0, float("nan"), 0.0, 0.0]
    row = compare(rows, [("a", "b")], metrics=("exact_match",)).iloc[0]
    assert (row["n"], row["excluded"]) == (3, 1)
    assert row["difference"] == pytest.approx(1 / 3)


def test_unknown_outcomes_are_left_out_and_holm_counts_the_rest() -> None:
    free = outcomes("a", [1, 0], valid=[1, 1]).assign(choice_correct=float("nan"))
    rows = joined([free, free.assign(method="b")])
    found = compare(rows, [("a", "b"), ("a", "c")])
    assert list(found["metric"]) == ["exact_match", "valid"]
    assert (found["n_tests"] == 2).all()


def test_parts_are_compared_within_themselves() -> None:
    rows = joined(
        [
            outcomes("a", [1, 1], target="t"),
            outcomes("b", [0, 0], target="t"),
            outcomes("a", [0, 0], target="u"),
            outcomes("b", [0, 0], target="u"),
        ]
    )
    found = compare(rows, [("a", "b")], within=("target",), metrics=("exact_match",))
    assert dict(zip(found["target"], found["difference"], strict=True)) == {"t": 1.0, "u": 0.0}


def test_nothing_in_common_gives_an_empty_table_with_its_columns() -> None:
    found = compare(outcomes("a", [1, 0]), [("a", "b")])
    assert found.empty
    assert {"difference", "p_adjusted", "n_tests"} <= set(found.columns)


def test_zero_shot_is_kept_once_a_query() -> None:
    rows = joined([outcomes("zero-shot", [1, 0]), outcomes("a", [1, 0]), outcomes("zero-shot", [1, 0])])
    assert list(once(rows)["method"]) == ["zero-shot", "zero-shot", "a", "a"]
