"""Rotary tables and sliding windows of a Hugging Face config, in TransformerLens' terms, or a refusal."""

from __future__ import annotations

import math
from typing import Any

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
    """Rotary parameters of full and of sliding layers: the same ones, unless the config tells them apart."""
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
            f"rotary scaling {_kind(local)!r} on sliding layers beside {kind!r} on full layers cannot be "
            "represented in TransformerLens"
        )
    facts: Facts = {}
    if local["rope_theta"] != full["rope_theta"]:
        facts["rotary_base_local"] = local["rope_theta"]
    if kind == "yarn" and plain:
        facts["yarn_global_attn_only"] = True
    return facts
