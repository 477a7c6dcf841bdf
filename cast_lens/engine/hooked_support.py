"""Checks that ``hooked`` computes what a ``HookedTransformer`` does, and names the part that it does not know."""

from __future__ import annotations

from transformer_lens.components import Embed, PosEmbed, TransformerBlock, Unembed
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.components.mlps.moe import MoE

from ..models.lens import HookedTransformer
from .hooked import norm_rows

# Configuration switches that change the arithmetic of attention or of the residual stream in a way that the
# functions of rows do not reproduce.
_UNKNOWN_SWITCHES = (
    "use_attention_sinks",
    "use_logn_attn",
    "use_dynamic_ntk_rope",
    "load_in_4bit",
    "post_embedding_ln",
    "use_attn_result",
    "use_attn_in",
    "use_split_qkv_input",
    "use_hook_mlp_in",
    "use_hook_tokens",
)


def unknown_to_hooked(model: HookedTransformer) -> str | None:
    """Which configuration switch or module of a model ``hooked`` cannot reproduce; None if it can reproduce all."""
    cfg = model.cfg
    if cfg.positional_embedding_type not in ("rotary", "standard"):
        return f"positional_embedding_type={cfg.positional_embedding_type!r}"
    if cfg.attention_dir != "causal":
        return f"attention_dir={cfg.attention_dir!r}"
    for switch in _UNKNOWN_SWITCHES:
        if getattr(cfg, switch, False):
            return f"cfg.{switch} is on"
    if int(getattr(cfg, "n_devices", 1) or 1) > 1:
        return f"the model is spread over {cfg.n_devices} devices"
    return _unknown_part(model)


def _unknown_part(model: HookedTransformer) -> str | None:
    known = {"embed": Embed, "pos_embed": PosEmbed, "unembed": Unembed}
    for name, kind in known.items():
        part = getattr(model, name, None)
        if part is not None and type(part) is not kind:
            return f"{name} of class {type(part).__name__}"
    if model.cfg.normalization_type is not None and norm_rows(model.ln_final) is None:
        return f"final norm {type(model.ln_final).__name__}"
    for index, block in enumerate(model.blocks):
        reason = _unknown_block(block)
        if reason is not None:
            return f"block {index}: {reason}"
    return None


def _unknown_block(block: object) -> str | None:
    if type(block) is not TransformerBlock:
        return f"{type(block).__name__} is not a TransformerBlock"
    attention: AbstractAttention = block.attn
    if type(attention) not in (Attention, GroupedQueryAttention):
        return f"attention of class {type(attention).__name__}"
    if getattr(attention, "_attention_dir_override", None) not in (None, "causal"):
        return "attention that is not causal"
    # Each of these treats tokens independently, so it can be called on any set of rows.
    if not block.cfg.attn_only and type(block.mlp) not in (GatedMLP, MLP, MoE):
        return f"MLP of class {type(block.mlp).__name__}"
    norms = [getattr(block, name, None) for name in ("ln1", "ln2", "ln1_post", "ln2_post")]
    norms += [attention.q_norm, attention.k_norm]
    unknown = [type(norm).__name__ for norm in norms if norm is not None and norm_rows(norm) is None]
    return f"norm of class {unknown[0]}" if unknown else None
