"""What a score says about each prompt, from numbers written by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cast_lens.engine.layout import TokenPrompt
from cast_lens.engine.scores import Scores
from cast_lens.interventions import Intervention

PROMPTS = (
    TokenPrompt((1, 2), ((7,), (8,), (9, 9)), 1, "mood 1"),
    TokenPrompt((3,), ((5,),), 0, "free 2"),
    TokenPrompt((4,), ((5,), (6,)), -1, "no gold"),
    TokenPrompt((4,), (), -1, "no answers"),
)


def scores(first: list[list[int]]) -> Scores:
    return Scores(
        answer_logprobs=(
            torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -0.5, -3.0]]),
            torch.tensor([[-1.0], [-2.0]]),
            torch.tensor([[-1.0, -2.0], [-2.0, -1.0]]),
            torch.empty(2, 0),
        ),
        first_token=torch.tensor(first),
        logits=None,
        interventions=(Intervention(torch.ones(4), 3, 2.0, name="v"),),
        prompts=PROMPTS,
    )


def test_frame_has_a_row_for_each_variant_and_sample() -> None:
    frame = scores([[9, 5, 1, 1], [8, 4, 6, 1]]).to_frame()
    assert list(frame["sample"]) == [prompt.name for prompt in PROMPTS for _ in range(2)]
    assert list(frame["layer"]) == [-1, 3] * 4
    assert list(frame["strength"]) == [0.0, 2.0] * 4
    assert list(frame["name"]) == ["unsteered", "v"] * 4
    mood = frame[frame["sample"] == "mood 1"]
    assert list(mood["gold_logprob"]) == [-2.0, -0.5]
    assert list(mood["choice"]) == [0, 1]
    assert list(mood["choice_correct"]) == [False, True]
    assert list(mood["first_match"]) == [False, True]
    assert list(mood["first_valid"]) == [True, True]
    assert list(mood["gold_margin"]) == [-1.0, 2.5]
    free = frame[frame["sample"] == "free 2"]
    assert list(free["first_match"]) == [True, False]
    assert free[["choice_correct", "first_valid", "gold_margin"]].isna().all(axis=None)


@pytest.mark.parametrize("name", ["no gold", "no answers"])
def test_what_is_not_known_is_nan(name: str) -> None:
    frame = scores([[9, 5, 1, 1], [8, 4, 6, 1]]).to_frame()
    row = frame[frame["sample"] == name]
    assert row[["gold_logprob", "choice_correct", "first_match", "gold_margin"]].isna().all(axis=None)


def test_first_tokens_that_were_not_read_are_not_counted_as_wrong() -> None:
    frame = scores([[-1] * 4] * 2).to_frame()
    assert frame[["first_match", "first_valid"]].isna().all(axis=None)
    assert not math.isnan(frame["gold_logprob"].iloc[0])
