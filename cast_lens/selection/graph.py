"""The similarity graph over source samples (an edge from each sample to its k nearest), and influence in it.

Edges carry the mean-centred cosine. Weights are made from them on demand: clipped cosines, shares of a
sample's votes, or shares read backwards.

Influence spreads along the edges by diffusion or by the independent cascade. A cascade tries each edge at most once, so
its outcome is a walk over the edges whose try would succeed (Kempe, Kleinberg and Tardos 2003). Drawing those *live*
edges once per simulation lets every candidate set be scored on the same simulations: a marginal gain is the number of
samples reachable from the candidate and from nothing chosen before, an integer without noise between candidates. Cycles
are condensed first, so that each walk visits a component once; the walks are the only compiled code of the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, no_type_check

import numba
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Num
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from .spaces import as_rows, count_duplicates, map_blocks, row_blocks, single_threaded, unit_rows

Weights = Literal["cosine", "row", "in"]
WEIGHTS: tuple[Weights, ...] = ("cosine", "row", "in")
Search = Literal["auto", "exact", "pynndescent"]
SEARCHES: tuple[Search, ...] = ("auto", "exact", "pynndescent")

# Exact search grows with n²; see ``similarity_graph`` for what both cost.
EXACT_UP_TO = 100_000
# Cosines of unit float64 rows agree to about 1e-15; anything closer than this is a tie, won by the lower index.
TIE = 1e-10
TIE_DECIMALS = 10
# How many float32 cosines an exact search keeps at once (32 MiB).
EXACT_ENTRIES = 2**23
# Candidates per row beyond k that are ranked in float64.
SPARE = 16
# Larger than the error of a float32 cosine of unit rows, which is 5e-7 at 10,000 dimensions.
ROUNDING = 1e-5
# 300 rows x k = 10 neighbours put the standard error of a recall of 0.95 near 0.005.
RECALL_ROWS = 300


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """Properties of the graph behind a selection, for reports.

    Attributes:
        samples: number of nodes.
        edges: number of directed edges.
        k: neighbours per sample; below ``k_asked`` if there are too few samples.
        k_asked: the requested number of neighbours.
        search: how neighbours were found: ``exact`` or ``pynndescent``.
        recall: share of true neighbours found, measured on a sample of rows; 1 for an exact search.
        components: number of weakly connected parts. With several parts, influence stays inside each part.
        isolated: number of samples at the mean, which have no direction and no edges.
        duplicates: number of samples that repeat an earlier one exactly; they are neighbours with cosine 1.
        largest_in_degree: votes of the most popular sample.
        mean_cosine: mean cosine over edges.
    """

    samples: int
    edges: int
    k: int
    k_asked: int
    search: str
    recall: float
    components: int
    isolated: int
    duplicates: int
    largest_in_degree: int
    mean_cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityGraph:
    """Directed k-nearest-neighbour graph, stored by source sample.

    Sample ``i`` points to ``indices[offsets[i]:offsets[i + 1]]``, nearest first.

    Attributes:
        offsets: [sample + 1].
        indices: [edge], the sample pointed to.
        cosine: [edge], mean-centred cosine, in -1 ... 1.
        k: neighbours per sample; samples at the mean have none.
        k_asked, search, recall, duplicates: see ``GraphSummary``.
    """

    offsets: Int[np.ndarray, " boundary"]
    indices: Int[np.ndarray, " edge"]
    cosine: Float[np.ndarray, " edge"]
    k: int
    k_asked: int
    search: str
    recall: float
    duplicates: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sources(self) -> Int[np.ndarray, " edge"]:
        """The sample that each edge starts from."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def in_degree(self) -> Int[np.ndarray, " sample"]:
        """How many samples count each sample among their nearest."""
        return np.bincount(self.indices, minlength=len(self))

    def nearest(self, k: int) -> SimilarityGraph:
        """The graph of the k nearest only.

        Raises:
            ValueError: when the graph was built with fewer.
        """
        if k > self.k_asked:
            raise ValueError(f"graph holds the {self.k_asked} nearest, {k} were asked for; build it with k={k}")
        if k >= self.k:
            return replace(self, k_asked=k)
        position = np.arange(len(self.indices)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        kept = position < k
        offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.offsets), k))])
        return replace(self, offsets=offsets, indices=self.indices[kept], cosine=self.cosine[kept], k=k, k_asked=k)

    def matrix(self, weights: Weights) -> csr_array:
        """The sparse matrix that influence spreads along; negative cosines count as 0.

        - ``cosine``: ``W[i, j] = max(cos_ij, 0)`` for each edge i → j;
        - ``row``: the same, each row divided by its sum: the share of i's vote that goes to j;
        - ``in``: ``row`` transposed: a sample reaches those that vote for it, by their share.
        """
        weight = np.maximum(self.cosine, 0.0)
        if weights != "cosine":
            total = np.bincount(self.sources, weights=weight, minlength=len(self))[self.sources]
            weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        matrix = csr_array((weight, self.indices, self.offsets), shape=(len(self), len(self)))
        return matrix.T.tocsr() if weights == "in" else matrix

    def summary(self) -> GraphSummary:
        """The numbers to report with a selection."""
        shape = (len(self), len(self))
        linked = csr_array((np.ones(len(self.indices), dtype=np.int8), self.indices, self.offsets), shape=shape)
        components, _ = connected_components(linked, directed=True, connection="weak")
        return GraphSummary(
            samples=len(self),
            edges=len(self.indices),
            k=self.k,
            k_asked=self.k_asked,
            search=self.search,
            recall=self.recall,
            components=int(components),
            isolated=int((np.diff(self.offsets) == 0).sum()),
            duplicates=self.duplicates,
            largest_in_degree=int(self.in_degree.max(initial=0)),
            mean_cosine=float(self.cosine.mean()) if len(self.cosine) else float("nan"),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per edge: ``source, target, cosine``."""
        return pd.DataFrame({"source": self.sources, "target": self.indices, "cosine": self.cosine})


def similarity_graph(
    space: Num[Any, "sample d_model"],
    *,
    k: int = 10,
    search: Search = "auto",
    recall: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> SimilarityGraph:
    """Connect each sample to its k nearest by mean-centred cosine.

    Cost for rows of 384 dimensions and k = 10: an exact search took 9 processor seconds for 20,000 rows and 63 for
    50,000, and grows with n²; pynndescent took 90 for 50,000 rows, compilation included, and found 96 % of the
    neighbours where rows cluster but only 6 % of them in plain Gaussian noise, which it warns of.

    With fewer than k + 1 samples every other sample is a neighbour, and the graph's ``k`` says so. Exact
    duplicates are neighbours like any others. Samples at the mean are isolated.

    Args:
        space: [sample, d_model]; see ``cast_lens.selection.spaces``.
        k: neighbours per sample.
        search: ``exact``, ``pynndescent`` (approximate), or ``auto``: exact up to 100,000 samples, pynndescent above.
        recall: share of true neighbours wanted of an approximate search; a lower measured one warns.
        seed: seed of an approximate search.
        threads: over blocks of rows; the result does not depend on it.

    Raises:
        ValueError: for a bad space (see ``as_rows`` and ``unit_rows``), k below 1, or an unknown search.
    """
    rows = as_rows("space", space)
    if k < 1:
        raise ValueError(f"k={k} must be at least 1 neighbour")
    if search not in SEARCHES:
        raise ValueError(f"search={search!r} is unknown; choose one of {', '.join(SEARCHES)}")
    with single_threaded():
        method = resolved_search(search, len(rows))
        units, located = unit_rows(rows, np.float64 if method == "exact" else np.float32)
        return graph_of_units(
            units,
            located,
            k=k,
            search=method,
            recall=recall,
            seed=seed,
            threads=threads,
            duplicates=count_duplicates(rows),
        )


def resolved_search(search: Search, samples: int) -> Search:
    """The search that ``auto`` selects for this number of samples."""
    if search != "auto":
        return search
    return "exact" if samples <= EXACT_UP_TO else "pynndescent"


def graph_of_units(
    units: Float[np.ndarray, "sample d_model"],
    located: Bool[np.ndarray, " sample"],
    *,
    k: int,
    search: Search,
    recall: float,
    seed: int,
    threads: int | None,
    duplicates: int,
) -> SimilarityGraph:
    """``similarity_graph`` of rows that ``unit_rows`` has normalised."""
    live = np.flatnonzero(located)
    rows = units if len(live) == len(units) else units[live]
    width = min(k, len(live) - 1)
    if width < 1:
        nothing = np.zeros(len(units) + 1, dtype=np.int64)
        return SimilarityGraph(nothing, nothing[:0], np.empty(0), 0, k, "exact", 1.0, duplicates)
    achieved = 1.0
    if search == "exact":
        indices, cosine = exact_neighbours(rows, width, threads=threads)
    else:
        indices, cosine = pynndescent_neighbours(rows, width, seed=seed)
        achieved = measured_recall(rows, cosine, generator=np.random.default_rng([seed, 2]))
        _warn_if_low(achieved, recall, search)
    offsets = np.concatenate([[0], np.cumsum(np.where(located, width, 0))])
    return SimilarityGraph(offsets, live[indices.ravel()], cosine.ravel(), width, k, search, achieved, duplicates)


def _warn_if_low(achieved: float, wanted: float, search: Search) -> None:
    if achieved < wanted:
        warnings.warn(
            f"the approximate graph (search={search!r}) found {achieved:.1%} of the true neighbours, not "
            f"{wanted:.0%}; search='exact' finds all of them, in time that grows with n²",
            UserWarning,
            stacklevel=4,
        )


def exact_neighbours(
    units: Float[np.ndarray, "sample d_model"], k: int, *, threads: int | None = None
) -> tuple[Int[np.ndarray, "sample k"], Float[np.ndarray, "sample k"]]:
    """The k nearest rows of each row, itself excluded, nearest first; ties go to the lower index.

    Blocks of rows are multiplied in float32, which leaves ``k + SPARE`` candidates per row; these are ranked by their
    cosines in float64. A row whose excluded samples might be as near as the k-th is compared with all rows in float64.
    There is never an n x n matrix in memory.

    Args:
        units: float64 rows of length 1.
        k: 1 ... n - 1.
        threads: over blocks; the neighbours do not depend on it.

    Returns:
        indices and cosines (rounded to 10 decimals, so that equal angles compare equal).
    """
    single = units.astype(np.float32)
    blocks = row_blocks(len(units), len(units), entries=EXACT_ENTRIES)
    found = map_blocks(lambda block: _nearest_of_block(units, single, block, k), blocks, threads=threads)
    indices, cosine = zip(*found, strict=True)
    return np.concatenate(indices), np.concatenate(cosine)


def _nearest_of_block(
    units: Float[np.ndarray, "sample d_model"], single: Float[np.ndarray, "sample d_model"], block: slice, k: int
) -> tuple[Int[np.ndarray, "row k"], Float[np.ndarray, "row k"]]:
    near = single[block] @ single.T
    rows = np.arange(len(near))
    near[rows, rows + block.start] = -np.inf
    width = min(k + SPARE, len(units) - 1)
    candidates = np.sort(np.argpartition(near, len(units) - width, axis=1)[:, -width:], axis=1)
    places, cosine = _nearest(np.einsum("rd,rcd->rc", units[block], units[candidates]), k)
    indices = np.take_along_axis(candidates, places, axis=1)
    least = np.take_along_axis(near, candidates, axis=1).min(axis=1)
    crowded = np.flatnonzero(least > cosine[:, -1] - ROUNDING) if width < len(units) - 1 else rows[:0]
    for part in row_blocks(len(crowded), len(units), entries=EXACT_ENTRIES):
        some = crowded[part]
        whole = units[some + block.start] @ units.T
        whole[np.arange(len(some)), some + block.start] = -np.inf
        indices[some], cosine[some] = _nearest(whole, k)
    return indices, cosine


def _nearest(
    cosine: Float[np.ndarray, "row candidate"], k: int
) -> tuple[Int[np.ndarray, "row k"], Float[np.ndarray, "row k"]]:
    """Places of the k largest of each row, largest first, and their values; of equal ones the first."""
    candidates = cosine.shape[1]
    kth = np.partition(cosine, candidates - k, axis=1)[:, candidates - k, None]
    above = cosine > kth + TIE
    level = (cosine >= kth - TIE) & ~above
    room = k - above.sum(axis=1, keepdims=True)
    crowded = np.flatnonzero(level.sum(axis=1) > room[:, 0])
    level[crowded] &= level[crowded].cumsum(axis=1) <= room[crowded]
    places = np.nonzero(above | level)[1].reshape(len(cosine), k)
    chosen = np.round(np.take_along_axis(cosine, places, axis=1), TIE_DECIMALS)
    order = np.argsort(-chosen, axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1), np.take_along_axis(chosen, order, axis=1)


def pynndescent_neighbours(
    units: Float[np.ndarray, "sample d_model"], k: int, *, seed: int
) -> tuple[Int[np.ndarray, "sample k"], Float[np.ndarray, "sample k"]]:
    """Approximate neighbours by nearest-neighbour descent (the package pynndescent).

    One thread: its result changes with the number of threads, whatever the seed.

    Args:
        units: float32 rows of length 1.
        k: neighbours per row.
        seed: seed of the random forest and the descent.
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


def measured_recall(
    units: Float[np.ndarray, "sample d_model"], cosine: Float[np.ndarray, "sample k"], *, generator: np.random.Generator
) -> float:
    """Share of found neighbours that are as near as the true k-th nearest, over a random sample of rows."""
    samples, k = cosine.shape
    rows = generator.choice(samples, size=min(RECALL_ROWS, samples), replace=False)
    true = units[rows] @ units.T
    true[np.arange(len(rows)), rows] = -np.inf
    kth = np.partition(true, samples - k, axis=1)[:, samples - k, None]
    # float32 cosines of the same pair differ by about 1e-7 between summation orders.
    return float((cosine[rows] >= kth - 1e-6).mean())


@dataclass(frozen=True, slots=True, eq=False)
class Adjacency:
    """Edges of a graph by source and by target.

    Attributes:
        out_offsets, targets: sample ``i`` points to ``targets[out_offsets[i]:out_offsets[i + 1]]``.
        in_offsets, sources: sample ``i`` is pointed to by ``sources[in_offsets[i]:in_offsets[i + 1]]``,
            increasing.
        in_edges: the edge, counted by source, behind each entry of ``sources``.
    """

    out_offsets: Int[np.ndarray, " boundary"]
    targets: Int[np.ndarray, " edge"]
    in_offsets: Int[np.ndarray, " boundary"]
    sources: Int[np.ndarray, " edge"]
    in_edges: Int[np.ndarray, " edge"]

    @classmethod
    def of(cls, graph: SimilarityGraph) -> Adjacency:
        """Both directions of a graph."""
        in_edges = np.argsort(graph.indices, kind="stable")
        in_offsets = np.concatenate([[0], np.cumsum(graph.in_degree)])
        return cls(graph.offsets, graph.indices, in_offsets, graph.sources[in_edges], in_edges)

    def pointing_to(self, samples: Int[np.ndarray, " row"]) -> Int[np.ndarray, " found"]:
        """The samples with an edge to any of these, each edge once."""
        return self.sources[spans(self.in_offsets, samples)[0]]

    def pointed_to_by(self, samples: Int[np.ndarray, " row"]) -> Int[np.ndarray, " found"]:
        """The samples that any of these has an edge to, each edge once."""
        return self.targets[spans(self.out_offsets, samples)[0]]


def spans(
    offsets: Int[np.ndarray, " boundary"], rows: Int[np.ndarray, " row"]
) -> tuple[Int[np.ndarray, " entry"], Int[np.ndarray, " entry"]]:
    """Positions of all entries of some rows of a compressed matrix, and the place in ``rows`` of each."""
    count = offsets[rows + 1] - offsets[rows]
    place = np.repeat(np.arange(len(rows)), count)
    return np.arange(len(place)) + np.repeat(offsets[rows] - np.cumsum(count) + count, count), place


def diffusion_influence(
    graph: SimilarityGraph, *, steps: int, decay: float, weights: Weights = "cosine"
) -> Float[np.ndarray, " sample"]:
    """Decayed diffusion: how much a unit started at each sample amounts to over the next ``steps`` steps.

    ``Inf(v) = sum over t = 1 ... T of decay^t * sum over u of (e_v W^t)_u``, which for all v at once is T
    products of the sparse matrix with a vector. Samples inside dense clusters score high. With ``row``
    weights each step keeps the whole unit, so that every sample has the same influence.

    Source: our reading of arXiv 2507.13236 (step 1), whose equation is not published.
    """
    matrix = graph.matrix(weights)
    reached, influence = np.ones(len(graph)), np.zeros(len(graph))
    for step in range(1, steps + 1):
        reached = matrix @ reached
        influence += decay**step * reached
    return influence


def cascade_influence(graph: SimilarityGraph, *, cascades: int, seed: int = 0) -> Float[np.ndarray, " sample"]:
    """Expected number of samples that a cascade started at each sample activates, itself included.

    Source: IDEAL, arXiv 2310.10873, with the cascades shared between samples.
    """
    edges = LiveEdges.sample(graph, cascades=cascades, seed=seed)
    return edges.gains(np.arange(len(graph))) / cascades


@dataclass(slots=True, eq=False)
class LiveEdges:
    """Simulated cascades as acyclic graphs of strongly connected components, stacked into one.

    Attributes:
        component: [cascade, sample]: the component of a sample in each cascade.
        offsets, successors: component ``c`` leads to ``successors[offsets[c]:offsets[c + 1]]``.
        sizes: [component], samples in it.
        covered: [component]: reached from what was chosen; changed by ``choose``.
    """

    component: Int[np.ndarray, "cascade sample"]
    offsets: Int[np.ndarray, " boundary"]
    successors: Int[np.ndarray, " edge"]
    sizes: Int[np.ndarray, " component"]
    covered: Bool[np.ndarray, " component"] = field(repr=False)

    @classmethod
    def sample(cls, graph: SimilarityGraph, *, cascades: int, seed: int) -> LiveEdges:
        """Draw the live edges of each cascade: edge i → j lives with the share of i's vote that goes to j."""
        probability = graph.matrix("row").data
        generator = np.random.default_rng(seed)
        parts, start = [], 0
        for _ in range(cascades):
            live = generator.random(len(probability)) < probability
            parts.append(_condense(graph.sources[live], graph.indices[live], len(graph), start))
            start += len(parts[-1][1])
        component = np.stack([labels for labels, _, _, _ in parts])
        sizes = np.concatenate([size for _, size, _, _ in parts])
        tails = np.concatenate([tail for _, _, tail, _ in parts])
        heads = np.concatenate([head for _, _, _, head in parts])
        links = csr_array(coo_array((np.ones(len(tails), dtype=np.int8), (tails, heads)), shape=(start, start)))
        offsets, successors = links.indptr.astype(np.int64), links.indices.astype(np.int64)
        return cls(component, offsets, successors, sizes, np.zeros(start, dtype=bool))

    def gains(self, candidates: Int[np.ndarray, " candidate"]) -> Int[np.ndarray, " candidate"]:
        """Samples that each candidate would newly activate, summed over cascades."""
        wanted, place = np.unique(self.component[:, candidates], return_inverse=True)
        sizes = reachable_sizes(wanted, self.offsets, self.successors, self.sizes, self.covered)
        return sizes[place.reshape(len(self.component), -1)].sum(axis=0)

    def choose(self, sample: int) -> None:
        """Cover all that a sample activates."""
        cover(self.component[:, sample], self.offsets, self.successors, self.covered)


def _condense(
    tails: np.ndarray, heads: np.ndarray, samples: int, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    links = csr_array((np.ones(len(tails), dtype=np.int8), (tails, heads)), shape=(samples, samples))
    count, labels = connected_components(links, directed=True, connection="strong")
    between = labels[tails] != labels[heads]
    sizes = np.bincount(labels, minlength=count)
    return (labels.astype(np.int64) + start, sizes, labels[tails][between] + start, labels[heads][between] + start)


def expected_spread(graph: SimilarityGraph, chosen: Sequence[int], *, cascades: int, seed: int) -> tuple[float, float]:
    """Mean number of samples that a chosen set activates, over fresh cascades, and its standard error.

    The objective of IDEAL (arXiv 2310.10873); use another seed than that of the choice, which fits its own
    cascades.

    Raises:
        ValueError: when fewer than two cascades leave no standard error.
    """
    if cascades < 2:
        raise ValueError(f"cascades={cascades} must be at least 2 to have a standard error")
    edges = LiveEdges.sample(graph, cascades=cascades, seed=seed)
    for sample in chosen:
        edges.choose(int(sample))
    reached = np.add.reduceat(edges.sizes * edges.covered, edges.component.min(axis=1))
    return float(reached.mean()), float(reached.std(ddof=1) / cascades**0.5)


# no_type_check keeps jaxtyping's import hook from wrapping what numba compiles.
@numba.njit(cache=True)
@no_type_check
def _walk(start, offsets, successors, covered, seen, stamp, stack):
    """Put the uncovered nodes reachable from ``start`` on the stack, marked; return how many."""
    if covered[start] or seen[start] == stamp:
        return 0
    seen[start] = stamp
    stack[0] = start
    filled, done = 1, 0
    while done < filled:
        node = stack[done]
        done += 1
        for edge in range(offsets[node], offsets[node + 1]):
            target = successors[edge]
            if seen[target] != stamp and not covered[target]:
                seen[target] = stamp
                stack[filled] = target
                filled += 1
    return filled


@numba.njit(cache=True)
@no_type_check
def reachable_sizes(starts, offsets, successors, sizes, covered):
    """Summed size of the uncovered nodes reachable from each start."""
    seen = np.full(len(sizes), -1, dtype=np.int64)
    stack = np.empty(len(sizes), dtype=np.int64)
    totals = np.zeros(len(starts), dtype=np.int64)
    for place in range(len(starts)):
        for found in range(_walk(starts[place], offsets, successors, covered, seen, place, stack)):
            totals[place] += sizes[stack[found]]
    return totals


@numba.njit(cache=True)
@no_type_check
def cover(starts, offsets, successors, covered):
    """Mark everything reachable from the starts as covered, in place."""
    seen = np.full(len(covered), -1, dtype=np.int64)
    stack = np.empty(len(covered), dtype=np.int64)
    for place in range(len(starts)):
        for found in range(_walk(starts[place], offsets, successors, covered, seen, place, stack)):
            covered[stack[found]] = True
