"""How far a sample's influence reaches in the similarity graph."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

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


def cascade_influence(graph: SimilarityGraph, *, cascades: int, seed: int) -> Float[np.ndarray, " sample"]:
    """Expected number of samples that a cascade started at each sample activates, itself included.

    Source: IDEAL, arXiv 2310.10873, with the cascades shared between samples.
    """
    from .cascade import LiveEdges

    edges = LiveEdges.sample(graph, cascades=cascades, seed=seed)
    return edges.gains(np.arange(len(graph))) / cascades
