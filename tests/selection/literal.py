"""Slow transcriptions of the published recipes, one loop per sum, to hold the fast selectors to.

They share with the package only what a recipe leaves open and the package documents: ties go to the lower
index, and random draws come from ``numpy.random.default_rng(seed)`` in the order of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Edges = list[list[int]]
TIE = 1e-9


def cosines(space: np.ndarray) -> list[list[float]]:
    rows = [[float(x) for x in row] for row in space]
    width = len(rows[0])
    mean = [sum(row[c] for row in rows) / len(rows) for c in range(width)]
    rows = [[row[c] - mean[c] for c in range(width)] for row in rows]
    length = [sum(x * x for x in row) ** 0.5 for row in rows]
    return [
        [sum(a * b for a, b in zip(u, v, strict=True)) / (length[i] * length[j]) for j, v in enumerate(rows)]
        for i, u in enumerate(rows)
    ]


def nearest(cos: list[list[float]], k: int) -> Edges:
    others = [[j for j in range(len(cos)) if j != i] for i in range(len(cos))]
    return [sorted(others[i], key=lambda j: (-round(cos[i][j], 10), j))[:k] for i in range(len(cos))]


def best(scores: dict[int, float]) -> int:
    top = max(scores.values())
    return min(i for i, score in scores.items() if score >= top - TIE * abs(top))


def scale(values: dict[int, float], among: Sequence[int], how: str) -> dict[int, float]:
    if how == "none":
        return values
    low = min(values[i] for i in among) if how == "minmax" else 0.0
    high = max(values[i] for i in among)
    return {i: (value - low) / (high - low) if high > low else 0.0 for i, value in values.items()}


def weights(cos: list[list[float]], edges: Edges, how: str) -> np.ndarray:
    dense = np.zeros((len(cos), len(cos)))
    for i, targets in enumerate(edges):
        for j in targets:
            dense[i, j] = max(cos[i][j], 0.0)
        if how != "cosine" and dense[i].sum() > 0:
            dense[i] /= dense[i].sum()
    return dense.T if how == "in" else dense


def diffusion(matrix: np.ndarray, steps: int, decay: float) -> dict[int, float]:
    influence = {}
    for v in range(len(matrix)):
        mass = np.eye(len(matrix))[v]
        influence[v] = 0.0
        for t in range(1, steps + 1):
            mass = mass @ matrix
            influence[v] += decay**t * mass.sum()
    return influence


def discount(edges: Edges, gamma: float) -> Callable[[int, list[int]], float]:
    def gain(v: int, chosen: list[int]) -> float:
        counted = [u for u in range(len(edges)) if v in edges[u] or u == v]
        return sum(gamma ** sum(s in edges[u] for s in chosen) for u in counted)

    return gain


def graph_facility(cos: list[list[float]], edges: Edges) -> Callable[[int, list[int]], float]:
    def weight(u: int, v: int) -> float:
        return 1.0 if u == v else max(cos[u][v], 0.0) if v in edges[u] else 0.0

    def gain(v: int, chosen: list[int]) -> float:
        served = [max((weight(u, s) for s in chosen), default=0.0) for u in range(len(edges))]
        return sum(max(0.0, weight(u, v) - served[u]) for u in range(len(edges)))

    return gain


def farthest(cos: list[list[float]]) -> Callable[[int, list[int]], float]:
    return lambda v, chosen: 1 - max(cos[v][s] for s in chosen) if chosen else 1.0


def cast(
    influence: dict[int, float],
    gain: Callable[[int, list[int]], float],
    budget: int,
    *,
    alpha: float,
    scaling: str,
    rescale: str,
) -> list[int]:
    everyone = list(influence)
    reach = scale(influence, everyone, scaling)
    start = {v: gain(v, []) for v in everyone}
    chosen: list[int] = []
    while len(chosen) < budget:
        free = [v for v in everyone if v not in chosen]
        spread = {v: gain(v, chosen) for v in free}
        if rescale == "step":
            spread = scale(spread, free, scaling)
        elif scaling != "none":
            low = min(start.values()) if scaling == "minmax" else 0.0
            span = max(start.values()) - low or 1.0
            spread = {v: (value - low) / span for v, value in spread.items()}
        chosen.append(best({v: alpha * reach[v] + (1 - alpha) * spread[v] for v in free}))
    return chosen


def votes(edges: Edges, u: int, chosen: list[int], counted: list[int], rho: float) -> float:
    """Score of u; ``counted`` are the choices that discount a vote."""
    voters = [v for v in range(len(edges)) if u in edges[v] and v not in chosen]
    return sum(rho ** -sum(s in edges[v] for s in counted) for v in voters)


def vote_k(edges: Edges, budget: int, rho: float) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < budget:
        free = [u for u in range(len(edges)) if u not in chosen]
        chosen.append(best({u: votes(edges, u, chosen, chosen, rho) for u in free}))
    return chosen


def vote_k_two_phase(
    edges: Edges,
    budget: int,
    rho: float,
    confidence: Callable[[list[int]], Sequence[float]],
    *,
    first_phase: int,
    seed: int,
) -> list[int]:
    chosen = vote_k(edges, first_phase, rho)
    first = list(chosen)
    if len(chosen) < budget:
        given = confidence(first)
        order = sorted(range(len(edges)), key=lambda i: float("inf") if i in first else given[i])
        width = max(1, int(0.9 * len(edges) / (budget - len(chosen))))
        for start in range(0, len(edges), width):
            bucket = [u for u in order[start : start + width] if u not in chosen]
            if bucket and len(chosen) < budget:
                place = best({p: votes(edges, u, chosen, first, rho) for p, u in enumerate(bucket)})
                chosen.append(bucket[place])
    free = [i for i in range(len(edges)) if i not in chosen]
    missing = np.random.default_rng(seed).choice(free, budget - len(chosen), replace=False)
    return chosen + [int(i) for i in missing]


def live_edges(probability: np.ndarray, edges: Edges, cascades: int, seed: int) -> list[Edges]:
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(cascades):
        draws = iter(generator.random(sum(len(targets) for targets in edges)))
        drawn.append([[j for j in targets if next(draws) < probability[i, j]] for i, targets in enumerate(edges)])
    return drawn


def activated(live: Edges, chosen: Sequence[int]) -> set[int]:
    active, wave = set(chosen), list(chosen)
    while wave:
        wave = sorted({j for i in wave for j in live[i]} - active)
        active |= set(wave)
    return active


def spread(drawn: list[Edges], chosen: Sequence[int]) -> float:
    return sum(len(activated(live, chosen)) for live in drawn) / len(drawn)


def simulated_cascade(probability: np.ndarray, chosen: Sequence[int], generator: np.random.Generator) -> int:
    """The independent cascade as its definition runs it: each newly active sample tries each edge once."""
    active, wave = set(chosen), list(chosen)
    while wave:
        new = []
        for i in wave:
            for j in np.flatnonzero(probability[i]):
                if int(j) not in active and generator.random() < probability[i, j]:
                    active.add(int(j))
                    new.append(int(j))
        wave = new
    return len(active)


def ideal(edges: Edges, drawn: list[Edges], budget: int, *, start: str) -> list[int]:
    longest = max(len(targets) for targets in edges)
    chosen = [next(i for i in range(len(edges)) if len(edges[i]) == longest)] if start == "out-degree" else []
    while len(chosen) < budget:
        now = spread(drawn, chosen) if chosen else 0.0
        free = [v for v in range(len(edges)) if v not in chosen]
        chosen.append(best({v: spread(drawn, [*chosen, v]) - now for v in free}))
    return chosen


def facility_location(cos: list[list[float]], budget: int) -> list[int]:
    chosen: list[int] = []
    served = [-1.0] * len(cos)
    while len(chosen) < budget:
        free = [v for v in range(len(cos)) if v not in chosen]
        gain = {v: sum(max(0.0, cos[v][u] - served[u]) for u in range(len(cos))) for v in free}
        chosen.append(best(gain))
        served = [max(served[u], cos[chosen[-1]][u]) for u in range(len(cos))]
    return chosen


def farthest_point(cos: list[list[float]], budget: int, seed: int) -> list[int]:
    chosen = [int(np.random.default_rng(seed).integers(len(cos)))]
    while len(chosen) < budget:
        free = [v for v in range(len(cos)) if v not in chosen]
        chosen.append(best({v: 1 - max(cos[v][s] for s in chosen) for v in free}))
    return chosen


def least_similar(cos: list[list[float]], budget: int, seed: int) -> list[int]:
    chosen = [int(np.random.default_rng(seed).integers(len(cos)))]
    while len(chosen) < budget:
        free = [v for v in range(len(cos)) if v not in chosen]
        chosen.append(best({v: -sum(cos[v][s] for s in chosen) for v in free}))
    return chosen


def k_means(space: np.ndarray, budget: int, seed: int) -> list[int]:
    centred = space - space.mean(axis=0)
    rows = [row / np.linalg.norm(row) for row in centred]
    generator = np.random.default_rng(seed)
    centres = [rows[int(generator.integers(len(rows)))]]
    while len(centres) < budget:
        gap = np.array([min(float(((row - c) ** 2).sum()) for c in centres) for row in rows])
        gap[gap < 1e-12] = 0.0
        centres.append(rows[int(generator.choice(len(rows), p=gap / gap.sum()))])
    before = None
    for _ in range(100):
        cluster = [int(np.argmin([((row - c) ** 2).sum() for c in centres])) for row in rows]
        if cluster == before:
            break
        before = cluster
        for c in range(budget):
            members = [row for row, own in zip(rows, cluster, strict=True) if own == c]
            centres[c] = np.mean(members, axis=0) if members else centres[c]
    chosen: list[int] = []
    for c in sorted(range(budget), key=lambda c: -cluster.count(c)):
        free = [i for i in range(len(rows)) if i not in chosen]
        chosen.append(best({i: -float(np.linalg.norm(rows[i] - centres[c])) for i in free}))
    return chosen


def parallel(differences: np.ndarray, budget: int) -> list[int]:
    mean = differences.mean(axis=0)
    cos = [float(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean)) for row in differences]
    return sorted(range(len(cos)), key=lambda i: -cos[i])[:budget]
