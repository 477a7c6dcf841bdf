"""The decoder architectures that load, and what each means in TransformerLens' terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions as weights
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


@dataclass(frozen=True, slots=True)
class Architecture:
    """One Hugging Face architecture: how its config reads and how its weights convert."""

    name: str
    facts: Callable[[PretrainedConfig], dict[str, Any]]
    weights: Callable[[PreTrainedModel, HookedTransformerConfig], dict[str, Tensor]]


def _llama(cfg: PretrainedConfig) -> dict[str, Any]:
    heads = cfg.num_attention_heads
    kv = cfg.num_key_value_heads
    return dict(
        d_model=cfg.hidden_size,
        d_head=cfg.head_dim,
        n_heads=heads,
        n_key_value_heads=kv if kv != heads else None,
        d_mlp=cfg.intermediate_size,
        n_layers=cfg.num_hidden_layers,
        n_ctx=cfg.max_position_embeddings,
        eps=cfg.rms_norm_eps,
        d_vocab=cfg.vocab_size,
        act_fn=cfg.hidden_act,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=cfg.head_dim,
        rotary_base=cfg.rope_parameters["rope_theta"],
        final_rms=True,
        gated_mlp=True,
    )


def _neox(cfg: PretrainedConfig) -> dict[str, Any]:
    head = cfg.hidden_size // cfg.num_attention_heads
    return dict(
        d_model=cfg.hidden_size,
        d_head=head,
        n_heads=cfg.num_attention_heads,
        d_mlp=cfg.intermediate_size,
        n_layers=cfg.num_hidden_layers,
        n_ctx=cfg.max_position_embeddings,
        eps=cfg.layer_norm_eps,
        d_vocab=cfg.vocab_size,
        act_fn=cfg.hidden_act,
        normalization_type="LN",
        positional_embedding_type="rotary",
        rotary_dim=round(cfg.rope_parameters["partial_rotary_factor"] * head),
        rotary_base=cfg.rope_parameters["rope_theta"],
        parallel_attn_mlp=cfg.use_parallel_residual,
    )


def _gpt2(cfg: PretrainedConfig) -> dict[str, Any]:
    return dict(
        d_model=cfg.n_embd,
        d_head=cfg.n_embd // cfg.n_head,
        n_heads=cfg.n_head,
        d_mlp=cfg.n_inner or 4 * cfg.n_embd,
        n_layers=cfg.n_layer,
        n_ctx=cfg.n_positions,
        eps=cfg.layer_norm_epsilon,
        d_vocab=cfg.vocab_size,
        act_fn=cfg.activation_function,
        normalization_type="LN",
    )


ARCHITECTURES = {
    entry.name: entry
    for entry in (
        Architecture("LlamaForCausalLM", _llama, weights.convert_llama_weights),
        Architecture("GPTNeoXForCausalLM", _neox, weights.convert_neox_weights),
        Architecture("GPT2LMHeadModel", _gpt2, weights.convert_gpt2_weights),
    )
}


def architecture_of(hf_config: PretrainedConfig) -> Architecture:
    """The entry for a config.

    Raises:
        ValueError: when the architecture is not one of ``ARCHITECTURES``.
    """
    name = (hf_config.architectures or [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_config.model_type, "")])[0]
    if name not in ARCHITECTURES:
        raise ValueError(
            f"architecture {name!r} is not supported; supported are {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[name]
