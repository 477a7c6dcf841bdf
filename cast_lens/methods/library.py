"""A library of task vectors, retrieved per query: many tasks' vectors with their best settings in one file.

It follows ELICIT (arXiv 2410.09343), and retrieves task knowledge as JARe does. Each entry has a vector, its best layer
and strength, and a key, which is the mean embedding of queries of its task. For a query

    similarity = cos(key(query) - mean key, key of the entry - mean key)

If the best entry reaches the threshold, the ``k`` nearest are averaged and added at the layer that most of them use;
otherwise nothing is added. Published: 20 tasks with 10 vectors each, strength 2, a retriever trained on pairs, a
threshold at which it recalls 0.8 of the pairs (0.9096), and k = 10, *including* entries below the threshold once one
reaches it (``include_below``, off here). Keys here are the model's own zero-shot residuals at the middle layer, or
those of any encoder (``embed``). Nothing is trained, and the threshold recalls a given share of the library's own
queries.

What this does not show: a library that leaves most queries alone cannot harm them, so report gains together with the
share of queries that were left alone. Its placebo assigns the retrieved vectors to other queries.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..files import load_tensors, save_tensors
from ..interventions import PromptVectors
from ..models.lens import HookedTransformer
from ..tasks import Prompt
from ..vectors import Provenance, SteeringVector
from .conditions import Condition, Setting
from .prompting import Embed, residual_embedding
from .training import check_model

# Share of queries of the library's own tasks that reach the threshold, as published.
RECALL = 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One vector of a library.

    Attributes:
        vector: the vector to add.
        layer, strength: where and how strongly it is added.
        keys: [query, width], embeddings of queries of its task.
    """

    vector: SteeringVector
    layer: int
    strength: float
    keys: Float[Tensor, "query width"]


@dataclass(frozen=True, slots=True, eq=False)
class Retrieval:
    """The vectors that a library retrieved for some queries.

    Attributes:
        directions: [query, layer, d_model], including the strength; zero where nothing is added.
        layers: block index of each entry of the layer axis.
        chosen: names of the averaged entries for each query; empty if the query was left alone.
        similarity: [query, entry].
        fingerprint: fingerprint of the model.
    """

    directions: Float[Tensor, "query layer d_model"]
    layers: tuple[int, ...]
    chosen: tuple[tuple[str, ...], ...]
    similarity: Float[Tensor, "query entry"]
    fingerprint: str

    @property
    def left_alone(self) -> float:
        """Share of the queries to which nothing is added."""
        return sum(not names for names in self.chosen) / len(self.chosen)

    def intervention(self, *, strength: float = 1.0) -> PromptVectors:
        """Adds to each query the vector that was retrieved for it; only valid for these queries in this order."""
        return PromptVectors(self.directions, self.layers, strength, "prompt_last", "library", self.fingerprint)

    def placebo(self, *, seed: int = 0) -> Retrieval:
        """The same vectors assigned to other queries: retrieved as often, but regardless of the query."""
        order = torch.randperm(len(self.chosen), generator=torch.Generator().manual_seed(seed))
        chosen = tuple(self.chosen[index] for index in order.tolist())
        return replace(self, directions=self.directions[order], chosen=chosen)

    def to_frame(self) -> pd.DataFrame:
        """One row per query: ``query, best`` (similarity), ``chosen`` (names), ``left_alone``."""
        best = self.similarity.amax(dim=1).tolist()
        rows = [(i, best[i], ", ".join(names), not names) for i, names in enumerate(self.chosen)]
        return pd.DataFrame(rows, columns=["query", "best", "chosen", "left_alone"])


