"""TransformerLens' weight converters, with the attention biases that some of them leave out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions as converters
from transformers import PreTrainedModel

State = dict[str, Tensor]
Converter = Callable[[PreTrainedModel, HookedTransformerConfig], State]


def with_attention_biases(converter: Converter) -> Converter:
    """``converter``, then the biases of q, k, v and o where the model has them (``attention_bias=True``)."""

    def convert(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
        state = converter(model, cfg)
        for index, layer in enumerate(model.get_decoder().layers):
            state |= _attention_biases(layer.self_attn, f"blocks.{index}.attn", cfg)
        return state

    return convert


def bloom_weights(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
    """BLOOM's weights; TransformerLens makes a position table that ALiBi never reads, so it is zero."""
    state: State = converters.convert_bloom_weights(model, cfg)
    return {**state, "pos_embed.W_pos": torch.zeros(cfg.n_ctx, cfg.d_model)}


def _attention_biases(attention: object, prefix: str, cfg: HookedTransformerConfig) -> State:
    mark = "" if cfg.n_key_value_heads is None else "_"
    names = {"q_proj": "b_Q", "k_proj": f"{mark}b_K", "v_proj": f"{mark}b_V", "o_proj": "b_O"}
    biases: State = {}
    for source, target in names.items():
        bias = getattr(attention, source).bias
        if bias is not None:
            biases[f"{prefix}.{target}"] = bias if target == "b_O" else bias.view(-1, cfg.d_head)
    return biases
