"""An adapter that has learned nothing reads and writes as the model does; its virtual tokens as the text they are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from cast_lens.engine import TokenPrompt, answer, layout, quiet, score, tokenise
from cast_lens.evaluation import evaluate
from cast_lens.methods.adapters import AdapterDesign, peft_model
from cast_lens.methods.adapters.adapter import answer_losses, same_lengths, score_and_decode
from cast_lens.methods.adapters.peft_model import Wrapped
from cast_lens.tasks import Prompt, zero_shot_prompts
from tests.methods.adapters.small import untrained
from tests.methods.conftest import Pair
from tests.small_tasks import label_task, word_task

# One of each way in which positions, masks, caches and logits are made.
FAMILIES = ("llama", "gpt2", "neox", "gemma2", "qwen2", "mistral", "bloom", "opt")
OPENING = (9, 40, 77, 120, 33, 8, 21, 64, 90, 17)


def prompts() -> list[Prompt]:
    """Lengths that differ and lengths that agree, shared beginnings, answers of one and of several tokens."""
    mixed = label_task(test=8)
    worst = replace(mixed.test[0], answer="quite bad")
    mixed = replace(mixed, labels=("good", "quite bad", "bad"), test=(worst, *mixed.test[1:]))
    return [*zero_shot_prompts(mixed, mixed.test), *zero_shot_prompts(word_task(), word_task().test)]


def assert_same(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert list(got.columns) == list(expected.columns)
    numbers = ["gold_logprob", "gold_margin"]
    # Sums of log-probabilities of some tens of nats, by two libraries.
    pd.testing.assert_frame_equal(got[numbers], expected[numbers], rtol=0, atol=1e-4)
    rest = [name for name in got.columns if name not in (*numbers, "name")]
    pd.testing.assert_frame_equal(got[rest], expected[rest])


@pytest.mark.parametrize("architecture", FAMILIES[:4])
def test_untrained_lora_is_the_model(pair: Pair, architecture: str) -> None:
    model, source = pair(architecture)
    adapter = untrained(model, source, AdapterDesign("lora", 5000))
    got, expected = adapter.evaluate(prompts()), evaluate(model, prompts())
    assert_same(got, expected)
    assert set(got["name"]) == {"lora"}
    assert adapter.answer(prompts()) == got["answer"].tolist()
    assert len(set(got["answer"])) > 2


@pytest.mark.parametrize("architecture", FAMILIES)
def test_virtual_tokens_that_start_from_a_text_are_that_text(pair: Pair, architecture: str) -> None:
    model, source = pair(architecture)
    one = untrained(model, source, AdapterDesign("prefix", 1)).n_parameters
    adapter = untrained(model, source, AdapterDesign("prefix", len(OPENING) * one), opening=OPENING)
    assert adapter.setting == f"{len(OPENING)} virtual tokens"
    longer = [replace(prompt, tokens=OPENING + prompt.tokens) for prompt in tokenise(model, prompts())]
    expected = score(model, longer).to_frame()
    got = adapter.evaluate(prompts())
    for name in ("gold_logprob", "gold_margin"):
        pd.testing.assert_series_equal(got[name], expected[name], rtol=0, atol=1e-4)
    assert got["answer"].tolist() == answer(model, longer, max_new_tokens=_longest(longer) + 3)[0]
    assert set(got["name"]) == {"prefix"}


def _longest(tokens: list[TokenPrompt]) -> int:
    return max(len(ids) for prompt in tokens for ids in prompt.answers)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_losses_do_not_depend_on_what_runs_beside_them(pair: Pair, kind: str) -> None:
    model, source = pair()
    adapter = untrained(model, source, AdapterDesign(kind, 5000))  # type: ignore[arg-type]
    ready = tokenise(model, prompts())
    with torch.no_grad():
        together = answer_losses(adapter.wrapped, ready)
        apart = torch.cat([answer_losses(adapter.wrapped, [prompt]) for prompt in ready])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    gold = torch.tensor(adapter.evaluate(prompts())["gold_logprob"].to_numpy())
    lengths = torch.tensor([len(prompt.answers[prompt.gold]) for prompt in ready])
    torch.testing.assert_close(together.double(), -gold / lengths, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", FAMILIES[:4])
@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_shared_beginning_has_the_gradients_of_one_run_for_each(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str, architecture: str
) -> None:
    model, source = pair(architecture)
    wrapped = untrained(model, source, AdapterDesign(kind, 5000)).wrapped  # type: ignore[arg-type]
    # LoRA begins at zero, where one of its factors has no gradient.
    torch.manual_seed(0)
    for parameter in wrapped.trained.values():
        parameter.data += 0.05 * torch.randn_like(parameter)
    ready = tokenise(model, zero_shot_prompts(label_task(test=8), label_task(test=8).test))
    shared, _ = wrapped.opened([prompt.tokens for prompt in ready])
    assert shared >= layout.MIN_SHARED
    together = _gradients(wrapped, ready)
    monkeypatch.setattr(peft_model, "MIN_SHARED", 1000)
    assert wrapped.opened([prompt.tokens for prompt in ready])[0] == 0
    for name, apart in _gradients(wrapped, ready).items():
        scale = float(apart.abs().max())
        assert scale > 0
        torch.testing.assert_close(together[name], apart, rtol=0, atol=1e-4 * scale)


def _gradients(wrapped: Wrapped, ready: list[TokenPrompt]) -> dict[str, torch.Tensor]:
    parameters = wrapped.trained
    found = torch.autograd.grad(answer_losses(wrapped, ready).mean(), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_rows_that_end_leave_the_others_alone(pair: Pair, kind: str) -> None:
    model, source = pair()
    wrapped = untrained(model, source, AdapterDesign(kind, 5000)).wrapped  # type: ignore[arg-type]
    ready = tokenise(model, prompts())
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": lambda written: written[-1] % 3 == 0, "progress": quiet}
    together = score_and_decode(wrapped, ready, **options)
    apart = [score_and_decode(wrapped, [prompt], **options) for prompt in ready]
    assert list(together.written) == [one.written[0] for one in apart]
    assert len({len(tokens) for tokens in together.written}) > 2
    assert max(map(len, same_lengths(ready))) > 3
    unscored = score_and_decode(wrapped, ready, scored=False, **options)
    assert (unscored.written, unscored.logprobs[0].numel()) == (together.written, 0)


def test_answers_end_at_the_limit_and_prompts_at_the_context(pair: Pair) -> None:
    model, source = pair()
    adapter = untrained(model, source, AdapterDesign("lora", 5000))
    short, long = adapter.answer(prompts(), max_new_tokens=1), adapter.answer(prompts())
    assert all(text.startswith(begin) and text != begin for text, begin in zip(long, short, strict=True))
    with pytest.raises(ValueError, match=r"max_new_tokens=0 must be at least 1"):
        adapter.answer(prompts(), max_new_tokens=0)
    with pytest.raises(ValueError, match=r"more than the model's context of 512"):
        adapter.answer(prompts(), max_new_tokens=510)
