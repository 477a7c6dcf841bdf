"""Cross-entropy of answers under vectors of each prompt's own, with gradients to those vectors.

Only rows that a vector can reach are run with gradients: under ``last`` and ``prompt_last`` the last prompt token
and the answer's tokens, behind keys and values that never change (``prefixes``); under ``all`` every token. The
model's parameters get no gradient: they are constants here. ``reference.answer_loss`` is the same by plain hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformer_lens import HookedTransformer
from transformer_lens.components.mlps.gated_mlp import GatedMLP
from transformer_lens.components.mlps.mlp import MLP

from ..interventions import PromptVectors
from . import reference
from .block import Block
from .kernel import Kernel, kernel_for
from .layout import TokenPrompt
from .prefixes import Prefix, Prefixes
from .scoring import check_interventions
from .support import unsupported


@contextmanager
def frozen(model: HookedTransformer) -> Iterator[None]:
    """No parameter of the model asks for a gradient within; afterwards each does as it did before."""
    before = [parameter.requires_grad for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in zip(model.parameters(), before, strict=True):
            parameter.requires_grad_(wanted)


def answer_losses(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    steering: PromptVectors,
    *,
    prefix: Prefix | None = None,
    recompute: bool = False,
) -> Float[Tensor, " sample"]:
    """Mean cross-entropy, in nats a token, of each prompt's gold answer, differentiable in the vectors.

    Keep the model ``frozen`` until after ``backward``.

    Args:
        model: any ``HookedTransformer``; what the fast path does not know runs through hooks, prompt by prompt.
        prompts: each with a gold answer.
        steering: vectors of these prompts, in their order.
        prefix: from ``Prefixes.gather`` for these prompts; computed when None. Not used under ``all``.
        recompute: gradient checkpointing: hold one residual a block, run blocks again on the way back.

    Raises:
        ValueError: vectors that do not fit the model or the prompts; a prompt without a gold answer.
    """
    check_interventions(model, [steering], len(prompts))
    nameless = [index for index, prompt in enumerate(prompts) if prompt.gold < 0]
    if nameless:
        raise ValueError(f"prompt {nameless[0]} has no gold answer; a loss needs one")
    if unsupported(model) is not None:
        with frozen(model):
            return torch.stack(
                [reference.answer_loss(model, p, steering.of([i])) for i, p in enumerate(prompts)]
            )
    if steering.position != "all" and prefix is None:
        everything = list(range(len(prompts)))
        prefix = Prefixes(model, tuple(prompts)).gather(everything)
    kernel = kernel_for(model)
    rows = _rows(prompts, steering.position, kernel)
    final = _run(kernel, rows, steering, prefix if steering.position != "all" else None, recompute)
    normed = kernel.norm_final(final[rows.predicts])
    logits = kernel.unembed(normed, slice(None))
    exact = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits.to(exact), rows.targets, reduction="none")
    owners = rows.owners[rows.predicts]
    sums = losses.new_zeros(len(prompts)).index_add(0, owners, losses)
    return sums / owners.bincount(minlength=len(prompts))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The tokens that run with gradients, prompt behind prompt.

    Attributes:
        tokens, positions: of each row.
        owners: prompt of each row.
        slots: its place when prompts are padded on the right to ``width`` columns.
        steered: rows that get a vector.
        predicts, targets: rows that predict an answer's token, and that token.
    """

    tokens: Int[Tensor, " row"]
    positions: Int[Tensor, " row"]
    owners: Int[Tensor, " row"]
    slots: Int[Tensor, " row"]
    steered: Int[Tensor, " steered"]
    predicts: Int[Tensor, " target"]
    targets: Int[Tensor, " target"]
    samples: int
    width: int

    @property
    def dense(self) -> bool:
        """Whether nothing is padded."""
        return len(self.tokens) == self.samples * self.width


def _rows(prompts: Sequence[TokenPrompt], position: str, kernel: Kernel) -> _Rows:
    begins = [0 if position == "all" else len(prompt.tokens) - 1 for prompt in prompts]
    width = max(len(p.tokens) + len(p.answers[p.gold]) - 1 - b for p, b in zip(prompts, begins, strict=True))
    rows = []
    for owner, (prompt, begin) in enumerate(zip(prompts, begins, strict=True)):
        text, last = prompt.tokens + prompt.answers[prompt.gold], len(prompt.tokens) - 1
        for at in range(begin, len(text) - 1):
            steered = position != "prompt_last" or at == last
            target = text[at + 1] if at >= last else -1
            rows.append((text[at], at, owner, owner * width + at - begin, steered, target))
    table = torch.tensor(rows, device=kernel.embedding.W_E.device)
    tokens, positions, owners, slots, edited, targets = table.T.contiguous()
    predicts = (targets >= 0).nonzero().flatten()
    steered_rows = edited.nonzero().flatten()
    return _Rows(
        tokens, positions, owners, slots, steered_rows, predicts, targets[predicts], len(prompts), width
    )


