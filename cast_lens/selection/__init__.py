"""Selects the source samples to average: similarity graph, influence, diversity, greedy search, and alternatives.

``similarity_graph`` connects samples that the model (or a sentence encoder) represents alike. ``select`` chooses a
budget of samples by any of ``METHODS`` under one protocol, and returns a ``Selection`` with the scores behind each
choice; ``selection_plane`` projects the pool to a plane. The method ``cast`` follows the description of the selection
step in arXiv 2507.13236; where the paper is silent, the fields of ``SelectionParameters`` have our own defaults.
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
