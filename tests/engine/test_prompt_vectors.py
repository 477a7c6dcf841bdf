"""Vectors of each prompt's own, at several layers at once: the engine against hooks written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cast_lens.engine import reference
from cast_lens.engine.decoding import decode
from cast_lens.engine.greedy import stop_rule
from cast_lens.engine.layout import TokenPrompt
from cast_lens.engine.scoring import score
from cast_lens.interventions import Intervention, Position, PromptVectors
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import steer
from tests.closeness import assert_close
from tests.engine.cases import D_MODEL, direction, few_shot_prompts
from tests.tiny import tiny_model

ARCHITECTURES = ("llama", "gemma2", "gptj", "bloom")
LAYERS = (0, 2, 3)


def vectors(n: int, position: Position = "last", *, strength: float = 1.3, seed: int = 0) -> PromptVectors:
    generator = torch.Generator().manual_seed(seed)
    return PromptVectors(torch.randn(n, len(LAYERS), D_MODEL, generator=generator), LAYERS, strength, position)


def by_hand(model: HookedTransformer, prompt: TokenPrompt, answer: tuple[int, ...], own: PromptVectors) -> Tensor:
    """Logits of prompt + answer with the vectors of the one prompt added in plain hooks."""
    start = {"last": len(prompt.tokens) - 1, "all": 0}[own.position]

    def adder(row: int) -> Any:
        def add(residual: Tensor, hook: object) -> Tensor:
            edited = residual.clone()
            edited[:, start:] += own.strength * own.directions[0, row]
            return edited

        return add

    hooks: list[Any] = [(f"blocks.{layer}.hook_resid_post", adder(row)) for row, layer in enumerate(own.layers)]
    ids = torch.tensor([prompt.tokens + answer])
    with torch.no_grad():
        out = model.run_with_hooks(ids, attention_mask=torch.ones_like(ids), fwd_hooks=hooks)
    return out[0]


@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_hooks_written_by_hand(architecture: str, position: Position) -> None:
    model, prompts = tiny_model(architecture), few_shot_prompts()[::3]
    mine = vectors(len(prompts), position)
    # Beside others, and first, so that the order of layers and of variants cannot agree by chance.
    got = score(model, prompts, [mine, Intervention(direction(1), 1), vectors(len(prompts), seed=1)])
    for index, prompt in enumerate(prompts):
        for number, answer in enumerate(prompt.answers):
            logits = by_hand(model, prompt, answer, mine.of([index]))
            rows = logits[len(prompt.tokens) - 1 : -1].log_softmax(-1)
            expected = rows[range(len(answer)), list(answer)].sum()
            assert_close(got.answer_logprobs[index][1, number], expected)
        assert got.first_token[1, index] == by_hand(model, prompt, (), mine.of([index]))[-1].argmax()


@pytest.mark.parametrize("memory_mb", [33.0, 512.0])
def test_batches_keep_each_prompt_with_its_own_vectors(memory_mb: float) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    mine = vectors(len(prompts))
    got = score(model, prompts, [mine], memory_mb=memory_mb)
    for index, prompt in enumerate(prompts):
        alone = score(model, [prompt], [mine.of([index])])
        assert_close(got.answer_logprobs[index], alone.answer_logprobs[0])


@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_equals_hooks_written_by_hand(architecture: str, position: Position) -> None:
    model, prompts = tiny_model(architecture), few_shot_prompts(())[::2]
    stop = stop_rule(model, stop_at_newline=False)
    mine = vectors(len(prompts), position)
    written = decode(model, prompts, [mine], max_new_tokens=4, stop=stop)[1]
    for index, (prompt, ids) in enumerate(zip(prompts, written, strict=True)):
        logits = by_hand(model, prompt, ids[:-1], mine.of([index]))[len(prompt.tokens) - 1 :]
        # Teacher-forced, so that rounding in a near tie cannot send the two routes down different paths.
        assert_close(logits[range(len(ids)), list(ids)], logits.amax(dim=-1))


def test_one_layer_and_one_vector_is_an_intervention() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    for position in ("last", "prompt_last", "all"):
        one = Intervention(direction(0), 2, 1.5, "add", position)
        same = PromptVectors(direction(0).expand(len(prompts), 1, -1), (2,), 1.5, position)
        got = score(model, prompts, [one, same], keep_logits=True)
        assert got.logits is not None
        assert torch.equal(got.logits[1], got.logits[2])
        frame = got.to_frame()
        assert set(frame["layer"]) == {-1, 2}


def test_strength_zero_is_the_identity() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    got = score(model, prompts, [vectors(len(prompts), strength=0.0)], keep_logits=True)
    assert got.logits is not None
    assert torch.equal(got.logits[0], got.logits[1])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_steer_edits_each_row_with_its_own_vectors(architecture: str) -> None:
    model, prompts = tiny_model(architecture), few_shot_prompts()[:3]
    mine = vectors(3)
    width = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.tensor([(2,) * (width - len(prompt.tokens)) + prompt.tokens for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt.tokens)) + [1] * len(prompt.tokens) for prompt in prompts])
    with torch.no_grad(), steer(model, mine):
        got = model(ids, attention_mask=mask)[:, -1]
    for index, prompt in enumerate(prompts):
        assert_close(got[index], by_hand(model, prompt, (), mine.of([index]))[-1])
    with torch.no_grad(), steer(model, mine), pytest.raises(ValueError, match="vectors for 3 prompts"):
        model(ids[:2], attention_mask=mask[:2])


def test_generate_with_a_cache_equals_the_reference() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts(())[:2]
    mine = vectors(2).of([0])
    stop = stop_rule(model, stop_at_newline=False)
    expected = reference.answer(model, prompts[0], mine, max_new_tokens=4, stop=stop)
    with steer(model, mine):
        got: Any = model.generate(
            torch.tensor([prompts[0].tokens]), max_new_tokens=4, do_sample=False, verbose=False, return_type="tokens"
        )
    assert tuple(got[0, len(prompts[0].tokens) :].tolist())[: len(expected)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directions": torch.zeros(2, 3)}, "sample, layer, d_model"),
        ({"directions": torch.full((2, 3, 4), torch.nan)}, "NaN"),
        ({"layers": (0, 2)}, "do not fit 2 layers"),
        ({"layers": (2, 0, 1)}, "increasing"),
        ({"strength": float("inf")}, "finite"),
        ({"position": "first"}, "unknown"),
    ],
)
def test_vectors_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"directions": torch.zeros(2, 3, 4), "layers": LAYERS}
    with pytest.raises(ValueError, match=message):
        PromptVectors(**{**good, **change})


def test_vectors_for_other_prompts_are_refused() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    with pytest.raises(ValueError, match="vectors for 3 prompts, but there are 10"):
        score(model, prompts, [vectors(3)])
    deep = PromptVectors(torch.zeros(10, 1, D_MODEL), (4,))
    with pytest.raises(ValueError, match="from 0 to 3"):
        score(model, prompts, [deep])
