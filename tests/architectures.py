"""A tiny random model of every causal architecture that the installed transformers can build from a small config."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.tiny import VOCAB, randomise

WIDTH, LAYERS, HEADS, HEAD = 64, 3, 4, 16
# By the name that a config has for it; a config that lacks one is left without.
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 80,
    "ffn_dim": 80,
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "max_position_embeddings": 512,
    "sliding_window": 8,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    # Mixtures of experts.
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    # Latent attention.
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    # Decoders of what was an encoder with a decoder.
    "is_decoder": True,
    "decoder_layers": LAYERS,
    "decoder_attention_heads": HEADS,
    "decoder_ffn_dim": 80,
    "d_model": WIDTH,
    # Linear attention.
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    # Inputs of their own for each layer.
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB,
}
# Parameters of the largest model that is still built.
LARGEST = 5_000_000
NAMES: tuple[str, ...] = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


# What one architecture wants and no other has.
_LATENT = {"head_dim": 8, "num_key_value_heads": HEADS}
_MIXED: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
_GEMMA4 = {
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "per_layer_config": {"02": {"head_dim": 24}},
}
_GEMMA3N = {
    "num_hidden_layers": 4,
    "intermediate_size": [80] * 4,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
}
_ROTARY = {"rotary_dim": 8}
_CHUNKS = {"attention_chunk_size": 8}
SPECIAL: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu"), _LATENT
    ),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), _MIXED),
    **dict.fromkeys(("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"), _GEMMA4),
    **dict.fromkeys(("codegen", "gptj"), _ROTARY),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), _GEMMA3N),
    "dots1": {"layer_types": ["full_attention"] * LAYERS},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]], "window_size": 8, "num_heads": HEADS},
    "falcon": {"num_kv_heads": HEADS, "ffn_hidden_size": 80},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 8, "n_groups": 2},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "n_groups": 2,
        "moe_shared_expert_intermediate_size": 16,
    },
    "kimi_linear": {**_MIXED, **_LATENT, "mlp_layer_types": ["dense", "sparse", "sparse"], "qk_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
    **dict.fromkeys(("llama4", "llama4_text"), _CHUNKS),
}
# Config fields of no architecture above that cannot be set although they can be read.
UNSETTABLE = {"falcon": ("head_dim",), "xlstm": ("v_head_dim",)}


def small_config(name: str) -> PreTrainedConfig:
    """The config of an architecture, by its ``model_type``, with everything made small that has a usual name."""
    known = CONFIG_MAPPING[name]()
    known = known.get_text_config() if known.sub_configs else known
    skipped = UNSETTABLE.get(name, ())
    given = {field: value for field, value in SMALL.items() if field not in skipped and _has(known, field)}
    config: PreTrainedConfig = type(known)(**{**given, **SPECIAL.get(name, {})})
    return config


def _has(config: PreTrainedConfig, field: str) -> bool:
    try:
        return hasattr(config, field)
    except Exception:
        # A field that differs by layer refuses to be read as one.
        return True


def small_model(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A tiny random model; raises whatever transformers raises when the small config does not suit it."""
    config = small_config(name)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters()
    if size > LARGEST:
        raise ValueError(f"{size} parameters: {name} has sizes of its own that stay large")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    randomise(model, seed=seed)
    return model.eval()
