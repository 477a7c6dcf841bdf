"""Other wordings: what they read like, which side they change, planted turns, cells that repeat."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from cast_lens.experiments.catalogue.zero_shot_sensitivity import WORDINGS, ZeroShotSensitivity, changing, reworded
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.workspace import Workspace
from cast_lens.tasks import load_task, zero_shot_prompts
from tests.experiments.small import SMALL, computed, joined, outcomes, planned, right, rows_of, words

RUN = ZeroShotSensitivity()


def made_up(other: int) -> dict[str, pd.DataFrame]:
    steered = joined(
        [
            outcomes("zero-shot", right(10)),
            outcomes("default vector", right(20)),
            outcomes("blank lines, both sides", right(other)),
            outcomes("placebo: random direction", right(10)),
        ],
        prompt="default",
    )
    worded = joined(
        [
            outcomes("zero-shot", right(16)),
            outcomes("default vector", right(20)),
            outcomes("blank lines, both sides", right(24)),
        ],
        prompt="blank lines",
    )
    geometry = pd.DataFrame(
        {"source": "s", "wording": "blank lines", "side": ["zero-shot side", "both sides"],
         "layer": 1, "cosine": [0.7, 0.99], "norm_ratio": 1.0, "sampling": 0.95, "at_setting": True}
    )  # fmt: skip
    return {"steered": joined([steered, worded]), "geometry": geometry}


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
    _, cells = planned(RUN)
    assert [cell.variant for cell in cells if cell.kind == "steered"] == ["default", *WORDINGS]


def test_one_side_or_both_are_worded_otherwise(workspace: Workspace) -> None:
    plain, made = workspace.differences("review-sentiment"), reworded(workspace, "review-sentiment")
    # The tiny tokenizer has no chat template.
    assert {wording for wording, _ in made} == set(WORDINGS) - {"chat template"}
    zero, both = made["blank lines", "zero-shot side"], made["blank lines", "both sides"]
    assert torch.equal(zero.few_shot, plain.few_shot)
    assert torch.equal(zero.zero_shot, both.zero_shot)
    assert not torch.allclose(both.few_shot, plain.few_shot, atol=1e-2)
    assert both.sample_ids == plain.sample_ids


@pytest.mark.parametrize(("other", "told"), [(38, "gain"), (20, "not shown"), (2, "loss")])
def test_vectors_are_told_apart_as_they_are(other: int, told: str) -> None:
    frames = RUN.tables(made_up(other), SMALL, {})
    own = frames["versus"].query("prompt == 'default' and metric == 'exact_match'").set_index(["method", "against"])
    row = own.loc["blank lines, both sides", "default vector"]
    assert (row["verdict"], row["n_tests"]) == (told, 12)
    assert row["difference"] == pytest.approx((other - 20) / 40)
    turned = frames["turns"].set_index("side")
    assert turned["cosine"].to_dict() == {"zero-shot side": 0.7, "both sides": 0.99}
    assert turned["further"].to_dict() == {"zero-shot side": 1, "both sides": 0}
    text = words(RUN.findings(frames, SMALL))
    assert "1 of 2 reworded vectors turn further" in text
    assert frames["methods"].groupby("prompt")["baseline"].first().to_dict() == {"blank lines": 0.4, "default": 0.25}
    under = frames["methods"].query("prompt == 'blank lines' and metric == 'exact_match'").set_index("method")
    # The gain under a wording is over zero-shot under that wording: 20 and 24 of 40 against 16.
    assert under.loc["default vector", "gain"] == pytest.approx(4 / 40)
    assert under.loc["blank lines, both sides", "gain"] == pytest.approx(8 / 40)


@pytest.mark.slow
def test_cells_repeat_themselves_and_summarise(workspace: Workspace) -> None:
    _, cells = planned(RUN, workspace.config)
    kept = [cell for cell in cells if cell.variant in ("", "cast", "default", "blank lines")]
    rows = rows_of(RUN, workspace, kept)
    for cell in (Cell("geometry", source="review-sentiment"), kept[-1]):
        pd.testing.assert_frame_equal(computed(RUN, workspace, cell), computed(RUN, workspace, cell))
    assert computed(RUN, workspace, Cell("steered", "yes-no-facts", variant="chat template")).empty
    frames = RUN.tables(rows, SMALL, {})
    words(RUN.findings(frames, SMALL))
    names = {figure.name for figure in RUN.figures(frames, SMALL)}
    assert names == {"turning_zero_shot_side", "turning_both_sides", "vectors"}


def test_without_rows_tables_have_columns() -> None:
    frames = RUN.tables({}, SMALL, {})
    assert {"prompt", "verdict"} <= set(frames["result"]) & set(frames["versus"])
    assert list(RUN.figures(frames, SMALL)) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, SMALL))
