"""``HookedTransformer`` as functions of rows: the same arithmetic without hooks, on the model's own weights.

The query, key and value projections are concatenated once, and the model's parameters become views of that memory. No
value changes, there is no second copy of the weights, and an in-place change of a parameter takes effect here.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP
from transformer_lens.utilities.activation_functions import gelu_fast, gelu_new

from ..models.lens import HookedTransformer
from .model import MLP_ROWS, Attend, AttentionSpec

RowMap = Callable[[Tensor], Tensor]
RowAdder = Callable[[Tensor, Tensor], None]

# These normalise queries and keys over all heads together, before splitting them (as TransformerLens does).
FULL_WIDTH_QK_NORM = ("OlmoeForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM")
POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")

# The same functions in place or fused into one pass over memory; their argument is never used again.
_FUSED: dict[object, RowMap] = {
    F.silu: lambda x: F.silu(x, inplace=True),
    F.relu: torch.relu_,
    gelu_new: lambda x: F.gelu(x, approximate="tanh"),
    gelu_fast: lambda x: F.gelu(x, approximate="tanh"),
}


def norm_rows(module: Any) -> RowMap | None:
    """A normalisation layer as a function of rows; None for an unknown kind of layer."""
    if type(module) is RMSNorm:
        return lambda x: _rms(x, module.eps).mul_(module.w.detach())
    if type(module) is RMSNormPre:
        return lambda x: _rms(x, module.eps)
    if type(module) is LayerNorm:
        return lambda x: F.layer_norm(x, (module.w.shape[0],), module.w.detach(), module.b.detach(), module.eps)
    if type(module) is LayerNormPre:
        return lambda x: F.layer_norm(x, (x.shape[-1],), None, None, module.eps)
    return (lambda x: x) if type(module) is nn.Identity else None


def _rms(x: Float[Tensor, "*rows width"], eps: float) -> Float[Tensor, "*rows width"]:
    """``x`` divided by its root mean square, as a new tensor; on CPUs twice as fast as ``F.rms_norm`` (torch 2.13)."""
    if x.requires_grad:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return (x * exact.square().mean(dim=-1, keepdim=True).add(eps).rsqrt()).to(x.dtype)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return (x * length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()).to(x.dtype)


def _add_product(
    rows: Float[Tensor, "row d_model"],
    x: Float[Tensor, "row width"],
    weight: Float[Tensor, "width d_model"],
    bias: Float[Tensor, " d_model"] | None,
    norm: RowMap | None,
) -> None:
    """``rows += norm(x @ weight + bias)`` in as few passes over memory as possible."""
    # Under autocast the product has another dtype than the rows, which keep theirs.
    at_once = norm is None and x.dtype == rows.dtype
    out = rows.addmm_(x, weight) if at_once else x @ weight
    if bias is not None:
        out += bias
    if not at_once:
        rows += out if norm is None else norm(out)


def _mlp(block: Block, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """What the MLP adds to the rows, differentiable; ``mlp_adder`` does the same in place."""
    mlp: Any = block.mlp
    x = rows if block.norm_mlp is None else block.norm_mlp(rows)
    if type(mlp) not in (GatedMLP, MLP) or mlp.cfg.is_layer_norm_activation():
        out = mlp(x[None])[0]
    elif type(mlp) is GatedMLP:
        hidden = mlp.act_fn(x @ mlp.W_gate.detach()) * (x @ mlp.W_in.detach()) + mlp.b_in.detach()
        out = hidden @ mlp.W_out.detach() + mlp.b_out.detach()
    else:
        hidden = mlp.act_fn(x @ mlp.W_in.detach() + mlp.b_in.detach())
        out = hidden @ mlp.W_out.detach() + mlp.b_out.detach()
    return out if block.norm_mlp_out is None else block.norm_mlp_out(out)


def mlp_adder(mlp: Any, norm: RowMap | None) -> RowAdder:
    """A function that adds the MLP's (normalised) output for its second argument to its first argument."""
    if type(mlp) not in (GatedMLP, MLP) or mlp.cfg.is_layer_norm_activation():

        def add_opaque(rows: Tensor, x: Tensor) -> None:
            out = mlp(x[None])[0]
            rows += out if norm is None else norm(out)

        return add_opaque
    gated, b_in, b_out = type(mlp) is GatedMLP, unless_zero(mlp.b_in), unless_zero(mlp.b_out)

    def add(rows: Tensor, x: Tensor) -> None:
        act = _FUSED.get(mlp.act_fn, mlp.act_fn)
        hidden = act(x @ mlp.W_gate).mul_(x @ mlp.W_in) if gated else x @ mlp.W_in
        if b_in is not None:
            hidden += b_in
        _add_product(rows, hidden if gated else act(hidden), mlp.W_out, b_out, norm)

    return add


