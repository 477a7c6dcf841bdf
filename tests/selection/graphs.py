"""Graphs drawn by hand, for closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cast_lens.selection import SimilarityGraph


def drawn(targets: Sequence[Sequence[int]], cosines: Sequence[Sequence[float]] | None = None) -> SimilarityGraph:
    """A graph with the given out-edges, of cosine 1 unless said otherwise."""
    cosine = [[1.0] * len(row) for row in targets] if cosines is None else cosines
    return SimilarityGraph(
        offsets=np.concatenate([[0], np.cumsum([len(row) for row in targets])]),
        indices=np.array([j for row in targets for j in row], dtype=np.int64),
        cosine=np.array([c for row in cosine for c in row], dtype=np.float64),
        k=max(len(row) for row in targets),
        k_asked=max(len(row) for row in targets),
        search="exact",
        recall=1.0,
        duplicates=0,
    )
