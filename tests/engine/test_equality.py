"""The fast path gives the numbers of plain hooks: on every architecture, on padded batches and one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cast_lens.engine import reference
from cast_lens.engine.capture import capture
from cast_lens.engine.decoding import decode
from cast_lens.engine.greedy import stop_rule
from cast_lens.engine.scoring import score
from cast_lens.engine.support import unsupported
from tests.closeness import assert_close
from tests.engine.cases import ANSWERS, all_kinds, few_shot_prompts, padded_logits, padded_scores
from tests.tiny import ARCHITECTURES, tiny_model

# What the fast path does not know: attention sinks, alibi.
PLAIN = ("gpt-oss", "bloom")


def cases(architecture: str, answers: tuple[tuple[int, ...], ...] = ANSWERS) -> tuple[list[Any], list[Any]]:
    """Prompts and interventions; some of them only where each costs a hooked pass on either route."""
    step = 4 if architecture in PLAIN else 1
    return few_shot_prompts(answers)[::step], all_kinds()[::step]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_but_two_architectures_take_the_fast_path(architecture: str) -> None:
    assert (unsupported(tiny_model(architecture)) is None) == (architecture not in PLAIN)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_a_padded_batch_of_hooked_passes(architecture: str) -> None:
    model, (prompts, interventions) = tiny_model(architecture), cases(architecture)
    got = score(model, prompts, interventions, keep_logits=True)
    assert got.logits is not None
    for variant, item in enumerate([None, *interventions]):
        logprobs, first = padded_scores(model, prompts, item)
        assert_close(got.logits[variant], first)
        assert_close(torch.cat([rows[variant] for rows in got.answer_logprobs]), torch.cat(logprobs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_residuals_equal_the_reference(architecture: str) -> None:
    model, interventions = tiny_model(architecture), all_kinds()[3:9:5]
    prompts = few_shot_prompts(ANSWERS[::2])[1:9:3]
    got = score(model, prompts, interventions)
    residuals = capture(model, prompts)
    for index, prompt in enumerate(prompts):
        assert_close(residuals[index], reference.residuals(model, prompt.tokens))
        for variant, item in enumerate([None, *interventions]):
            logprobs, first = reference.score(model, prompt, item)
            assert_close(got.answer_logprobs[index][variant], logprobs)
            assert got.first_token[variant, index] == first.argmax()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_residuals_equal_run_with_cache_on_a_padded_batch(architecture: str) -> None:
    model, prompts = tiny_model(architecture), few_shot_prompts()
    width = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.tensor([(2,) * (width - len(prompt.tokens)) + prompt.tokens for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt.tokens)) + [1] * len(prompt.tokens) for prompt in prompts])
    with torch.no_grad():
        _, cache = model.run_with_cache(ids, attention_mask=mask)
    expected = torch.stack([cache["resid_post", layer][:, -1] for layer in range(model.cfg.n_layers)], dim=1)
    assert_close(capture(model, prompts), expected)
    assert_close(capture(model, prompts, layers=[0, 2]), expected[:, [0, 2]])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_decoded_token_is_the_greedy_one_of_plain_hooks(architecture: str) -> None:
    """Teacher-forced, so that rounding in a near tie cannot send the two routes down different paths."""
    model, (prompts, interventions) = tiny_model(architecture), cases(architecture, ())
    # Every kind on every second architecture: which steps of a block there are does not depend on what is added after.
    interventions = interventions[ARCHITECTURES.index(architecture) % 2 :: 2]
    stop = stop_rule(model, stop_at_newline=False)
    written = decode(model, prompts, interventions, max_new_tokens=5, stop=stop)
    for variant, item in enumerate([None, *interventions]):
        answers = written[variant]
        assert all(len(ids) == 5 or stop(ids) for ids in answers)
        assert not any(stop(ids[:count]) for ids in answers for count in range(1, len(ids)))
        sequences = [prompt.tokens + ids for prompt, ids in zip(prompts, answers, strict=True)]
        rows = padded_logits(model, sequences, [len(prompt.tokens) for prompt in prompts], item)
        for row, prompt, ids in zip(rows, prompts, answers, strict=True):
            logits = row[len(prompt.tokens) - 1 : -1]
            assert_close(logits[range(len(ids)), list(ids)], logits.amax(dim=-1))
