"""Approximate nearest neighbours by cells: search only the cells near a sample, as many as the data needs.

Samples are put into about sqrt(n) cells by spherical k-means; a sample is then compared with the members of
the cells nearest to it (an inverted file, as in arXiv 1702.08734 without its compression). How many cells is
read off a sample of rows whose exact neighbours are computed: the fewest that hold the asked share of them.
On data without structure that is most of them; then every pair is compared once instead, and nothing is lost.

All the work is matrix products, so nothing has to be compiled first: 100,000 rows take less time than
pynndescent needs to compile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt

from .all_pairs import search_all_pairs
from .blocks import map_blocks, row_blocks
from .hits import Hits, beating, keep_best
from .neighbours import RECALL_ROWS, exact_sample, joined

CENTRE_ROUNDS = 8  # assignments move little afterwards, and the number of probed cells absorbs the rest
CENTRE_ROWS = 64  # rows a cell used to place the centres
ROUND_ENTRIES = 8_000_000  # (sample, cell) pairs handled between two merges
ALL_PAIRS_ABOVE = 0.5  # share of the cells from which on comparing every pair once takes no longer


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Rows sorted by cell: cell ``c`` holds ``rows[offsets[c]:offsets[c + 1]]``."""

    order: Int[np.ndarray, " sample"]
    rows: Float[np.ndarray, "sample d_model"]
    offsets: Int[np.ndarray, " boundary"]
    centres: Float[np.ndarray, "cell d_model"]

    @property
    def cell(self) -> Int[np.ndarray, " sample"]:
        return np.repeat(np.arange(len(self.centres)), np.diff(self.offsets))


def cell_neighbours(
    units: Float[np.ndarray, "sample d_model"],
    k: int,
    *,
    recall: float,
    seed: int,
    threads: int | None = None,
) -> tuple[Int[np.ndarray, "sample k"], Float[np.ndarray, "sample k"]]:
    """The k nearest rows of each row, itself left out, nearest first, with about the asked recall or more.

    Args:
        units: float32 rows of length 1.
        k: 1 ... n - 1.
        recall: share of true neighbours wanted; the search aims half-way between it and 1.
        seed: of the centres and of the rows that the number of probed cells is read off.
        threads: Python threads over cells.
    """
    generator = np.random.default_rng([seed, 1])
    cells = _split(units, round(len(units) ** 0.5), generator, threads)
    probes = _probes_needed(cells, k, (1 + recall) / 2, generator, threads)
    best = np.full((len(units), k), -np.inf, dtype=np.float32)
    which = np.full((len(units), k), -1, dtype=np.int32)
    if probes > ALL_PAIRS_ABOVE * len(cells.centres):
        search_all_pairs(cells.rows, best, which, threads=threads)
    else:
        _search_nearest(cells, probes, best, which, threads)
        _complete(cells, best, which, threads)
    return _in_first_order(cells.order, best, which)


def _search_nearest(
    cells: _Cells, probes: int, best: np.ndarray, which: np.ndarray, threads: int | None
) -> None:
    """Compare each row with the members of its nearest cells, a few of them at a time."""
    nearest = _nearest_cells(cells, probes, threads)
    start = 0
    while start < probes:
        # Rounds widen as the thresholds sharpen, which keeps the hits of a round near a few k a row.
        stop = min(probes, max(1, start * 4), start + max(1, ROUND_ENTRIES // len(best)))
        _search_round(cells, nearest[:, start:stop], best, which, threads)
        start = stop


def _complete(cells: _Cells, best: np.ndarray, which: np.ndarray, threads: int | None) -> None:
    """Search everything for the rows whose cells held fewer than k others."""
    short = np.flatnonzero(np.isinf(best).any(axis=1))
    if len(short):
        which[short] = exact_sample(cells.rows, short, best.shape[1], threads=threads)
        for block in row_blocks(len(short), best.shape[1] * cells.rows.shape[1]):
            members = cells.rows[which[short[block]]]
            best[short[block]] = np.einsum("nkd,nd->nk", members, cells.rows[short[block]])


def _in_first_order(order: np.ndarray, best: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    named = order[which]
    ranked = np.lexsort((named, -best), axis=1)
    indices, cosine = np.empty(best.shape, dtype=np.int64), np.empty_like(best)
    indices[order] = np.take_along_axis(named, ranked, axis=1)
    cosine[order] = np.take_along_axis(best, ranked, axis=1)
    return indices, cosine


def _split(units: np.ndarray, count: int, generator: np.random.Generator, threads: int | None) -> _Cells:
    rows = units[np.sort(generator.choice(len(units), min(len(units), CENTRE_ROWS * count), replace=False))]
    centres = rows[np.sort(generator.choice(len(rows), count, replace=False))]
    for _ in range(CENTRE_ROUNDS):
        cell = _nearest_centre(rows, centres, threads)
        used = np.flatnonzero(np.bincount(cell, minlength=count))
        starts = np.searchsorted(np.sort(cell), used)
        total = np.add.reduceat(rows[np.argsort(cell, kind="stable")], starts, axis=0)
        norm = np.linalg.norm(total, axis=1, keepdims=True)
        centres[used] = np.where(norm > 0, total / np.where(norm > 0, norm, 1), centres[used])
    cell = _nearest_centre(units, centres, threads)
    order = np.argsort(cell, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=count))])
    return _Cells(order, units[order], offsets, centres)


