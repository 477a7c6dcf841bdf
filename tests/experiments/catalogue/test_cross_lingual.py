"""Vectors across languages: which tasks, which way, leaks refused, planted transfer, cells that repeat."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from cast_lens.experiments.catalogue.cross_lingual import CrossLingual, check_parallel, families, foreign_labels
from cast_lens.experiments.workspace import Workspace
from cast_lens.tasks import load_task
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, right, rows_of, words

RUN = CrossLingual(languages=("de",))
OUT, BACK, OWN = "to other languages", "from other languages", "own language"


def made_up(out: int) -> dict[str, pd.DataFrame]:
    """Of 40 German queries ``out`` right under the English vector, 20 under placebos, 30 under the own vector."""
    shared: dict[str, Any] = {"target": "mood.de", "base": "mood", "foreign": 0.0}
    found = joined(
        [
            outcomes("zero-shot", right(15), **shared),
            outcomes(f"cast, {OUT}", right(out), source="mood", **{**shared, "foreign": 0.25}),
            outcomes(f"placebo: random direction, {OUT}", right(20), source="mood", **shared),
            outcomes(f"placebo: shuffled labels, {OUT}", right(20), source="mood", **shared),
            outcomes(f"cast, {OWN}", right(30), source="mood.de", **shared),
        ]
    )
    return {"steered": found}


def test_every_language_of_a_source_is_found_or_those_asked_for() -> None:
    (family,) = families(SMALL)
    assert (family.home, set(family.others)) == ("en", {"de", "es", "fr"})
    (asked,) = families(SMALL, ("de",))
    assert asked.names == {"en": "review-sentiment", "de": "review-sentiment.de"}
    (german,) = families(replace(SMALL, sources=("review-sentiment.de",)), ("en",))
    assert german.names == {"de": "review-sentiment.de", "en": "review-sentiment"}


def test_sources_of_one_language_are_refused_with_those_that_have_more() -> None:
    with pytest.raises(ValueError, match=r"none of sources=.'yes-no-facts'. .* review-sentiment \(.*de"):
        CrossLingual().task_names(replace(SMALL, sources=("yes-no-facts",)))
    with pytest.raises(ValueError, match=r"languages=.'xx'.: no source has them"):
        CrossLingual(languages=("de", "xx")).task_names(SMALL)


def test_the_plan_goes_out_and_back() -> None:
    _, cells = planned(RUN)
    assert [cell.source for cell in cells if cell.prepares] == ["review-sentiment", "review-sentiment.de"]
    assert [cell.target for cell in cells if cell.kind == "steered"] == ["review-sentiment", "review-sentiment.de"]
    shown = {(cell.target, cell.source) for cell in cells if cell.kind == "prompted"}
    assert ("review-sentiment.de", "review-sentiment") in shown
    assert ("review-sentiment", "review-sentiment.de") in shown


def test_a_translation_of_a_test_item_in_training_is_refused() -> None:
    (family,) = families(SMALL, ("de",))
    tasks = {name: load_task(name) for name in family.names.values()}
    check_parallel(family, tasks)
    german = tasks["review-sentiment.de"]
    moved = replace(german, train=(*german.train, german.test[0]))
    with pytest.raises(ValueError, match="1 items of the test split of 'review-sentiment' are in"):
        check_parallel(family, {**tasks, "review-sentiment.de": moved})


@pytest.mark.parametrize(("out", "told"), [(38, "gain"), (20, "not shown"), (2, "loss")])
def test_transfer_is_told_as_it_is(out: int, told: str) -> None:
    frames = RUN.tables(made_up(out), SMALL, {})
    versus = frames["versus"].query("metric == 'exact_match'").set_index(["method", "against"])
    row = versus.loc[(f"cast, {OUT}", f"cast, {OWN}")]
    # The own vector comes from another source, and is still paired query by query.
    assert (row["n"], row["difference"]) == (40, pytest.approx((out - 30) / 40))
    for placebo in ("random direction", "shuffled labels"):
        row = versus.loc[(f"cast, {OUT}", f"placebo: {placebo}, {OUT}")]
        assert (row["verdict"], row["difference"]) == (told, pytest.approx((out - 20) / 40))
    assert f"({told})" in words(RUN.findings(frames, SMALL))
    methods = frames["methods"].drop_duplicates("method").set_index("method")
    assert methods.loc[f"cast, {OUT}", "foreign"] == 0.25


def test_foreign_labels_are_those_of_other_languages_only() -> None:
    tasks = [load_task("headline-topic"), load_task("headline-topic.fr")]
    found = foreign_labels(tasks, tasks[1])
    assert "world" in found
    assert "sport" not in found
    assert "monde" not in found


@pytest.mark.slow
def test_cells_repeat_themselves_and_summarise(workspace: Workspace) -> None:
    tasks, cells = planned(RUN, workspace.config)
    rows = rows_of(RUN, workspace, cells)
    for kind in ("steered", "prompted", "geometry"):
        cell = next(cell for cell in cells if cell.kind == kind)
        pd.testing.assert_frame_equal(computed(RUN, workspace, cell), computed(RUN, workspace, cell))
    german = rows["steered"].query("target == 'review-sentiment.de'")
    assert set(german["gold"]) <= {"positiv", "negativ"}
    frames = RUN.tables(rows, SMALL, tasks)
    pairs = frames["result"].query("method.str.startswith('cast')", engine="python")
    assert set(zip(pairs["source_language"], pairs["target_language"], strict=True)) == {
        ("en", "en"), ("de", "en"), ("en", "de"), ("de", "de")
    }  # fmt: skip
    words(RUN.findings(frames, SMALL))
    assert {figure.name for figure in RUN.figures(frames, SMALL)} == {"methods", "matrix", "cosines"}


def test_without_rows_tables_have_columns() -> None:
    frames = RUN.tables({}, SMALL, {})
    assert {"verdict", "source_language"} <= set(frames["result"])
    assert list(RUN.figures(frames, SMALL)) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, SMALL))
