"""What a sample would still add to those already chosen.

Each measure keeps the gain of every sample and, when one is chosen, recomputes only the gains that it
changes: sums are taken afresh and never updated by differences, so that equal gains stay equal however many
samples were chosen before.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from .graph import Adjacency, SimilarityGraph, spans


@runtime_checkable
class DiversityMeasure(Protocol):
    """Gains of all samples given those chosen so far."""

    gain: Float[np.ndarray, " sample"]

    def choose(self, sample: int) -> None:
        """Count a sample as chosen."""
        ...


class CoverageDiscount:
    """Neighbours count less, the more of their own neighbours are chosen.

    ``Div(v | S) = sum over u in N_in(v) and v itself of gamma^c(u)``, where ``c(u)`` is the number of chosen
    samples that ``u`` points to. With ``own=False, retire=True`` and ``gamma = 1 / rho`` it is the score of
    vote-k (arXiv 2209.01975), in which a sample does not vote for itself and chosen samples do not vote.
    """

    def __init__(self, graph: SimilarityGraph, gamma: float, *, own: bool = True, retire: bool = False) -> None:
        self._adjacency = Adjacency.of(graph)
        self._gamma, self._own, self._retire = gamma, own, retire
        self._covered = np.zeros(len(graph), dtype=np.int64)
        self._weight = np.ones(len(graph))
        self.gain = graph.in_degree + float(own)

    def choose(self, sample: int) -> None:
        """Discount the samples that point to this one (and silence its own vote, where they retire)."""
        voters = self._adjacency.pointing_to(np.array([sample]))
        self._covered[voters] += 1
        voting = voters[self._weight[voters] > 0] if self._retire else voters
        self._weight[voting] = self._gamma ** self._covered[voting]
        self._refresh(voters)
        if self._retire:
            self.retire(sample)

    def retire(self, sample: int) -> None:
        """Silence one sample's vote."""
        self._weight[sample] = 0.0
        self._refresh(np.array([sample]))

    def _refresh(self, changed: Int[np.ndarray, " sample"]) -> None:
        touched = np.unique(np.concatenate([changed, self._adjacency.pointed_to_by(changed)]))
        entry, place = spans(self._adjacency.in_offsets, touched)
        votes = self._weight[self._adjacency.sources[entry]]
        total = np.bincount(place, weights=votes, minlength=len(touched))
        self.gain[touched] = total + self._weight[touched] if self._own else total


class GraphFacility:
    """Facility location on the graph: a sample is served by the nearest chosen one that it points to.

    ``Div(v | S) = sum over u in N_in(v) and v itself of max(0, w(u, v) - max over s in S of w(u, s))``, with
    ``w(u, u) = 1`` and negative cosines counted as 0. Only edges of the graph serve; the method
    ``facility-location`` compares all pairs.
    """

    def __init__(self, graph: SimilarityGraph) -> None:
        self._adjacency = Adjacency.of(graph)
        self._weight = np.maximum(graph.cosine, 0.0)[self._adjacency.in_edges]
        self._served = np.zeros(len(graph))
        self.gain = np.zeros(len(graph))
        self._refresh(np.arange(len(graph)))

    def choose(self, sample: int) -> None:
        """Serve the sample itself and those that point to it."""
        entry, _ = spans(self._adjacency.in_offsets, np.array([sample]))
        voters = self._adjacency.sources[entry]
        self._served[voters] = np.maximum(self._served[voters], self._weight[entry])
        self._served[sample] = 1.0
        changed = np.append(voters, sample)
        self._refresh(np.unique(np.concatenate([changed, self._adjacency.pointed_to_by(changed)])))

    def _refresh(self, touched: Int[np.ndarray, " sample"]) -> None:
        entry, place = spans(self._adjacency.in_offsets, touched)
        extra = np.maximum(self._weight[entry] - self._served[self._adjacency.sources[entry]], 0.0)
        total = np.bincount(place, weights=extra, minlength=len(touched))
        self.gain[touched] = total + np.maximum(1.0 - self._served[touched], 0.0)


class Farthest:
    """Cosine distance to the nearest chosen sample; 1 for every sample while none is chosen."""

    def __init__(self, units: Float[np.ndarray, "sample d_model"]) -> None:
        self._units = units
        self._nearest: Float[np.ndarray, " sample"] | None = None
        self.gain = np.ones(len(units))

    def choose(self, sample: int) -> None:
        """Measure every sample's distance to this one."""
        cosine = (self._units @ self._units[sample]).astype(np.float64)
        self._nearest = cosine if self._nearest is None else np.maximum(self._nearest, cosine)
        distance = 1.0 - self._nearest
        # Scaling would blow up the rounding that is left between copies of a chosen sample.
        self.gain = np.where(distance > 64 * np.finfo(self._units.dtype).eps, distance, 0.0)
