"""Vectors across languages: which tasks, which way, leaks refused, planted transfer, cells that repeat."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from cast_lens.experiments.bench import Bench
from cast_lens.experiments.catalogue.cross_lingual import foreign_labels
from cast_lens.experiments.languages import check_parallel, families
from cast_lens.tasks import load_task
from tests.experiments.old_small import (
    SMALL,
    bench_of,
    computed,
    find,
    joined,
    outcomes,
    planned,
    right,
    rows_of,
    small_config,
    words,
)

NAME = "cross-lingual"
RUN = find(NAME)
OUT, BACK, OWN = "to other languages", "from other languages", "own language"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = small_config(tmp_path_factory.mktemp("tiny"), languages=("de",))
    return bench_of(NAME, config, tmp_path_factory.mktemp("out"))


def made_up(out: int) -> pd.DataFrame:
    """Of 40 German queries ``out`` right under the English vector, 20 under placebos, 30 under the own vector."""
    shared = {"target": "mood.de", "part": "outcomes", "base": "mood", "foreign": 0.0}

    return joined(
        [
            outcomes("zero-shot", right(15), **shared),  # type: ignore[arg-type]
            outcomes(f"cast, {OUT}", right(out), source="mood", **{**shared, "foreign": 0.25}),  # type: ignore[arg-type]
            outcomes(f"placebo: random direction, {OUT}", right(20), source="mood", **shared),  # type: ignore[arg-type]
            outcomes(f"placebo: shuffled labels, {OUT}", right(20), source="mood", **shared),  # type: ignore[arg-type]
            outcomes(f"cast, {OWN}", right(30), source="mood.de", **shared),  # type: ignore[arg-type]
        ]
    )


def test_every_language_of_a_source_is_found_or_those_asked_for() -> None:
    (family,) = families(SMALL)
    assert (family.home, set(family.others)) == ("en", {"de", "es", "fr"})
    (asked,) = families(replace(SMALL, languages=("de",)))
    assert asked.names == {"en": "review-sentiment", "de": "review-sentiment.de"}
    (german,) = families(replace(SMALL, sources=("review-sentiment.de",), languages=("en",)))
    assert german.names == {"de": "review-sentiment.de", "en": "review-sentiment"}


def test_sources_of_one_language_are_refused_with_those_that_have_more() -> None:
    with pytest.raises(ValueError, match=r"none of sources=.'yes-no-facts'. .* review-sentiment \(.*de"):
        RUN.tasks(replace(SMALL, sources=("yes-no-facts",)))
    with pytest.raises(ValueError, match=r"languages=.'xx'.: no source has them"):
        RUN.tasks(replace(SMALL, languages=("de", "xx")))


def test_the_plan_goes_out_and_back() -> None:
    _, cells = planned(NAME, replace(SMALL, languages=("de",)))
    assert [cell.source for cell in cells if cell.prepares] == ["review-sentiment", "review-sentiment.de"]
    assert [cell.target for cell in cells if cell.kind == "steered"] == [
        "review-sentiment",
        "review-sentiment.de",
    ]
    shown = {(cell.target, cell.source) for cell in cells if cell.kind == "prompted"}
    assert ("review-sentiment.de", "review-sentiment") in shown
    assert ("review-sentiment", "review-sentiment.de") in shown


def test_a_translation_of_a_test_item_in_training_is_refused() -> None:
    (family,) = families(replace(SMALL, languages=("de",)))
    tasks = {name: load_task(name) for name in family.names.values()}
    check_parallel(family, tasks)
    german = tasks["review-sentiment.de"]
    moved = replace(german, train=(*german.train, german.test[0]))
    with pytest.raises(ValueError, match="1 items of the test split of 'review-sentiment' stand in"):
        check_parallel(family, {**tasks, "review-sentiment.de": moved})


@pytest.mark.parametrize(
    ("out", "told"),
    [
        (38, "exact match exceeds a random direction (+45.0 points"),
        (20, "exact match cannot be told from a random direction (+0.0 points"),
        (2, "exact match falls below a random direction (−45.0 points"),
    ],
)
def test_transfer_is_told_as_it_is(out: int, told: str) -> None:
    frames = RUN.summarise(made_up(out), SMALL, {})
    versus = frames["versus"].query("metric == 'exact_match'").set_index(["method", "against"])
    row = versus.loc[(f"cast, {OUT}", f"cast, {OWN}")]
    # The own vector comes from another source, and is still paired query by query.
    assert (row["n"], row["difference"]) == (40, pytest.approx((out - 30) / 40))
    text = words(RUN.read(frames, SMALL))
    assert told in text
    assert (
        told.replace("a random direction", "the vector of shuffled labels").removeprefix("exact match ")
        in text
    )
    methods = frames["methods"].drop_duplicates("method").set_index("method")
    assert methods.loc[f"cast, {OUT}", "foreign"] == 0.25


def test_foreign_labels_are_those_of_other_languages_only() -> None:
    tasks = [load_task("headline-topic"), load_task("headline-topic.fr")]
    found = foreign_labels(tasks, tasks[1])
    assert "world" in found
    assert "sport" not in found
    assert "monde" not in found


def test_cells_repeat_themselves_and_summarise(bench: Bench) -> None:
    tasks, cells = planned(NAME, bench.config)  # type: ignore[arg-type]
    rows = rows_of(NAME, bench, cells)
    for kind in ("steered", "prompted", "geometry"):
        cell = next(cell for cell in cells if cell.kind == kind)
        pd.testing.assert_frame_equal(computed(NAME, bench, cell), computed(NAME, bench, cell))
    german = rows[(rows["target"] == "review-sentiment.de") & (rows["part"] == "outcomes")]
    assert set(german["gold"]) <= {"positiv", "negativ"}
    frames = RUN.summarise(rows, SMALL, tasks)
    pairs = frames["result"].query("method.str.startswith('cast')", engine="python")
    assert set(zip(pairs["source_language"], pairs["target_language"], strict=True)) == {
        ("en", "en"), ("de", "en"), ("en", "de"), ("de", "de")
    }  # fmt: skip
    words(RUN.read(frames, SMALL))
    assert {drawing.name for drawing in RUN.draw(frames, SMALL)} == {"methods", "matrix", "cosines"}
