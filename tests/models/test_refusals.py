"""What cannot be represented is refused by name, before any weight is read."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from transformers import PretrainedConfig

from cast_lens.models import config_from_huggingface
from tests.tiny import tiny_config

SCALED = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
LONG = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


def _config(architecture: str, **override: Any) -> PretrainedConfig:
    config = tiny_config(architecture)
    for field, value in override.items():  # past the checks of the config class, as from a file on the hub
        setattr(config, field, value)
    return config


@pytest.mark.parametrize(
    ("architecture", "override", "message"),
    [
        ("llama", {"mlp_bias": True}, "mlp_bias=True"),
        ("llama", {"hidden_act": "quick_gelu"}, "activation 'quick_gelu'"),
        ("llama", {"rope_parameters": {**SCALED, "rope_type": "dynamic"}}, "scaling 'dynamic'"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "weights are quantised"),
        ("llama", {"head_dim": 15}, "15 rotated dimensions"),
        ("phi3", {"rope_parameters": {**SCALED, **LONG, "rope_type": "longrope"}}, "'longrope'"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm=True"),
        ("phi", {"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ("neox", {"attention_bias": False}, "attention_bias=False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),
        ("opt", {"word_embed_proj_dim": 32}, "word_embed_proj_dim=32"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm=True"),
        ("olmo", {"num_key_value_heads": 2}, "num_key_value_heads=2"),
        ("gemma", {"use_bidirectional_attention": True}, "not a causal decoder"),
        ("gpt-oss", {"swiglu_limit": 1.0}, "swiglu_limit=1.0"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types has linear_attention"),
        ("qwen2-window", {"rope_parameters": {**SCALED, "rope_type": "linear"}}, "'linear' on sliding layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_a_setting_that_cannot_be_represented(architecture: str, override: dict[str, Any], message: str) -> None:
    config_from_huggingface(_config(architecture))  # without the setting it can be
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(_config(architecture, **override))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("T5Config", "model type 't5' is an encoder-decoder; decoders that load are .*LlamaForCausalLM"),
        ("MambaConfig", "MambaForCausalLM is not supported; decoders that load are .*Qwen3ForCausalLM"),
        ("ViTConfig", "of model type 'vit' is not supported"),
    ],
)
def test_an_architecture_that_does_not_load(kind: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(getattr(transformers, kind)())


def test_a_window_on_every_layer_uses_the_rotary_table_of_sliding_layers() -> None:
    config = _config("gemma3", layer_types=["sliding_attention"] * 4)
    cfg = config_from_huggingface(config)
    assert cfg.attn_types == ["local"] * 4
    assert (cfg.rotary_base, cfg.rotary_scaling_factor) == (1e3, 1.0)
