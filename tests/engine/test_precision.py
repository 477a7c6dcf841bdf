"""In bfloat16 the fast path is as far from the truth as plain hooks are, no further."""

from __future__ import annotations

import copy

import pytest
import torch

from cast_lens.engine import capture, score
from cast_lens.engine.decoding import decode
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import load_task, zero_shot_prompts
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


# Nats of one label's log-probability on real text: of 180 labels (60 prompts of five tasks) the one furthest from
# float32 was 0.32 away, and 0.17 from the mean shift of its prompt's labels; docs/howto/own-model.md. A fifth above.
ROUNDED_NATS, ROUNDED_BETWEEN = 0.4, 0.2


@pytest.mark.slow
@pytest.mark.model
def test_on_real_text_bfloat16_keeps_the_answers(embedded: HookedTransformer) -> None:
    """Few prompts: a processor without bfloat16 units takes seconds for each of them."""
    rough = copy.deepcopy(embedded).to(torch.bfloat16)
    tasks = [load_task(name) for name in ("question-type", "yes-no-facts")]
    prompts = [prompt for task in tasks for prompt in zero_shot_prompts(task, task.test[:2])]
    one, other = (score(model, prompts).answer_logprobs for model in (embedded, rough))
    for exact, rounded in zip(one, other, strict=True):
        shift = rounded[0] - exact[0]
        assert 0 < float(shift.abs().max()) < ROUNDED_NATS
        assert float((shift - shift.mean()).abs().max()) < ROUNDED_BETWEEN
    # Two labels come nearer to each other by less than twice that.
    clear = [float(exact[0].topk(2).values.diff().abs()) > 2 * ROUNDED_BETWEEN for exact in one]
    kept = [int(a[0].argmax()) == int(b[0].argmax()) for a, b in zip(one, other, strict=True)]
    assert any(clear)
    assert all(same for same, wide in zip(kept, clear, strict=True) if wide)
