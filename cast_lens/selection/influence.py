"""How far a sample's influence reaches in the similarity graph: by diffusion, or by the independent cascade.

A cascade tries each edge at most once, so its outcome is a walk over the edges whose try would succeed (Kempe,
Kleinberg and Tardos 2003). Drawing those *live* edges once per simulation lets every candidate set be scored on the
same simulations: a marginal gain is the number of samples reachable from the candidate and from nothing chosen before,
an integer without noise between candidates. Cycles are condensed first, so that each walk visits a component once; the
walks are the only compiled code of the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from .graph import SimilarityGraph, Weights


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
