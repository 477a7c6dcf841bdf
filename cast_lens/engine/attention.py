"""Attention where rows meet: inside the trunk, and of tails to the trunk rows that they share.

Keys and values of the trunk are never copied for a variant. The rows of all variants of a prompt are the
queries of one matrix product with that prompt's keys: memory traffic, not arithmetic, is what a sweep costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .kernel import Block
from .layout import Batch, Tail


@dataclass(frozen=True, slots=True, eq=False)
class TrunkGroup:
    """Trunk nodes of equal length behind equally many parent rows: one attention call."""

    rows: Int[Tensor, "node own"]
    keys: Int[Tensor, "node key"]
    mask: Bool[Tensor, "own key"]
    distance: Int[Tensor, "own key"]


@dataclass(frozen=True, slots=True, eq=False)
class TailGroup:
    """Tails of equal shape behind equally long prefixes."""

    columns: Int[Tensor, "tail own"]
    keys: Int[Tensor, "tail prefix"]
    mask: Bool[Tensor, "tail own own_key"]
    prefix_distance: Int[Tensor, "own prefix"]
    own_distance: Int[Tensor, "tail own own_key"]


def trunk_groups(batch: Batch) -> list[TrunkGroup]:
    """Group the trunk's nodes for attention."""
    grouped: dict[tuple[int, int], list[int]] = {}
    for index, node in enumerate(batch.trunk.nodes):
        grouped.setdefault((node.depth, node.stop - node.start), []).append(index)
    device = batch.tokens.device
    groups = []
    for (depth, length), members in grouped.items():
        nodes = [batch.trunk.nodes[index] for index in members]
        rows = torch.tensor([range(node.start, node.stop) for node in nodes], device=device)
        parents = torch.tensor([_flat(node.parents) for node in nodes], device=device, dtype=torch.long)
        own = torch.arange(length, device=device) + depth
        distance = own[:, None] - torch.arange(depth + length, device=device)[None]
        keys = torch.cat((parents.reshape(len(nodes), depth), rows), dim=1)
        groups.append(TrunkGroup(rows, keys, distance >= 0, distance))
    return groups


def tail_groups(batch: Batch) -> list[TailGroup]:
    """Group the prompts' tails for attention."""
    grouped: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    for index, tail in enumerate(batch.tails):
        shape = tuple(position - tail.positions[0] for position in tail.positions)
        grouped.setdefault((tail.prefix_length, len(tail.tokens), shape), []).append(index)
    return [_tail_group(batch, [batch.tails[i] for i in members], members) for members in grouped.values()]


def _tail_group(batch: Batch, tails: list[Tail], members: list[int]) -> TailGroup:
    device = batch.tokens.device
    prefix = tails[0].prefix_length
    positions = torch.tensor([tail.positions for tail in tails], device=device)
    columns = [range(batch.offsets[i], batch.offsets[i + 1]) for i in members]
    keys = torch.tensor([_flat(tail.path) for tail in tails], device=device, dtype=torch.long)
    return TailGroup(
        columns=torch.tensor(columns, device=device),
        keys=keys.reshape(len(tails), prefix),
        mask=torch.stack([tail.mask for tail in tails]).to(device),
        prefix_distance=positions[0][:, None] - torch.arange(prefix, device=device)[None],
        own_distance=positions[:, :, None] - positions[:, None, :],
    )


def _flat(slices: tuple[tuple[int, int], ...]) -> list[int]:
    return [row for start, stop in slices for row in range(start, stop)]


def attend_trunk(
    block: Block, group: TrunkGroup, q: Tensor, k: Tensor, v: Tensor, out: Float[Tensor, "row heads_d_head"]
) -> None:
    """Causal attention of one group of trunk nodes; writes into ``out``."""
    queries = q[group.rows].transpose(1, 2)
    keys, values = k[group.keys].transpose(1, 2), v[group.keys].transpose(1, 2)
    mask = group.mask if block.window is None else group.mask & (group.distance < block.window)
    if block.soft_cap > 0:
        z = _capped(block, queries, keys, values, mask)
    else:
        repeats = block.n_heads // block.n_kv_heads
        keys, values = keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1)
        z = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=block.scale)
    out[group.rows] = z.transpose(1, 2).flatten(-2)


def _capped(block: Block, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    repeats = block.n_heads // block.n_kv_heads
    scores = q @ k.repeat_interleave(repeats, 1).transpose(-1, -2) * block.scale
    scores = block.soft_cap * torch.tanh(scores / block.soft_cap)
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1, dtype=torch.float32)
    return weights.to(v.dtype) @ v.repeat_interleave(repeats, 1)


def attend_tails(
    block: Block,
    group: TailGroup,
    queries: Float[Tensor, "variant column head d_head"],
    own: tuple[Tensor, Tensor],
    trunk: tuple[Tensor, Tensor],
    out: Float[Tensor, "variant column heads_d_head"],
) -> None:
    """Attention of one group of tails, all variants at once; writes into ``out``.

    ``own`` are keys and values of the variants' own rows [variant, column, kv_head, d_head]; ``trunk`` those
    of the trunk [row, kv_head, d_head].
    """
    tails, length = group.columns.shape
    variants, heads = queries.shape[0], block.n_heads // block.n_kv_heads
    # [tail, kv_head, variant * row * group, d_head]: rows that share keys stand together.
    q = queries[:, group.columns].unflatten(3, (block.n_kv_heads, heads)).permute(1, 3, 0, 2, 4, 5)
    flat = q.reshape(tails, block.n_kv_heads, -1, block.d_head)
    keys = trunk[0][group.keys].permute(0, 2, 3, 1)
    values = trunk[1][group.keys].permute(0, 2, 1, 3)
    own_k = own[0][:, group.columns].permute(1, 3, 0, 4, 2)
    own_v = own[1][:, group.columns].permute(1, 3, 0, 2, 4)
    shape = (tails, block.n_kv_heads, variants, length * heads)
    before = (flat @ keys).view(*shape, keys.shape[-1])
    inside = q.reshape(*shape, block.d_head) @ own_k
    scores = torch.cat((before, inside), dim=-1).mul_(block.scale)
    if block.soft_cap > 0:
        scores = block.soft_cap * torch.tanh(scores / block.soft_cap)
    _hide(block, group, scores.view(tails, block.n_kv_heads, variants, length, heads, -1))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    prefix = keys.shape[-1]
    z = weights[..., prefix:] @ own_v
    if prefix:
        z += (weights[..., :prefix].reshape(tails, block.n_kv_heads, -1, prefix) @ values).view_as(z)
    z = z.view(tails, block.n_kv_heads, variants, length, heads, block.d_head).permute(2, 0, 3, 1, 4, 5)
    out[:, group.columns] = z.reshape(variants, tails, length, -1)


def _hide(block: Block, group: TailGroup, scores: Float[Tensor, "tail kv variant own group key"]) -> None:
    """Mask, in place, what a row must not see: other answers' chains, later rows, rows beyond the window."""
    prefix = group.keys.shape[1]
    mask = group.mask
    if block.window is not None:
        mask = mask & (group.own_distance < block.window)
        far = group.prefix_distance >= block.window
        if bool(far.any()):
            scores[..., :prefix].masked_fill_(far[None, None, None, :, None, :], -torch.inf)
    if mask.shape[-1] > 1:
        scores[..., prefix:].masked_fill_(~mask[:, None, None, :, None, :], -torch.inf)
