"""A converted model is the model it came from: logits, settings, and no strings attached."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3Config, PreTrainedModel

from cast_lens.models import load_model
from cast_lens.models.list import ARCHITECTURES as LOADABLE
from cast_lens.models.list import architecture_of
from tests.closeness import assert_close
from tests.tiny import ARCHITECTURES, VOCAB, randomise, tiny_config, tiny_hf_model, tiny_model


def _ids(length: int = 24) -> Tensor:
    return torch.randint(3, VOCAB, (2, length), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    out = model(ids)
    return out if isinstance(out, Tensor) else out.logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_hugging_face(architecture: str) -> None:
    source = tiny_hf_model(architecture)
    expected = _logits(source, _ids())
    model = load_model(source)
    assert_close(_logits(model, _ids()), expected)
    assert model.cfg.original_architecture == type(source).__name__
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    # What every test on tiny models stands on: logits vary, and the last ones depend on an early token.
    assert expected.std() > 0.5
    changed = _ids()
    changed[:, 14] = changed[:, 14] % 300 + 7
    difference = (_logits(source, changed) - expected)[:, -1]
    assert difference.norm() > 0.03 * expected[:, -1].norm()


def test_every_architecture_that_loads_is_tested() -> None:
    tested = {architecture_of(tiny_config(name)).name for name in ARCHITECTURES}
    assert tested == set(LOADABLE) - {"Gemma3ForConditionalGeneration"}  # which has its own test, below


@pytest.mark.parametrize("architecture", ["mistral", "gemma2", "phi3", "qwen2-window", "olmo3", "gpt-oss"])
def test_the_windows_of_the_tiny_models_matter(architecture: str) -> None:
    ids = _ids()
    narrow = _logits(tiny_hf_model(architecture), ids)
    wide = _logits(tiny_hf_model(architecture, sliding_window=64), ids)
    assert_close(narrow[:, :8], wide[:, :8])
    assert (narrow - wide)[:, -1].abs().max() > 0.1


@pytest.mark.parametrize(
    ("architecture", "override"),
    [
        ("qwen3", {"attention_bias": True}),
        ("gemma", {"attention_bias": True}),
        ("gemma2", {"attention_bias": True, "attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("olmo", {"attention_bias": True, "clip_qkv": None}),
        ("olmo2", {"attention_bias": True, "num_key_value_heads": 4}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 96}),
        ("gpt2", {"scale_attn_weights": False}),
        ("mistral", {"sliding_window": None, "num_key_value_heads": 4}),
        ("phi", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
        ("llama", {"hidden_act": "swish", "rms_norm_eps": 0.1}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 500.0,
                    "factor": 2.0,
                    "original_max_position_embeddings": 32,
                    "mscale": 1.0,
                    "mscale_all_dim": 0.5,
                    "beta_fast": 16.0,
                    "truncate": False,
                }
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_settings_away_from_the_defaults(architecture: str, override: dict[str, Any]) -> None:
    source = tiny_hf_model(architecture, **override)
    assert_close(_logits(load_model(source), _ids()), _logits(source, _ids()))
    plain = _logits(tiny_hf_model(architecture), _ids())
    assert (plain - _logits(source, _ids())).abs().max() > 1e-2  # the setting has an effect


def test_a_multimodal_gemma_loads_as_its_text_decoder() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=tiny_config("gemma3").to_dict(), vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    source: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    randomise(source, seed=0)
    model = load_model(source.eval())
    assert_close(_logits(model, _ids()), _logits(source, _ids()))


def test_a_loaded_model_is_copied_and_left_as_it_was() -> None:
    source = tiny_hf_model("llama-tied")
    source.set_attn_implementation("sdpa")
    source.train()
    before = {name: weight.clone() for name, weight in source.state_dict().items()}
    model = load_model(source)
    assert source.training
    assert source.config._attn_implementation == "sdpa"
    expected = _logits(model, _ids())
    assert all(torch.equal(weight, before[name]) for name, weight in source.state_dict().items())
    for weight in source.state_dict().values():
        weight.zero_()
    assert torch.equal(_logits(model, _ids()), expected)


def test_a_loaded_model_changes_dtype_on_the_way() -> None:
    source = tiny_hf_model("neox", dtype=torch.bfloat16)
    model = load_model(source, dtype="float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.cfg.dtype == torch.float32
    # bfloat16 numbers are float32 numbers: the weights are the same, and so are float32 logits from them.
    assert_close(_logits(model, _ids()), _logits(source.float(), _ids()))


def test_generation_works_and_is_greedy() -> None:
    model = tiny_model("llama")
    ids = model.to_tokens("The capital of")
    longer = model.generate(ids, max_new_tokens=3, do_sample=False, verbose=False, stop_at_eos=False)
    assert isinstance(longer, Tensor)
    for position in range(ids.shape[1], longer.shape[1]):
        assert longer[0, position] == _logits(model, longer[:, :position])[0, -1].argmax()
