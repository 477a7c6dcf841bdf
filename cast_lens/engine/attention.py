"""Attention where rows meet: inside the trunk, and of tails to the trunk rows that they share.

Keys and values of the trunk are never copied for a variant. The rows of all variants of a prompt are the
queries of one matrix product with that prompt's keys: memory traffic, not arithmetic, is what a sweep costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .block import Block
from .layout import Batch, Tail

# Scores, or keys and values gathered for nodes that share some, that are held at a time: what one step has written
# the next finds in the cache, and no prompt can be so long that a budget breaks.
GROUP_BYTES = 16e6
# Rows that stand together are read as a view; others are gathered.
Rows = slice | Int[Tensor, " row"]
# Trunk rows that a row sees, as runs.
Path = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrunkGroup:
    """Trunk nodes of equal length behind equally many parent rows: one attention call."""

    shape: tuple[int, int]
    rows: Rows
    keys: Rows
    mask: Bool[Tensor, "own key"]
    distance: Int[Tensor, "own key"]


@dataclass(frozen=True, slots=True, eq=False)
class TailGroup:
    """Tails of equal shape behind equally long prefixes, few enough for their scores to fit the cache."""

    shape: tuple[int, int]
    columns: Rows
    keys: Rows
    mask: Bool[Tensor, "tail own own_key"]
    prefix_distance: Int[Tensor, "own prefix"]
    own_distance: Int[Tensor, "tail own own_key"]


def trunk_groups(batch: Batch, *, key_bytes: int) -> list[TrunkGroup]:
    """Group the trunk's nodes for attention; ``key_bytes`` is what one key and its value take."""
    grouped: dict[tuple[int, int], list[int]] = {}
    for index, node in enumerate(batch.trunk.nodes):
        grouped.setdefault((node.depth, node.stop - node.start), []).append(index)
    device = batch.tokens.device
    groups = []
    for (depth, length), members in grouped.items():
        size = max(1, int(GROUP_BYTES / (key_bytes * (depth + length)))) if depth else len(members)
        own = torch.arange(length, device=device) + depth
        distance = own[:, None] - torch.arange(depth + length, device=device)[None]
        for begin in range(0, len(members), size):
            nodes = [batch.trunk.nodes[index] for index in members[begin : begin + size]]
            rows = _rows([((node.start, node.stop),) for node in nodes], device)
            keys = _rows([(*node.parents, (node.start, node.stop)) for node in nodes], device)
            groups.append(TrunkGroup((len(nodes), length), rows, keys, distance >= 0, distance))
    return groups


def tail_groups(batch: Batch, *, score_bytes: int, key_bytes: int) -> list[TailGroup]:
    """Group the prompts' tails for attention.

    Args:
        batch: gives the tails.
        score_bytes: what the scores of a row for one key take, over all variants and heads.
        key_bytes: what one key and its value take.
    """
    grouped: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    for index, tail in enumerate(batch.tails):
        shape = tuple(position - tail.positions[0] for position in tail.positions)
        grouped.setdefault((tail.prefix_length, len(tail.tokens), shape), []).append(index)
    groups = []
    for (prefix, length, _), members in grouped.items():
        size = max(1, int(GROUP_BYTES / ((prefix + length) * max(key_bytes, score_bytes * length))))
        groups += [_tail_group(batch, members[i : i + size]) for i in range(0, len(members), size)]
    return groups


def _tail_group(batch: Batch, members: list[int]) -> TailGroup:
    device = batch.tokens.device
    tails: list[Tail] = [batch.tails[index] for index in members]
    prefix = tails[0].prefix_length
    positions = torch.tensor([tail.positions for tail in tails], device=device)
    return TailGroup(
        shape=(len(tails), len(tails[0].tokens)),
        columns=_rows([((batch.offsets[i], batch.offsets[i + 1]),) for i in members], device),
        keys=_rows([tail.path for tail in tails], device),
        mask=torch.stack([tail.mask for tail in tails]).to(device),
        prefix_distance=positions[0][:, None] - torch.arange(prefix, device=device)[None],
        own_distance=positions[:, :, None] - positions[:, None, :],
    )


def _rows(paths: list[Path], device: torch.device) -> Rows:
    runs = [run for path in paths for run in path]
    if all(left[1] == right[0] for left, right in pairwise(runs)):
        return slice(runs[0][0], runs[-1][1]) if runs else slice(0, 0)
    return torch.cat([torch.arange(start, stop) for start, stop in runs]).to(device)


