"""The independent cascade by live edges, shared between all candidates.

A cascade tries each edge at most once, so its outcome is a walk over the edges whose try would succeed
(Kempe, Kleinberg and Tardos 2003). Drawing those *live* edges once per simulation lets every candidate set be
scored on the same simulations: a marginal gain is the number of samples reachable from the candidate and from
nothing chosen before, an integer without noise between candidates. Cycles are condensed first, so that each
walk visits a component once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from .graph import SimilarityGraph
from .reachability import cover, reachable_sizes


@dataclass(slots=True, eq=False)
class LiveEdges:
    """Simulated cascades as acyclic graphs of strongly connected components, stacked into one.

    Attributes:
        component: [cascade, sample]: where a sample lies in each cascade.
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
        links = csr_array(
            coo_array((np.ones(len(tails), dtype=np.int8), (tails, heads)), shape=(start, start))
        )
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
    return (
        labels.astype(np.int64) + start,
        sizes,
        labels[tails][between] + start,
        labels[heads][between] + start,
    )


def expected_spread(
    graph: SimilarityGraph, chosen: Sequence[int], *, cascades: int, seed: int
) -> tuple[float, float]:
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
