"""What every selector is given: the samples in their space, and the pieces that it may ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .graph import Search, SimilarityGraph, graph_of_units
from .result import SelectionParameters
from .search import Steps
from .spaces import count_duplicates

Confidence = (
    Float[np.ndarray, " sample"] | Callable[[Int[np.ndarray, " chosen"]], Float[np.ndarray, " sample"]] | None
)


@dataclass(slots=True, eq=False)
class Problem:
    """A checked selection problem.

    Attributes:
        space: [sample, d_space], finite.
        units: mean-centred rows of length 1; empty for methods that never compare samples.
        located: which rows have a direction.
        budget: samples to choose, 1 ... n.
        seed: of everything random.
        parameters: settings.
        search: resolved way to find neighbours.
        differences: [sample, d_model], for ``parallel``.
        confidence: of the model in each sample, or a function of the samples chosen so far.
        given: a graph built before, to be cut to the k that a method needs.
        graph: the graph that the method used, once it has asked for one.
        influence: [sample], once the method has computed it.
    """

    space: Float[np.ndarray, "sample d_space"]
    units: Float[np.ndarray, "sample d_units"]
    located: Bool[np.ndarray, " sample"]
    budget: int
    seed: int
    parameters: SelectionParameters
    search: Search
    differences: Float[np.ndarray, "sample d_model"] | None = None
    confidence: Confidence = None
    given: SimilarityGraph | None = None
    graph: SimilarityGraph | None = None
    influence: Float[np.ndarray, " sample"] | None = None

    def __len__(self) -> int:
        return len(self.space)

    @property
    def generator(self) -> np.random.Generator:
        """A fresh generator of the seed."""
        return np.random.default_rng(self.seed)

    def steps(self) -> Steps:
        """An empty record of choices."""
        return Steps(len(self), self.budget)

    def neighbours(self, k: int) -> SimilarityGraph:
        """The graph of the k nearest, from the one given or built now."""
        if self.given is not None:
            self.graph = self.given.nearest(k)
        else:
            self.graph = graph_of_units(
                self.units,
                self.located,
                k=k,
                search=self.search,
                recall=self.parameters.recall,
                seed=self.seed,
                threads=self.parameters.threads,
                duplicates=count_duplicates(self.space),
            )
        return self.graph
