"""Geometry of difference vectors: pure functions from ``DifferenceVectors`` to tidy frames, without a model.

- ``parallelism``: cosine between tasks' mean differences, with intervals, noise ceiling and nulls;
- ``alignment``, ``alignment_samples``: cosine of each sample's difference to its own and to other tasks' means;
- ``cohesion``: how well the differences of one task agree, and how well they separate few-shot from zero-shot;
- ``matrix_entropy``, ``entropy_by_layer``: over how many directions the activations spread;
- ``project``, ``project_layers``: the activations in two dimensions (PCA or UMAP), in one joint basis;
- ``arrow_cosines``: how parallel the arrows of such a figure look;
- ``planted_differences``: difference vectors of a known cosine, to see how a figure renders them;
- ``cosine_matrix``: the square of cosines at one layer, optionally clustered, for heat maps.
"""

from .cohesion import alignment, alignment_samples, cohesion, entropy_by_layer, matrix_entropy
from .parallelism import cosine_matrix, parallelism
from .projection import arrow_cosines, planted_differences, project, project_layers

__all__ = [
    "alignment",
    "alignment_samples",
    "arrow_cosines",
    "cohesion",
    "cosine_matrix",
    "entropy_by_layer",
    "matrix_entropy",
    "parallelism",
    "planted_differences",
    "project",
    "project_layers",
]
