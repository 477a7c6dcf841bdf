"""Which source samples to average: a similarity graph, influence, diversity, greedy search, and every rival.

``similarity_graph`` connects samples that the model (or a sentence encoder) sees as alike. ``select`` then
chooses a budget of them by any of ``METHODS`` under one protocol, and returns a ``Selection`` that keeps the
scores behind each choice; ``selection_plane`` lays the pool out as a map. The method ``cast`` follows what
arXiv 2507.13236 says of its selection step; what it leaves open has our own defaults, each of them a field of
``SelectionParameters``.
"""

from .graph import GraphSummary, SimilarityGraph, cascade_influence, diffusion_influence, similarity_graph
from .greedy import greedy_dpp
from .result import Selection, SelectionParameters, Trace, selection_plane
from .selectors import METHODS, SEEDED, WITHOUT_SPACE, select
from .spaces import space_from_residuals, space_from_texts

__all__ = [
    "METHODS",
    "SEEDED",
    "WITHOUT_SPACE",
    "GraphSummary",
    "Selection",
    "SelectionParameters",
    "SimilarityGraph",
    "Trace",
    "cascade_influence",
    "diffusion_influence",
    "greedy_dpp",
    "select",
    "selection_plane",
    "similarity_graph",
    "space_from_residuals",
    "space_from_texts",
]
