"""What adaptive task vectors could express (arXiv 2506.03426, theorems 1 and 2), on a small frozen transformer.

- ``random_transformer``, ``draw_sequences``: the frozen model, and random tokens with what a vector is written from;
- ``FORMS``: students by name; ``parameter_count``, ``matched_rank``: their sizes;
- ``random_teacher``: a LoRA or prefix at a chosen KL; ``fit_student``: a student fitted to it;
- ``distributions``, ``divergence``: how far two of them are apart.
"""

from .adapters import FORMS, Learned, Unmodified, matched_rank, parameter_count
from .fitting import (
    Effort,
    Fit,
    Sequences,
    distributions,
    divergence,
    draw_sequences,
    fit_student,
    random_teacher,
)
from .frozen import FrozenTransformer, Shape, random_transformer

__all__ = [
    "FORMS",
    "Effort",
    "Fit",
    "FrozenTransformer",
    "Learned",
    "Sequences",
    "Shape",
    "Unmodified",
    "distributions",
    "divergence",
    "draw_sequences",
    "fit_student",
    "matched_rank",
    "parameter_count",
    "random_teacher",
    "random_transformer",
]
