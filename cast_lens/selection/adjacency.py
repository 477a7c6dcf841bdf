"""Walking the similarity graph in both directions, many samples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from .graph import SimilarityGraph


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
