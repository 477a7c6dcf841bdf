"""Selectors that need no graph: geometry of the space, rankings, and the two baselines."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .blocks import map_blocks, row_blocks
from .graph_methods import confidence_of
from .problem import Problem
from .search import Steps, first_best, lazy_greedy, ranked
from .spaces import name_rows

# Lloyd's algorithm on a few thousand samples settles within some tens of rounds.
LLOYD_ROUNDS = 100


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
    """The sample nearest to each centre of k-means with as many clusters as the budget, largest first.

    k-means++ start from the seed, then Lloyd's algorithm on the mean-centred unit rows until no row changes
    its cluster (at most 100 rounds). A cluster that loses its rows keeps its centre. A centre takes the
    nearest sample that no larger cluster took. Scores are the distance to the centre, negated.
    """
    units, threads = problem.units, problem.parameters.threads
    centres = _first_centres(units, problem.budget, problem.generator)
    cluster = _nearest_centre(units, centres, threads)
    for _ in range(LLOYD_ROUNDS):
        count = np.bincount(cluster, minlength=len(centres))
        used = np.flatnonzero(count)
        order = np.argsort(cluster, kind="stable")
        starts = np.searchsorted(cluster[order], used)
        centres[used] = np.add.reduceat(units[order], starts, axis=0, dtype=np.float64) / count[used, None]
        before, cluster = cluster, _nearest_centre(units, centres, threads)
        if np.array_equal(before, cluster):
            break
    steps = problem.steps()
    for centre in centres[np.argsort(-np.bincount(cluster, minlength=len(centres)), kind="stable")]:
        closeness = -np.sqrt(np.maximum(_squared_distance(units, centre[None])[:, 0], 0.0))
        steps.choose(first_best(closeness, steps.taken, unit=1.0), closeness)
    return steps


def _squared_distance(units: np.ndarray, centres: np.ndarray) -> np.ndarray:
    lengths = np.einsum("nd,nd->n", units, units)[:, None]
    return lengths - 2 * (units @ centres.T) + np.einsum("cd,cd->c", centres, centres)


def _nearest_centre(units: np.ndarray, centres: np.ndarray, threads: int | None) -> np.ndarray:
    def nearest(block: slice) -> np.ndarray:
        return _squared_distance(units[block], centres).argmin(axis=1)

    return np.concatenate(map_blocks(nearest, row_blocks(len(units), len(centres)), threads=threads))


def _first_centres(units: np.ndarray, count: int, generator: np.random.Generator) -> Float[np.ndarray, "c d"]:
    chosen = [int(generator.integers(len(units)))]
    nearest = np.full(len(units), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.maximum(_squared_distance(units, units[chosen[-1:]])[:, 0], 0.0))
        nearest[chosen[-1]] = 0.0
        total = nearest.sum(dtype=np.float64)
        free = np.setdiff1d(np.arange(len(units)), chosen)
        share = nearest / total if total > 0 else np.isin(np.arange(len(units)), free) / len(free)
        chosen.append(
            int(generator.choice(len(units), p=share.astype(np.float64) / share.sum(dtype=np.float64)))
        )
    return units[chosen].copy()


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
        raise ValueError(f"differences has {len(rows)} rows, the space has {len(problem)}; give one a sample")
    rows = rows.astype(np.float64)
    mean, length = rows.mean(axis=0), np.linalg.norm(rows, axis=1)
    if not length.all():
        raise ValueError(
            f"differences: {name_rows(length == 0)} zero; a zero difference is parallel to nothing"
        )
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
