"""The check at load catches a conversion that is wrong, and lets rounding pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from cast_lens.models import list as architectures
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformerConfig
from cast_lens.models.list import State
from tests.tiny import ARCHITECTURES, tiny_hf_model, tiny_tokenizer

Damage = Callable[[State], State]


def _convert_wrongly(monkeypatch: pytest.MonkeyPatch, name: str, damage: Damage) -> None:
    entry = architectures.ARCHITECTURES[name]

    def wrong(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
        return damage(entry.weights(model, cfg))

    monkeypatch.setitem(architectures.ARCHITECTURES, name, dataclasses.replace(entry, weights=wrong))


def _nudged(key: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return lambda state: {**state, key: change(state[key])}


@pytest.mark.parametrize(
    "damage",
    [
        _nudged("blocks.2.ln1.w", lambda weight: weight + 0.01),
        _nudged("blocks.0.attn.W_Q", lambda weight: weight.flip(0)),
        _nudged("unembed.b_U", lambda bias: bias + 0.1),
        _nudged("blocks.3.mlp.W_out", lambda weight: weight * float("nan")),
    ],
    ids=["norm off by 0.01", "heads in another order", "bias", "NaN"],
)
def test_wrong_weights_are_refused(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    _convert_wrongly(monkeypatch, "LlamaForCausalLM", damage)
    with pytest.raises(ValueError, match="logits of 'LlamaForCausalLM' differ from Hugging Face's by"):
        load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())


def test_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = architectures.ARCHITECTURES["LlamaForCausalLM"]
    wrong = dataclasses.replace(entry, facts=lambda config: {**entry.facts(config), "rotary_base": 9000.0})
    monkeypatch.setitem(architectures.ARCHITECTURES, "LlamaForCausalLM", wrong)
    with pytest.raises(ValueError, match="vectors from it would be wrong"):
        load_model(tiny_hf_model("llama"))


def test_a_missing_weight_and_one_without_a_place_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(state: State) -> State:
        return {key.replace("1.attn.W_O", "1.attn.W_X"): weight for key, weight in state.items()}

    _convert_wrongly(monkeypatch, "LlamaForCausalLM", moved)
    with pytest.raises(ValueError, match=r"missing \['blocks.1.attn.W_O'\].*place \['blocks.1.attn.W_X'\]"):
        load_model(tiny_hf_model("llama"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gross_errors_show_in_half_precision(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    _convert_wrongly(monkeypatch, "LlamaForCausalLM", _nudged("blocks.0.attn.W_Q", lambda weight: weight.flip(0)))
    with pytest.raises(ValueError, match="differ from Hugging Face's"):
        load_model(tiny_hf_model("llama", dtype=dtype), dtype=dtype)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rounding_in_bfloat16_passes(architecture: str) -> None:
    model = load_model(tiny_hf_model(architecture, dtype=torch.bfloat16), dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
