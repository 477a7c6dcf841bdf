"""One transformer block as plain arithmetic on rows, without hooks, on the weights that the model holds.

Every step but attention treats rows (tokens) independently, so rows of different prompts, lengths and steered
variants go through one matrix product together. Attention, which is where rows meet, lives in ``attention``.

The query, key and value projections are laid out side by side in memory once and the model's own parameters
become views of that memory: no value changes, no second copy of the weights is kept, and a write to a
parameter is seen here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.utilities.activation_functions import gelu_fast, gelu_new

RowMap = Callable[[Tensor], Tensor]

# Rows that go through an MLP at a time: its hidden layer is the widest thing that the engine holds.
MLP_ROWS = 2048
# Query/key normalisation over all heads together, before they are split (as TransformerLens dispatches it).
FULL_WIDTH_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")

# Fused equivalents of functions that TransformerLens spells out in several passes over memory.
_FUSED: dict[object, RowMap] = {
    gelu_new: lambda x: F.gelu(x, approximate="tanh"),
    gelu_fast: lambda x: F.gelu(x, approximate="tanh"),
}


def norm_rows(module: Any) -> RowMap | None:
    """A normalisation layer as a fused function of rows; None when the layer is of an unknown kind."""
    if type(module) is RMSNorm:
        return lambda x: F.rms_norm(x, (module.w.shape[0],), module.w, module.eps)
    if type(module) is RMSNormPre:
        return lambda x: F.rms_norm(x, (x.shape[-1],), None, module.eps)
    if type(module) is LayerNorm:
        return lambda x: F.layer_norm(x, (module.w.shape[0],), module.w, module.b, module.eps)
    if type(module) is LayerNormPre:
        return lambda x: F.layer_norm(x, (x.shape[-1],), None, None, module.eps)
    return (lambda x: x) if type(module) is nn.Identity else None


def _mlp_rows(mlp: Any) -> RowMap:
    if type(mlp) not in (GatedMLP, MLP) or mlp.cfg.is_layer_norm_activation():
        return lambda x: mlp(x[None])[0]

    def plain(x: Tensor) -> Tensor:
        act = _FUSED.get(mlp.act_fn, mlp.act_fn)
        return torch.addmm(mlp.b_out, act(torch.addmm(mlp.b_in, x, mlp.W_in)), mlp.W_out)

    def gated(x: Tensor) -> Tensor:
        act = _FUSED.get(mlp.act_fn, mlp.act_fn)
        hidden = torch.addcmul(mlp.b_in, act(x @ mlp.W_gate), x @ mlp.W_in)
        return torch.addmm(mlp.b_out, hidden, mlp.W_out)

    return plain if type(mlp) is MLP else gated


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What one block does to rows, and the constants that its attention needs."""

    norm_attention: RowMap
    norm_mlp: RowMap | None
    norm_attention_out: RowMap | None
    norm_mlp_out: RowMap | None
    mlp: RowMap | None
    parallel: bool
    w_qkv: Float[Tensor, "qkv d_model"]
    b_qkv: Float[Tensor, " qkv"]
    w_out: Float[Tensor, "heads_d_head d_model"]
    b_out: Float[Tensor, " d_model"]
    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    soft_cap: float
    window: int | None
    qk_norm: tuple[RowMap, RowMap] | None
    qk_norm_full: bool
    clip: float | None
    attention: Any

    def qkv(
        self, rows: Float[Tensor, "row d_model"], rotary: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [row, head, d_head] and keys, values [row, kv_head, d_head], normalised and rotated."""
        split = [self.n_heads * self.d_head, self.n_kv_heads * self.d_head, self.n_kv_heads * self.d_head]
        q, k, v = F.linear(self.norm_attention(rows), self.w_qkv, self.b_qkv).split(split, dim=-1)
        if self.qk_norm is not None and self.qk_norm_full:
            q, k = self.qk_norm[0](q), self.qk_norm[1](k)
        q, k, v = (x.unflatten(-1, (-1, self.d_head)) for x in (q, k, v))
        if self.qk_norm is not None and not self.qk_norm_full:
            q, k = self.qk_norm[0](q), self.qk_norm[1](k)
        if self.clip is not None:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        if rotary is not None:
            adjacent = bool(self.attention.cfg.rotary_adjacent_pairs)
            q, k = rotate(q, *rotary, adjacent=adjacent), rotate(k, *rotary, adjacent=adjacent)
        return q, k, v

    def finish(self, rows: Float[Tensor, "row d_model"], z: Float[Tensor, "row heads_d_head"]) -> None:
        """Turn the residual before the block into the one after it, in place (``rows`` is the engine's)."""
        mlp_in = rows.clone() if self.parallel else rows
        attended = torch.addmm(self.b_out, z, self.w_out)
        rows += attended if self.norm_attention_out is None else self.norm_attention_out(attended)
        if self.mlp is None:
            return
        for start in range(0, len(rows), MLP_ROWS):
            chunk = mlp_in[start : start + MLP_ROWS]
            out = self.mlp(chunk if self.norm_mlp is None else self.norm_mlp(chunk))
            rows[start : start + MLP_ROWS] += out if self.norm_mlp_out is None else self.norm_mlp_out(out)


def rotate(
    x: Float[Tensor, "row head d_head"],
    cos: Float[Tensor, "row rotary"],
    sin: Float[Tensor, "row rotary"],
    *,
    adjacent: bool,
) -> Float[Tensor, "row head d_head"]:
    """Rotary position embedding of the first ``rotary`` coordinates of each head."""
    width = cos.shape[-1]
    part, cos, sin = x[..., :width], cos[:, None, :], sin[:, None, :]
    if adjacent:
        flipped = torch.stack((-part[..., 1::2], part[..., ::2]), dim=-1).flatten(-2)
    else:
        flipped = torch.cat((-part[..., width // 2 :], part[..., : width // 2]), dim=-1)
    turned = torch.addcmul(part * cos, flipped, sin)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), dim=-1)


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
    assert first is not None
    return Block(
        norm_attention=(lambda x: x) if post else first,
        norm_mlp=None if post else second,
        norm_attention_out=first if post else (norm_rows(block.ln1_post) if both else None),
        norm_mlp_out=second if post else (norm_rows(block.ln2_post) if both and not cfg.attn_only else None),
        mlp=None if cfg.attn_only else _mlp_rows(block.mlp),
        parallel=bool(cfg.parallel_attn_mlp),
        w_qkv=w_qkv,
        b_qkv=b_qkv,
        w_out=w_out,
        b_out=attention.b_O.detach(),
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

    def logits(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Next-token logits of residuals after the last block."""
        return self.unembed(self.norm_final(rows))

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " wanted"] | None = None
    ) -> Float[Tensor, "row wanted"]:
        """Logits of the wanted tokens only (all of the vocabulary when None) from normalised residuals."""
        weight, bias = self.unembedding.W_U.detach(), self.unembedding.b_U.detach()
        if tokens is not None:
            weight, bias = weight[:, tokens], bias[tokens]
        logits = torch.addmm(bias, normed, weight)
        cap = self.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


_kernels: weakref.WeakKeyDictionary[HookedTransformer, tuple[tuple[object, ...], Kernel]] = (
    weakref.WeakKeyDictionary()
)


def _state(model: HookedTransformer) -> tuple[object, ...]:
    """Changes whenever a parameter is replaced or loaded anew, so that a stale kernel is never used."""
    return tuple(
        (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for parameter in model.parameters()
    )


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
        )
    _kernels[model] = (_state(model), kernel)
    return kernel
