"""Which prompts run together: few padded tokens, and few passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..atv import Item

# Tokens that run with gradients at a time: 1.5 MB each in the embedded model. A step adds up its parts' gradients.
TOKENS = 1024
# What a pass forward and back costs beside its tokens, in tokens: 0.4 s against 8 ms each in the embedded model on one
# core, for reading all the weights.
PASS = 50


def length(item: Item) -> int:
    """Tokens of prompt and answer that are read: all but the answer's last one, which is only predicted."""
    return len(item.prompt.tokens) + len(item.prompt.answers[item.prompt.gold]) - 1


def parts(items: Sequence[Item]) -> list[list[Item]]:
    """A batch in parts of similar length, at most ``TOKENS`` tokens each when padded to their longest.

    Of all ways to cut the batch, sorted by length, the one with the lowest cost: padded tokens, and ``PASS`` a part.
    """
    ordered = sorted(items, key=length)
    costs, begins = [0.0], [0]
    for end in range(1, len(ordered) + 1):
        longest = length(ordered[end - 1])
        room = max(1, TOKENS // longest)
        found = [(costs[b] + longest * (end - b) + PASS, b) for b in range(max(0, end - room), end)]
        cost, begin = min(found)
        costs.append(cost)
        begins.append(begin)
    cut: list[list[Item]] = []
    end = len(ordered)
    while end:
        cut.append(ordered[begins[end] : end])
        end = begins[end]
    return cut[::-1]


def parts_of_tasks(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Parts of one task each, whose prompts begin alike."""
    for _, members in groupby(items, key=lambda item: (item.task, item.template)):
        yield from parts(list(members))
