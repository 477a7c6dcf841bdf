"""How the Hugging Face config of each architecture reads in TransformerLens' terms.

Everything comes from the config and nothing from the model's name, so a fine-tune, a private model or a
random one loads like the model that made its architecture known. What cannot be represented is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import PretrainedConfig

from .rope import Facts, rotary_facts, window_facts


def _require(config: PretrainedConfig, **expected: object) -> None:
    for field, value in expected.items():
        found = getattr(config, field, value)
        if found != value:
            raise ValueError(
                f"{field}={found!r} in the config of this {config.model_type} model cannot be represented in "
                f"TransformerLens, only {field}={value!r}"
            )


def _activation(name: str) -> str:
    name = {"swish": "silu"}.get(name, name)
    if name not in SUPPORTED_ACTIVATIONS:
        raise ValueError(
            f"activation {name!r} cannot be represented in TransformerLens, which has "
            f"{', '.join(sorted(SUPPORTED_ACTIVATIONS))}"
        )
    return name


def _rotary_decoder(config: PretrainedConfig, *, grouped: bool = False) -> Facts:
    """What the descendants of Llama share: RMS norms, rotary positions, a gated MLP, grouped keys and values.

    ``grouped`` is for converters that name keys and values as grouped even where every head has its own.
    """
    heads = config.num_attention_heads
    key_values = config.num_key_value_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    windows = window_facts(config, config.num_hidden_layers)
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": heads,
        "n_key_value_heads": key_values if grouped or key_values != heads else None,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": getattr(config, "rms_norm_eps", 1e-5),
        "act_fn": _activation(getattr(config, "hidden_activation", None) or config.hidden_act),
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
        **windows,
        **rotary_facts(config, d_head, windows),
    }


def llama(config: PretrainedConfig) -> Facts:
    """Llama and its descendants."""
    _require(config, mlp_bias=False)
    return _rotary_decoder(config)


def grouped(config: PretrainedConfig) -> Facts:
    """Mistral, Qwen2, OLMo 2 and 3: nothing beyond the common ground."""
    return _rotary_decoder(config, grouped=True)


def phi3(config: PretrainedConfig) -> Facts:
    """Phi-3 and Phi-4: fused projections; a part of each head may rotate."""
    return _rotary_decoder(config)


def qwen3(config: PretrainedConfig) -> Facts:
    """Qwen3: normalised queries and keys."""
    return {**_rotary_decoder(config), "use_qk_norm": True}


def gemma(config: PretrainedConfig) -> Facts:
    """Gemma."""
    if getattr(config, "use_bidirectional_attention", None):
        raise ValueError("use_bidirectional_attention=True: this model is not a causal decoder")
    return grouped(config)


def gemma2(config: PretrainedConfig) -> Facts:
    """Gemma 2: soft caps, its own attention scale, norms on both sides."""
    return {
        **gemma(config),
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": config.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
    }


def gemma3(config: PretrainedConfig) -> Facts:
    """Gemma 3's text decoder."""
    return {**gemma2(config), "use_qk_norm": True}


def gemma3_multimodal(config: PretrainedConfig) -> Facts:
    """Gemma 3 with a vision tower, which text never enters."""
    return gemma3(config.get_text_config())


def mixture(experts: str) -> Callable[[PretrainedConfig], Facts]:
    """Mixtral and OLMoE; ``experts`` is the field with their number."""

    def facts(config: PretrainedConfig) -> Facts:
        return {
            **grouped(config),
            "num_experts": getattr(config, experts),
            "experts_per_token": config.num_experts_per_tok,
            # Mixtral has no such field: its router always normalises.
            "norm_topk_prob": getattr(config, "norm_topk_prob", True),
            "clip_qkv": getattr(config, "clip_qkv", None),
        }

    return facts


def gpt_oss(config: PretrainedConfig) -> Facts:
    """gpt-oss: attention sinks and its own experts, whose constants TransformerLens has fixed."""
    _require(config, swiglu_alpha=1.702, swiglu_limit=7.0)
    return {**mixture("num_local_experts")(config), "use_attention_sinks": True}


