"""``select(space, budget, method=...) -> Selection``, and every method that it may use.

Methods work on the similarity graph, by geometry of the space, or by rankings; two are baselines. Each takes a
``Problem`` and returns the ``Steps`` of its choices; its docstring gives its recipe, its source and what its scores
mean.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import euclidean_distances

from .graph import (
    LiveEdges,
    Search,
    SimilarityGraph,
    cascade_influence,
    diffusion_influence,
    graph_of_units,
    resolved_search,
)
from .greedy import (
    CoverageDiscount,
    DiversityMeasure,
    Farthest,
    GraphFacility,
    Steps,
    first_best,
    greedy,
    lazy_greedy,
    ranked,
)
from .result import Selection, SelectionParameters
from .spaces import as_rows, count_duplicates, map_blocks, name_rows, row_blocks, single_threaded, unit_rows

# vote-k's published k = 150 of a pool of 3,000 samples (arXiv 2209.01975).
VOTE_K = 150
VOTE_POOL_SHARE = 20
# Lloyd's algorithm on a few thousand samples settles within some tens of rounds.
LLOYD_ROUNDS = 100


Confidence = Float[np.ndarray, " sample"] | Callable[[Int[np.ndarray, " chosen"]], Float[np.ndarray, " sample"]] | None


@dataclass(slots=True, eq=False)
class Problem:
    """A checked selection problem.

    Attributes:
        space: [sample, d_space], finite.
        units: mean-centred rows of length 1; empty for methods that never compare samples.
        located: which rows have a direction.
        budget: samples to choose, 1 ... n.
        seed: seed of everything random.
        parameters: settings.
        search: resolved way to find neighbours.
        differences: [sample, d_model], for ``parallel``.
        confidence: confidence of the model in each sample, or a function of the samples chosen so far.
        given: a graph built before, to be cut to the k that a method needs.
        graph: the graph that the method used, once it has asked for one.
        influence: [sample], once the method has computed it.
    """

    space: Float[np.ndarray, "sample d_space"]
    units: Float[np.ndarray, "sample d_units"]
    located: Bool[np.ndarray, " sample"]
    budget: int
    seed: int
    parameters: SelectionParameters
    search: Search
    differences: Float[np.ndarray, "sample d_model"] | None = None
    confidence: Confidence = None
    given: SimilarityGraph | None = None
    graph: SimilarityGraph | None = None
    influence: Float[np.ndarray, " sample"] | None = None

    def __len__(self) -> int:
        return len(self.space)

    @property
    def generator(self) -> np.random.Generator:
        """A fresh generator of the seed."""
        return np.random.default_rng(self.seed)

    def steps(self) -> Steps:
        """An empty record of choices."""
        return Steps(len(self), self.budget)

    def neighbours(self, k: int) -> SimilarityGraph:
        """The graph of the k nearest, from the one given or built now."""
        if self.given is not None:
            self.graph = self.given.nearest(k)
        else:
            self.graph = graph_of_units(
                self.units,
                self.located,
                k=k,
                search=self.search,
                recall=self.parameters.recall,
                seed=self.seed,
                threads=self.parameters.threads,
                duplicates=count_duplicates(self.space),
            )
        return self.graph


def cast(problem: Problem) -> Steps:
    """Greedy on influence and diversity, ``alpha`` between them (cast-style; arXiv 2507.13236 step 1)."""
    return _trade_off(problem, problem.parameters.alpha)


def influence_only(problem: Problem) -> Steps:
    """``cast`` with ``alpha`` = 1: the most influential samples, however alike."""
    return _trade_off(problem, 1.0)


def diversity_only(problem: Problem) -> Steps:
    """``cast`` with ``alpha`` = 0: cover the graph, however peripheral the samples."""
    return _trade_off(problem, 0.0)


def _trade_off(problem: Problem, alpha: float) -> Steps:
    settings, steps = problem.parameters, problem.steps()
    problem.neighbours(settings.k)
    problem.influence = _influence(problem)
    measure = _diversity(problem)
    greedy(steps, problem.influence, measure, alpha=alpha, scaling=settings.scaling, rescale=settings.rescale)
    return steps


def _influence(problem: Problem) -> Float[np.ndarray, " sample"]:
    settings = problem.parameters
    assert problem.graph is not None
    if settings.influence == "cascade":
        return cascade_influence(problem.graph, cascades=settings.cascades, seed=problem.seed)
    return diffusion_influence(problem.graph, steps=settings.steps, decay=settings.decay, weights=settings.weights)


def _diversity(problem: Problem) -> DiversityMeasure:
    settings = problem.parameters
    assert problem.graph is not None
    if settings.diversity == "farthest":
        return Farthest(problem.units)
    if settings.diversity == "facility":
        return GraphFacility(problem.graph)
    return CoverageDiscount(problem.graph, settings.gamma)


def vote_k(problem: Problem) -> Steps:
    """Fast vote-k: samples that many vote for, votes divided by ρ for each choice already voted for.

    ``score(u) = sum over voters v of u, not chosen, of rho^-(number of chosen samples that v votes for)``.
    Source: arXiv 2209.01975 and its released code. Where that code breaks ties by the order in which samples
    were first voted for, ties here go to the lower index.
    """
    steps = problem.steps()
    _vote(steps, _votes(problem), problem.budget)
    return steps


def _votes(problem: Problem) -> CoverageDiscount:
    settings = problem.parameters
    k = settings.vote_k or min(VOTE_K, max(1, len(problem) // VOTE_POOL_SHARE))
    return CoverageDiscount(problem.neighbours(k), 1 / settings.vote_rho, own=False, retire=True)


def _vote(steps: Steps, votes: CoverageDiscount, count: int) -> None:
    while len(steps.indices) < count:
        sample = first_best(votes.gain, steps.taken)
        steps.choose(sample, votes.gain, votes.gain)
        votes.choose(sample)


def vote_k_two_phase(problem: Problem) -> Steps:
    """Vote-k in two phases: a tenth of the budget by votes, the rest spread over the model's confidence.

    The rest of the pool is sorted from least to most confident, its first nine tenths are cut into one bucket
    per remaining choice, and each bucket gives the sample with the most votes. As in the released code of arXiv
    2209.01975, the votes of chosen samples stop counting in this phase but nothing is discounted any further;
    a bucket without a free sample gives none, and what is then missing is drawn at random.

    Raises:
        ValueError: when ``confidence`` is missing, of the wrong length or not finite.
    """
    steps, votes = problem.steps(), _votes(problem)
    _vote(steps, votes, max(1, int(problem.parameters.vote_share * problem.budget)))
    missing = problem.budget - len(steps.indices)
    if missing:
        confidence = confidence_of(problem, steps)
        order = np.argsort(np.where(steps.taken, np.inf, confidence), kind="stable")
        width = max(1, int(0.9 * len(problem) / missing))
        for start in range(0, len(problem), width):
            bucket = order[start : start + width]
            bucket = bucket[~steps.taken[bucket]]
            if len(steps.indices) < problem.budget and len(bucket):
                sample = int(bucket[first_best(votes.gain[bucket], np.zeros(len(bucket), dtype=bool))])
                among = np.full(len(problem), np.nan)
                among[bucket] = votes.gain[bucket]
                steps.choose(sample, among, among)
                votes.retire(sample)
    free = np.flatnonzero(~steps.taken)
    for sample in problem.generator.choice(free, problem.budget - len(steps.indices), replace=False):
        steps.choose(int(sample), np.full(len(problem), np.nan))
    return steps


def confidence_of(problem: Problem, steps: Steps) -> Float[np.ndarray, " sample"]:
    """The model's confidence in each sample, asked for now when it depends on the samples chosen so far.

    Raises:
        ValueError: when it is missing, of the wrong length or not finite.
    """
    given = problem.confidence
    if given is None:
        raise ValueError(
            "confidence is needed by this method: give one number per sample (higher is more confident), for "
            "vote-k-two-phase also a function from the indices chosen so far to such numbers"
        )
    values = np.asarray(given(np.array(steps.indices)) if callable(given) else given, dtype=np.float64)
    if values.shape != (len(problem),) or not np.isfinite(values).all():
        raise ValueError(
            f"confidence must be {len(problem)} finite numbers, one per sample, got shape {values.shape}"
            + (f" with NaN or infinity at {np.flatnonzero(~np.isfinite(values))[:8]}" if values.ndim else "")
        )
    return values


def ideal(problem: Problem) -> Steps:
    """IDEAL: greedy on the expected spread of an independent cascade, live edges shared, re-scoring lazy.

    Source: arXiv 2310.10873. An edge activates with the share of its source's similarity that it carries; the
    first pick is the first sample with the most neighbours unless ``ideal_start="greedy"``. Scores are
    marginal gains in samples. The released code counts a sample once for each neighbour that activates it in
    the same wave; here, as in the paper, it counts once.
    """
    settings, steps = problem.parameters, problem.steps()
    graph = problem.neighbours(settings.k)
    edges = LiveEdges.sample(graph, cascades=settings.cascades, seed=problem.seed)
    spread = edges.gains(np.arange(len(problem))) / settings.cascades
    problem.influence = spread
    if settings.ideal_start == "out-degree":
        first = int(np.diff(graph.offsets).argmax())
        steps.choose(first, spread)
        edges.choose(first)
    lazy_greedy(steps, spread, lambda batch: edges.gains(batch) / settings.cascades, edges.choose)
    return steps


def facility_location(problem: Problem) -> Steps:
    """Facility location over all pairs: samples that the whole pool finds similar to at least one of them.

    ``gain(v | S) = sum over u of max(0, cos(u, v) - max over s in S of cos(u, s))``, the maximum of no sample
    being -1; as ``mfl`` in the code of arXiv 2209.01975. Submodular, so re-scored lazily; the first scores
    take a product of all pairs, in blocks.
    """
    units, threads = problem.units, problem.parameters.threads
    served = np.full(len(units), -1.0)

    def gains(candidates: np.ndarray) -> np.ndarray:
        def gain(block: slice) -> np.ndarray:
            cosine = units[candidates[block]] @ units.T
            return np.maximum(cosine - served, 0.0).sum(axis=1, dtype=np.float64)

        blocks = row_blocks(len(candidates), len(units), entries=1_000_000)
        return np.concatenate(map_blocks(gain, blocks, threads=threads))

    def choose(sample: int) -> None:
        np.maximum(served, units @ units[sample], out=served)

    steps = problem.steps()
    lazy_greedy(steps, gains(np.arange(len(units))), gains, choose)
    return steps


def farthest_point(problem: Problem) -> Steps:
    """Farthest point (k-centre greedy): always the sample farthest from those chosen; random start.

    Source: Gonzalez 1985; as core-sets in arXiv 1708.00489.
    """
    steps, nearest = problem.steps(), np.full(len(problem), -np.inf)
    distance = np.full(len(problem), np.nan)
    sample = int(problem.generator.integers(len(problem)))
    while True:
        steps.choose(sample, distance, distance)
        if len(steps.indices) == problem.budget:
            return steps
        nearest = np.maximum(nearest, (problem.units @ problem.units[sample]).astype(np.float64))
        distance = 1.0 - nearest
        sample = first_best(distance, steps.taken, unit=1.0)


def least_similar(problem: Problem) -> Steps:
    """Always the sample with the smallest summed cosine to those chosen; random start.

    The baseline called *diversity* in the code of arXiv 2209.01975. Scores are negated sums.
    """
    steps, total = problem.steps(), np.zeros(problem.units.shape[1])
    unlike = np.full(len(problem), np.nan)
    sample = int(problem.generator.integers(len(problem)))
    while True:
        steps.choose(sample, unlike, unlike)
        if len(steps.indices) == problem.budget:
            return steps
        total = total + problem.units[sample]
        unlike = -(problem.units @ total)
        sample = first_best(unlike, steps.taken, unit=1.0)


def k_means(problem: Problem) -> Steps:
    """The sample nearest to each centre of k-means with as many clusters as the budget, largest cluster first.

    scikit-learn's Lloyd on the mean-centred unit rows, from a k-means++ start of the seed, until no row changes its
    cluster. A centre takes the nearest sample that no larger cluster took. Scores are the distance to the centre,
    negated.
    """
    units = problem.units.astype(np.float64)
    clusters = KMeans(problem.budget, init=_first_centres(units, problem), n_init=1, max_iter=LLOYD_ROUNDS, tol=0)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: the centres that are left over coincide with rows that are taken.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = clusters.fit_predict(units)
    steps, sizes = problem.steps(), np.bincount(labels, minlength=problem.budget)
    for centre in clusters.cluster_centers_[np.argsort(-sizes, kind="stable")]:
        closeness = -euclidean_distances(units, centre[None])[:, 0]
        steps.choose(first_best(closeness, steps.taken, unit=1.0), closeness)
    return steps


def _first_centres(units: Float[np.ndarray, "sample d_units"], problem: Problem) -> Float[np.ndarray, "centre d_units"]:
    """k-means++ by the problem's own generator; copies of chosen rows are taken only where nothing else is left."""
    generator = problem.generator
    chosen, nearest = [int(generator.integers(len(units)))], np.full(len(units), np.inf)
    while len(chosen) < problem.budget:
        nearest = np.minimum(nearest, euclidean_distances(units, units[chosen[-1:]], squared=True)[:, 0])
        nearest[chosen[-1]] = 0.0
        share = nearest if nearest.any() else ~np.isin(np.arange(len(units)), chosen)
        chosen.append(int(generator.choice(len(units), p=share / share.sum())))
    return units[chosen]


