"""Variants against the contrastive mean and their placebos: planted truths, edits as described, cells that repeat."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from cast_lens.experiments.bench import Bench
from cast_lens.experiments.catalogue.ablation import neighbours, settled, steering
from cast_lens.interventions import PromptVectors
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

NAME = "ablation"
RUN = find(NAME)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = small_config(tmp_path_factory.mktemp("tiny"))
    return bench_of(NAME, config, tmp_path_factory.mktemp("out"))


def made_up(few: int, *, cast: int = 20) -> pd.DataFrame:
    """Of 40 queries ``cast`` right under cast, ``few`` under the few-shot mean, 10 under placebos and zero-shot."""
    return joined(
        [
            outcomes("zero-shot", right(10), group=""),
            outcomes("cast", right(cast), group="reference"),
            outcomes("placebo: cast", right(10), group="reference"),
            outcomes("few-shot mean", right(few), group="contrast"),
            outcomes("placebo: few-shot mean", right(10), group="contrast"),
        ]
    )


def test_the_plan_prepares_settings_and_strengths_and_has_a_cell_a_pair() -> None:
    config = replace(SMALL, targets=("yes-no-facts", "review-sentiment"))
    _, cells = planned(NAME, config)
    assert [cell.variant for cell in cells if cell.kind == "setting"] == ["cast", "few-shot mean"]
    assert [(cell.target, cell.source) for cell in cells if not cell.prepares] == [
        ("yes-no-facts", "review-sentiment")
    ]


def test_a_variant_that_loses_is_found_with_its_size() -> None:
    frames = RUN.summarise(made_up(5), SMALL, {})
    versus = frames["versus"].set_index(["method", "against", "metric"])["difference"]
    assert versus["few-shot mean", "cast", "exact_match"] == pytest.approx(-15 / 40)
    assert versus["cast", "placebo: cast", "exact_match"] == pytest.approx(10 / 40)
    assert versus["few-shot mean", "placebo: few-shot mean", "exact_match"] == pytest.approx(-5 / 40)
    text = words(RUN.read(frames, SMALL))
    assert "few-shot mean is worse than cast in exact match by 37.5 points" in text
    assert "-" not in text.split("cast against its placebo")[1][:30]


def test_a_variant_that_wins_is_said_to_win() -> None:
    text = words(RUN.read(RUN.summarise(made_up(38), SMALL, {}), SMALL))
    assert "few-shot mean is better than cast in exact match by 45.0 points" in text


def test_no_difference_is_said_to_show_nothing() -> None:
    text = words(RUN.read(RUN.summarise(made_up(20), SMALL, {}), SMALL))
    assert "this run does not show that any single part matters" in text


@pytest.mark.parametrize(
    ("middle", "count", "expected"),
    [(2, 3, (1, 2, 3)), (0, 3, (0, 1, 2)), (4, 3, (2, 3, 4)), (1, 9, (0, 1, 2, 3, 4))],
)
def test_neighbouring_layers_stay_inside_the_model(
    middle: int, count: int, expected: tuple[int, ...]
) -> None:
    assert neighbours((0, 1, 2, 3, 4), middle, count) == expected


def test_variants_are_what_they_are_called(bench: Bench) -> None:
    made = {variant.name: variant for variant in settled(bench, "review-sentiment")}
    reference = made["cast"]
    assert all(variant.strength for variant in made.values())
    for name, side in (("few-shot mean", "few_shot"), ("zero-shot mean", "zero_shot")):
        vector = made[f"{name}, norm of cast"].vector.directions
        torch.testing.assert_close(vector.norm(dim=-1), reference.vector.directions.norm(dim=-1))
        mean = getattr(bench.differences("review-sentiment"), side).mean(dim=0)
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


def test_cells_repeat_themselves_and_summarise(bench: Bench) -> None:
    _, cells = planned(NAME, bench.config)  # type: ignore[arg-type]
    rows = rows_of(NAME, bench, cells)
    cell = next(cell for cell in cells if cell.kind == "steered")
    pd.testing.assert_frame_equal(computed(NAME, bench, cell), rows)
    methods = set(rows["method"])
    real = {name for name in methods if not name.startswith(("placebo", "zero-shot"))}
    real |= {"zero-shot mean, norm of cast"}
    assert {f"placebo: {name}" for name in real} <= methods
    assert rows.loc[rows["method"] == "random samples", "seed"].nunique() == SMALL.repeats
    frames = RUN.summarise(rows, SMALL, {})
    words(RUN.read(frames, SMALL))
    assert {drawing.name for drawing in RUN.draw(frames, SMALL)} == {"variants", "against_cast"}
