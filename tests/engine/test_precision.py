"""In bfloat16 the fast path is as far from the truth as plain hooks are, no further."""

from __future__ import annotations

import copy

import pytest
import torch

from cast_lens.engine import TokenPrompt, capture, score
from cast_lens.engine.decoding import decode
from cast_lens.models import load_model
from cast_lens.models.tokens import text_ids
from tests.engine.cases import ANSWERS, all_kinds, few_shot_prompts, padded_scores
from tests.tiny import tiny_model

# Every kind of norm, attention and MLP that rounds in its own way.
KINDS = ("llama", "gemma2", "gpt2", "neox", "olmo2", "qwen3")


@pytest.mark.parametrize("architecture", KINDS)
def test_bfloat16_is_as_good_as_plain_hooks(architecture: str) -> None:
    exact, rough = tiny_model(architecture), tiny_model(architecture, dtype=torch.bfloat16)
    prompts, items = few_shot_prompts(), all_kinds()[::3]
    truth, fast = (score(model, prompts, items, keep_logits=True) for model in (exact, rough))
    assert truth.logits is not None
    assert fast.logits is not None
    ours, theirs = [], []
    for variant, item in enumerate([None, *items]):
        _, plain = padded_scores(rough, prompts, item)
        ours.append((fast.logits[variant] - truth.logits[variant]).pow(2).mean().sqrt())
        theirs.append((plain - truth.logits[variant]).pow(2).mean().sqrt())
    # Rounding to eight bits at every step is noise, the same number of steps gives noise of about the same size.
    assert torch.stack(ours).mean() < 1.5 * torch.stack(theirs).mean()
    assert torch.stack(theirs).mean() > 0
    assert capture(rough, prompts).dtype == torch.float32


def test_bfloat16_decodes() -> None:
    written = decode(
        tiny_model("llama", dtype=torch.bfloat16),
        few_shot_prompts(ANSWERS),
        all_kinds(),
        max_new_tokens=3,
        stop=lambda written: False,
    )
    assert {len(ids) for row in written for ids in row} == {3}


# Of one answer's summed log-probability, in nats, on real text: docs/howto/own-model.md says what was measured.
ROUNDED_NATS = 0.25


def test_on_real_text_bfloat16_keeps_the_answers() -> None:
    """Few and short texts, for a processor without bfloat16 units takes seconds for each token."""
    exact = load_model()
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    texts = {"Paris is the capital of": (" France", " Spain"), "Two plus two is": (" four", " seven")}
    prompts = [
        TokenPrompt(
            tuple(text_ids(exact.tokenizer, text)),
            tuple(tuple(text_ids(exact.tokenizer, answer)) for answer in answers),
            0,
            text,
        )
        for text, answers in texts.items()
    ]
    one, other = (score(model, prompts) for model in (exact, rough))
    found = torch.cat(
        [(a - b).abs().flatten() for a, b in zip(one.answer_logprobs, other.answer_logprobs, strict=True)]
    )
    assert 0 < float(found.max()) < ROUNDED_NATS
    assert [rows.argmax(dim=1).tolist() for rows in one.answer_logprobs] == [[0], [0]]
    assert [rows.argmax(dim=1).tolist() for rows in other.answer_logprobs] == [[0], [0]]