def _nearest_centre(rows: np.ndarray, centres: np.ndarray, threads: int | None) -> np.ndarray:
    blocks = row_blocks(len(rows), len(centres))
    return np.concatenate(map_blocks(lambda b: (rows[b] @ centres.T).argmax(axis=1), blocks, threads=threads))


def _probes_needed(
    cells: _Cells, k: int, aim: float, generator: np.random.Generator, threads: int | None
) -> int:
    rows = generator.choice(len(cells.rows), size=min(RECALL_ROWS, len(cells.rows)), replace=False)
    ranking = np.argsort(-(cells.rows[rows] @ cells.centres.T), axis=1, kind="stable")
    rank = np.argsort(ranking, axis=1, kind="stable")
    neighbours = exact_sample(cells.rows, rows, k, threads=threads)
    needed = np.sort(np.take_along_axis(rank, cells.cell[neighbours], axis=1), axis=None)
    return int(needed[int(np.ceil(aim * len(needed))) - 1]) + 1


def _nearest_cells(cells: _Cells, probes: int, threads: int | None) -> UInt[np.ndarray, "sample probe"]:
    def nearest(block: slice) -> np.ndarray:
        distance = -(cells.rows[block] @ cells.centres.T)
        some = np.argpartition(distance, probes - 1, axis=1)[:, :probes]
        order = np.argsort(np.take_along_axis(distance, some, axis=1), axis=1, kind="stable")
        # 16 bits sort by radix, and sqrt(n) cells fit for any n < 4e9.
        return np.take_along_axis(some, order, axis=1).astype(np.uint16)

    blocks = row_blocks(len(cells.rows), len(cells.centres))
    return np.concatenate(map_blocks(nearest, blocks, threads=threads))


def _search_round(
    cells: _Cells, nearest: np.ndarray, best: np.ndarray, which: np.ndarray, threads: int | None
) -> None:
    """Compare each row with the members of its cells in ``nearest``; keep the k best so far in place."""
    flat = np.argsort(nearest, axis=None, kind="stable")
    bounds = np.searchsorted(nearest.ravel()[flat], np.arange(len(cells.centres) + 1))
    queries = (flat // nearest.shape[1]).astype(np.int32)
    floor = best.min(axis=1)

    def hits(cell: int) -> Hits:
        return _hits(cells, cell, queries[bounds[cell] : bounds[cell + 1]], floor, best.shape[1])

    found = map_blocks(hits, range(len(cells.centres)), threads=threads)
    keep_best(best, which, found, threads=threads)


def _hits(cells: _Cells, cell: int, queries: np.ndarray, floor: np.ndarray, k: int) -> Hits:
    """(query, member, cosine) of pairs that beat the query's k-th best so far, at most k a query."""
    low, high = cells.offsets[cell], cells.offsets[cell + 1]
    none = np.empty(0, dtype=np.int32)
    parts = [(none, none, np.empty(0, dtype=np.float32))]
    for block in row_blocks(len(queries), int(high - low), entries=1_000_000):
        query = queries[block]
        cosine = cells.rows[query] @ cells.rows[low:high].T
        inside = np.flatnonzero((query >= low) & (query < high))
        cosine[inside, query[inside] - low] = -np.inf
        row, column = beating(cosine, floor[query], k)
        parts.append((query[row], (column + low).astype(np.int32), cosine[row, column]))
    query, member, cosine = joined(parts)
    return query, member, cosine