def unless_zero(bias: Float[Tensor, " width"]) -> Float[Tensor, " width"] | None:
    """The bias, or None if it is zero, so that it need not be added."""
    return bias.detach() if bool(bias.any()) else None


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One block as functions of rows, with the constants of its attention.

    Attributes:
        spec: how the block attends.
        kind: blocks of the same kind share their rotary angles.
        mlp, norm_mlp, norm_mlp_out: the parts of ``add_mlp``, which works in place; used when gradients are needed.
    """

    norm_attention: RowMap
    norm_mlp: RowMap | None
    norm_attention_out: RowMap | None
    add_mlp: RowAdder | None
    mlp: Any
    norm_mlp_out: RowMap | None
    parallel: bool
    w_qkv: Float[Tensor, "qkv d_model"]
    b_qkv: Float[Tensor, " qkv"] | None
    w_out: Float[Tensor, "heads_d_head d_model"]
    b_out: Float[Tensor, " d_model"] | None
    spec: AttentionSpec
    kind: str
    qk_norm: tuple[RowMap, RowMap] | None
    qk_norm_full: bool
    clip: float | None
    attention: Any

    def qkv(
        self,
        rows: Float[Tensor, "row d_model"],
        rotary: tuple[Float[Tensor, "row rotary"], Float[Tensor, "row rotary"]] | None,
    ) -> tuple[
        Float[Tensor, "row head d_head"], Float[Tensor, "row kv_head d_head"], Float[Tensor, "row kv_head d_head"]
    ]:
        """Queries [row, head, d_head] and keys, values [row, kv_head, d_head], normalised and rotated."""
        split = [heads * self.spec.d_head for heads in (self.spec.n_heads, self.spec.n_kv_heads, self.spec.n_kv_heads)]
        projected = F.linear(self.norm_attention(rows), self.w_qkv)
        if self.b_qkv is not None:
            projected += self.b_qkv
        q, k, v = projected.split(split, dim=-1)
        if self.qk_norm is not None and self.qk_norm_full:
            q, k = self.qk_norm[0](q), self.qk_norm[1](k)
        q, k, v = (x.unflatten(-1, (-1, self.spec.d_head)) for x in (q, k, v))
        if self.qk_norm is not None and not self.qk_norm_full:
            q, k = self.qk_norm[0](q), self.qk_norm[1](k)
        if self.clip is not None:
            q, k, v = (x.clamp(-self.clip, self.clip) for x in (q, k, v))
        if rotary is not None:
            adjacent = bool(self.attention.cfg.rotary_adjacent_pairs)
            q, k = rotate(q, *rotary, adjacent=adjacent), rotate(k, *rotary, adjacent=adjacent)
        return q, k, v

    def finish(
        self, rows: Float[Tensor, "row d_model"], z: Float[Tensor, "row heads_d_head"]
    ) -> Float[Tensor, "row d_model"]:
        """Residuals after the block; computed in place unless they require gradients."""
        if rows.requires_grad or z.requires_grad:
            return self._finish_apart(rows, z)
        if self.parallel:
            self._add_mlp(rows)
        _add_product(rows, z, self.w_out, self.b_out, self.norm_attention_out)
        if not self.parallel:
            self._add_mlp(rows)
        return rows

    def _add_mlp(self, rows: Float[Tensor, "row d_model"]) -> None:
        if self.add_mlp is not None:
            for chunk in rows.split(MLP_ROWS):
                self.add_mlp(chunk, chunk if self.norm_mlp is None else self.norm_mlp(chunk))

    def _finish_apart(
        self, rows: Float[Tensor, "row d_model"], z: Float[Tensor, "row heads_d_head"]
    ) -> Float[Tensor, "row d_model"]:
        attended = z @ self.w_out
        if self.b_out is not None:
            attended = attended + self.b_out
        if self.norm_attention_out is not None:
            attended = self.norm_attention_out(attended)
        between = rows + attended
        if self.mlp is None:
            return between
        return between + _mlp(self, rows if self.parallel else between)


def rotate(
    x: Float[Tensor, "row head d_head"],
    cos: Float[Tensor, "row rotary"],
    sin: Float[Tensor, "row rotary"],
    *,
    adjacent: bool,
) -> Float[Tensor, "row head d_head"]:
    """Rotary position embedding of the first ``rotary`` coordinates of each head."""
    width = cos.shape[-1]
    if adjacent:
        first, second = slice(0, width, 2), slice(1, width, 2)
    else:
        first, second = slice(0, width // 2), slice(width // 2, width)
    cos, sin = cos[:, None], sin[:, None]
    if x.requires_grad:
        a, b = x[..., first], x[..., second]
        halves = (a * cos[..., first] - b * sin[..., first], b * cos[..., second] + a * sin[..., second])
        both = torch.stack(halves, dim=-1).flatten(-2) if adjacent else torch.cat(halves, dim=-1)
        return torch.cat((both, x[..., width:]), dim=-1)
    turned = x.new_empty(x.shape)
    for here, there, sign in ((first, second, -1.0), (second, first, 1.0)):
        torch.mul(x[..., here], cos[..., here], out=turned[..., here])
        turned[..., here].addcmul_(x[..., there], sin[..., here], value=sign)
    turned[..., width:] = x[..., width:]
    return turned


def _pack(attention: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Concatenate W_Q, W_K and W_V as [qkv, d_model], and make the parameters views of the result."""
    grouped = hasattr(attention, "_W_K")
    weights = [getattr(attention, name) for name in (("W_Q", "_W_K", "_W_V") if grouped else ("W_Q", "W_K", "W_V"))]
    biases = [getattr(attention, name) for name in (("b_Q", "_b_K", "_b_V") if grouped else ("b_Q", "b_K", "b_V"))]
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
        spec=AttentionSpec(
            n_heads=cfg.n_heads,
            n_kv_heads=cfg.n_key_value_heads or cfg.n_heads,
            d_head=cfg.d_head,
            d_value=cfg.d_head,
            scale=1.0 / float(attention.attn_scale),
            soft_cap=max(0.0, float(cfg.attn_scores_soft_cap or 0.0)),
            window=cfg.window_size if attention.attn_type == "local" else None,
        ),
        kind=attention.attn_type,
        qk_norm=qk_norm,
        qk_norm_full=cfg.original_architecture in FULL_WIDTH_QK_NORM,
        clip=cfg.clip_qkv,
        attention=attention,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Positions of rows, and the rotary angles of each kind of block, computed on first use."""

    positions: Int[Tensor, " row"]
    longest: int
    angles: dict[str, tuple[Tensor, Tensor] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class HookedRows:
    """A ``HookedTransformer`` as a ``RowModel``. It refers to the model's parts only, so the model can be freed."""

    blocks: tuple[Block, ...]
    attention: tuple[AttentionSpec, ...]
    d_model: int
    d_vocab: int
    n_ctx: int
    rotary: bool
    logit_cap: float
    embedding: Any
    position_embedding: Any
    norm_final: RowMap
    unembedding: Any
    unembedding_bias: Float[Tensor, " vocab"] | None
    wide_rows: int | None = MLP_ROWS

    @property
    def key_bytes(self) -> int:
        """Bytes of one key with its value, over all heads of one block."""
        block = self.blocks[0]
        return 2 * block.spec.n_kv_heads * block.spec.d_head * block.w_qkv.element_size()

    def begin(
        self, tokens: Int[Tensor, " row"], positions: Int[Tensor, " row"], *, longest: int
    ) -> tuple[Float[Tensor, "row d_model"], Place]:
        """Token (and learned position) embeddings as a new tensor; see ``RowModel``."""
        rows = F.embedding(tokens, self.embedding.W_E.detach())
        if self.position_embedding is not None:
            rows = rows + F.embedding(positions, self.position_embedding.W_pos.detach())
        return rows, Place(positions, longest)

    def run_block(
        self, layer: int, rows: Float[Tensor, "row d_model"], place: Place, attend: Attend, *, start: int = 0
    ) -> Float[Tensor, "late_row d_model"]:
        """See ``RowModel``; works in place unless ``rows`` require gradients."""
        block = self.blocks[layer]
        z = attend(*block.qkv(rows, self._angles(block, place, len(rows))))
        return block.finish(rows[start:], z[start:])

    def _angles(self, block: Block, place: Place, count: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines [row, rotary] of the first rows; None without rotary embedding."""
        if not self.rotary:
            return None
        if block.kind not in place.angles:
            attention = block.attention
            known = len(attention.rotary_cos)
            if place.longest > known:
                attention._extend_rotary_embeddings(min(self.n_ctx, max(place.longest, 2 * known)))
            place.angles[block.kind] = (attention.rotary_cos[place.positions], attention.rotary_sin[place.positions])
        found = place.angles[block.kind]
        return None if found is None else (found[0][:count], found[1][:count])

    def unembed(
        self, normed: Float[Tensor, "row d_model"], tokens: Int[Tensor, " token"] | slice
    ) -> Float[Tensor, "row token"]:
        """Logits of some tokens from normalised residuals."""
        logits = normed @ self.unembedding.W_U.detach()[:, tokens]
        if self.unembedding_bias is not None:
            logits += self.unembedding_bias[tokens]
        return self.logit_cap * torch.tanh(logits / self.logit_cap) if self.logit_cap > 0 else logits


_known: weakref.WeakKeyDictionary[HookedTransformer, tuple[tuple[object, ...], HookedRows]] = (
    weakref.WeakKeyDictionary()
)


def _state(model: HookedTransformer) -> tuple[object, ...]:
    """Changes whenever a parameter is replaced or reloaded, or a bias stops being zero."""
    biases = [p.any() for name, p in model.named_parameters() if name.rsplit(".")[-1].lstrip("_").startswith("b_")]
    placed = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())
    return (*placed, *torch.stack(biases).tolist()) if biases else placed


def hooked_rows(model: HookedTransformer) -> HookedRows:
    """A model as functions of rows, cached until its weights are moved or changed."""
    known = _known.get(model)
    if known is not None and known[0] == _state(model):
        return known[1]
    # Parameters that are views of an inference tensor could never be trained again.
    with torch.inference_mode(False), torch.no_grad():
        final = norm_rows(model.ln_final) if model.cfg.normalization_type is not None else (lambda x: x)
        assert final is not None
        blocks = tuple(_block(block) for block in model.blocks)
        rows = HookedRows(
            blocks=blocks,
            attention=tuple(block.spec for block in blocks),
            d_model=model.cfg.d_model,
            d_vocab=int(model.cfg.d_vocab_out),
            n_ctx=model.cfg.n_ctx,
            rotary=model.cfg.positional_embedding_type == "rotary",
            logit_cap=max(0.0, float(model.cfg.output_logits_soft_cap or 0.0)),
            embedding=model.embed,
            position_embedding=model.pos_embed if model.cfg.positional_embedding_type == "standard" else None,
            norm_final=final,
            unembedding=model.unembed,
            unembedding_bias=unless_zero(model.unembed.b_U),
        )
    _known[model] = (_state(model), rows)
    return rows
