"""Nearest neighbours by cosine: exact in blocks, or approximate with a recall that is measured.

Never an n x n matrix in memory, and the same neighbours for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .blocks import map_blocks, row_blocks

# Cosines of unit float64 rows agree to about 1e-15; anything closer than this is a tie, won by the lower
# index.
TIE = 1e-10
TIE_DECIMALS = 10
# 300 rows x k = 10 neighbours put the standard error of a recall of 0.95 near 0.005.
RECALL_ROWS = 300


def exact_neighbours(
    units: Float[np.ndarray, "sample d_model"], k: int, *, threads: int | None = None
) -> tuple[Int[np.ndarray, "sample k"], Float[np.ndarray, "sample k"]]:
    """The k nearest rows of each row, itself left out, nearest first; ties go to the lower index.

    Args:
        units: float64 rows of length 1.
        k: 1 ... n - 1.
        threads: Python threads over blocks of rows.

    Returns:
        indices and cosines (rounded to 10 decimals, so that equal angles compare equal).
    """
    blocks = row_blocks(len(units), len(units))
    found = map_blocks(lambda block: _exact_block(units, block, k), blocks, threads=threads)
    return np.concatenate([indices for indices, _ in found]), np.concatenate([cosine for _, cosine in found])


def _exact_block(units: np.ndarray, block: slice, k: int) -> tuple[np.ndarray, np.ndarray]:
    cosine = units[block] @ units.T
    rows = np.arange(len(cosine))
    cosine[rows, rows + block.start] = -np.inf
    kth = np.partition(cosine, len(units) - k, axis=1)[:, len(units) - k, None]
    above = cosine > kth + TIE
    level = (cosine >= kth - TIE) & ~above
    room = k - above.sum(axis=1, keepdims=True)
    crowded = np.flatnonzero(level.sum(axis=1) > room[:, 0])
    level[crowded] &= level[crowded].cumsum(axis=1) <= room[crowded]
    indices = np.nonzero(above | level)[1].reshape(len(rows), k)
    chosen = np.round(np.take_along_axis(cosine, indices, axis=1), TIE_DECIMALS)
    order = np.argsort(-chosen, axis=1, kind="stable")
    return np.take_along_axis(indices, order, axis=1), np.take_along_axis(chosen, order, axis=1)


def pynndescent_neighbours(
    units: Float[np.ndarray, "sample d_model"], k: int, *, seed: int
) -> tuple[Int[np.ndarray, "sample k"], Float[np.ndarray, "sample k"]]:
    """Approximate neighbours by nearest-neighbour descent (the package pynndescent).

    One thread: its result changes with the number of threads, whatever the seed.

    Args:
        units: float32 rows of length 1.
        k: neighbours a row.
        seed: of the random forest and the descent.
    """
    from pynndescent import NNDescent

    # The lists hold the row itself, and longer lists converge to a better recall of their first k.
    width = max(16, k + k // 2 + 1)
    index = NNDescent(units, metric="cosine", n_neighbors=width, random_state=seed, n_jobs=1)
    found = np.asarray(index.neighbor_graph[0], dtype=np.int64)
    wanted = (found >= 0) & (found != np.arange(len(found))[:, None])
    kept = np.take_along_axis(found, np.argsort(~wanted, axis=1, kind="stable")[:, :k], axis=1)
    cosine = np.empty(kept.shape, dtype=np.float32)
    for block in row_blocks(len(units), k * units.shape[1]):
        cosine[block] = np.einsum("nkd,nd->nk", units[kept[block]], units[block])
    order = np.argsort(-cosine, axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def exact_sample(
    units: Float[np.ndarray, "sample d_model"],
    rows: Int[np.ndarray, " row"],
    k: int,
    *,
    threads: int | None = None,
) -> Int[np.ndarray, "row k"]:
    """The exact k nearest of some rows, in no particular order."""

    def nearest(block: slice) -> np.ndarray:
        cosine = units[rows[block]] @ units.T
        cosine[np.arange(len(cosine)), rows[block]] = -np.inf
        return np.argpartition(cosine, len(units) - k, axis=1)[:, len(units) - k :]

    return np.concatenate(map_blocks(nearest, row_blocks(len(rows), len(units)), threads=threads))


def measured_recall(
    units: Float[np.ndarray, "sample d_model"],
    cosine: Float[np.ndarray, "sample k"],
    *,
    generator: np.random.Generator,
    threads: int | None = None,
) -> float:
    """Share of found neighbours that are as near as the true k-th nearest, over a random sample of rows."""
    k = cosine.shape[1]
    rows = generator.choice(len(units), size=min(RECALL_ROWS, len(units)), replace=False)
    true = exact_sample(units, rows, k, threads=threads)
    kth = np.einsum("nkd,nd->nk", units[true], units[rows]).min(axis=1, keepdims=True)
    # float32 cosines of the same pair differ by about 1e-7 between summation orders.
    return float((cosine[rows] >= kth - 1e-6).mean())


def joined(parts: list[tuple[Any, ...]]) -> tuple[np.ndarray, ...]:
    """Concatenate tuples of arrays, part by part."""
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))