@dataclass(frozen=True, slots=True, eq=False)
class VectorLibrary:
    """Many vectors with embeddings of their tasks' queries.

    Attributes:
        names: names of the entries.
        directions: [entry, layer, d_model]; ``layers`` are those of every vector.
        layers: block indices.
        settings: layer and strength of each entry.
        keys: [entry, width], mean embedding of each entry's queries.
        threshold: least similarity at which a vector is added.
        provenances: provenance of each entry.

    >>> import cast_lens as cl
    >>> library = cl.VectorLibrary.build(model, {"antonym": (vector, 12, 1.0)}, {"antonym": queries})  # doctest: +SKIP
    >>> found = library.retrieve(model, prompts)  # doctest: +SKIP
    >>> found.left_alone, cl.evaluate(model, prompts, found.intervention())  # doctest: +SKIP
    """

    names: tuple[str, ...]
    directions: Float[Tensor, "entry layer d_model"]
    layers: tuple[int, ...]
    settings: tuple[tuple[int, float], ...]
    keys: Float[Tensor, "entry width"]
    threshold: float
    provenances: tuple[Provenance, ...]

    def __repr__(self) -> str:
        return f"VectorLibrary({len(self.names)} vectors, threshold {self.threshold:.3f})"

    @classmethod
    def build(
        cls,
        model: HookedTransformer,
        vectors: Mapping[str, tuple[SteeringVector, int, float] | tuple[SteeringVector, Setting]],
        queries: Mapping[str, Sequence[Prompt]],
        *,
        embed: Embed | None = None,
        recall: float = RECALL,
    ) -> VectorLibrary:
        """A library of vectors with their settings.

        Args:
            model: the model that the vectors were taken from.
            vectors: maps names to vector, layer and strength (or vector and ``Setting``).
            queries: maps the same names to zero-shot prompts of the entry's task, at least two each.
            embed: embeds texts; None to use the model's own residuals.
            recall: share of these queries that must reach the threshold; each is left out of its own entry's key.

        Raises:
            ValueError: no vectors; a vector of another model or without queries; vectors of different layers; a layer
                that its vector does not hold.
        """
        entries = _entries(model, vectors, queries, embed or residual_embedding(model))
        first = next(iter(entries.values())).vector
        if any(entry.vector.layers != first.layers for entry in entries.values()):
            raise ValueError("vectors cover different layers; take all of them at the same layers")
        means = torch.stack([entry.keys.mean(dim=0) for entry in entries.values()])
        made = cls(
            tuple(entries),
            torch.stack([entry.vector.directions for entry in entries.values()]),
            first.layers,
            tuple((entry.layer, entry.strength) for entry in entries.values()),
            means,
            -1.0,
            tuple(entry.vector.provenance for entry in entries.values()),
        )
        own = [made._own_similarities(index, entry.keys) for index, entry in enumerate(entries.values())]
        return replace(made, threshold=float(torch.cat(own).quantile(1 - recall)))

    def _own_similarities(self, index: int, keys: Float[Tensor, "query width"]) -> Float[Tensor, " query"]:
        """Similarity of each query of an entry to the mean of the entry's other queries."""
        others = (keys.sum(dim=0) - keys) / (len(keys) - 1)
        centre = self.keys.mean(dim=0)
        return torch.cosine_similarity(keys - centre, others - centre, dim=1)

    def similarity(self, keys: Float[Tensor, "query width"]) -> Float[Tensor, "query entry"]:
        """Cosine of queries and entries after subtracting the library's mean key, unless it has a single entry."""
        centre = self.keys.mean(dim=0) if len(self.keys) > 1 else torch.zeros_like(self.keys[0])
        left, right = keys - centre, self.keys - centre
        return torch.cosine_similarity(left[:, None], right[None], dim=-1)

    def retrieve(
        self,
        model: HookedTransformer,
        prompts: Sequence[Prompt],
        *,
        k: int = 1,
        threshold: float | None = None,
        include_below: bool = False,
        without: Sequence[str] = (),
        embed: Embed | None = None,
    ) -> Retrieval:
        """Retrieve vectors for some queries.

        Args:
            model: the model that the vectors were taken from.
            prompts: zero-shot queries.
            k: number of nearest entries that are averaged.
            threshold: replaces the library's own; -1 always adds something.
            include_below: average all ``k`` nearest once one reaches the threshold, as the public code does; otherwise
                only those that reach it.
            without: entries to leave out, such as the target's own.
            embed: the same as when the library was built.

        Raises:
            ValueError: another model; no entry left; ``k`` below 1; embeddings of another width.
        """
        check_model(model, self.provenances[0], what="vector library")
        allowed = [index for index, name in enumerate(self.names) if name not in without]
        if not allowed or k < 1:
            raise ValueError(
                f"k={k} must be 1 or more, and without={list(without)} must leave some of {list(self.names)}"
            )
        keys = _embedded(embed or residual_embedding(model), prompts)
        if keys.shape[1] != self.keys.shape[1]:
            raise ValueError(
                f"queries are embedded in {keys.shape[1]} numbers, the library in {self.keys.shape[1]}; use the "
                "embed= that it was built with"
            )
        found = self.similarity(keys)
        least = self.threshold if threshold is None else threshold
        rows = [self._found(row, allowed, k, least, include_below) for row in found]
        directions = torch.stack([direction for direction, _ in rows])
        chosen = tuple(names for _, names in rows)
        return Retrieval(directions, self.layers, chosen, found, self.provenances[0].fingerprint)

    def _found(
        self, similarity: Float[Tensor, " entry"], allowed: list[int], k: int, threshold: float, include_below: bool
    ) -> tuple[Float[Tensor, "layer d_model"], tuple[str, ...]]:
        """The vector that is added to one query, and the names of its entries."""
        nearest = sorted(allowed, key=lambda index: -float(similarity[index]))[:k]
        passing = [index for index in nearest if float(similarity[index]) >= threshold]
        kept = nearest if include_below and passing else passing
        added = torch.zeros_like(self.directions[0])
        if kept:
            layer = Counter(self.settings[index][0] for index in kept).most_common(1)[0][0]
            row = self.layers.index(layer)
            scaled = [self.settings[index][1] * self.directions[index, row] for index in kept]
            added[row] = torch.stack(scaled).mean(dim=0)
        return added, tuple(self.names[index] for index in kept)

    def condition(self, model: HookedTransformer, prompts: tuple[Prompt, ...], **options: object) -> Condition:
        """The queries of a target with the vectors retrieved for them; options are those of ``retrieve``."""
        found = self.retrieve(model, prompts, **options)  # type: ignore[arg-type]
        return Condition("library", prompts, intervention=found.intervention())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, provenances inside; whole or not at all."""
        about = {
            "names": list(self.names),
            "layers": list(self.layers),
            "settings": [list(setting) for setting in self.settings],
            "threshold": self.threshold,
            "provenances": [asdict(one) for one in self.provenances],
        }
        tensors = {"directions": self.directions.contiguous(), "keys": self.keys.contiguous()}
        return save_tensors(Path(path), tensors, kind="VectorLibrary", about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> VectorLibrary:
        """Read what ``save`` wrote.

        Raises:
            ValueError: when the file holds no library.
        """
        tensors, about = load_tensors(Path(path), kind="VectorLibrary")
        return cls(
            tuple(about["names"]),
            tensors["directions"],
            tuple(about["layers"]),
            tuple((int(layer), float(strength)) for layer, strength in about["settings"]),
            tensors["keys"],
            float(about["threshold"]),
            tuple(Provenance.from_json(one) for one in about["provenances"]),
        )


def _entries(
    model: HookedTransformer,
    vectors: Mapping[str, tuple[SteeringVector, int, float] | tuple[SteeringVector, Setting]],
    queries: Mapping[str, Sequence[Prompt]],
    embed: Embed,
) -> dict[str, Entry]:
    if not vectors:
        raise ValueError("vectors is empty; a library needs at least one")
    found: dict[str, Entry] = {}
    for name, (vector, *place) in vectors.items():
        check_model(model, vector.provenance, what=f"vector of {name!r}")
        if len(queries.get(name, ())) < 2:
            raise ValueError(
                f"queries[{name!r}] must be two or more prompts of that task, got {len(queries.get(name, ()))}"
            )
        if isinstance(place[0], Setting):
            layer, strength = place[0].layer, place[0].strength
        else:
            layer, strength = int(place[0]), float(place[1])
        vector.at(layer)
        found[name] = Entry(vector, layer, strength, _embedded(embed, queries[name]))
    return found


def _embedded(embed: Embed, prompts: Sequence[Prompt]) -> Float[Tensor, "query width"]:
    return torch.from_numpy(np.asarray(embed([prompt.query for prompt in prompts]), dtype=np.float32))
