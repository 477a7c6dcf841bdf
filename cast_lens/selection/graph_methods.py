"""Selectors on the similarity graph: cast, vote-k in both forms, and IDEAL."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .diversity import CoverageDiscount, DiversityMeasure, Farthest, GraphFacility
from .influence import cascade_influence, diffusion_influence
from .problem import Problem
from .search import Steps, first_best, greedy, lazy_greedy

# vote-k's published k = 150 of a pool of 3,000 samples (arXiv 2209.01975).
VOTE_K = 150
VOTE_POOL_SHARE = 20


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
    return diffusion_influence(
        problem.graph, steps=settings.steps, decay=settings.decay, weights=settings.weights
    )


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
    a remaining choice, and each bucket gives the sample with the most votes. As in the released code of arXiv
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
            "confidence is needed by this method: give one number a sample (higher is more confident), for "
            "vote-k-two-phase also a function from the indices chosen so far to such numbers"
        )
    values = np.asarray(given(np.array(steps.indices)) if callable(given) else given, dtype=np.float64)
    if values.shape != (len(problem),) or not np.isfinite(values).all():
        raise ValueError(
            f"confidence must be {len(problem)} finite numbers, one a sample, got shape {values.shape}"
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
    from .cascade import LiveEdges

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
