"""Cross-entropy of answers under one vector per prompt, with gradients with respect to those vectors.

Only rows that a vector can reach run with gradients. At ``last`` and ``prompt_last`` these are the last prompt token
and the answer's tokens; the keys and values before them never change, so ``Prefixes`` computes them once for all
epochs. At ``all`` every token runs with gradients. The model's parameters are constants and get no gradient.
``reference.answer_loss`` computes the same with plain hooks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..interventions import Position, PromptVectors, edited_tokens
from ..models.identity import check_interventions
from ..models.lens import HookedTransformer
from . import reference
from .attention import Path, attend_masked
from .batching import DEFAULT_BUDGET_MB, plan_batches
from .capture import rows_within
from .forward import run_pass
from .layout import TokenPrompt, build_batch
from .model import Attend, AttentionSpec, RowModel
from .progress import Progress, quiet
from .support import row_model, unsupported

# Keys and values of all blocks, concatenated because blocks may have different heads.
Shard = Float[Tensor, "row width"]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys and values before the last token of some prompts, padded on the right with zeros.

    Attributes:
        values: [sample, position, width]: the keys, then the values, of each block.
        lengths: how many positions of each sample are not padding.
        blocks: the blocks, in order.
    """

    values: Float[Tensor, "sample position width"]
    lengths: Int[Tensor, " sample"]
    blocks: tuple[AttentionSpec, ...]

    def at(
        self, layer: int
    ) -> tuple[Float[Tensor, "sample kv_head position d_head"], Float[Tensor, "sample kv_head position d_value"]]:
        """Keys and values of one layer, as views."""
        heads = [spec.n_kv_heads for spec in self.blocks]
        widths = [kv * (spec.d_head + spec.d_value) for kv, spec in zip(heads, self.blocks, strict=True)]
        start, kv, split = sum(widths[:layer]), heads[layer], heads[layer] * self.blocks[layer].d_head
        both = self.values[..., start : start + widths[layer]]
        keys, values = both[..., :split], both[..., split:]
        apart = "sample position (kv d) -> sample kv position d"
        return rearrange(keys, apart, kv=kv), rearrange(values, apart, kv=kv)


@dataclass(slots=True, eq=False)
class Prefixes:
    """Stores prefixes within a memory budget; prefixes that do not fit are computed each time they are needed.

    Attributes:
        model: the model that computes them.
        prompts: all prompts.
        shards: keys and values of trunks, each for some of the prompts.
        places: shard and rows of each stored prompt.
    """

    model: HookedTransformer
    prompts: tuple[TokenPrompt, ...]
    shards: list[Shard] = field(default_factory=list)
    places: dict[int, tuple[int, Path]] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(
        cls, model: HookedTransformer, prompts: Sequence[TokenPrompt], *, memory_mb: float, progress: Progress = quiet
    ) -> Prefixes:
        """Run the prompts and keep what fits into ``memory_mb`` megabytes."""
        store = cls(model, tuple(prompts))
        batches = list(plan_batches(prompts, max_rows=rows_within(model, DEFAULT_BUDGET_MB), answers=False))
        free = memory_mb * 1e6
        for batch in progress(batches, "run the prompts once", len(batches)):
            if free <= 0:
                break
            shard, paths = _trunk(model, [prompts[index] for index in batch])
            free -= shard.numel() * shard.element_size()
            if free >= 0:
                store.places.update({index: (len(store.shards), paths[i]) for i, index in enumerate(batch)})
                store.shards.append(shard)
        return store

    @property
    def stored(self) -> int:
        """How many prompts have their keys and values stored."""
        return len(self.places)

    @torch.no_grad()
    def gather(self, indices: Sequence[int]) -> Prefix:
        """The prefixes of some prompts, in the given order."""
        missing = sorted({index for index in indices if index not in self.places})
        places, shards = self.places, self.shards
        if missing:
            shard, paths = _trunk(self.model, [self.prompts[index] for index in missing])
            shards = [*shards, shard]
            places = {**places, **{index: (-1, paths[i]) for i, index in enumerate(missing)}}
        lengths = torch.tensor([len(self.prompts[index].tokens) - 1 for index in indices])
        like = shards[0]
        out = like.new_zeros(len(indices), int(lengths.max()), *like.shape[1:])
        for row, index in enumerate(indices):
            number, path = places[index]
            at = 0
            for start, stop in path:
                out[row, at : at + stop - start] = shards[number][start:stop]
                at += stop - start
        return Prefix(out, lengths.to(out.device), row_model(self.model).attention)


