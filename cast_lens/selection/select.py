"""One call for every way to choose source samples: ``select(space, budget, method=...) -> Selection``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Num

from . import selectors
from .graph import SimilarityGraph, resolved_search
from .greedy import Steps
from .result import Selection, SelectionParameters
from .selectors import Confidence, Problem
from .spaces import as_rows, single_threaded, unit_rows

METHODS: dict[str, Callable[[Problem], Steps]] = {
    "cast": selectors.cast,
    "influence": selectors.influence_only,
    "diversity": selectors.diversity_only,
    "vote-k": selectors.vote_k,
    "vote-k-two-phase": selectors.vote_k_two_phase,
    "ideal": selectors.ideal,
    "facility-location": selectors.facility_location,
    "farthest-point": selectors.farthest_point,
    "least-similar": selectors.least_similar,
    "k-means": selectors.k_means,
    "parallel": selectors.parallel,
    "confident": selectors.confident,
    "random": selectors.random,
    "all": selectors.everything,
}
"""Every method by name; each function's docstring gives its recipe, its source and what its scores mean."""

SEEDED = frozenset({"ideal", "farthest-point", "least-similar", "k-means", "random"})
"""Methods that draw from the seed under the default settings.

Others do so with ``influence="cascade"``, a ``vote_share`` above 0.1 (buckets of two-phase vote-k can then be
empty), or an approximate graph.
"""

WITHOUT_SPACE = frozenset({"parallel", "confident", "random", "all"})
"""Methods that never compare samples in the space and so accept one without any structure."""


def select(
    space: Num[Any, "sample d_space"],
    budget: int | None,
    *,
    method: str = "cast",
    seed: int = 0,
    parameters: SelectionParameters | None = None,
    differences: Num[Any, "sample d_model"] | None = None,
    confidence: Confidence = None,
    graph: SimilarityGraph | None = None,
) -> Selection:
    """Choose which source samples to average into a steering vector.

    Exact duplicates are ordinary samples of cosine 1 to each other: one may be chosen beside the other, at a
    discount. In a disconnected graph influence stays inside each part, while diversity spreads over all. A
    sample at the mean of the pool is similar to none. With fewer than k + 1 samples each has all others as
    neighbours. The same arguments give the same indices for any number of threads.

    Args:
        space: [sample, d_space], any array or tensor of real numbers, not centred; see ``space_from_residuals``
            and ``space_from_texts``.
        budget: samples to choose, 1 ... n; ignored, and may be None, for ``all``.
        method: a key of ``METHODS``.
        seed: of everything random, 0 or more.
        parameters: settings; the defaults when None.
        differences: [sample, d_model], the difference vectors at one layer, for ``parallel``.
        confidence: of the model in each sample, for ``confident`` and ``vote-k-two-phase``, or for the latter
            a function from the indices chosen in its first phase to it.
        graph: a graph of this space built before (``similarity_graph``), to spare building it again.

    Raises:
        ValueError: on an unknown method, a bad budget or seed, a space with NaN, infinite or zero rows (named)
            or with identical rows only, a graph of another size, or missing differences or confidence.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
    rows = as_rows("space", space)
    wanted = len(rows) if method == "all" else _checked_budget(budget, len(rows))
    if graph is not None and len(graph) != len(rows):
        raise ValueError(f"graph has {len(graph)} samples, the space has {len(rows)}; build it from this space")
    settings = parameters or SelectionParameters()
    with single_threaded():
        problem = _problem(rows, wanted, method, _checked_seed(seed), settings)
        problem.given, problem.confidence = graph, confidence
        problem.differences = None if differences is None else as_rows("differences", differences)
        steps = METHODS[method](problem)
    return Selection(
        indices=np.array(steps.indices),
        scores=np.array(steps.scores),
        influence=problem.influence,
        diversity=np.array(steps.diversity),
        trace=steps.trace(),
        graph=None if problem.graph is None else problem.graph.summary(),
        method=method,
        budget=wanted,
        seed=problem.seed,
        parameters=settings,
    )


def _problem(rows: np.ndarray, budget: int, method: str, seed: int, settings: SelectionParameters) -> Problem:
    search = resolved_search(settings.search, len(rows))
    if method in WITHOUT_SPACE:
        units, located = np.empty((len(rows), 0)), np.ones(len(rows), dtype=bool)
    else:
        units, located = unit_rows(rows, np.float64 if search == "exact" else np.float32)
    return Problem(rows, units, located, budget, seed, settings, search)


def _checked_budget(budget: Any, samples: int) -> int:
    try:
        wanted = operator.index(budget)
    except TypeError:
        wanted = 0
    if isinstance(budget, bool) or not 1 <= wanted <= samples:
        raise ValueError(
            f"budget={budget!r} must be a whole number from 1 to {samples}, the number of samples; "
            "method='all' takes them all"
        )
    return wanted


def _checked_seed(seed: Any) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
    return number
