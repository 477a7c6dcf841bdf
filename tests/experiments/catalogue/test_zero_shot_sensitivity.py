"""Other wordings: what they read like, which side they change, planted turns, cells that repeat."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from cast_lens.experiments.bench import Bench
from cast_lens.experiments.catalogue.zero_shot_sensitivity import WORDINGS, changing, reworded
from cast_lens.experiments.cells import Cell
from cast_lens.tasks import load_task, zero_shot_prompts
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

NAME = "zero-shot-sensitivity"
RUN = find(NAME)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    config = small_config(tmp_path_factory.mktemp("tiny"))
    return bench_of(NAME, config, tmp_path_factory.mktemp("out"))


def made_up(other: int) -> pd.DataFrame:
    steered = joined(
        [
            outcomes("zero-shot", right(10)),
            outcomes("default vector", right(20)),
            outcomes("blank lines, both sides", right(other)),
            outcomes("placebo: random direction", right(10)),
        ],
        part="steered",
        prompt="default",
    )
    worded = joined(
        [
            outcomes("zero-shot", right(16)),
            outcomes("default vector", right(20)),
            outcomes("blank lines, both sides", right(24)),
        ],
        part="steered",
        prompt="blank lines",
    )
    geometry = pd.DataFrame(
        {"part": "geometry", "source": "s", "wording": "blank lines", "side": ["zero-shot side", "both sides"],
         "layer": 1, "cosine": [0.7, 0.99], "norm_ratio": 1.0, "sampling": 0.95, "at_setting": True}
    )  # fmt: skip
    return joined([steered, worded, geometry])


def text_of(wording: str, name: str) -> str:
    task = WORDINGS[wording].reword(load_task(name))
    return zero_shot_prompts(task, task.train[:1])[0].text


def test_wordings_read_as_they_are_called() -> None:
    task = load_task("review-sentiment")
    text, query = zero_shot_prompts(task, task.train[:1])[0].text, task.train[0].input
    assert text_of("no instruction", task.name) == f"Review: {query}\nLabel:"
    assert text_of("quotation marks", task.name).endswith(f'Review: "{query}"\nLabel:')
    assert text_of("blank lines", task.name).endswith(f"Review: {query}\n\nLabel:")
    assert text_of("Task for Definition", task.name) == "Task:" + text.removeprefix("Definition:")
    paragraph = text_of("instruction as a paragraph", task.name)
    assert paragraph == text.removeprefix("Definition: ").replace("\nReview:", "\n\nReview:")
    assert "A." in text_of("quotation marks", "science")


def test_a_task_without_an_instruction_has_fewer_wordings() -> None:
    assert changing(load_task("review-sentiment")) == list(WORDINGS)
    assert changing(load_task("present-past")) == ["blank lines", "quotation marks", "chat template"]


def test_the_plan_has_a_cell_for_each_wording_of_a_target() -> None:
    _, cells = planned(NAME, SMALL)
    assert [cell.variant for cell in cells if cell.kind == "steered"] == ["default", *WORDINGS]


def test_one_side_or_both_are_worded_otherwise(bench: Bench) -> None:
    plain, made = bench.differences("review-sentiment"), reworded(bench, "review-sentiment")
    # The tiny tokenizer has no chat template.
    assert {wording for wording, _ in made} == set(WORDINGS) - {"chat template"}
    zero, both = made["blank lines", "zero-shot side"], made["blank lines", "both sides"]
    assert torch.equal(zero.few_shot, plain.few_shot)
    assert torch.equal(zero.zero_shot, both.zero_shot)
    assert not torch.allclose(both.few_shot, plain.few_shot, atol=1e-2)
    assert both.sample_ids == plain.sample_ids


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            38,
            "These differ from it after Holm's correction over 12 tests: blank lines, both sides +45.0 points",
        ),
        (20, "None of 1 differs from it in any metric"),
        (2, "blank lines, both sides −45.0 points"),
    ],
)
def test_vectors_are_told_apart_as_they_are(other: int, told: str) -> None:
    frames = RUN.summarise(made_up(other), SMALL, {})
    text = words(RUN.read(frames, SMALL))
    assert told in text
    assert "blank lines 0.700 (0.700 to 0.700)" in text
    assert "1 of 1 vectors turn further" in text
    assert "0 of 1 vectors turn further" in text
    assert "moves zero-shot between 25.0 % (default) and 40.0 % (blank lines)" in text
    under = frames["methods"].query("prompt == 'blank lines' and metric == 'exact_match'").set_index("method")
    # The gain under a wording is over zero-shot under that wording: 20 and 24 of 40 against 16.
    assert under.loc["default vector", "gain"] == pytest.approx(4 / 40)
    assert under.loc["blank lines, both sides", "gain"] == pytest.approx(8 / 40)


def test_cells_repeat_themselves_and_summarise(bench: Bench) -> None:
    _, cells = planned(NAME, bench.config)  # type: ignore[arg-type]
    kept = [cell for cell in cells if cell.variant in ("", "cast", "default", "blank lines")]
    rows = rows_of(NAME, bench, kept)
    for cell in (Cell("geometry", source="review-sentiment"), kept[-1]):
        pd.testing.assert_frame_equal(computed(NAME, bench, cell), computed(NAME, bench, cell))
    assert computed(NAME, bench, Cell("steered", "yes-no-facts", variant="chat template")).empty
    frames = RUN.summarise(rows, SMALL, {})
    words(RUN.read(frames, SMALL))
    names = {drawing.name for drawing in RUN.draw(frames, SMALL)}
    assert names == {"turning_zero_shot_side", "turning_both_sides", "vectors"}