def parallel(problem: Problem) -> Steps:
    """The samples whose difference vector is most parallel to the mean difference vector.

    Raises:
        ValueError: when ``differences`` is missing, does not fit the space, holds a zero row, or averages to
            zero.
    """
    rows = problem.differences
    if rows is None:
        raise ValueError("differences is needed by method='parallel': give DifferenceVectors.at(layer)")
    if len(rows) != len(problem):
        raise ValueError(f"differences has {len(rows)} rows, the space has {len(problem)}; give one per sample")
    rows = rows.astype(np.float64)
    mean, length = rows.mean(axis=0), np.linalg.norm(rows, axis=1)
    if not length.all():
        raise ValueError(f"differences: {name_rows(length == 0)} zero; a zero difference is parallel to nothing")
    if np.linalg.norm(mean) < 1e-12 * length.max():  # what float64 leaves of a mean that cancels
        raise ValueError("differences average to zero, which is parallel to nothing")
    cosine = np.einsum("nd,d->n", rows, mean / np.linalg.norm(mean)) / length
    steps = problem.steps()
    steps.take_ranked(ranked(np.round(cosine, 10), problem.budget), cosine)
    return steps


def confident(problem: Problem) -> Steps:
    """The samples that the model is most confident in.

    Raises:
        ValueError: when ``confidence`` is missing, of the wrong length or not finite.
    """
    steps = problem.steps()
    values = confidence_of(problem, steps)
    steps.take_ranked(ranked(values, problem.budget), values)
    return steps


