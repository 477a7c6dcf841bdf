"""Vectors made for one target: source items are picked for each of its unlabelled queries, as CAST's public code does.

For every query ``k + 1`` items of the source are picked. The first is asked, the other ``k`` are its demonstrations.
The vector is the mean over queries of the few-shot minus zero-shot residual at the last token, one per layer (github
lzhjoy/ICTL). Ways to pick, ``RETRIEVALS``:

- ``random``: at random, anew for each query;
- ``top-k``: the most similar ones, by the cosine of an embedding, nearest first;
- ``dpp``: similar ones that differ from each other, see ``selection.greedy_dpp``.

The embedding there is BAAI/bge-base-en-v1.5; here it is the caller's. The queries' answers are not read. What such a
vector does not show: that retrieval matters, unless it is compared with ``random``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from ..engine import Progress, quiet
from ..extraction import Extraction, shown_differences
from ..models.lens import HookedTransformer
from ..selection import greedy_dpp
from ..tasks import Example, Split, Task, input_key
from ..tasks.sampling import Pool, stable_seed
from ..vectors import DifferenceVectors
from .prompting import Embed, compared_items, most_similar

Picked = list[tuple[Example, ...]]


def retrieved_differences(
    model: HookedTransformer,
    source: Task,
    target: Task,
    queries: Sequence[Example],
    extraction: Extraction,
    *,
    how: str,
    embed: Embed,
    progress: Progress = quiet,
) -> DifferenceVectors:
    """One difference vector of the source per query of the target.

    Args:
        model: any ``HookedTransformer``.
        source: gives the items.
        target: whose queries are compared with them.
        queries: queries of the target; their answers are not read.
        extraction: shots, split of the source, instruction, chat, seed, and whether answers are shuffled.
        how: a key of ``RETRIEVALS``.
        embed: texts as rows, for the ways that compare texts.
        progress: wraps the batches.

    Raises:
        ValueError: an unknown way; fewer source items than ``shots + 1``; see ``most_similar``.
    """
    if how not in RETRIEVALS:
        raise ValueError(f"retrieval={how!r} is unknown; choose one of {', '.join(RETRIEVALS)}")
    count = extraction.shots + 1
    picked = RETRIEVALS[how](source, target, queries, count, embed, extraction.split, extraction.seed)
    note = f"{count} items for each of {len(queries)} unlabelled queries of {target.name}, picked by {how}"
    return shown_differences(
        model, source, [own[0] for own in picked], [own[1:] for own in picked], extraction, note=note, progress=progress
    )


def pick_random(
    source: Task, target: Task, queries: Sequence[Example], count: int, embed: Embed, pool: Split, seed: int
) -> Picked:
    """Items at random, anew for each query; none that asks what the query asks."""
    offered = sorted(Pool.of(source, pool).examples, key=lambda example: example.id)
    found = []
    for query in queries:
        free = [one for one in offered if input_key(one.input) != input_key(query.input)]
        if len(free) < count:
            raise ValueError(_too_few(source, len(free), count))
        found.append(tuple(random.Random(stable_seed(seed, "retrieval", query.id)).sample(free, count)))
    return found


def pick_most_similar(
    source: Task, target: Task, queries: Sequence[Example], count: int, embed: Embed, pool: Split, seed: int
) -> Picked:
    """The most similar items, nearest first."""
    return most_similar(source, target, queries, shots=count, embed=embed, pool=pool, seed=seed)


def pick_diverse(
    source: Task, target: Task, queries: Sequence[Example], count: int, embed: Embed, pool: Split, seed: int
) -> Picked:
    """Items that are similar to the query and unlike each other."""
    offered, known, asked = compared_items(source, target, queries, embed=embed, pool=pool, candidates=None, seed=seed)
    keys = [input_key(one.input) for one in offered]
    found = []
    for query, row in zip(queries, asked, strict=True):
        free = np.array([index for index, key in enumerate(keys) if key != input_key(query.input)], dtype=np.int64)
        if len(free) < count:
            raise ValueError(_too_few(source, len(free), count))
        # An item that points the other way keeps a weight above zero, so that every item can be picked.
        relevance = np.maximum((1 + known[free] @ row) / 2, 1e-6)
        found.append(tuple(offered[index] for index in free[greedy_dpp(known[free], relevance, count)]))
    return found


def _too_few(source: Task, there: int, count: int) -> str:
    return (
        f"source {source.name!r} has {there} items that differ from a query, and {count} are needed for each: one to "
        "ask and the others as demonstrations; give fewer shots"
    )


RETRIEVALS: dict[str, Callable[[Task, Task, Sequence[Example], int, Embed, Split, int], Picked]] = {
    "random": pick_random,
    "top-k": pick_most_similar,
    "dpp": pick_diverse,
}
"""Ways to pick source items for a query, by name."""
