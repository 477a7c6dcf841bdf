"""One pass for scores and answers gives what the two passes give."""

from __future__ import annotations

import pytest
import torch

from cast_lens.engine import answer, score
from cast_lens.engine.decoding import score_and_answer
from cast_lens.interventions import Intervention
from tests.closeness import assert_close
from tests.engine.cases import all_kinds, direction, few_shot_prompts
from tests.engine.test_budget import SMALL_MB, Counting
from tests.tiny import tiny_model

TAILED = [item for item in all_kinds() if item.position != "all"]


@pytest.mark.parametrize("memory_mb", [512.0, SMALL_MB + 1])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "mistral"])
def test_both_from_one_pass_are_those_of_two(architecture: str, memory_mb: float) -> None:
    model, prompts, count = tiny_model(architecture), few_shot_prompts(), Counting()
    scores, texts = score_and_answer(model, prompts, TAILED, max_new_tokens=5, memory_mb=memory_mb, progress=count)
    assert (count.pieces > 5) == (memory_mb < 512)
    apart = score(model, prompts, TAILED)
    for found, expected in zip(scores.answer_logprobs, apart.answer_logprobs, strict=True):
        assert_close(found, expected)
    assert torch.equal(scores.first_token, apart.first_token)
    assert texts == answer(model, prompts, TAILED, max_new_tokens=5)


@pytest.mark.parametrize(("architecture", "items"), [("llama", all_kinds()), ("bloom", TAILED[:1])])
def test_what_needs_two_passes_gets_them(architecture: str, items: list[Intervention]) -> None:
    model, prompts = tiny_model(architecture), few_shot_prompts()[:2]
    scores, texts = score_and_answer(model, prompts, items, max_new_tokens=3)
    apart = score(model, prompts, items)
    assert_close(torch.cat(scores.answer_logprobs, dim=1), torch.cat(apart.answer_logprobs, dim=1))
    assert texts == answer(model, prompts, items, max_new_tokens=3)


def test_prompts_without_answers_are_only_answered() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts(())
    scores, texts = score_and_answer(model, prompts, TAILED[:2], max_new_tokens=3)
    assert {tuple(rows.shape) for rows in scores.answer_logprobs} == {(3, 0)}
    assert texts == answer(model, prompts, TAILED[:2], max_new_tokens=3)


def test_bad_input_is_refused() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
        score_and_answer(model, prompts, max_new_tokens=0)
    with pytest.raises(ValueError, match=r"layers=.9. must be increasing block indices"):
        score_and_answer(model, prompts, [Intervention(direction(0), 9)], max_new_tokens=2)
    with pytest.raises(ValueError, match="more than the model's context of 512"):
        score_and_answer(model, prompts, max_new_tokens=600)