def attend_trunk(
    block: Block, group: TrunkGroup, q: Tensor, k: Tensor, v: Tensor, out: Float[Tensor, "row heads_d_head"]
) -> None:
    """Causal attention of one group of trunk nodes; writes into ``out``."""
    nodes = group.shape[0]
    queries = q[group.rows].unflatten(0, (nodes, -1)).transpose(1, 2)
    keys = k[group.keys].unflatten(0, (nodes, -1)).transpose(1, 2)
    values = v[group.keys].unflatten(0, (nodes, -1)).transpose(1, 2)
    mask = group.mask if block.window is None else group.mask & (group.distance < block.window)
    if block.soft_cap > 0:
        z = _capped(block, queries, keys, values, mask)
    else:
        z = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=block.scale, enable_gqa=True
        )
    out[group.rows] = z.transpose(1, 2).reshape(-1, out.shape[-1])


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

    ``own`` are keys and values of the variants' own rows [variant, column, kv_head, d_head]; ``trunk`` those of
    the trunk [row, kv_head, d_head]. Rows that share keys stand together:
    [tail, kv_head, variant * row * group, d_head].
    """
    tails, length = group.shape
    variants, kv, d_head = queries.shape[0], block.n_kv_heads, block.d_head
    split = (variants, tails, length, kv, -1, d_head)
    q = queries[:, group.columns].reshape(split).permute(1, 3, 0, 2, 4, 5).reshape(tails * kv, -1, d_head)
    q = q.contiguous().mul(block.scale)
    prefix = group.prefix_distance.shape[1]
    keys, values = (x[group.keys].unflatten(0, (tails, prefix)).transpose(1, 2).flatten(0, 1) for x in trunk)
    own_k, own_v = (
        x[:, group.columns].reshape(variants, tails, length, kv, d_head).permute(1, 3, 0, 2, 4).flatten(0, 2)
        for x in own
    )
    by_variant = (tails * kv * variants, -1, d_head)
    scores = q.new_empty(tails * kv, q.shape[1], prefix + length)
    torch.bmm(q, keys.transpose(1, 2), out=scores[..., :prefix])
    scores[..., prefix:] = torch.bmm(q.view(by_variant), own_k.transpose(1, 2)).view(len(q), -1, length)
    if block.soft_cap > 0:
        scores = block.soft_cap * torch.tanh(scores / block.soft_cap)
    _hide(block, group, scores.view(tails, kv, variants, length, -1, prefix + length))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    z = torch.bmm(weights[..., prefix:].reshape(*by_variant[:2], length), own_v).view_as(q)
    z.baddbmm_(weights[..., :prefix], values)
    z = z.view(tails, kv, variants, length, -1, d_head).permute(2, 0, 3, 1, 4, 5)
    out[:, group.columns] = z.reshape(variants, tails * length, -1)


def _hide(block: Block, group: TailGroup, scores: Float[Tensor, "tail kv variant own group key"]) -> None:
    """Mask, in place, what a row must not see: other answers' chains, later rows, rows beyond the window."""
    prefix = group.prefix_distance.shape[1]
    mask = group.mask
    if block.window is not None:
        mask = mask & (group.own_distance < block.window)
        far = group.prefix_distance >= block.window
        if bool(far.any()):
            scores[..., :prefix].masked_fill_(far[None, None, None, :, None, :], -torch.inf)
    if mask.shape[-1] > 1:
        scores[..., prefix:].masked_fill_(~mask[:, None, None, :, None, :], -torch.inf)


def attend_rows(
    block: Block,
    q: Float[Tensor, "row head d_head"],
    own: tuple[Float[Tensor, "row kv_head own d_head"], Float[Tensor, "row kv_head own d_head"]],
    trunk: tuple[Float[Tensor, "key kv_head d_head"], Float[Tensor, "key kv_head d_head"]],
    paths: list[tuple[slice, Path]],
) -> Float[Tensor, "row heads_d_head"]:
    """Attention of decoded rows, each to its prompt's shared keys and to its own, which all stand before it."""
    q = q.unflatten(1, (block.n_kv_heads, -1)) * block.scale
    inside = q @ own[0].transpose(2, 3)
    z = torch.empty_like(q)
    for mine, path in paths:
        z[mine], inside[mine] = _attend_path(block, q[mine], inside[mine], trunk, path)
    return (z + inside @ own[1]).flatten(1)


def _attend_path(
    block: Block,
    q: Float[Tensor, "row kv_head group d_head"],
    inside: Float[Tensor, "row kv_head group own"],
    trunk: tuple[Tensor, Tensor],
    path: Path,
) -> tuple[Float[Tensor, "row kv_head group d_head"], Float[Tensor, "row kv_head group own"]]:
    """What one prompt's rows read from the keys that they share, and the weights of their own keys."""
    n, kv, heads, d_head = q.shape
    own = inside.shape[-1]
    total = own + sum(stop - start for start, stop in path)
    flat = q.transpose(0, 1).reshape(kv, n * heads, d_head)
    scores = q.new_empty(kv, n * heads, total)
    scores[..., total - own :] = inside.transpose(0, 1).reshape(kv, n * heads, own)
    at = 0
    for start, stop in path:
        keys = trunk[0][start:stop].permute(1, 2, 0)
        torch.bmm(flat, keys, out=scores[..., at : at + stop - start])
        at += stop - start
    if block.soft_cap > 0:
        scores = block.soft_cap * torch.tanh(scores / block.soft_cap)
    if block.window is not None and total > block.window:
        scores[..., : total - block.window] = -torch.inf
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    z, at = torch.zeros_like(flat), 0
    for start, stop in path:
        z.baddbmm_(weights[..., at : at + stop - start], trunk[1][start:stop].transpose(0, 1))
        at += stop - start
    by_row = (kv, n, heads, -1)
    return z.view(by_row).transpose(0, 1), weights[..., at:].reshape(*by_row[:3], own).transpose(0, 1)
