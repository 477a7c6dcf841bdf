"""Greedy search, and what a sample would still add to those already chosen.

Each measure of diversity keeps the gain of every sample and, when one is chosen, recomputes only the gains that it
changes: sums are taken afresh and never updated by differences, so that equal gains stay equal however many
samples were chosen before. The search is exact at every step, or lazy where a gain can only shrink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from .graph import Adjacency, SimilarityGraph, spans
from .result import KEPT_CANDIDATES, KEPT_SCORES, Rescaling, Scaling, Trace


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


# Sums of the same terms in another order differ by about 1e-15 of their size; closer scores than this are
# tied.
TIE = 1e-9
# Gains re-scored at once by the lazy search: enough to fill a matrix product, few enough to waste little.
LAZY_BATCH = 32


@dataclass(slots=True, eq=False)
class Steps:
    """The choices made so far, with the scores behind each; a search appends to it."""

    samples: int
    budget: int
    taken: Bool[np.ndarray, " sample"] = field(init=False)
    indices: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    diversity: list[float] = field(default_factory=list)
    _rows: list[tuple[np.ndarray | None, np.ndarray, np.ndarray]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taken = np.zeros(self.samples, dtype=bool)

    def choose(
        self, sample: int, combined: Float[np.ndarray, " sample"], diversity: Float[np.ndarray, " sample"] | None = None
    ) -> None:
        """Record one choice and all the scores that it was made from."""
        self.note(combined, diversity)
        self.indices.append(int(sample))
        self.scores.append(float(combined[sample]))
        self.diversity.append(float("nan") if diversity is None else float(diversity[sample]))
        self.taken[sample] = True

    def note(
        self, combined: Float[np.ndarray, " sample"], diversity: Float[np.ndarray, " sample"] | None = None
    ) -> None:
        """Record the scores of a step."""
        scored = np.where(self.taken, np.nan, combined).astype(np.float32)
        gains = np.full(self.samples, np.nan) if diversity is None else np.where(self.taken, np.nan, diversity)
        if self.samples * self.budget <= KEPT_SCORES:
            self._rows.append((None, gains.astype(np.float32), scored))
            return
        ranked = np.where(np.isnan(scored), -np.inf, scored)
        best = np.sort(np.argpartition(ranked, -KEPT_CANDIDATES)[-KEPT_CANDIDATES:])
        self._rows.append((best, gains[best].astype(np.float32), scored[best]))

    def take_ranked(self, order: Int[np.ndarray, " chosen"], scores: Float[np.ndarray, " sample"]) -> None:
        """Record samples that one ranking chose together."""
        self.note(scores)
        self.indices += [int(sample) for sample in order]
        self.scores += [float(scores[sample]) for sample in order]
        self.diversity += [float("nan")] * len(order)
        self.taken[order] = True

    def trace(self) -> Trace:
        """The recorded scores as arrays."""
        everyone = np.broadcast_to(np.arange(self.samples), (len(self._rows), self.samples))
        shortened = [best for best, _, _ in self._rows if best is not None]
        return Trace(
            candidates=np.stack(shortened) if shortened else everyone,
            diversity=np.stack([gains for _, gains, _ in self._rows]),
            combined=np.stack([combined for _, _, combined in self._rows]),
        )


def first_best(scores: Float[np.ndarray, " sample"], taken: Bool[np.ndarray, " sample"], *, unit: float = 0.0) -> int:
    """The lowest index among the highest scores of samples that are not taken.

    Args:
        scores: [sample].
        taken: samples that are out.
        unit: size of the terms that scores are sums of, when they can cancel to rounding noise.
    """
    free = np.where(taken, -np.inf, scores)
    best = float(free.max())
    return int(np.argmax(free >= best - TIE * max(unit, abs(best))))


def ranked(scores: Float[np.ndarray, " sample"], count: int) -> Int[np.ndarray, " chosen"]:
    """The ``count`` highest scores, ties by index."""
    return np.argsort(-scores, kind="stable")[:count]


def scaled(
    values: Float[np.ndarray, " sample"], among: Bool[np.ndarray, " sample"], scaling: Scaling
) -> Float[np.ndarray, " sample"]:
    """Values made comparable by their range ``among`` some samples; no range at all gives zeros."""
    if scaling == "none":
        return values
    low = float(values[among].min()) if scaling == "minmax" else 0.0
    span = float(values[among].max()) - low
    return (values - low) / span if span > 0 else np.zeros_like(values)


def greedy(
    steps: Steps,
    influence: Float[np.ndarray, " sample"],
    measure: DiversityMeasure,
    *,
    alpha: float,
    scaling: Scaling,
    rescale: Rescaling,
) -> None:
    """Choose ``argmax alpha * influence + (1 - alpha) * diversity`` until the budget is spent.

    Influence is scaled once over all samples. Diversity is scaled over the samples that are still free at
    each step, or by its scale at the start. All gains are kept up to date, so every step is exact.
    """
    everyone = np.ones(steps.samples, dtype=bool)
    reach = scaled(influence, everyone, scaling)
    start = measure.gain.copy()
    while len(steps.indices) < steps.budget:
        if rescale == "step":
            spread = scaled(measure.gain, ~steps.taken, scaling)
        else:
            spread = _scaled_like(start, measure.gain, scaling)
        combined = alpha * reach + (1 - alpha) * spread
        sample = first_best(combined, steps.taken)
        steps.choose(sample, combined, measure.gain)
        measure.choose(sample)


def _scaled_like(start: np.ndarray, gain: np.ndarray, scaling: Scaling) -> np.ndarray:
    if scaling == "none":
        return gain
    low = float(start.min()) if scaling == "minmax" else 0.0
    span = float(start.max()) - low
    return (gain - low) / span if span > 0 else gain - low


def lazy_greedy(
    steps: Steps,
    bounds: Float[np.ndarray, " sample"],
    gains: Callable[[Int[np.ndarray, " candidate"]], Float[np.ndarray, " candidate"]],
    choose: Callable[[int], None],
) -> None:
    """Greedy search of a submodular objective that re-scores only candidates which could still win (CELF).

    A gain can only shrink as samples are chosen, so an old gain bounds the present one: a candidate whose
    fresh gain beats all bounds is the winner. The choice is the one that full greedy search makes, ties
    included.

    Args:
        steps: where the choices go; may hold some already.
        bounds: [sample], gains of all samples at the start, or upper bounds of them.
        gains: fresh gains of some candidates given all that was chosen.
        choose: called with each choice.
    """
    bounds = bounds.astype(np.float64)
    while len(steps.indices) < steps.budget:
        fresh = np.zeros(steps.samples, dtype=bool)
        while not fresh[leader := first_best(bounds, steps.taken, unit=1.0)]:
            stale = np.where(fresh | steps.taken, -np.inf, bounds)
            batch = ranked_top(stale, LAZY_BATCH)
            batch = np.union1d(batch[np.isfinite(stale[batch])], leader)
            bounds[batch] = gains(batch)
            fresh[batch] = True
        steps.choose(leader, np.where(fresh, bounds, np.nan))
        choose(leader)


def ranked_top(scores: Float[np.ndarray, " sample"], count: int) -> Int[np.ndarray, " chosen"]:
    """The ``count`` highest scores in no order, without sorting all."""
    count = min(count, len(scores))
    return np.argpartition(scores, len(scores) - count)[len(scores) - count :]


# What an item must still add, relative to the most relevant one's own weight; below it the rest is rounding.
_EXHAUSTED = 1e-10


def greedy_dpp(
    units: Float[np.ndarray, "sample d_units"], relevance: Float[np.ndarray, " sample"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Items that are relevant and unlike each other: greedy search for the mode of a determinantal point process.

    The kernel of items with relevance ``r`` and unit embeddings ``x`` is ``L[i, j] = r[i] s[i, j] r[j]`` with
    ``s = (1 + x[i]·x[j]) / 2``. A set's weight is the determinant of its part of ``L``: large where its items are
    relevant and point in different directions. The item that raises it most comes next (arXiv 1709.05135), so the first
    is the most relevant one. Relevance is ``(1 + cosine) / 2`` with the query, as in arXiv 2302.05698, whose trained
    similarity and trade-off are left out.

    Args:
        units: rows of length 1.
        relevance: positive.
        count: items to choose.

    Returns:
        ``count`` indices in the order of the search; ties go to the first. Items that add nothing to those chosen
        (copies of them) come last, by relevance.

    Raises:
        ValueError: a count that the items do not allow, or relevance that is not positive.
    """
    if not 1 <= count <= len(units):
        raise ValueError(f"count={count} must be from 1 to {len(units)}, the number of items")
    if len(relevance) != len(units) or not bool((relevance > 0).all()):
        raise ValueError("relevance must be one positive number per item")
    # Incremental Cholesky: ``left`` is what each item adds to the determinant, ``rows`` its part along the chosen.
    left = relevance**2
    rows = np.zeros((count, len(units)))
    floor, chosen = _EXHAUSTED * float(left.max()), np.zeros(len(units), dtype=bool)
    order: list[int] = []
    for step in range(count):
        open_ = np.where(chosen, -np.inf, left)
        best = int(open_.argmax())
        if not open_[best] > floor:
            best = int(np.where(chosen, -np.inf, relevance).argmax())
            chosen[best] = True
            order.append(best)
            continue
        kernel = relevance[best] * relevance * (1 + units @ units[best]) / 2
        rows[step] = (kernel - rows[:step].T @ rows[:step, best]) / np.sqrt(left[best])
        left = left - rows[step] ** 2
        chosen[best] = True
        order.append(best)
    return np.array(order, dtype=np.int64)
