"""What the fast path knows. Anything else is noticed here and takes the plain route; never a wrong answer."""

from __future__ import annotations

from transformer_lens import HookedTransformer
from transformer_lens.components import TransformerBlock
from transformer_lens.components.abstract_attention import AbstractAttention
from transformer_lens.components.attention import Attention
from transformer_lens.components.grouped_query_attention import GroupedQueryAttention
from transformer_lens.hook_points import HookPoint

from .kernel import norm_rows

# Configuration switches that change the arithmetic of attention or of the residual stream in a way that the
# kernel does not reproduce.
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
)


def unsupported(model: object) -> str | None:
    """Why the fast path would not reproduce this model exactly; None when it would.

    The answer depends on the configuration, the classes of the model's modules, its device placement, and on hooks
    that are attached right now: the fast path fires no hooks.
    """
    if not isinstance(model, HookedTransformer):
        return f"{type(model).__name__} is no HookedTransformer"
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
    for index, block in enumerate(model.blocks):
        reason = _unsupported_block(block)
        if reason is not None:
            return f"block {index}: {reason}"
    if cfg.normalization_type is not None and norm_rows(model.ln_final) is None:
        return f"final norm {type(model.ln_final).__name__}"
    hooked = [name for name, point in model.hook_dict.items() if _has_hooks(point)]
    return f"hooks are attached ({', '.join(hooked[:3])})" if hooked else None


def _has_hooks(point: HookPoint) -> bool:
    return bool(point.fwd_hooks or point._forward_hooks or point._forward_pre_hooks)


def _unsupported_block(block: object) -> str | None:
    if type(block) is not TransformerBlock:
        return f"{type(block).__name__} is no TransformerBlock"
    attention: AbstractAttention = block.attn
    if type(attention) not in (Attention, GroupedQueryAttention):
        return f"attention of class {type(attention).__name__}"
    if getattr(attention, "_attention_dir_override", None) not in (None, "causal"):
        return "attention that is not causal"
    norms = [getattr(block, name, None) for name in ("ln1", "ln2", "ln1_post", "ln2_post")]
    norms += [attention.q_norm, attention.k_norm]
    unknown = [type(norm).__name__ for norm in norms if norm is not None and norm_rows(norm) is None]
    return f"norm of class {unknown[0]}" if unknown else None
