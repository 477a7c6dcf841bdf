"""How the Hugging Face config of each architecture reads in TransformerLens' terms, rotary tables and windows included.

Everything comes from the config and nothing from the model's name, so a fine-tune, a private model or a
random one loads like the model that made its architecture known. What cannot be represented is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import PretrainedConfig

Facts = dict[str, Any]

# arXiv 2309.00071, section 3.4, and the defaults of transformers.
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0


def window_facts(config: PretrainedConfig, n_layers: int) -> Facts:
    """Which layers attend to everything before them and which to the last ``sliding_window`` tokens."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        types = ["sliding_attention" if window else "full_attention"] * n_layers
    names = {"full_attention": "global", "sliding_attention": "local"}
    unknown = sorted(set(types) - set(names))
    if unknown:
        raise ValueError(f"layer_types has {', '.join(unknown)}; TransformerLens can represent {', '.join(names)} only")
    attention = [names[kind] for kind in types]
    if "local" not in attention or window is None:
        return {}
    return {"use_local_attn": True, "window_size": int(window), "attn_types": attention}


def rotary_facts(config: PretrainedConfig, d_head: int, windows: Facts) -> Facts:
    """The rotary table of every layer.

    Raises:
        ValueError: when the rotary scaling is one that TransformerLens cannot represent.
    """
    full, local = _parameters(config)
    kinds = set(windows.get("attn_types", ["global"]))
    if kinds == {"local"}:
        full = local
    facts = {
        "positional_embedding_type": "rotary",
        "rotary_dim": _rotary_dim(full, d_head),
        "rotary_base": full["rope_theta"],
        **_scaling_facts(config, full),
    }
    if "local" in kinds:
        facts |= _local_facts(full, local, d_head)
    return facts


def _parameters(config: PretrainedConfig) -> tuple[Facts, Facts]:
    """Rotary parameters of full and of sliding layers: the same ones, unless the config distinguishes them."""
    parameters = dict(config.rope_parameters)
    if "full_attention" in parameters:
        return dict(parameters["full_attention"]), dict(parameters["sliding_attention"])
    return parameters, parameters


def _kind(parameters: Facts) -> str:
    return parameters.get("rope_type") or parameters.get("type") or "default"


def _rotary_dim(parameters: Facts, d_head: int) -> int:
    size = int(d_head * (parameters.get("partial_rotary_factor") or 1.0))
    if size % 2:
        raise ValueError(f"{size} rotated dimensions a head are an odd number; rotary pairs need an even one")
    return size


def _scaling_facts(config: PretrainedConfig, parameters: Facts) -> Facts:
    kind = _kind(parameters)
    if kind == "default":
        return {}
    if kind == "linear":
        return {"rotary_scaling_factor": float(parameters["factor"])}
    if kind == "llama3":
        return {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": float(parameters["factor"]),
            "NTK_by_parts_low_freq_factor": float(parameters["low_freq_factor"]),
            "NTK_by_parts_high_freq_factor": float(parameters["high_freq_factor"]),
            "NTK_original_ctx_len": int(parameters["original_max_position_embeddings"]),
        }
    if kind == "yarn":
        return _yarn_facts(config, parameters)
    raise ValueError(
        f"rotary scaling {kind!r} cannot be represented in TransformerLens, which knows default, linear, "
        "llama3 and yarn"
    )


def _yarn_facts(config: PretrainedConfig, parameters: Facts) -> Facts:
    original = parameters["original_max_position_embeddings"]
    factor = parameters.get("factor") or config.max_position_embeddings / original
    return {
        "use_yarn_rope": True,
        "yarn_factor": float(factor),
        "yarn_attention_factor": _yarn_attention_factor(parameters, factor),
        "yarn_beta_fast": float(parameters.get("beta_fast") or YARN_BETA_FAST),
        "yarn_beta_slow": float(parameters.get("beta_slow") or YARN_BETA_SLOW),
        "yarn_original_max_position_embeddings": int(original),
        "yarn_truncate": bool(parameters.get("truncate", True)),
    }


def _yarn_attention_factor(parameters: Facts, factor: float) -> float:
    """Scale of the rotary table (arXiv 2309.00071, eq. 22), with the defaults of transformers."""
    given = parameters.get("attention_factor")
    if given is not None:
        return float(given)

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return scale(above) / scale(below) if above and below else scale(1.0)


def _local_facts(full: Facts, local: Facts, d_head: int) -> Facts:
    """What sliding layers need when they rotate otherwise than full ones."""
    kind = _kind(full)
    same = local == full
    plain = _kind(local) == "default"
    if _rotary_dim(local, d_head) != _rotary_dim(full, d_head):
        raise ValueError("sliding and full layers rotate different numbers of dimensions; TransformerLens has one")
    # TransformerLens scales linearly on full layers only, llama3 on all, yarn on either choice.
    fits = {"default": plain, "linear": plain, "llama3": same, "yarn": same or plain}[kind]
    if not fits:
        raise ValueError(
            f"rotary scaling {_kind(local)!r} on sliding layers together with {kind!r} on full layers cannot be "
            "represented in TransformerLens"
        )
    facts: Facts = {}
    if local["rope_theta"] != full["rope_theta"]:
        facts["rotary_base_local"] = local["rope_theta"]
    if kind == "yarn" and plain:
        facts["yarn_global_attn_only"] = True
    return facts


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
    return {**_rotary_decoder(config), "normalization_type": "LN", "final_rms": False, "clip_qkv": config.clip_qkv}


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
