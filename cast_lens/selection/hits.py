"""The k best of each query, kept while candidates come in by blocks: what the float32 searches share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from .blocks import map_blocks, row_blocks
from .neighbours import joined

# (query, member, cosine), one entry a candidate.
Hits = tuple[Int[np.ndarray, " hit"], Int[np.ndarray, " hit"], Float[np.ndarray, " hit"]]


def beating(
    cosine: Float[np.ndarray, "query member"], floor: Float[np.ndarray, " query"], k: int
) -> tuple[Int[np.ndarray, " hit"], Int[np.ndarray, " hit"]]:
    """Row and column of what lies above each query's floor: all of it, or the k best of each where it is much."""
    queries, members = cosine.shape
    row, column = np.divmod(np.flatnonzero((cosine > floor[:, None]).ravel()), max(1, members))
    if len(row) > 2 * k * queries:
        column = np.argpartition(cosine, members - k, axis=1)[:, members - k :].ravel()
        row = np.repeat(np.arange(queries), k)
        beats = cosine[row, column] > floor[row]
        row, column = row[beats], column[beats]
    return row, column


def keep_best(
    best: Float[np.ndarray, "query k"],
    which: Int[np.ndarray, "query k"],
    parts: list[Hits],
    *,
    threads: int | None,
) -> None:
    """Merge candidates into the k best of each query, in place."""
    query, member, cosine = joined(parts)
    order = np.argsort(query, kind="stable")
    query, member, cosine = query[order], member[order], cosine[order]

    def merge(block: slice) -> None:
        span = slice(*np.searchsorted(query, (block.start, block.stop)))
        _merge(best[block], which[block], query[span] - block.start, member[span], cosine[span])

    map_blocks(merge, row_blocks(len(best), 64 * best.shape[1]), threads=threads)


def _merge(
    best: np.ndarray, which: np.ndarray, query: np.ndarray, member: np.ndarray, cosine: np.ndarray
) -> None:
    if not len(query):
        return
    k = best.shape[1]
    count = np.bincount(query, minlength=len(best))
    touched = np.flatnonzero(count)
    slot = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count) + k
    row = np.searchsorted(touched, query)
    padded = np.full((len(touched), k + count.max()), -np.inf, dtype=np.float32)
    names = np.full(padded.shape, -1, dtype=np.int32)
    padded[:, :k], names[:, :k] = best[touched], which[touched]
    padded[row, slot], names[row, slot] = cosine, member
    kept = np.argpartition(padded, count.max(), axis=1)[:, count.max() :]
    best[touched] = np.take_along_axis(padded, kept, axis=1)
    which[touched] = np.take_along_axis(names, kept, axis=1)