def random(problem: Problem) -> Steps:
    """Samples drawn without replacement; a smaller budget gives the first of a larger one's."""
    steps = problem.steps()
    order = problem.generator.permutation(len(problem))[: problem.budget]
    steps.take_ranked(order, np.full(len(problem), np.nan))
    return steps


def everything(problem: Problem) -> Steps:
    """All samples, in their order."""
    steps = problem.steps()
    steps.take_ranked(np.arange(len(problem)), np.full(len(problem), np.nan))
    return steps


METHODS: dict[str, Callable[[Problem], Steps]] = {
    "cast": cast,
    "influence": influence_only,
    "diversity": diversity_only,
    "vote-k": vote_k,
    "vote-k-two-phase": vote_k_two_phase,
    "ideal": ideal,
    "facility-location": facility_location,
    "farthest-point": farthest_point,
    "least-similar": least_similar,
    "k-means": k_means,
    "parallel": parallel,
    "confident": confident,
    "random": random,
    "all": everything,
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

    Exact duplicates are ordinary samples of cosine 1 to each other: both may be chosen, at a
    discount. In a disconnected graph influence stays inside each part, while diversity spreads over all. A
    sample at the mean of the pool is similar to none. With fewer than k + 1 samples each has all others as
    neighbours. The same arguments give the same indices for any number of threads.

    Args:
        space: [sample, d_space], any array or tensor of real numbers, not centred; see ``space_from_residuals``
            and ``space_from_texts``.
        budget: samples to choose, 1 ... n; ignored, and may be None, for ``all``.
        method: a key of ``METHODS``.
        seed: seed of everything random, 0 or more.
        parameters: settings; the defaults when None.
        differences: [sample, d_model], the difference vectors at one layer, for ``parallel``.
        confidence: of the model in each sample, for ``confident`` and ``vote-k-two-phase``, or for the latter
            a function from the indices chosen in its first phase to it.
        graph: a graph of this space built before (``similarity_graph``), to spare building it again.

    Raises:
        ValueError: for an unknown method, a bad budget or seed, a space with NaN, infinite or zero rows (named)
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