def _trunk(model: HookedTransformer, prompts: list[TokenPrompt]) -> tuple[Shard, list[Path]]:
    """Keys and values of all tokens except the prompts' last ones, and the rows that belong to each prompt."""
    batch = build_batch(prompts, answers=False, device=model.cfg.device or "cpu")
    cache = run_pass(row_model(model), batch, keep_cache=True).cache
    assert cache is not None
    cache.tails.clear()
    flat = [x.flatten(1) for both in cache.trunk for x in both]
    return torch.cat(flat, dim=1), [tail.path for tail in batch.tails]


@contextmanager
def frozen(model: HookedTransformer) -> Iterator[None]:
    """Turn off gradients of the model's parameters inside the context, and restore them afterwards."""
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
    """Mean cross-entropy of each prompt's gold answer in nats per token, differentiable in the vectors.

    Keep the model ``frozen`` until after ``backward``.

    Args:
        model: any ``HookedTransformer``; if the fast path does not support it, prompts run through hooks one by one.
        prompts: prompts with a gold answer.
        steering: one vector per prompt, in the same order.
        prefix: from ``Prefixes.gather`` for these prompts; computed if None. Not used at position ``all``.
        recompute: use gradient checkpointing: keep one residual per block and run the blocks again for ``backward``.

    Raises:
        ValueError: if the vectors do not fit the model or the prompts, or a prompt has no gold answer.
    """
    check_interventions(model, [steering], len(prompts))
    nameless = [index for index, prompt in enumerate(prompts) if prompt.gold < 0]
    if nameless:
        raise ValueError(f"prompt {nameless[0]} has no gold answer; a loss needs one")
    if unsupported(model) is not None:
        with frozen(model):
            return torch.stack([reference.answer_loss(model, p, steering.of([i])) for i, p in enumerate(prompts)])
    if steering.position != "all" and prefix is None:
        everything = list(range(len(prompts)))
        prefix = Prefixes(model, tuple(prompts)).gather(everything)
    parts = row_model(model)
    rows = _rows(prompts, steering.position, model.cfg.device or "cpu")
    final = _run(parts, rows, steering, prefix if steering.position != "all" else None, recompute)
    normed = parts.norm_final(final[rows.predicts])
    logits = parts.unembed(normed, slice(None))
    exact = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(logits.to(exact), rows.targets, reduction="none")
    owners = rows.owners[rows.predicts]
    sums = losses.new_zeros(len(prompts)).index_add(0, owners, losses)
    return sums / owners.bincount(minlength=len(prompts))


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The tokens that run with gradients, one prompt after the other.

    Attributes:
        tokens, positions: token and position of each row.
        owners: index of the prompt of each row.
        slots: index of each row once prompts are padded on the right to ``width`` columns.
        steered: rows that are steered.
        predicts, targets: rows that predict a token of an answer, and that token.
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
        """Whether no row is padding."""
        return len(self.tokens) == self.samples * self.width