def olmo(config: PretrainedConfig) -> Facts:
    """OLMo: layer norms without weights, clipped queries, keys and values."""
    _require(config, num_key_value_heads=config.num_attention_heads)
    return {
        **_rotary_decoder(config),
        "normalization_type": "LN",
        "final_rms": False,
        "clip_qkv": config.clip_qkv,
    }


def apertus(config: PretrainedConfig) -> Facts:
    """Apertus: an ungated MLP with xIELU."""
    return {**_rotary_decoder(config), "gated_mlp": False, "use_qk_norm": True}


def _layer_norm_decoder(config: PretrainedConfig) -> Facts:
    """What Pythia and Phi share: layer norms, partly rotated heads, attention and MLP side by side."""
    heads = config.num_attention_heads
    d_head = config.hidden_size // heads
    return {
        "d_model": config.hidden_size,
        "d_head": d_head,
        "n_heads": heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_eps,
        "act_fn": _activation(config.hidden_act),
        "normalization_type": "LN",
        "parallel_attn_mlp": getattr(config, "use_parallel_residual", True),
        **rotary_facts(config, d_head, {}),
    }


def neox(config: PretrainedConfig) -> Facts:
    """GPT-NeoX and Pythia."""
    _require(config, attention_bias=True)
    return _layer_norm_decoder(config)


def phi(config: PretrainedConfig) -> Facts:
    """Phi-1, 1.5 and 2."""
    _require(config, qk_layernorm=False, num_key_value_heads=config.num_attention_heads)
    return _layer_norm_decoder(config)


def gpt2(config: PretrainedConfig) -> Facts:
    """GPT-2."""
    _require(config, add_cross_attention=False)
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_epsilon,
        "act_fn": _activation(config.activation_function),
        "normalization_type": "LN",
        "use_attn_scale": getattr(config, "scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": getattr(config, "scale_attn_by_inverse_layer_idx", False),
    }


def gptj(config: PretrainedConfig) -> Facts:
    """GPT-J: one norm for attention and MLP, neighbouring dimensions rotate."""
    return {
        **gpt2(config),
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim,
        "rotary_adjacent_pairs": True,
    }


def gpt_neo(config: PretrainedConfig) -> Facts:
    """GPT-Neo: unscaled attention, every other layer local."""
    return {
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.num_heads,
        "n_heads": config.num_heads,
        "d_mlp": config.intermediate_size or 4 * config.hidden_size,
        "n_layers": config.num_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_epsilon,
        "act_fn": _activation(config.activation_function),
        "normalization_type": "LN",
        "use_attn_scale": False,
        "use_local_attn": True,
        "window_size": config.window_size,
        "attn_types": list(config.attention_layers),
    }


def opt(config: PretrainedConfig) -> Facts:
    """OPT."""
    _require(
        config,
        do_layer_norm_before=True,
        enable_bias=True,
        layer_norm_elementwise_affine=True,
        _remove_final_layer_norm=False,
        word_embed_proj_dim=config.hidden_size,
    )
    return {
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.num_attention_heads,
        "n_heads": config.num_attention_heads,
        "d_mlp": config.ffn_dim,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "eps": 1e-5,  # torch.nn.LayerNorm's, which transformers' OPT does not set
        "act_fn": _activation(config.activation_function),
        "normalization_type": "LN",
    }


def bloom(config: PretrainedConfig) -> Facts:
    """BLOOM: ALiBi."""
    _require(config, apply_residual_connection_post_layernorm=False)
    return {
        "d_model": config.hidden_size,
        "d_head": config.hidden_size // config.n_head,
        "n_heads": config.n_head,
        "d_mlp": 4 * config.hidden_size,
        "n_layers": config.n_layer,
        "n_ctx": getattr(config, "seq_length", 2048),  # trained length; ALiBi itself has no limit
        "d_vocab": config.vocab_size,
        "eps": config.layer_norm_epsilon,
        "act_fn": "gelu_fast",  # transformers' BloomGelu, which no config field names
        "normalization_type": "LN",
        "post_embedding_ln": True,
        "positional_embedding_type": "alibi",
    }
