"""Variants against the contrastive mean and their placebos: planted truths, edits as described, cells that repeat."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from cast_lens.experiments.catalogue.ablation import Ablation, neighbours, settled, steering
from cast_lens.experiments.workspace import Workspace
from cast_lens.interventions import PromptVectors
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, right, rows_of, words

RUN = Ablation(repeats=2)


def made_up(few: int, *, cast: int = 20) -> dict[str, pd.DataFrame]:
    """Of 40 queries ``cast`` right under cast, ``few`` under the few-shot mean, 10 under placebos and zero-shot."""
    found = joined(
        [
            outcomes("zero-shot", right(10), group=""),
            outcomes("cast", right(cast), group="reference"),
            outcomes("placebo: cast", right(10), group="reference"),
            outcomes("few-shot mean", right(few), group="contrast"),
            outcomes("placebo: few-shot mean", right(10), group="contrast"),
        ]
    )
    return {"steered": found}


def test_the_plan_prepares_settings_and_strengths_and_has_a_cell_per_pair() -> None:
    config = replace(SMALL, targets=("yes-no-facts", "review-sentiment"))
    _, cells = planned(RUN, config)
    assert [cell.variant for cell in cells if cell.kind == "setting"] == ["cast", "few-shot mean"]
    assert [(cell.target, cell.source) for cell in cells if not cell.prepares] == [("yes-no-facts", "review-sentiment")]


def test_a_variant_that_loses_is_found_with_its_size() -> None:
    frames = RUN.tables(made_up(5), SMALL, {})
    versus = frames["versus"].set_index(["method", "against", "metric"])["difference"]
    assert versus["few-shot mean", "cast", "exact_match"] == pytest.approx(-15 / 40)
    assert versus["cast", "placebo: cast", "exact_match"] == pytest.approx(10 / 40)
    assert versus["few-shot mean", "placebo: few-shot mean", "exact_match"] == pytest.approx(-5 / 40)
    verdicts = frames["versus"].set_index(["method", "against", "metric"])["verdict"]
    assert verdicts["few-shot mean", "cast", "exact_match"] == "loss"
    assert "0 of 1 variants, against cast in exact match, gain, 1 lose" in words(RUN.findings(frames, SMALL))


@pytest.mark.parametrize(("few", "verdict"), [(38, "gain"), (20, "not shown")])
def test_a_variant_that_wins_is_said_to_win_and_no_difference_to_show_nothing(few: int, verdict: str) -> None:
    frames = RUN.tables(made_up(few), SMALL, {})
    row = frames["versus"].query("against == 'cast' and metric == 'exact_match'").iloc[0]
    assert (row["method"], row["verdict"]) == ("few-shot mean", verdict)
    assert f"and {int(verdict == 'not shown')} show neither" in words(RUN.findings(frames, SMALL))


def test_without_rows_tables_have_columns() -> None:
    frames = RUN.tables({}, SMALL, {})
    assert all({"metric", "group"} <= set(frame) for frame in frames.values())
    assert list(RUN.figures(frames, SMALL)) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, SMALL))


@pytest.mark.parametrize(
    ("middle", "count", "expected"), [(2, 3, (1, 2, 3)), (0, 3, (0, 1, 2)), (4, 3, (2, 3, 4)), (1, 9, (0, 1, 2, 3, 4))]
)
def test_neighbouring_layers_stay_inside_the_model(middle: int, count: int, expected: tuple[int, ...]) -> None:
    assert neighbours((0, 1, 2, 3, 4), middle, count) == expected


def test_variants_are_what_they_are_called(workspace: Workspace) -> None:
    made = {variant.name: variant for variant in settled(workspace, "review-sentiment", 2)}
    reference = made["cast"]
    assert all(variant.strength for variant in made.values())
    for name, side in (("few-shot mean", "few_shot"), ("zero-shot mean", "zero_shot")):
        vector = made[f"{name}, norm of cast"].vector.directions
        torch.testing.assert_close(vector.norm(dim=-1), reference.vector.directions.norm(dim=-1))
        mean = getattr(workspace.differences("review-sentiment"), side).mean(dim=0)
        torch.testing.assert_close(torch.cosine_similarity(vector, mean), torch.ones(len(mean)))
    wide = steering(made["3 layers"], reference.vector, 3.0, 2)
    assert isinstance(wide, PromptVectors)
    assert wide.strength == 1.0
    assert reference.layer in wide.layers
    torch.testing.assert_close(wide.directions[1, 0], reference.vector.at(wide.layers[0]))
    assert made["position all"].position == "all"
    assert made["norm_preserving_add"].operator == "norm_preserving_add"
    assert made["chosen samples"].layer == reference.layer
    assert len(made["random samples"].vector.provenance.sample_ids) == 3


@pytest.mark.slow
def test_cells_repeat_themselves_and_summarise(workspace: Workspace) -> None:
    _, cells = planned(RUN, workspace.config)
    rows = rows_of(RUN, workspace, cells)
    steered = rows["steered"]
    cell = next(cell for cell in cells if cell.kind == "steered")
    pd.testing.assert_frame_equal(computed(RUN, workspace, cell), steered)
    methods = set(steered["method"])
    real = {name for name in methods if not name.startswith(("placebo", "zero-shot"))}
    real |= {"zero-shot mean, norm of cast"}
    assert {f"placebo: {name}" for name in real} <= methods
    assert steered.loc[steered["method"] == "random samples", "seed"].nunique() == 2
    frames = RUN.tables(rows, SMALL, {})
    words(RUN.findings(frames, SMALL))
    assert {figure.name for figure in RUN.figures(frames, SMALL)} == {"variants", "against_cast"}
