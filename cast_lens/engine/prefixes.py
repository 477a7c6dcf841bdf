"""Keys and values of what stands before the last prompt token, computed once and handed out again and again.

Training steers the last prompt token and what follows it, so everything before is the same in every epoch.
Prompts that begin alike share their beginnings here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from .attention import Path
from .batching import DEFAULT_BUDGET_MB, plan_batches
from .capture import rows_within
from .forward import run_pass
from .layout import TokenPrompt, build_batch
from .model import AttentionSpec
from .progress import Progress, quiet
from .support import row_model

# Keys and values of all blocks side by side: blocks may differ in their heads.
Shard = Float[Tensor, "row width"]


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys and values before the last token of some prompts, padded on the right with zeros.

    Attributes:
        values: [sample, position, width]: for each block its keys, then its values.
        lengths: real positions of each sample.
        blocks: whose keys and values these are.
    """

    values: Float[Tensor, "sample position width"]
    lengths: Int[Tensor, " sample"]
    blocks: tuple[AttentionSpec, ...]

    def at(
        self, layer: int
    ) -> tuple[
        Float[Tensor, "sample kv_head position d_head"], Float[Tensor, "sample kv_head position d_value"]
    ]:
        """Keys and values of one layer, views."""
        heads = [spec.n_kv_heads for spec in self.blocks]
        widths = [kv * (spec.d_head + spec.d_value) for kv, spec in zip(heads, self.blocks, strict=True)]
        start, kv, split = sum(widths[:layer]), heads[layer], heads[layer] * self.blocks[layer].d_head
        both = self.values[..., start : start + widths[layer]]
        keys, values = both[..., :split], both[..., split:]
        apart = "sample position (kv d) -> sample kv position d"
        return rearrange(keys, apart, kv=kv), rearrange(values, apart, kv=kv)


@dataclass(slots=True, eq=False)
class Prefixes:
    """A store of prefixes within a memory budget; what does not fit is computed whenever it is asked for.

    Attributes:
        model: whose keys these are.
        prompts: those that the store was made for.
        shards: keys and values of the trunk of some prompts each.
        places: shard and rows of each prompt that is stored.
    """

    model: HookedTransformer
    prompts: tuple[TokenPrompt, ...]
    shards: list[Shard] = field(default_factory=list)
    places: dict[int, tuple[int, Path]] = field(default_factory=dict)

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: HookedTransformer,
        prompts: Sequence[TokenPrompt],
        *,
        memory_mb: float,
        progress: Progress = quiet,
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
        """Prompts whose keys and values are held."""
        return len(self.places)

    @torch.no_grad()
    def gather(self, indices: Sequence[int]) -> Prefix:
        """The prefixes of some prompts, in this order."""
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
    """Keys and values of everything but the prompts' last tokens, and the rows that each prompt sees."""
    batch = build_batch(prompts, answers=False, device=model.cfg.device or "cpu")
    cache = run_pass(row_model(model), batch, keep_cache=True).cache
    assert cache is not None
    cache.tails.clear()
    flat = [x.flatten(1) for both in cache.trunk for x in both]
    return torch.cat(flat, dim=1), [tail.path for tail in batch.tails]