def _run(
    kernel: Kernel, rows: _Rows, steering: PromptVectors, prefix: Prefix | None, recompute: bool
) -> Float[Tensor, "row d_model"]:
    residual = kernel.embed(rows.tokens, rows.positions)
    angles: dict[str, tuple[Tensor, Tensor] | None] = {}
    masks: dict[int | None, Tensor] = {}
    everywhere = len(rows.steered) == len(rows.tokens)
    for layer, block in enumerate(kernel.blocks):
        kind = block.attention.attn_type
        if kind not in angles:
            angles[kind] = kernel.rotary(block, rows.positions, int(rows.positions.max()) + 1)
        if block.window not in masks:
            masks[block.window] = _mask(rows, prefix, block.window)
        earlier = None if prefix is None else prefix.at(layer)
        arguments = (block, rows, angles[kind], masks[block.window], earlier)
        if recompute and residual.requires_grad:
            residual = checkpoint(_step, residual, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            residual = _step(residual, *arguments)
        if layer in steering.layers and everywhere:
            residual = steering.edit(layer, residual, rows.owners)
        elif layer in steering.layers:
            chosen = rows.steered
            edited = steering.edit(layer, residual[chosen], rows.owners[chosen])
            residual = residual.index_copy(0, chosen, edited)
    return residual


def _mask(rows: _Rows, prefix: Prefix | None, window: int | None) -> Bool[Tensor, "sample 1 column key"]:
    """Which keys a column sees: its prompt's prefix, and its own and earlier columns. Padded ones see themselves."""
    device = rows.tokens.device
    columns = torch.arange(rows.width, device=device)
    distance = (columns[:, None] - columns[None]).expand(rows.samples, -1, -1)
    if prefix is not None:
        before = torch.arange(prefix.values.shape[1], device=device)
        reach = prefix.lengths[:, None, None] + columns[None, :, None] - before[None, None]
        # A padded key lies beyond its prompt: hidden like one of the future.
        hidden = before[None, None] >= prefix.lengths[:, None, None]
        distance = torch.cat((reach.masked_fill(hidden, -1), distance), dim=-1)
    seen = distance >= 0
    return (seen if window is None else seen & (distance < window))[:, None]


def _step(
    residual: Float[Tensor, "row d_model"],
    block: Block,
    rows: _Rows,
    rotary: tuple[Tensor, Tensor] | None,
    mask: Bool[Tensor, "sample 1 column key"],
    prefix: tuple[Tensor, Tensor] | None,
) -> Float[Tensor, "row d_model"]:
    """One block."""
    q, k, v = block.qkv(residual, rotary)
    q, k, v = (_padded(x.to(v.dtype), rows) for x in (q, k, v))
    if prefix is not None:
        k, v = (torch.cat((old.to(v.dtype), new), dim=2) for old, new in zip(prefix, (k, v), strict=True))
    z = _attend(block, q, k, v, mask).transpose(1, 2).reshape(rows.samples * rows.width, -1)
    if not rows.dense:
        z = z.index_select(0, rows.slots)
    attended = z @ block.w_out
    if block.b_out is not None:
        attended = attended + block.b_out
    if block.norm_attention_out is not None:
        attended = block.norm_attention_out(attended)
    if block.parallel:
        return residual + attended + _mlp(block, residual)
    residual = residual + attended
    return residual + _mlp(block, residual)


def _padded(x: Float[Tensor, "row head d_head"], rows: _Rows) -> Float[Tensor, "sample head column d_head"]:
    if not rows.dense:
        x = x.new_zeros(rows.samples * rows.width, *x.shape[1:]).index_copy(0, rows.slots, x)
    return x.unflatten(0, (rows.samples, rows.width)).transpose(1, 2)


def _attend(
    block: Block,
    q: Float[Tensor, "sample head column d_head"],
    k: Float[Tensor, "sample kv_head key d_head"],
    v: Float[Tensor, "sample kv_head key d_head"],
    mask: Bool[Tensor, "sample 1 column key"],
) -> Float[Tensor, "sample head column d_head"]:
    if block.soft_cap <= 0:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=block.scale, enable_gqa=True)
    repeats = block.n_heads // block.n_kv_heads
    scores = q @ k.repeat_interleave(repeats, 1).transpose(-1, -2) * block.scale
    scores = block.soft_cap * torch.tanh(scores / block.soft_cap)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1, dtype=exact)
    return weights.to(v.dtype) @ v.repeat_interleave(repeats, 1)


def _mlp(block: Block, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"] | float:
    mlp: Any = block.mlp
    if mlp is None:
        return 0.0
    x = residual if block.norm_mlp is None else block.norm_mlp(residual)
    if type(mlp) not in (GatedMLP, MLP) or mlp.cfg.is_layer_norm_activation():
        out = mlp(x[None])[0]
    elif type(mlp) is GatedMLP:
        hidden = mlp.act_fn(x @ mlp.W_gate.detach()) * (x @ mlp.W_in.detach()) + mlp.b_in.detach()
        out = hidden @ mlp.W_out.detach() + mlp.b_out.detach()
    else:
        hidden = mlp.act_fn(x @ mlp.W_in.detach() + mlp.b_in.detach())
        out = hidden @ mlp.W_out.detach() + mlp.b_out.detach()
    return out if block.norm_mlp_out is None else block.norm_mlp_out(out)
