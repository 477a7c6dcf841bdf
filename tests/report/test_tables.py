"""Every number of the outcome table stands where it belongs, and once."""

from __future__ import annotations

import pandas as pd

from cast_lens.report.tables import outcome_tables, setting_rows, split_rows
from tests.plots import synthetic


def test_a_target_has_every_condition_under_every_metric() -> None:
    tables = outcome_tables(synthetic.transfer())
    assert [table.target for table in tables] == list(synthetic.TARGETS)
    finance = tables[0]
    assert [method for method, _ in finance.heads] == [
        "zero-shot",
        "steered",
        "placebo: random direction",
        "placebo: shuffled labels",
        "cross-task few-shot",
        "few-shot",
    ]
    assert [block.name for block in finance.blocks] == [
        "exact match",
        "label validity",
        "label-restricted accuracy",
    ]
    assert finance.n == 48


def test_cells_hold_value_and_interval() -> None:
    row = outcome_tables(synthetic.transfer())[0].blocks[0].rows[1]
    assert row.source == "science"
    cells = {cell.method: cell for cell in row.cells}
    assert (cells["steered"].value, cells["steered"].interval) == ("1 %", "[0, 11]")


def test_conditions_without_a_source_span_all_sources_and_stand_once() -> None:
    first, second = outcome_tables(synthetic.transfer())[0].blocks[0].rows
    spans = {cell.method: cell.rows for cell in first.cells}
    assert spans["zero-shot"] == spans["few-shot"] == 2
    assert spans["steered"] == 1
    assert {cell.method for cell in second.cells} == set(spans) - {"zero-shot", "few-shot"}


def test_free_answers_have_exact_match_only() -> None:
    assert [block.name for block in outcome_tables(synthetic.transfer())[2].blocks] == ["exact match"]


def test_arrows_need_the_corrected_p_value() -> None:
    frame = synthetic.transfer()
    steered = (frame["method"] == "steered") & (frame["metric"] == "exact_match")
    frame.loc[steered, "p_adjusted"] = 0.04
    signs = [
        {cell.method: cell.sign for cell in row.cells}["steered"]
        for row in outcome_tables(frame)[0].blocks[0].rows
    ]
    assert signs == ["up", "down"]
    assert not any(cell.sign for cell in outcome_tables(synthetic.transfer())[0].blocks[0].rows[0].cells)
    placebo = frame.assign(p_adjusted=0.001).query("method != 'steered'")
    assert not any(cell.sign for row in outcome_tables(placebo)[0].blocks[0].rows for cell in row.cells)


def test_a_sources_own_vector_stands_with_the_steered() -> None:
    frame = synthetic.transfer().query("target == 'finance-sentiment'")
    own = frame["source"].eq("science") & frame["method"].eq("steered")
    frame.loc[own, "method"] = "steered (own vector)"
    frame = frame[~(frame["source"].eq("science") & frame["method"].eq("cross-task few-shot"))]
    table = outcome_tables(frame)[0]
    assert "steered (own vector)" not in [method for method, _ in table.heads]
    cells = {cell.method: cell.value for cell in table.blocks[0].rows[1].cells}
    assert cells["steered"] == "1 %"
    assert cells["cross-task few-shot"] == "–", "not run, and said so"


def test_a_target_that_was_only_prompted() -> None:
    frame = synthetic.transfer().query("source == ''")
    (row,) = outcome_tables(frame)[0].blocks[0].rows
    assert row.source == ""
    assert [cell.value for cell in row.cells] == ["5 %", "60 %"]


def test_missing_sources_may_be_null() -> None:
    frame = synthetic.transfer()
    null = frame.assign(source=frame["source"].where(frame["source"] != "", None))
    assert outcome_tables(null) == outcome_tables(frame)


def test_split_rows_are_the_steered_ones() -> None:
    rows = split_rows(synthetic.split())
    assert len(rows) == 4
    assert rows[0] == (
        "finance-sentiment", "review-sentiment", "+35 [+27, +43]", "+33 [+25, +41]", "+2 [−6, +10]",
    )  # fmt: skip


def test_settings_tell_what_the_validation_split_showed() -> None:
    frame = synthetic.sweep(("science",))
    first = f"{100 * frame.loc[frame['chosen'], 'first_match'].item():.0f} %"
    same = (frame["layer"] == 18) & (frame["strength"] == 2) & (frame["kind"] != "vector")
    noise = f"{100 * frame.loc[same, 'first_match'].item():.0f} %"
    assert setting_rows(frame) == [("science", "18", "2", "24", "20 %", first, noise, "–", first)]
    assert setting_rows(frame.assign(chosen=False)) == []
    assert setting_rows(pd.concat([frame, synthetic.sweep(("geography",))]))[1][0] == "geography"
