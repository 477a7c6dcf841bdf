"""Function vectors against a literal transcription of their recipe; planted heads are found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cast_lens.engine import indirect_effects, score, tokenise
from cast_lens.extraction import Extraction
from cast_lens.methods.function_vectors import (
    HeadEffects,
    function_vector,
    head_effects,
    icl_prompts,
    random_heads_vector,
    top_heads,
    universal_heads,
    vector_of_heads,
)
from cast_lens.models import HookedDecoder, load_model
from cast_lens.models.lens import HookedTransformer
from tests.closeness import assert_close
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

HOW = Extraction(shots=3, seed=5)


@cache
def model_of(route: str, seed: int = 0) -> HookedTransformer:
    if route == "hooked":
        return tiny_model("llama", seed=seed)
    return load_model(HookedDecoder(tiny_hf_model("llama", seed=seed)), tokenizer=tiny_tokenizer())


def literal(model: Any, how: Extraction, *, prompts: int, trials: int, heads: int, bias: bool) -> tuple[Tensor, Tensor]:
    """The published loop: hooks, one prompt and one head at a time. Vector and average effects."""
    task = word_task()
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
    right, every = [], []
    for prompt in tokenise(model, icl_prompts(task, how, prompts)):
        kept: dict[str, Tensor] = {}

        def keep(z: Tensor, hook: Any, kept: dict[str, Tensor] = kept) -> None:
            kept[hook.name] = z[0, -1].detach().double()

        logits = model.run_with_hooks(torch.tensor([prompt.tokens]), fwd_hooks=[(name, keep) for name in names])
        every.append(torch.stack([kept[name] for name in names]))
        right += every[-1:] if int(logits[0, -1].argmax()) == prompt.answers[prompt.gold][0] else []
    collected = right or every
    means = torch.stack(collected).mean(dim=0)
    effects = torch.zeros(n_layers, n_heads, dtype=torch.float64)
    shuffled = icl_prompts(task, replace(how, seed=how.seed + 1, shuffle_labels=True), trials)
    for prompt in tokenise(model, shuffled):
        tokens, first = torch.tensor([prompt.tokens]), prompt.answers[prompt.gold][0]
        plain = model(tokens)[0, -1].double().softmax(-1)[first]
        for layer in range(n_layers):
            for head in range(n_heads):

                def patch(z: Tensor, hook: object, layer: int = layer, head: int = head) -> Tensor:
                    z = z.clone()
                    z[0, -1, head] = means[layer, head].float()
                    return z

                out = model.run_with_hooks(tokens, fwd_hooks=[(names[layer], patch)])
                effects[layer, head] += (out[0, -1].double().softmax(-1)[first] - plain).detach() / trials
    vector = torch.zeros(model.cfg.d_model, dtype=torch.float64)
    for index in effects.flatten().argsort(descending=True)[:heads].tolist():
        layer, head = divmod(index, n_heads)
        if isinstance(model, HookedDecoder):
            projection = model.hf_model.model.layers[layer].self_attn.o_proj
            wide = torch.zeros(n_heads, means.shape[-1])
            wide[head] = means[layer, head].float()
            vector += projection(wide.flatten()[None])[0].detach().double()
        else:
            attention = model.blocks[layer].attn
            vector += (
                means[layer, head] @ attention.W_O[head].detach().double() + bias * attention.b_O.detach().double()
            )
    return vector.float(), effects.float()


@pytest.mark.parametrize("route", ["hooked", "decoder"])
def test_the_vector_is_that_of_the_published_loop(route: str) -> None:
    model = model_of(route)
    found = head_effects(model, word_task(), HOW, prompts=6, trials=2)
    vector, effects = literal(model, HOW, prompts=6, trials=2, heads=3, bias=False)
    assert_close(found.effects.mean(dim=0), effects)
    made = function_vector(model, word_task(), HOW, heads=3, prompts=6, trials=2)
    assert_close(made.at(0), vector)
    assert torch.equal(made.at(0), made.at(3))
    assert "heads" in made.provenance.note
    assert made.provenance.fingerprint


def test_the_published_code_adds_the_output_bias_once_per_head() -> None:
    model = tiny_model("gpt2")
    effects = head_effects(model, word_task(), HOW, prompts=4, trials=1)
    heads = effects.top(4)
    plain, quirk = (vector_of_heads(model, effects, heads, bias=bias) for bias in (False, True))
    offset = torch.stack([model.blocks[layer].attn.b_O.detach() for layer, _ in heads]).sum(dim=0)
    assert_close(quirk.at(1) - plain.at(1), offset)


def test_planted_heads_are_found() -> None:
    """Only two heads reach the residual stream, so only they can have an effect."""
    model = tiny_model("llama", seed=3)
    planted = {(1, 2), (3, 0)}
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            for head in range(model.cfg.n_heads):
                if (layer, head) not in planted:
                    block.attn.W_O[head] = 0
    prompts = tokenise(model, icl_prompts(word_task(), HOW, 3))
    values = torch.randn(4, 4, 24, generator=torch.Generator().manual_seed(0))
    effects = indirect_effects(model, prompts, values).mean(dim=0)
    assert set(top_heads(effects.abs(), 2)) == planted
    others = torch.ones_like(effects, dtype=torch.bool)
    for place in planted:
        others[place] = False
    # A patch without a way out changes no more than rounding.
    assert float(effects[others].abs().max()) < 1e-6 < float(effects[~others].abs().min())


def test_universal_heads_average_over_tasks_and_placebos_have_the_norm() -> None:
    model = model_of("hooked")
    found = [head_effects(model, task, HOW, prompts=4, trials=2) for task in (word_task(), label_task())]
    mean = (found[0].effects.mean(dim=0) + found[1].effects.mean(dim=0)) / 2
    assert universal_heads(found, 3) == top_heads(mean, 3)
    noise = random_heads_vector(model, found[0], 3, seed=1)
    like = vector_of_heads(model, found[0], found[0].top(3))
    assert_close(noise.directions.norm(dim=-1), like.directions.norm(dim=-1))
    assert not torch.allclose(noise.directions, like.directions)


def test_effects_are_saved_and_refused_on_another_model(tmp_path: Path) -> None:
    effects = head_effects(model_of("hooked"), word_task(), HOW, prompts=2, trials=1)
    again = HeadEffects.load(effects.save(tmp_path / "effects.safetensors"))
    assert torch.equal(again.means, effects.means)
    assert torch.equal(again.effects, effects.effects)
    assert again.provenance == effects.provenance
    assert len(effects.to_frame()) == 16
    assert effects.to_frame()["effect"].is_monotonic_decreasing
    other = model_of("hooked", 1)
    with pytest.raises(ValueError, match="fingerprint"):
        vector_of_heads(other, effects, [(0, 0)])
    vector = vector_of_heads(model_of("hooked"), effects, [(0, 0)])
    with pytest.raises(ValueError, match="another model"):
        score(other, icl_prompts(word_task(), HOW, 1), vector.intervention(1))
    with pytest.raises(ValueError, match="pairs"):
        vector_of_heads(model_of("hooked"), effects, [(9, 0)])
    with pytest.raises(ValueError, match="heads=99"):
        effects.top(99)
    with pytest.raises(ValueError, match="one model"):
        universal_heads([])
