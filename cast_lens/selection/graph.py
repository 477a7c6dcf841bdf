"""The similarity graph over source samples: a directed edge from each sample to its k nearest.

Edges carry the mean-centred cosine. Weights are made from them on demand: clipped cosines, shares of a
sample's votes, or shares read backwards.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .blocks import one_blas_thread
from .cells import cell_neighbours
from .neighbours import exact_neighbours, measured_recall, pynndescent_neighbours
from .spaces import as_rows, count_duplicates, unit_rows

if TYPE_CHECKING:
    import pandas as pd

Weights = Literal["cosine", "row", "in"]
WEIGHTS: tuple[Weights, ...] = ("cosine", "row", "in")
Search = Literal["auto", "exact", "cells", "pynndescent"]
SEARCHES: tuple[Search, ...] = ("auto", "exact", "cells", "pynndescent")

# Exact float64 search of 20,000 x 384 takes seconds and grows with n².
EXACT_UP_TO = 20_000


@dataclass(frozen=True, slots=True)
class GraphSummary:
    """What a reader must know of the graph behind a selection.

    Attributes:
        samples: nodes.
        edges: directed edges.
        k: neighbours a sample; below ``k_asked`` when there are too few samples.
        k_asked: neighbours asked for.
        search: how neighbours were found: ``exact``, ``cells`` or ``pynndescent``.
        recall: share of true neighbours found, measured on a sample of rows; 1 for an exact search.
        components: weakly connected parts. More than one is no error: influence stays inside a part.
        isolated: samples without a direction (they lie on the mean), which have no edges.
        duplicates: samples that repeat an earlier one exactly; they are neighbours of cosine 1.
        largest_in_degree: votes of the most popular sample.
        mean_cosine: over edges.
    """

    samples: int
    edges: int
    k: int
    k_asked: int
    search: str
    recall: float
    components: int
    isolated: int
    duplicates: int
    largest_in_degree: int
    mean_cosine: float


@dataclass(frozen=True, slots=True, eq=False)
class SimilarityGraph:
    """Directed k-nearest-neighbour graph, stored by source sample.

    Sample ``i`` points to ``indices[offsets[i]:offsets[i + 1]]``, nearest first.

    Attributes:
        offsets: [sample + 1].
        indices: [edge], the sample pointed to.
        cosine: [edge], mean-centred cosine, in -1 ... 1.
        k: neighbours a sample; samples on the mean have none.
        k_asked, search, recall, duplicates: see ``GraphSummary``.
    """

    offsets: Int[np.ndarray, " boundary"]
    indices: Int[np.ndarray, " edge"]
    cosine: Float[np.ndarray, " edge"]
    k: int
    k_asked: int
    search: str
    recall: float
    duplicates: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sources(self) -> Int[np.ndarray, " edge"]:
        """The sample that each edge starts from."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def in_degree(self) -> Int[np.ndarray, " sample"]:
        """How many samples count each sample among their nearest."""
        return np.bincount(self.indices, minlength=len(self))

    def nearest(self, k: int) -> SimilarityGraph:
        """The graph of the k nearest only.

        Raises:
            ValueError: when the graph was built with fewer.
        """
        if k > self.k_asked:
            raise ValueError(
                f"graph holds the {self.k_asked} nearest, {k} were asked for; build it with k={k}"
            )
        if k >= self.k:
            return SimilarityGraph(
                self.offsets, self.indices, self.cosine, self.k, k, self.search, self.recall, self.duplicates
            )
        position = np.arange(len(self.indices)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))
        kept = position < k
        offsets = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.offsets), k))])
        return SimilarityGraph(
            offsets, self.indices[kept], self.cosine[kept], k, k, self.search, self.recall, self.duplicates
        )

    def matrix(self, weights: Weights) -> csr_array:
        """The sparse matrix that influence spreads along; negative cosines count as 0.

        - ``cosine``: ``W[i, j] = max(cos_ij, 0)`` for each edge i → j;
        - ``row``: the same, each row divided by its sum: the share of i's vote that goes to j;
        - ``in``: ``row`` transposed: a sample reaches those that vote for it, by their share.
        """
        weight = np.maximum(self.cosine, 0.0)
        if weights != "cosine":
            total = np.bincount(self.sources, weights=weight, minlength=len(self))[self.sources]
            weight = np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)
        matrix = csr_array((weight, self.indices, self.offsets), shape=(len(self), len(self)))
        return matrix.T.tocsr() if weights == "in" else matrix

    def summary(self) -> GraphSummary:
        """The numbers to report with a selection."""
        shape = (len(self), len(self))
        linked = csr_array(
            (np.ones(len(self.indices), dtype=np.int8), self.indices, self.offsets), shape=shape
        )
        components, _ = connected_components(linked, directed=True, connection="weak")
        return GraphSummary(
            samples=len(self),
            edges=len(self.indices),
            k=self.k,
            k_asked=self.k_asked,
            search=self.search,
            recall=self.recall,
            components=int(components),
            isolated=int((np.diff(self.offsets) == 0).sum()),
            duplicates=self.duplicates,
            largest_in_degree=int(self.in_degree.max(initial=0)),
            mean_cosine=float(self.cosine.mean()) if len(self.cosine) else float("nan"),
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an edge: ``source, target, cosine``."""
        import pandas as pd

        return pd.DataFrame({"source": self.sources, "target": self.indices, "cosine": self.cosine})


def similarity_graph(
    space: Num[Any, "sample d_model"],
    *,
    k: int = 10,
    search: Search = "auto",
    recall: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
) -> SimilarityGraph:
    """Connect each sample to its k nearest by mean-centred cosine.

    With fewer than k + 1 samples every other sample is a neighbour, and the graph's ``k`` says so. Exact
    duplicates are neighbours like any others. Samples on the mean are isolated.

    Args:
        space: [sample, d_model]; see ``cast_lens.selection.spaces``.
        k: neighbours a sample.
        search: ``exact``; ``cells`` or ``pynndescent`` (approximate); ``auto``: exact up to 20,000 samples, cells
            above. Cells keep the recall asked for and, where the samples do not cluster, pay for it with time
            that grows with n²; pynndescent keeps its time and loses recall.
        recall: share of true neighbours wanted of an approximate search; a lower measured one warns.
        seed: of an approximate search.
        threads: over blocks of rows; the result does not depend on it.

    Raises:
        ValueError: on a bad space (see ``as_rows`` and ``unit_rows``), k below 1, or an unknown search.
    """
    rows = as_rows("space", space)
    if k < 1:
        raise ValueError(f"k={k} must be at least 1 neighbour")
    if search not in SEARCHES:
        raise ValueError(f"search={search!r} is unknown; choose one of {', '.join(SEARCHES)}")
    with one_blas_thread():
        method = resolved_search(search, len(rows))
        units, located = unit_rows(rows, np.float64 if method == "exact" else np.float32)
        return graph_of_units(
            units,
            located,
            k=k,
            search=method,
            recall=recall,
            seed=seed,
            threads=threads,
            duplicates=count_duplicates(rows),
        )


def resolved_search(search: Search, samples: int) -> Search:
    """What ``auto`` stands for at this number of samples."""
    if search != "auto":
        return search
    return "exact" if samples <= EXACT_UP_TO else "cells"


def graph_of_units(
    units: Float[np.ndarray, "sample d_model"],
    located: Bool[np.ndarray, " sample"],
    *,
    k: int,
    search: Search,
    recall: float,
    seed: int,
    threads: int | None,
    duplicates: int,
) -> SimilarityGraph:
    """``similarity_graph`` of rows that ``unit_rows`` has made."""
    live = np.flatnonzero(located)
    rows = units if len(live) == len(units) else units[live]
    width = min(k, len(live) - 1)
    if width < 1:
        nothing = np.zeros(len(units) + 1, dtype=np.int64)
        return SimilarityGraph(nothing, nothing[:0], np.empty(0), 0, k, "exact", 1.0, duplicates)
    achieved = 1.0
    if search == "exact":
        indices, cosine = exact_neighbours(rows, width, threads=threads)
    elif search == "cells":
        indices, cosine = cell_neighbours(rows, width, recall=recall, seed=seed, threads=threads)
    else:
        indices, cosine = pynndescent_neighbours(rows, width, seed=seed)
    if search != "exact":
        generator = np.random.default_rng([seed, 2])
        achieved = measured_recall(rows, cosine, generator=generator, threads=threads)
        _warn_if_low(achieved, recall, search)
    offsets = np.concatenate([[0], np.cumsum(np.where(located, width, 0))])
    return SimilarityGraph(
        offsets, live[indices.ravel()], cosine.ravel(), width, k, search, achieved, duplicates
    )


def _warn_if_low(achieved: float, wanted: float, search: Search) -> None:
    if achieved < wanted:
        warnings.warn(
            f"the approximate graph (search={search!r}) found {achieved:.1%} of the true neighbours, not "
            f"{wanted:.0%}; search='exact' finds all of them, in time that grows with n²",
            UserWarning,
            stacklevel=4,
        )
