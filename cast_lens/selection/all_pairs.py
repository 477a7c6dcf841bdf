"""Every pair of rows compared once, in float32: what is left when no cell can be skipped.

The cosine of a pair serves both of its rows, so that half of the n² products are enough. Blocks of rows meet as in
a round robin: in every round each block faces one that it has not met, and the floors that a candidate has to
beat are renewed between rounds. A round's work does not depend on who does it: any number of threads finds the
same.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from .blocks import map_blocks, row_blocks
from .hits import Hits, beating, keep_best

# 2048 x 2048 cosines are 16 MB; smaller blocks merge more often, larger ones leave the cache.
BLOCK_ROWS = 2048


def search_all_pairs(
    rows: Float[np.ndarray, "sample d_model"],
    best: Float[np.ndarray, "sample k"],
    which: Int[np.ndarray, "sample k"],
    *,
    threads: int | None,
) -> None:
    """Put the k nearest rows of each row, itself left out, into ``best`` (cosines) and ``which``, in no order.

    Args:
        rows: float32 rows of length 1; quickest when rows that are alike stand together.
        best: filled with minus infinity.
        which: of the same shape.
        threads: Python threads over pairs of blocks.
    """
    blocks = row_blocks(len(rows), 1, entries=BLOCK_ROWS)
    count, k = len(blocks), best.shape[1]
    for shift in range(count // 2 + 1):
        # Half-way round, the second half of the pairs repeats the first.
        first = range(count // 2 if 2 * shift == count else count)
        pairs = [(blocks[i], blocks[(i + shift) % count]) for i in first]
        floor = best.min(axis=1)
        found = map_blocks(lambda pair: _meet(rows, *pair, floor, k), pairs, threads=threads)  # noqa: B023
        keep_best(best, which, [hits for both in found for hits in both], threads=threads)


def _meet(rows: np.ndarray, left: slice, right: slice, floor: np.ndarray, k: int) -> list[Hits]:
    """What two blocks are to each other; a block that meets itself is looked at from one side."""
    cosine = rows[left] @ rows[right].T
    if left == right:
        np.fill_diagonal(cosine, -np.inf)
        return [_named(cosine, left, right, *beating(cosine, floor[left], k))]
    above = np.flatnonzero((cosine > floor[right][None]).ravel())
    if len(above) > 2 * k * cosine.shape[1]:
        mirrored = np.ascontiguousarray(cosine.T)
        seen_from_right = beating(mirrored, floor[right], k)
    else:
        column, row = np.divmod(above, cosine.shape[1])
        seen_from_right = row, column
    return [
        _named(cosine, left, right, *beating(cosine, floor[left], k)),
        _named(cosine.T, right, left, *seen_from_right),
    ]


def _named(cosine: np.ndarray, queries: slice, members: slice, row: np.ndarray, column: np.ndarray) -> Hits:
    return (
        (row + queries.start).astype(np.int32),
        (column + members.start).astype(np.int32),
        cosine[row, column],
    )
