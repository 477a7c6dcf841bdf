"""A fingerprint names a model's weights; a vector of another model is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cast_lens.models import check_vector, fingerprint, load_model, model_name
from cast_lens.vectors import DifferenceVectors, Provenance, SteeringVector
from tests.tiny import tiny_hf_model, tiny_model


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "bloom", "olmoe"])
def test_float32_and_bfloat16_loads_agree(architecture: str) -> None:
    source = tiny_hf_model(architecture)
    single = load_model(source)
    half = load_model(source, dtype="bfloat16")
    stored_half = load_model(tiny_hf_model(architecture, dtype=torch.bfloat16), dtype="float32")
    assert fingerprint(single) == fingerprint(half)
    assert fingerprint(half) == fingerprint(stored_half)
    assert len(fingerprint(single)) == 16


def test_other_weights_have_another_fingerprint() -> None:
    prints = [
        fingerprint(tiny_model("llama")),
        fingerprint(tiny_model("llama", seed=1)),
        fingerprint(tiny_model("llama", num_hidden_layers=3)),
        fingerprint(tiny_model("llama-tied")),
    ]
    tuned = tiny_model("llama")
    tuned.blocks[2].mlp.W_in.data += 0.01
    assert len({*prints, fingerprint(tuned)}) == 5
    assert fingerprint(tiny_model("llama")) == prints[0]


def _vector(d_model: int = 64, layers: tuple[int, ...] = (0, 3), mark: str = "") -> SteeringVector:
    origin = Provenance(model="source-model", fingerprint=mark, task="antonym")
    return SteeringVector(torch.ones(len(layers), d_model), layers, origin)


def test_a_vector_of_this_model_passes() -> None:
    model = tiny_model("llama")
    vector = _vector(mark=fingerprint(model))
    check_vector(model, vector)
    stack = torch.ones(2, 2, 64)
    check_vector(model, DifferenceVectors(stack, stack, (0, 3), ("a", "b"), vector.provenance))


def test_a_vector_that_does_not_fit_is_refused() -> None:
    model = tiny_model("llama")
    own = fingerprint(model)
    with pytest.raises(
        ValueError, match=r"'source-model', has width 32, but .* 'LlamaForCausalLM' has d_model=64"
    ):
        check_vector(model, _vector(d_model=32, mark=own))
    with pytest.raises(ValueError, match=r"'antonym'.* holds layer 4, but .* has 4 layers"):
        check_vector(model, _vector(layers=(1, 4), mark=own))
    with pytest.raises(ValueError, match=f"fingerprint 'other', but .* has '{own}'.*extract a vector"):
        check_vector(model, _vector(mark="other"))
    stack = torch.ones(1, 2, 64)
    origin = replace(_vector().provenance, fingerprint="other")
    with pytest.raises(ValueError, match="fingerprint 'other'"):
        check_vector(model, DifferenceVectors(stack, stack, (0, 3), ("a",), origin))


def test_model_name_is_what_it_was_loaded_by() -> None:
    source = tiny_hf_model("llama")
    assert model_name(load_model(source)) == "LlamaForCausalLM"
    source.config._name_or_path = "owner/name"
    assert model_name(load_model(source)) == "owner/name"
