"""One transformer block as plain arithmetic on rows, without hooks, on the weights that the model already holds.

Every step but attention treats rows (tokens) independently, so rows of different prompts, lengths and steered
variants go through one matrix product together. Attention, which is where rows meet, lives in ``attention``.

The query, key and value projections are laid out side by side in memory once and the model's own parameters become
views of that memory: no value changes, no second copy of the weights is kept.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP

RowMap = Callable[[Tensor], Tensor]

# Rows that go through an MLP at a time: its hidden layer is the widest thing that the engine holds.
MLP_ROWS = 2048
# Query/key normalisation over all heads together, before they are split (as TransformerLens dispatches it).
FULL_WIDTH_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")

_ACTIVATIONS: dict[str, RowMap] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def norm_rows(module: nn.Module) -> RowMap | None:
    """A normalisation layer as a fused function of rows; None when the layer is of an unknown kind."""
    if isinstance(module, RMSNorm):
        return lambda x: F.rms_norm(x, (module.w.shape[0],), module.w, module.eps)
    if isinstance(module, RMSNormPre):
        return lambda x: F.rms_norm(x, (x.shape[-1],), None, module.eps)
    if isinstance(module, LayerNorm):
        return lambda x: F.layer_norm(x, (module.w.shape[0],), module.w, module.b, module.eps)
    if isinstance(module, LayerNormPre):
        return lambda x: F.layer_norm(x, (x.shape[-1],), None, None, module.eps)
    return (lambda x: x) if isinstance(module, nn.Identity) else None


def _mlp_rows(mlp: nn.Module) -> RowMap:
    act = _ACTIVATIONS.get(str(mlp.cfg.act_fn))
    if act is None or mlp.cfg.is_layer_norm_activation() or type(mlp) not in (GatedMLP, MLP):
        return lambda x: mlp(x[None])[0]
    if type(mlp) is MLP:
        return lambda x: torch.addmm(mlp.b_out, act(torch.addmm(mlp.b_in, x, mlp.W_in)), mlp.W_out)
    shifted = bool(mlp.b_in.any())

    def gated(x: Tensor) -> Tensor:
        hidden = act(x @ mlp.W_gate).mul_(x @ mlp.W_in)
        return torch.addmm(mlp.b_out, hidden + mlp.b_in if shifted else hidden, mlp.W_out)

    return gated


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
    attention: nn.Module

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
        """Turn the residual before the block into the residual after it, in place (``rows`` is the engine's own)."""
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


def _pack(attention: nn.Module) -> tuple[Tensor, Tensor]:
    """Lay W_Q, W_K, W_V side by side as [qkv, d_model] and make the parameters views of that memory."""
    grouped = hasattr(attention, "_W_K")
    names = ("W_Q", "_W_K", "_W_V") if grouped else ("W_Q", "W_K", "W_V")
    biases = ("b_Q", "_b_K", "_b_V") if grouped else ("b_Q", "b_K", "b_V")
    weights = [getattr(attention, name) for name in names]
    packed = torch.cat([w.detach().transpose(1, 2).reshape(-1, w.shape[1]) for w in weights])
    start = 0
    for weight in weights:
        heads, d_model, d_head = weight.shape
        part = packed[start : start + heads * d_head]
        weight.data = part.view(heads, d_head, d_model).transpose(1, 2)
        start += heads * d_head
    bias = torch.cat([getattr(attention, name).detach().reshape(-1) for name in biases])
    return packed, bias


def _block(block: nn.Module) -> Block:
    cfg, attention = block.cfg, block.attn
    w_qkv, b_qkv = _pack(attention)
    post = cfg.original_architecture in POST_NORM
    both = bool(cfg.use_normalization_before_and_after)
    first = norm_rows(block.ln1)
    second = None if cfg.attn_only else norm_rows(block.ln2)
    qk_norm = None
    if attention.q_norm is not None:
        q_norm, k_norm = norm_rows(attention.q_norm), norm_rows(attention.k_norm)
        assert q_norm is not None and k_norm is not None
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
        w_out=attention.W_O.detach().reshape(-1, cfg.d_model),
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
    """The whole model as arithmetic on rows."""

    blocks: tuple[Block, ...]
    model: HookedTransformer
    norm_final: RowMap

    def embed(self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """Token (and learned position) embeddings, a new tensor."""
        rows = F.embedding(tokens, self.model.embed.W_E.detach())
        if self.model.cfg.positional_embedding_type == "standard":
            rows = rows + F.embedding(positions, self.model.pos_embed.W_pos.detach())
        return rows

    def rotary(self, block: Block, positions: Int[Tensor, " row"], longest: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [row, rotary] of a block at these positions; None without rotary embedding."""
        if self.model.cfg.positional_embedding_type != "rotary":
            return None
        attention = block.attention
        if longest > attention.rotary_cos.shape[0]:
            attention._extend_rotary_embeddings(min(self.model.cfg.n_ctx, max(longest, 2 * len(attention.rotary_cos))))
        return attention.rotary_cos[positions], attention.rotary_sin[positions]

    def logits(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Next-token logits of residuals after the last block."""
        return self.unembed(self.norm_final(rows))

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " wanted"] | None = None
    ) -> Float[Tensor, "row wanted"]:
        """Logits of the wanted tokens only (all of the vocabulary when None) from normalised residuals."""
        weight, bias = self.model.unembed.W_U.detach(), self.model.unembed.b_U.detach()
        if tokens is not None:
            weight, bias = weight[:, tokens], bias[tokens]
        logits = torch.addmm(bias, normed, weight)
        cap = self.model.cfg.output_logits_soft_cap
        return cap * torch.tanh(logits / cap) if cap is not None and cap > 0 else logits


_kernels: weakref.WeakKeyDictionary[HookedTransformer, tuple[tuple[object, ...], Kernel]] = (
    weakref.WeakKeyDictionary()
)


def _state(model: HookedTransformer) -> tuple[object, ...]:
    """Changes whenever a parameter is replaced or written to, so that a stale kernel is never used."""
    return tuple((parameter.data_ptr(), parameter._version) for parameter in model.parameters())


def kernel_for(model: HookedTransformer) -> Kernel:
    """The arithmetic of a model, built once and rebuilt when its weights were moved or changed."""
    known = _kernels.get(model)
    if known is not None and known[0] == _state(model):
        return known[1]
    with torch.no_grad():
        final = norm_rows(model.ln_final) if model.cfg.normalization_type is not None else (lambda x: x)
        assert final is not None
        kernel = Kernel(tuple(_block(block) for block in model.blocks), model, final)
    _kernels[model] = (_state(model), kernel)
    return kernel
