"""One pass over the trunk and all steered variants of the tails.

At each layer, all rows that exist so far go through the block; then the variants that are steered at that layer branch
off from the unsteered tails. A variant costs nothing below its layer. Keys and values are discarded after each layer
unless you ask for the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions import Position, Steering, SublayerEdit, edited_tokens
from .attention import TailGroup, TrunkGroup, attend_tails, attend_trunk, tail_groups, trunk_groups
from .layout import Batch
from .model import Attend, AttentionSpec, RowModel

Group = TypeVar("Group", TrunkGroup, TailGroup)


@dataclass(slots=True)
class KeysValues:
    """Keys and values by layer: trunk [row, kv_head, d_head], tails [variant, column, kv_head, d_head]."""

    trunk: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    tails: list[tuple[Tensor, Tensor]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """The result of a pass.

    Attributes:
        tails: [variant, column, d_model], residuals after the last block; variant 0 is unsteered, the others follow the
            order of the interventions.
        cache: keys and values, if asked for; ``order`` gives its variant axis.
        order: variant index of each entry of the cache's variant axis.
    """

    tails: Float[Tensor, "variant column d_model"]
    cache: KeysValues | None
    order: tuple[int, ...]


def steered_columns(batch: Batch, position: Position) -> slice | Int[Tensor, " steered"]:
    """Which columns of the tails an intervention at this position edits."""
    mask = torch.zeros(batch.n_tail, dtype=torch.bool)
    for tail, offset in zip(batch.tails, batch.offsets, strict=False):
        places = torch.tensor(tail.positions)
        mask[offset : offset + len(places)] = edited_tokens(position, places, tail.positions[tail.last])
    return slice(None) if bool(mask.all()) else mask.nonzero().flatten().to(batch.tokens.device)


def run_pass(
    model: RowModel,
    batch: Batch,
    interventions: Sequence[Steering] = (),
    *,
    observe: Callable[[int, Float[Tensor, "column d_model"]], None] | None = None,
    observe_heads: Callable[[int, Float[Tensor, "column heads_d_head"]], None] | None = None,
    until: int | None = None,
    keep_cache: bool = False,
) -> Pass:
    """Run a batch with all its variants.

    Args:
        model: see ``support.row_model``.
        batch: trunk and tails.
        interventions: one variant each; those with one vector per prompt follow the order of the batch's prompts.
        observe: called after each block with the unsteered tails (a view; copy what you keep).
        observe_heads: called after each block with the concatenated head outputs of the unsteered tails.
        until: last block to run; None for all.
        keep_cache: keep keys and values for decoding.
    """
    variants = _Variants.of(interventions, batch)
    n_trunk, n_tail, count = batch.n_trunk, batch.n_tail, len(variants.order)
    columns = (batch.tokens[n_trunk:], batch.positions[n_trunk:])
    tokens, positions = (
        torch.cat((every[:n_trunk], own.repeat(count)))
        for every, own in zip((batch.tokens, batch.positions), columns, strict=True)
    )
    rows, place = model.begin(tokens, positions, longest=batch.longest)
    tails = rows[n_trunk:].view(count, n_tail, model.d_model)
    heads = max(spec.n_heads for spec in model.attention)
    score_bytes, plain = (
        max(map(_score_bytes, model.attention)),
        all(one.plainly_causal(batch.longest) for one in model.attention),
    )
    groups = (
        trunk_groups(batch, score_bytes=score_bytes, key_bytes=model.key_bytes, plain=plain),
        tail_groups(batch, score_bytes=4 * count * heads, key_bytes=model.key_bytes),
    )
    cache = KeysValues() if keep_cache else None
    final = len(model.attention) - 1 if until is None else until
    active = variants.branch(-1, tails, 1)
    for layer, spec in enumerate(model.attention[: final + 1]):
        # At the last layer only the trunk's keys and values are needed.
        start, stop = n_trunk if layer == final else 0, n_trunk + n_tail * active
        written = variants.written(layer, spec, observe_heads)
        attend = _attention(spec, batch, groups, active, cache, written, only_tails=start > 0)
        done = model.run_block(layer, rows[:stop], place, attend, start=start)
        if done.data_ptr() != rows[start:].data_ptr():
            rows[start:stop] = done
        if observe is not None:
            observe(layer, tails[0])
        active = variants.edit(layer, tails, active)
    if cache is not None:
        for layer, (keys, values) in enumerate(cache.tails):  # one at a time: the budget has room for one copy
            cache.tails[layer] = variants.branched(keys, layer), variants.branched(values, layer)
    order = variants.order
    return Pass(tails[torch.tensor(order).argsort()] if count > 1 else tails, cache, order)


@dataclass(frozen=True, slots=True, eq=False)
class _Variants:
    """The unsteered tails and their steered copies, in the order in which they branch off.

    Attributes:
        interventions: one per steered variant.
        order: index of each variant's intervention; the unsteered variant is -1 and comes first.
        columns: which columns of the tails each position edits.
        owners: index within the batch of the prompt that each column belongs to.
    """

    interventions: Sequence[Steering]
    order: tuple[int, ...]
    columns: dict[Position, slice | Int[Tensor, " steered"]]
    owners: Int[Tensor, " column"]

    @classmethod
    def of(cls, interventions: Sequence[Steering], batch: Batch) -> _Variants:
        order = sorted(range(len(interventions)), key=lambda index: _begin(interventions[index]))
        columns = {item.position: steered_columns(batch, item.position) for item in interventions}
        return cls(interventions, (-1, *order), columns, _owners(batch))

    def edit(self, layer: int, tails: Float[Tensor, "variant column d_model"], active: int) -> int:
        """Branch off the variants that begin at this layer, and edit all that are steered here, in place.

        Returns:
            how many variants exist now.
        """
        active = self.branch(layer, tails, active)
        for row in range(1, active):
            item = self.interventions[self.order[row]]
            if layer in item.layers:
                where = self.columns[item.position]
                tails[row, where] = item.edit(layer, tails[row, where], self.owners[where])
        return active

    def branch(self, layer: int, tails: Float[Tensor, "variant column d_model"], active: int) -> int:
        """Copy the unsteered tails for the variants that begin after this layer (-1: before the first block)."""
        while active < len(self.order) and _begin(self.interventions[self.order[active]]) == layer:
            tails[active] = tails[0]
            active += 1
        return active

    def written(
        self,
        layer: int,
        spec: AttentionSpec,
        observe: Callable[[int, Float[Tensor, "column heads_d_head"]], None] | None,
    ) -> Callable[[Float[Tensor, "variant column heads_d_head"]], None]:
        """A function that edits the head outputs of one layer in place."""

        def edit(z: Tensor) -> None:
            if observe is not None:
                observe(layer, z[0])
            for row in range(1, len(z)):
                item = self.interventions[self.order[row]]
                if isinstance(item, SublayerEdit) and layer in item.layers:
                    where = self.columns[item.position]
                    heads = z[row, where].unflatten(-1, (spec.n_heads, -1))
                    z[row, where] = item.edit_output("heads", layer, heads).flatten(-2)

        return edit

    def branched(
        self, x: Float[Tensor, "variant column kv_head d_head"], layer: int
    ) -> Float[Tensor, "variant column kv_head d_head"]:
        """Fill in the unsteered keys (or values) of variants that branch off after this layer."""
        begins = [layer if index < 0 else _begin(self.interventions[index]) for index in self.order]
        source = [row if begin < layer else 0 for row, begin in enumerate(begins)]
        return x[torch.tensor(source, device=x.device)]


def _begin(item: Steering) -> int:
    """The layer after which a variant differs from the unsteered one; head outputs are edited inside their block."""
    return item.layer - 1 if isinstance(item, SublayerEdit) else item.layer


def _owners(batch: Batch) -> Int[Tensor, " column"]:
    """Index within the batch of the prompt that each column of the tails belongs to."""
    lengths = torch.tensor([len(tail.tokens) for tail in batch.tails])
    return torch.arange(len(batch.tails)).repeat_interleave(lengths).to(batch.tokens.device)


def _score_bytes(spec: AttentionSpec) -> int:
    """Bytes of a trunk row's scores for one key: the mask alone with a fused kernel, otherwise all heads' scores."""
    return 5 if spec.soft_cap <= 0 and spec.sinks is None else 17 * spec.n_heads


def _attention(
    spec: AttentionSpec,
    batch: Batch,
    groups: tuple[list[TrunkGroup], list[TailGroup]],
    active: int,
    cache: KeysValues | None,
    written: Callable[[Tensor], None],
    *,
    only_tails: bool,
) -> Attend:
    """Attention of one block for all rows that exist; stores their keys and values in the cache, if there is one.

    ``written`` is called with the head outputs of all variants' tails, which it may edit.
    """
    n_trunk, by_variant = batch.n_trunk, (active, batch.n_tail)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        width = q.shape[1] * v.shape[-1]
        z = q.new_zeros(len(q), width) if only_tails else q.new_empty(len(q), width)
        trunk, tails = _on(groups, q.device)
        if not only_tails:
            for group in trunk:
                attend_trunk(spec, group, q, k, v, z)
        own_q, own_k, own_v, own_z = (x[n_trunk:].unflatten(0, by_variant) for x in (q, k, v, z))
        for tail_group in tails:
            attend_tails(spec, tail_group, own_q, (own_k, own_v), (k[:n_trunk], v[:n_trunk]), own_z)
        written(own_z)
        if cache is not None:
            cache.trunk.append((k[:n_trunk].clone(), v[:n_trunk].clone()))
            cache.tails.append((own_k.clone(), own_v.clone()))
        return z

    return attend


def _on(
    groups: tuple[list[TrunkGroup], list[TailGroup]], device: torch.device
) -> tuple[list[TrunkGroup], list[TailGroup]]:
    """The groups on the device of a block, since the layers of a model may be on several devices."""
    positions = [*(trunk.own_positions for trunk in groups[0]), *(tail.own_positions for tail in groups[1])]
    if all(one.device == device for one in positions):
        return groups
    return [_moved(group, device) for group in groups[0]], [_moved(group, device) for group in groups[1]]


def _moved(group: Group, device: torch.device) -> Group:
    values = {field.name: getattr(group, field.name) for field in fields(group)}
    moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
    return replace(group, **moved)
