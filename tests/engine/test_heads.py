"""Heads through the one pass against plain hooks: captured, patched, and what each does to an answer."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from cast_lens.engine import TokenPrompt, answer, capture_heads, indirect_effects, project_heads, reference, score
from cast_lens.models import HookedDecoder, load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import generate, steer
from cast_lens.sublayers import HeadOutputs, MixedOutputs, RotatedOutputs
from tests.closeness import assert_close
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

# Grouped heads of a width of their own; norms behind attention; one projection of another layout; parallel blocks.
ARCHITECTURES = ("llama", "gemma2", "gpt2", "neox", "qwen3")
PROMPTS = [
    TokenPrompt(tuple(range(20, 33)), ((40,), (41, 42)), 0, "short"),
    TokenPrompt(tuple(range(20, 31)) + tuple(range(60, 72)), ((43, 44, 45), (46,)), 0, "long"),
]


@cache
def hooked(architecture: str) -> HookedTransformer:
    return tiny_model(architecture)


@cache
def decoder(architecture: str) -> HookedDecoder:
    model = load_model(HookedDecoder(tiny_hf_model(architecture)), tokenizer=tiny_tokenizer())
    assert isinstance(model, HookedDecoder)
    return model


def both(architecture: str) -> list[HookedTransformer]:
    return [hooked(architecture), decoder(architecture)]


def random_values(model: HookedTransformer, *, seed: int = 0) -> Tensor:
    captured = capture_heads(model, PROMPTS)
    noise = torch.randn(captured.shape[1:], generator=torch.Generator().manual_seed(seed))
    return captured.mean(dim=0) + noise


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_captured_heads_are_those_of_hooks_on_both_routes(architecture: str) -> None:
    found = []
    for model in both(architecture):
        captured = capture_heads(model, PROMPTS)
        assert_close(captured, torch.stack([reference.head_outputs(model, prompt.tokens) for prompt in PROMPTS]))
        found.append(captured)
    assert_close(found[0], found[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_projected_heads_add_up_to_what_attention_gives(architecture: str) -> None:
    """The sum over heads plus the bias is the output of the projection, on both routes."""
    for model in both(architecture):
        kept: dict[str, Tensor] = {}
        name = "blocks.1.attn.hook_z"
        out = "blocks.1.hook_attn_out" if architecture != "gemma2" or isinstance(model, HookedDecoder) else ""

        def keep(x: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            kept[hook.name] = x.detach()

        hooks = [(n, keep) for n in (name, out) if n]
        model.run_with_hooks(torch.tensor([PROMPTS[0].tokens]), fwd_hooks=hooks)
        if not out:
            continue
        values = torch.zeros(int(model.cfg.n_layers), *kept[name].shape[2:])
        values[1] = kept[name][0, -1]
        summed = project_heads(model, values)[1].sum(dim=0)
        offset = project_heads(model, torch.zeros_like(values), bias=True)[1, 0]
        assert_close(summed + offset, kept[out][0, -1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_effects_of_all_heads_are_those_of_one_hooked_pass_each(architecture: str) -> None:
    """The recipe, literally: one forward pass per prompt, layer and head."""
    for model in both(architecture):
        values = random_values(model)
        got = indirect_effects(model, PROMPTS, values)
        for index, prompt in enumerate(PROMPTS):
            first = prompt.answers[0][0]
            tokens = torch.tensor([prompt.tokens])
            plain = model(tokens)[0, -1].softmax(dim=-1)[first]
            for layer in range(values.shape[0]):
                for head in range(values.shape[1]):

                    def patch(z: Tensor, hook: Any, head: int = head, value: Tensor = values[layer, head]) -> Tensor:
                        z = z.clone()
                        z[0, -1, head] = value
                        return z

                    out = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])
                    wanted = out[0, -1].softmax(dim=-1)[first] - plain
                    # A difference of float32 probabilities.
                    assert abs(float(got[index, layer, head] - wanted.detach())) < 2e-6


def head_patch(model: HookedTransformer, layers: tuple[int, ...] = (0, 2), **about: object) -> HeadOutputs:
    values = random_values(model)[list(layers)]
    chosen = torch.ones(values.shape[:2], dtype=torch.bool)
    chosen[0, 1] = False
    return HeadOutputs(layers, values, chosen, int(model.cfg.d_model), **about)  # type: ignore[arg-type]


def sublayer_edits(model: HookedTransformer) -> list[object]:
    n, width = int(model.cfg.n_layers), int(model.cfg.d_model)
    noise = torch.randn(2, n, width, generator=torch.Generator().manual_seed(3))
    scale = torch.full((2, n), 0.2)
    return [
        head_patch(model),
        head_patch(model, (1,), strength=0.5),
        MixedOutputs(tuple(range(n)), noise, scale, 1 - scale, position="all"),
        RotatedOutputs(tuple(range(n)), noise, strength=0.3, position="all"),
    ]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_edits_inside_blocks_score_and_answer_as_by_hooks(architecture: str) -> None:
    for model in both(architecture):
        edits = sublayer_edits(model)
        scores = score(model, PROMPTS, edits)  # type: ignore[arg-type]
        written = answer(model, PROMPTS, edits, max_new_tokens=4)  # type: ignore[arg-type]
        for variant, item in enumerate(edits, start=1):
            for index, prompt in enumerate(PROMPTS):
                expected, _ = reference.score(model, prompt, item)  # type: ignore[arg-type]
                assert_close(scores.answer_logprobs[index][variant], expected)
                assert not torch.allclose(scores.answer_logprobs[index][0], expected, atol=1e-3)
            texts = generate(model, PROMPTS, interventions=item, max_new_tokens=4, use_cache=False)  # type: ignore[arg-type]
            assert [text.strip() for text in written[variant] if text is not None] == [text.strip() for text in texts]


def test_strength_zero_and_the_heads_own_outputs_change_nothing() -> None:
    model = hooked("llama")
    own = capture_heads(model, PROMPTS[:1])[0]
    every = torch.ones(own.shape[:2], dtype=torch.bool)
    layers = tuple(range(own.shape[0]))
    same = HeadOutputs(layers, own, every, int(model.cfg.d_model))
    off = HeadOutputs(layers, own + 5, every, int(model.cfg.d_model), strength=0.0)
    scores = score(model, PROMPTS[:1], [same, off])
    assert_close(scores.answer_logprobs[0][1], scores.answer_logprobs[0][0])
    assert torch.equal(scores.answer_logprobs[0][2], scores.answer_logprobs[0][0])


def test_a_steered_context_patches_heads_and_lets_go() -> None:
    model = hooked("llama")
    tokens = torch.tensor([PROMPTS[0].tokens])
    before = model(tokens)
    with steer(model, head_patch(model)):
        inside = model(tokens)
    assert torch.equal(model(tokens), before)
    assert torch.equal(inside[:, :-1], before[:, :-1])
    assert not torch.allclose(inside[:, -1], before[:, -1])


def test_heads_of_another_model_are_refused() -> None:
    model = hooked("llama")
    with pytest.raises(ValueError, match="another model"):
        score(model, PROMPTS, [head_patch(model, fingerprint="0123456789abcdef")])
    values = torch.zeros(1, 2, 3)
    narrow = HeadOutputs((1,), values, values[..., 0] == 0, int(model.cfg.d_model))
    with pytest.raises(ValueError, match="do not fit"):
        score(model, PROMPTS, [narrow])
    with pytest.raises(ValueError, match="gold"):
        indirect_effects(model, [TokenPrompt((5, 6))], torch.zeros(4, 4, 24))
    with pytest.raises(ValueError, match="increasing"):
        head_patch(model, (2, 0))


def test_a_loaded_decoder_has_its_heads_too() -> None:
    model = load_model(tiny_hf_model("bloom"), tokenizer=tiny_tokenizer())
    assert capture_heads(model, PROMPTS).shape[1:3] == (4, 4)
