"""Selection against random subsets: planted truths, geometry that is known, cells that repeat themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.selection import SelectionExperiment, choose
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.workspace import Workspace
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, rows_of, words

RUN = SelectionExperiment(budgets=(2, 3), selections=("cast", "random"), repeats=2)


def made_up(chosen: float, *, sources: int = 3, draws: int = 9) -> dict[str, pd.DataFrame]:
    """Random subsets right about half of the time, and a choice that is right in a share ``chosen``."""
    generator = np.random.default_rng(0)
    frames = []
    for target in ("t",):
        frames.append(outcomes("zero-shot", [0, 1] * 20, target=target))
        for source in range(sources):
            for seed in range(draws):
                right = generator.permutation([0, 1] * 20)
                frames.append(outcomes("random, 4", right, target=target, source=f"s{source}", seed=seed))
            right = (np.arange(40) < round(40 * chosen)).astype(int)
            frames.append(outcomes("cast, 4", generator.permutation(right), target=target, source=f"s{source}"))
            frames.append(outcomes("all", right, target=target, source=f"s{source}"))
    return {"transfer": joined(frames)}


def summary(rows: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    return RUN.tables(rows, SMALL, {})


def test_the_plan_has_a_setting_and_a_geometry_cell_per_source_and_a_transfer_cell_per_pair() -> None:
    config = replace(SMALL, sources=("review-sentiment", "yes-no-facts"), targets=("yes-no-facts",))
    _, cells = planned(RUN, config)
    kinds = [(cell.kind, cell.target, cell.source) for cell in cells]
    assert kinds.count(("transfer", "yes-no-facts", "review-sentiment")) == 1
    assert not any(kind == "transfer" and target == source for kind, target, source in kinds)
    assert sum(cell.prepares for cell in cells) == 2
    assert len(cells) == 2 + 4 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"selections": ("cast", "confident")}, "selections=.'confident'. cannot be compared"),
        ({"selections": ("random",)}, "nothing beside 'random'"),
        ({"budgets": (6, 8)}, "none below samples=6"),
    ],
)
def test_what_cannot_be_compared_is_refused(change: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned(replace(RUN, **change))


def test_a_choice_that_beats_random_is_found_with_its_size() -> None:
    frames = summary(made_up(0.9))
    row = frames["methods"].query("metric == 'exact_match'").iloc[0]
    assert row["difference"] == pytest.approx(0.4, abs=1e-9)
    assert row["low"] > 0.25
    assert row["draw_p"] == pytest.approx(2 / 10**3, abs=1e-3)
    assert row["verdict"] == "gain"
    assert row["rank"] == 1.0
    assert (frames["result"].query("metric == 'exact_match'")["rank_p"] == 1 / 10).all()
    text = words(RUN.findings(frames, SMALL))
    assert "1 of 1 combinations of method and budget, against random subsets in exact match, gain" in text
    assert "+40.0 points" in text


def test_a_choice_like_random_is_not_found() -> None:
    frames = summary(made_up(0.5))
    assert (frames["methods"]["verdict"] == "not shown").all()
    assert "0 of 1 combinations" in words(RUN.findings(frames, SMALL))


def test_a_choice_worse_than_random_is_said_to_be_worse() -> None:
    frames = summary(made_up(0.1))
    row = frames["methods"].query("metric == 'exact_match'").iloc[0]
    assert row["verdict"] == "loss"
    assert "1 lose and" in words(RUN.findings(frames, SMALL))


def test_too_few_draws_are_said_to_have_been_too_few() -> None:
    frames = summary(made_up(0.9, sources=1, draws=3))
    assert frames["methods"]["draw_least"].iloc[0] == pytest.approx(1 / 4)
    assert (frames["methods"]["verdict"] == "not shown").all()
    assert "this run could not have found" in words(RUN.findings(frames, SMALL))


def test_result_holds_value_difference_and_rank_of_every_pair() -> None:
    rows = joined(
        [
            outcomes("zero-shot", [0, 0, 0, 1]),
            outcomes("random, 2", [0, 0, 1, 1], seed=0),
            outcomes("random, 2", [0, 0, 0, 1], seed=1),
            outcomes("cast, 2", [1, 0, 1, 1]),
        ]
    )
    frames = summary({"transfer": rows})
    row = frames["result"].query("metric == 'exact_match'").iloc[0]
    assert (row["value"], row["against_value"], row["zero_shot"]) == (0.75, 0.375, 0.25)
    assert row["difference"] == pytest.approx(0.375)
    assert (row["random_low"], row["random_high"], row["rank"]) == (0.25, 0.5, 1.0)
    assert row["rank_p"] == pytest.approx(1 / 3)
    assert (row["selection"], row["budget"], row["draws"]) == ("cast", 2, 2)


@pytest.mark.slow
def test_cells_repeat_themselves_and_summarise(workspace: Workspace) -> None:
    tasks, cells = planned(RUN, workspace.config)
    rows = rows_of(RUN, workspace, cells)
    for kind in ("transfer", "subsets", "map"):
        cell = next(cell for cell in cells if cell.kind == kind)
        pd.testing.assert_frame_equal(computed(RUN, workspace, cell), computed(RUN, workspace, cell))
    frames = RUN.tables(rows, workspace.config, tasks)
    assert set(frames["result"]["budget"]) == {2, 3}
    assert set(rows["transfer"]["method"]) == {
        "zero-shot", "all", "placebo: random direction", "cast, 2", "random, 2", "cast, 3", "random, 3"
    }  # fmt: skip
    words(RUN.findings(frames, SMALL))
    names = {figure.name for figure in RUN.figures(frames, SMALL)}
    assert names == {"difference", "budgets", "map_review-sentiment"}


def test_subsets_are_those_of_the_selection_and_the_full_one_is_the_mean(workspace: Workspace) -> None:
    rows = computed(RUN, workspace, Cell("subsets", source="review-sentiment"))
    found = workspace.differences("review-sentiment")
    whole = rows[rows["selection"] == "all"].iloc[0]
    assert whole["cosine"] == pytest.approx(1.0)
    one = next(one for one in RUN.subsets(SMALL, found) if one.selection == "cast")
    assert one.indices == tuple(choose(found, "cast", 2, seed=0).indices)
    mean = found.at(int(whole["layer"]))[list(one.indices)].double().mean(dim=0).numpy()
    full = found.at(int(whole["layer"])).double().mean(dim=0).numpy()
    expected = mean @ full / np.linalg.norm(mean) / np.linalg.norm(full)
    assert rows.query("selection == 'cast' and budget == 2")["cosine"].iloc[0] == pytest.approx(expected)
    # Half of six samples is three: a budget of two can be chosen in it, as can three.
    assert rows.loc[rows["selection"] != "all", "halves"].between(-1, 1).all()


def test_the_map_marks_what_was_chosen(workspace: Workspace) -> None:
    rows = computed(RUN, workspace, Cell("map", source="review-sentiment"))
    assert rows["chosen"].sum() == 3
    assert sorted(rows.loc[rows["chosen"], "rank"]) == [0, 1, 2]
    assert rows["text"].str.len().min() > 0


def test_without_rows_tables_have_columns() -> None:
    frames = summary({})
    assert {"verdict", "metric"} <= set(frames["methods"])
    assert list(RUN.figures(frames, SMALL)) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, SMALL))
