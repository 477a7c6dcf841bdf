"""A whole model as arithmetic on rows, on the weights that the model already holds.

The query, key and value projections are laid out side by side in memory once and the model's own parameters
become views of that memory: no value changes, no second copy of the weights is kept, and a write to a parameter
is seen here.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig

from .block import Block, RowMap, mlp_adder, norm_rows, unless_zero

# Query/key normalisation over all heads together, before they are split (as TransformerLens dispatches it).
FULL_WIDTH_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")


def _pack(attention: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Lay W_Q, W_K, W_V side by side as [qkv, d_model], and make the parameters views of what is returned."""
    grouped = hasattr(attention, "_W_K")
    weights = [
        getattr(attention, name) for name in (("W_Q", "_W_K", "_W_V") if grouped else ("W_Q", "W_K", "W_V"))
    ]
    biases = [
        getattr(attention, name) for name in (("b_Q", "_b_K", "_b_V") if grouped else ("b_Q", "b_K", "b_V"))
    ]
    w_qkv = torch.cat([w.detach().transpose(1, 2).reshape(-1, w.shape[1]) for w in weights])
    b_qkv = torch.cat([b.detach().reshape(-1) for b in biases])
    start = 0
    for weight, bias in zip(weights, biases, strict=True):
        heads, d_model, d_head = weight.shape
        rows = slice(start, start + heads * d_head)
        weight.data = w_qkv[rows].view(heads, d_head, d_model).transpose(1, 2)
        bias.data = b_qkv[rows].view(heads, d_head)
        start += heads * d_head
    w_out = attention.W_O.detach().reshape(-1, attention.W_O.shape[-1])
    attention.W_O.data = w_out.view(attention.W_O.shape)
    return w_qkv, b_qkv, w_out


def _block(block: Any) -> Block:
    cfg, attention = block.cfg, block.attn
    w_qkv, b_qkv, w_out = _pack(attention)
    post = cfg.original_architecture in POST_NORM
    both = bool(cfg.use_normalization_before_and_after)
    first = norm_rows(block.ln1)
    second = None if cfg.attn_only else norm_rows(block.ln2)
    qk_norm = None
    if attention.q_norm is not None:
        q_norm, k_norm = norm_rows(attention.q_norm), norm_rows(attention.k_norm)
        assert q_norm is not None
        assert k_norm is not None
        qk_norm = (q_norm, k_norm)
    mlp_out = second if post else (norm_rows(block.ln2_post) if both and not cfg.attn_only else None)
    assert first is not None
    return Block(
        norm_attention=(lambda x: x) if post else first,
        norm_mlp=None if post else second,
        norm_attention_out=first if post else (norm_rows(block.ln1_post) if both else None),
        add_mlp=None if cfg.attn_only else mlp_adder(block.mlp, mlp_out),
        mlp=None if cfg.attn_only else block.mlp,
        norm_mlp_out=mlp_out,
        parallel=bool(cfg.parallel_attn_mlp),
        w_qkv=w_qkv,
        b_qkv=unless_zero(b_qkv),
        w_out=w_out,
        b_out=unless_zero(attention.b_O),
        n_heads=cfg.n_heads,
        n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
        d_head=cfg.d_head,
        scale=1.0 / float(attention.attn_scale),
        soft_cap=float(cfg.attn_scores_soft_cap or -1.0),
        window=cfg.window_size if attention.attn_type == "local" else None,
        qk_norm=qk_norm,
        qk_norm_full=cfg.original_architecture in FULL_WIDTH_QK_NORM,
        clip=cfg.clip_qkv,
        attention=attention,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """The whole model as arithmetic on rows. Holds the model's parts, not the model, so that both can go."""

    blocks: tuple[Block, ...]
    cfg: HookedTransformerConfig
    embedding: Any
    position_embedding: Any
    norm_final: RowMap
    unembedding: Any
    unembedding_bias: Float[Tensor, " vocab"] | None

    @property
    def key_bytes(self) -> int:
        """What one key and its value take, over all heads, at one layer."""
        block = self.blocks[0]
        return 2 * block.n_kv_heads * block.d_head * block.w_qkv.element_size()

    def embed(
        self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"]
    ) -> Float[Tensor, "row d_model"]:
        """Token (and learned position) embeddings, a new tensor."""
        rows = F.embedding(tokens, self.embedding.W_E.detach())
        if self.position_embedding is not None:
            rows = rows + F.embedding(positions, self.position_embedding.W_pos.detach())
        return rows

    def rotary(
        self, block: Block, positions: Int[Tensor, " row"], longest: int
    ) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [row, rotary] of a block at these positions; None without rotary embedding."""
        if self.cfg.positional_embedding_type != "rotary":
            return None
        attention = block.attention
        if longest > attention.rotary_cos.shape[0]:
            attention._extend_rotary_embeddings(
                min(self.cfg.n_ctx, max(longest, 2 * len(attention.rotary_cos)))
            )
        return attention.rotary_cos[positions], attention.rotary_sin[positions]

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"] | slice
    ) -> Float[Tensor, "row token"]:
        """Logits of some tokens from normalised residuals."""
        logits = normed @ self.unembedding.W_U.detach()[:, tokens]
        if self.unembedding_bias is not None:
            logits += self.unembedding_bias[tokens]
        cap = self.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


_kernels: weakref.WeakKeyDictionary[HookedTransformer, tuple[tuple[object, ...], Kernel]] = (
    weakref.WeakKeyDictionary()
)


def _state(model: HookedTransformer) -> tuple[object, ...]:
    """Changes whenever a parameter is replaced or loaded anew, or a bias stops being zero."""
    biases = [
        p.any() for name, p in model.named_parameters() if name.rsplit(".")[-1].lstrip("_").startswith("b_")
    ]
    placed = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())
    return (*placed, *torch.stack(biases).tolist()) if biases else placed


def kernel_for(model: HookedTransformer) -> Kernel:
    """The arithmetic of a model, built once and rebuilt when its weights were moved or changed."""
    known = _kernels.get(model)
    if known is not None and known[0] == _state(model):
        return known[1]
    # Parameters made views of an inference tensor could never be trained again.
    with torch.inference_mode(False), torch.no_grad():
        final = norm_rows(model.ln_final) if model.cfg.normalization_type is not None else (lambda x: x)
        assert final is not None
        kernel = Kernel(
            blocks=tuple(_block(block) for block in model.blocks),
            cfg=model.cfg,
            embedding=model.embed,
            position_embedding=model.pos_embed if model.cfg.positional_embedding_type == "standard" else None,
            norm_final=final,
            unembedding=model.unembed,
            unembedding_bias=unless_zero(model.unembed.b_U),
        )
    _kernels[model] = (_state(model), kernel)
    return kernel
