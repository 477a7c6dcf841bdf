"""Attention within the trunk, and from the tails to the trunk rows that they share.

Keys and values of the trunk are never copied for a variant. The rows of all variants of a prompt are the queries of one
matrix product with that prompt's keys, because a sweep is limited by memory traffic and not by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .layout import Batch, Tail
from .model import AttentionSpec

# Limit for the scores, and for the gathered keys and values, that exist at once. They stay in the processor's cache
# from one step to the next, and even a very long prompt keeps the memory budget.
GROUP_BYTES = 16e6
# Adjacent rows are read as a view; others are gathered.
Rows = slice | Int[Tensor, " row"]
# Trunk rows that a row attends to, as (start, stop) runs.
Path = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class TrunkGroup:
    """Runs of trunk rows with the same length and the same number of rows before them: one attention call."""

    shape: tuple[int, int]
    rows: Rows
    keys: Rows
    own_positions: Int[Tensor, " own"]
    key_positions: Int[Tensor, " key"]

    def mask(self, spec: AttentionSpec) -> Bool[Tensor, "own key"] | None:
        """True where a row attends to a key; None if attention is plain causal without rows before the run.

        It is built on demand, because the masks of a long prompt grow with the square of its length.
        """
        own, key = self.own_positions[:, None], self.key_positions[None]
        if len(own) == key.shape[1] and spec.plainly_causal(len(own)):
            return None
        first = spec.first_seen(own)
        return key <= own if first is None else (key <= own) & (key >= first)


@dataclass(frozen=True, slots=True, eq=False)
class TailGroup:
    """Rows of tails with the same shape and prefix length, few enough for their scores to fit into the cache.

    ``columns`` are the query rows, ``own_columns`` the key rows of the same tails.
    """

    shape: tuple[int, int]
    columns: Rows
    own_columns: Rows
    keys: Rows
    prefix: int
    mask: Bool[Tensor, "tail own own_key"]
    positions: Int[Tensor, "tail own"]
    own_positions: Int[Tensor, "tail own_key"]


def trunk_groups(batch: Batch, *, score_bytes: int, key_bytes: int, plain: bool = False) -> list[TrunkGroup]:
    """Group the trunk's nodes for attention; long nodes are split into runs of rows.

    Args:
        batch: gives the trunk.
        score_bytes: bytes of one row's scores for one key, including the mask.
        key_bytes: bytes of one key with its value.
        plain: whether attention is plain causal in all blocks, so that a node without rows before it needs no mask
            and is never split.
    """
    grouped: dict[tuple[int, int], list[Path]] = {}
    for node in batch.trunk.nodes:
        longest = max(1, int(GROUP_BYTES / (score_bytes * (node.depth + node.stop - node.start))))
        if plain and not node.depth:
            longest = node.stop - node.start
        for start in range(node.start, node.stop, longest):
            stop = min(start + longest, node.stop)
            before = (*node.parents, (node.start, start)) if start > node.start else node.parents
            grouped.setdefault((node.depth + start - node.start, stop - start), []).append((*before, (start, stop)))
    device = batch.tokens.device
    groups = []
    for (depth, length), paths in grouped.items():
        size = max(1, int(GROUP_BYTES / ((depth + length) * max(key_bytes if depth else 0, score_bytes * length))))
        positions = torch.arange(depth + length, device=device)
        for begin in range(0, len(paths), size):
            chosen = paths[begin : begin + size]
            rows = _rows([path[-1:] for path in chosen], device)
            groups.append(TrunkGroup((len(chosen), length), rows, _rows(chosen, device), positions[depth:], positions))
    return groups


def tail_groups(batch: Batch, *, score_bytes: int, key_bytes: int) -> list[TailGroup]:
    """Group the prompts' tails for attention; long tails are split into runs of rows.

    Args:
        batch: gives the tails.
        score_bytes: bytes of one row's scores for one key, over all variants and heads.
        key_bytes: bytes of one key with its value.
    """
    grouped: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
    for index, tail in enumerate(batch.tails):
        shape = tuple(position - tail.positions[0] for position in tail.positions)
        grouped.setdefault((tail.prefix_length, len(tail.tokens), shape), []).append(index)
    groups = []
    for (prefix, length, _), members in grouped.items():
        size = max(1, int(GROUP_BYTES / ((prefix + length) * max(key_bytes, score_bytes * length))))
        longest = max(1, int(GROUP_BYTES / ((prefix + length) * score_bytes)))
        for i in range(0, len(members), size):
            chosen = members[i : i + size]
            run = longest if len(chosen) == 1 else length
            # Computed once; every run takes a slice.
            places = torch.tensor([batch.tails[index].positions for index in chosen], device=batch.tokens.device)
            groups += [_tail_group(batch, chosen, places, j, min(j + run, length)) for j in range(0, length, run)]
    return groups


def _tail_group(batch: Batch, members: list[int], places: Int[Tensor, "tail row"], start: int, stop: int) -> TailGroup:
    """Rows ``start:stop`` of some tails at positions ``places``; no row attends to a later one."""
    device = batch.tokens.device
    tails: list[Tail] = [batch.tails[index] for index in members]
    begins = [batch.offsets[index] for index in members]
    masks = [tail.mask[start:stop, :stop] for tail in tails]
    return TailGroup(
        shape=(len(tails), stop - start),
        columns=_rows([((begin + start, begin + stop),) for begin in begins], device),
        own_columns=_rows([((begin, begin + stop),) for begin in begins], device),
        keys=_rows([tail.path for tail in tails], device),
        prefix=tails[0].prefix_length,
        mask=(torch.stack(masks) if len(masks) > 1 else masks[0][None]).to(device),
        positions=places[:, start:stop],
        own_positions=places[:, :stop],
    )


def _rows(paths: list[Path], device: torch.device) -> Rows:
    runs = [run for path in paths for run in path]
    if all(left[1] == right[0] for left, right in pairwise(runs)):
        return slice(runs[0][0], runs[-1][1]) if runs else slice(0, 0)
    return torch.cat([torch.arange(start, stop) for start, stop in runs]).to(device)


def attend_trunk(
    spec: AttentionSpec,
    group: TrunkGroup,
    q: Float[Tensor, "row head d_head"],
    k: Float[Tensor, "row kv_head d_head"],
    v: Float[Tensor, "row kv_head d_value"],
    out: Float[Tensor, "row heads_d_value"],
) -> None:
    """Causal attention of one group of trunk rows; writes into ``out``."""
    nodes = group.shape[0]
    queries, keys, values = (
        rearrange(x[rows], "(node row) head d -> node head row d", node=nodes)
        for x, rows in ((q, group.rows), (k, group.keys), (v, group.keys))
    )
    z = attend_masked(spec, queries, keys, values, group.mask(spec))
    out[group.rows] = rearrange(z, "node head row d -> (node row) (head d)")


def attend_masked(
    spec: AttentionSpec,
    q: Float[Tensor, "sample head row d_head"],
    k: Float[Tensor, "sample kv_head key d_head"],
    v: Float[Tensor, "sample kv_head key d_value"],
    mask: Bool[Tensor, "*sample row key"] | None,
) -> Float[Tensor, "sample head row d_value"]:
    """Differentiable attention under a mask (True where a row attends to a key; None for causal)."""
    if spec.soft_cap <= 0 and spec.sinks is None:
        causal = mask is None
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=spec.scale, enable_gqa=True
        )
    assert mask is not None
    scores = q @ k.repeat_interleave(spec.n_groups, 1).transpose(-1, -2) * spec.scale
    scores = _capped(spec, scores).masked_fill(~mask, -torch.inf)
    if spec.sinks is not None:
        sinks = rearrange(spec.sinks.to(scores.dtype), "head -> 1 head 1 1").expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, sinks), dim=-1)
    exact = torch.promote_types(scores.dtype, torch.float32)
    weights = torch.softmax(scores, dim=-1, dtype=exact)[..., : k.shape[2]]
    return weights.to(v.dtype) @ v.repeat_interleave(spec.n_groups, 1)


def _capped(spec: AttentionSpec, scores: Tensor) -> Tensor:
    return spec.soft_cap * torch.tanh(scores / spec.soft_cap) if spec.soft_cap > 0 else scores


def attend_tails(
    spec: AttentionSpec,
    group: TailGroup,
    queries: Float[Tensor, "variant column head d_head"],
    own: tuple[Float[Tensor, "variant column kv_head d_head"], Float[Tensor, "variant column kv_head d_value"]],
    trunk: tuple[Float[Tensor, "row kv_head d_head"], Float[Tensor, "row kv_head d_value"]],
    out: Float[Tensor, "variant column heads_d_value"],
) -> None:
    """Attention of one group of tails, all variants at once; writes into ``out``.

    ``own`` are keys and values of the variants' own rows, ``trunk`` those of the trunk. Rows that share keys are
    adjacent.
    """
    (tails, length), variants, kv = group.shape, queries.shape[0], spec.n_kv_heads
    axes = {"tail": tails, "kv": kv}
    together = "variant (tail own) (kv group) d -> (tail kv) (variant own group) d"
    q = rearrange(queries[:, group.columns], together, **axes).contiguous().mul(spec.scale)
    keys, values = (rearrange(x[group.keys], "(tail key) kv d -> (tail kv) key d", tail=tails) for x in trunk)
    own_k, own_v = (
        rearrange(x[:, group.own_columns], "variant (tail own) kv d -> (tail kv variant) own d", tail=tails)
        for x in own
    )
    prefix, n_own = keys.shape[1], own_k.shape[1]
    seen = prefix + n_own
    scores = q.new_empty(tails * kv, q.shape[1], seen + spec.n_sinks)
    torch.bmm(q, keys.transpose(1, 2), out=scores[..., :prefix])
    by_variant = q.view(len(own_k), -1, q.shape[-1])
    scores[..., prefix:seen] = torch.bmm(by_variant, own_k.transpose(1, 2)).view(len(q), -1, n_own)
    scores = _capped(spec, scores)
    _hide(spec, group, scores.view(tails, kv, variants, length, -1, seen + spec.n_sinks))
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype)
    z = torch.bmm(weights[..., prefix:seen].reshape(*by_variant.shape[:2], n_own), own_v)
    z = z.view(*q.shape[:2], -1).baddbmm_(weights[..., :prefix], values)
    apart = "(tail kv) (variant own group) d -> variant (tail own) (kv group d)"
    out[:, group.columns] = rearrange(z, apart, **axes, variant=variants, own=length)


def _hide(spec: AttentionSpec, group: TailGroup, scores: Float[Tensor, "tail kv variant own group key"]) -> None:
    """Mask in place what a row must not attend to: other answers' chains, later rows, rows outside the window.

    If the block has sinks, they are written into the last column.
    """
    prefix, mask = group.prefix, group.mask
    if spec.sinks is not None:
        scores[..., -1] = rearrange(spec.sinks, "(kv group) -> kv 1 1 group", kv=spec.n_kv_heads)
    nearest = spec.first_seen(group.positions)
    if nearest is not None:
        mask = mask & (group.own_positions[:, None, :] >= nearest[:, :, None])
        # Prefixes of the same length end at the same position, so the first tail stands for all.
        far = torch.arange(prefix, device=mask.device)[None] < nearest[0][:, None]
        if bool(far.any()):
            scores[..., :prefix].masked_fill_(far[None, None, None, :, None, :], -torch.inf)
    if mask.shape[-1] > 1:
        scores[..., prefix : prefix + mask.shape[-1]].masked_fill_(~mask[:, None, None, :, None, :], -torch.inf)


def attend_rows(
    spec: AttentionSpec,
    q: Float[Tensor, "row head d_head"],
    own: tuple[Float[Tensor, "row kv_head own d_head"], Float[Tensor, "row kv_head own d_value"]],
    trunk: tuple[Float[Tensor, "key kv_head d_head"], Float[Tensor, "key kv_head d_value"]],
    paths: list[tuple[slice, Path]],
) -> Float[Tensor, "row heads_d_value"]:
    """Attention of decoded rows, each to the shared keys of its prompt and to its own earlier keys."""
    grouped = rearrange(q, "row (kv group) d -> row kv group d", kv=spec.n_kv_heads) * spec.scale
    inside = grouped @ own[0].transpose(2, 3)
    z = grouped.new_empty(*grouped.shape[:3], own[1].shape[-1])
    for mine, path in paths:
        z[mine], inside[mine] = _attend_path(spec, grouped[mine], inside[mine], trunk, path)
    return (z + inside @ own[1]).flatten(1)


def _attend_path(
    spec: AttentionSpec,
    q: Float[Tensor, "row kv_head group d_head"],
    inside: Float[Tensor, "row kv_head group own"],
    trunk: tuple[Float[Tensor, "key kv_head d_head"], Float[Tensor, "key kv_head d_value"]],
    path: Path,
) -> tuple[Float[Tensor, "row kv_head group d_value"], Float[Tensor, "row kv_head group own"]]:
    """Attention output of one prompt's rows over their shared keys, and the weights of their own keys."""
    together, apart = "row kv group d -> kv (row group) d", "kv (row group) d -> row kv group d"
    n, own = len(q), inside.shape[-1]
    before = sum(stop - start for start, stop in path)
    flat = rearrange(q, together)
    scores = flat.new_empty(*flat.shape[:2], before + own + spec.n_sinks)
    scores[..., before : before + own] = rearrange(inside, together)
    at = 0
    for start, stop in path:
        keys = rearrange(trunk[0][start:stop], "key kv d -> kv d key")
        torch.bmm(flat, keys, out=scores[..., at : at + stop - start])
        at += stop - start
    scores = _capped(spec, scores)
    if spec.sinks is not None:
        scores.view(len(flat), n, -1, scores.shape[-1])[..., -1] = rearrange(
            spec.sinks, "(kv group) -> kv 1 group", kv=len(flat)
        )
    # A row attends to itself last.
    first = spec.first_seen(before + own - 1)
    if first is not None and first > 0:
        scores[..., :first] = -torch.inf
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    z, at = flat.new_zeros(*flat.shape[:2], trunk[1].shape[-1]), 0
    for start, stop in path:
        z.baddbmm_(weights[..., at : at + stop - start], trunk[1][start:stop].transpose(0, 1))
        at += stop - start
    return rearrange(z, apart, row=n), rearrange(weights[..., before : before + own], apart, row=n)