def _rows(prompts: Sequence[TokenPrompt], position: Position, device: str | torch.device) -> _Rows:
    begins = [0 if position == "all" else len(prompt.tokens) - 1 for prompt in prompts]
    width = max(len(p.tokens) + len(p.answers[p.gold]) - 1 - b for p, b in zip(prompts, begins, strict=True))
    rows = []
    for owner, (prompt, begin) in enumerate(zip(prompts, begins, strict=True)):
        text, last = prompt.tokens + prompt.answers[prompt.gold], len(prompt.tokens) - 1
        for at in range(begin, len(text) - 1):
            target = text[at + 1] if at >= last else -1
            rows.append((text[at], at, owner, owner * width + at - begin, last, target))
    table = torch.tensor(rows, device=device)
    tokens, positions, owners, slots, lasts, targets = table.T.contiguous()
    predicts = (targets >= 0).nonzero().flatten()
    steered_rows = edited_tokens(position, positions, lasts).nonzero().flatten()
    return _Rows(tokens, positions, owners, slots, steered_rows, predicts, targets[predicts], len(prompts), width)


def _run(
    model: RowModel, rows: _Rows, steering: PromptVectors, prefix: Prefix | None, recompute: bool
) -> Float[Tensor, "row d_model"]:
    longest = int(rows.positions.max()) + 1
    residual, place = model.begin(rows.tokens, rows.positions, longest=longest)
    masks: dict[tuple[int | None, int | None], Tensor] = {}
    everywhere = len(rows.steered) == len(rows.tokens)
    for layer, spec in enumerate(model.attention):
        reach = (spec.window, spec.chunk)
        if reach not in masks:
            masks[reach] = _mask(rows, prefix, spec)
        attend = _attention(spec, rows, masks[reach], None if prefix is None else prefix.at(layer))
        arguments = (layer, residual, place, attend)
        if recompute and residual.requires_grad:
            residual = checkpoint(model.run_block, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            residual = model.run_block(*arguments)
        if layer in steering.layers and everywhere:
            residual = steering.edit(layer, residual, rows.owners)
        elif layer in steering.layers:
            chosen = rows.steered
            edited = steering.edit(layer, residual[chosen], rows.owners[chosen])
            residual = residual.index_copy(0, chosen, edited)
    return residual


def _mask(rows: _Rows, prefix: Prefix | None, spec: AttentionSpec) -> Bool[Tensor, "sample 1 column key"]:
    """Which keys a column attends to: the prefix of its prompt and the columns up to itself (padding: only itself)."""
    device = rows.tokens.device
    columns = torch.arange(rows.width, device=device)
    distance = (columns[:, None] - columns[None]).expand(rows.samples, -1, -1)
    positions = columns.expand(rows.samples, -1)
    if prefix is not None:
        positions = positions + prefix.lengths[:, None]
        before = torch.arange(prefix.values.shape[1], device=device)
        reach = prefix.lengths[:, None, None] + columns[None, :, None] - before[None, None]
        # A padded key is masked like a future one.
        hidden = before[None, None] >= prefix.lengths[:, None, None]
        distance = torch.cat((reach.masked_fill(hidden, -1), distance), dim=-1)
    first, seen = spec.first_seen(positions), distance >= 0
    return (seen if first is None else seen & (distance <= (positions - first)[:, :, None]))[:, None]


def _attention(
    spec: AttentionSpec, rows: _Rows, mask: Bool[Tensor, "sample 1 column key"], prefix: tuple[Tensor, Tensor] | None
) -> Attend:
    """Attention of one block over the prefix and the rows."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (_padded(x.to(v.dtype), rows) for x in (q, k, v))
        if prefix is not None:
            k, v = (torch.cat((old.to(v.dtype), new), dim=2) for old, new in zip(prefix, (k, v), strict=True))
        z = rearrange(attend_masked(spec, q, k, v, mask), "sample head column d -> (sample column) (head d)")
        return z if rows.dense else z.index_select(0, rows.slots)

    return attend


def _padded(x: Float[Tensor, "row head d_head"], rows: _Rows) -> Float[Tensor, "sample head column d_head"]:
    if not rows.dense:
        x = x.new_zeros(rows.samples * rows.width, *x.shape[1:]).index_copy(0, rows.slots, x)
    return rearrange(x, "(sample column) head d -> sample head column d", sample=rows.samples)
