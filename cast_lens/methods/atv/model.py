"""A trained adaptive task vector: it reads queries and generates a vector for each layer of the large model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...files import load_tensors, save_tensors
from ...interventions import PromptVectors
from ...models.identity import check_layers
from ...models.lens import HookedTransformer
from ...steering import steer
from ...tasks import Prompt
from ...vectors import Provenance, model_label
from ..training import Training, check_model, provenance_of, training_of
from .config import Design
from .generators import Expansion, Generator, build_generator

KIND = "ATV"
Query = Prompt | str


@dataclass(frozen=True, slots=True, eq=False)
class ATV:
    """A trained adaptive task vector (arXiv 2506.03426).

    Attributes:
        design: its options.
        training: how it was trained.
        layers: blocks of the large model that get a vector, in increasing order.
        generator: the small model.
        expansion: maps its state to the vectors.
        steps: number of training steps, including those after the kept epoch.
        validation: validation loss of the kept epoch, the lowest, in nats per token.
        provenance: the large model, the tasks and templates it was trained on, the seed.
    """

    design: Design
    training: Training
    layers: tuple[int, ...]
    generator: Generator
    expansion: Expansion
    steps: int
    validation: float
    provenance: Provenance

    def __repr__(self) -> str:
        return (
            f"ATV({self.provenance.task!r}, {len(self.layers)} layers, {self.design.generator} generator, "
            f"{self.n_parameters} parameters, {model_label(self.provenance)})"
        )

    @property
    def n_parameters(self) -> int:
        """Numbers that were learned."""
        module = self.generator.module
        own = 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
        return own + self.expansion.n_parameters

    @torch.no_grad()
    def vectors(self, queries: Sequence[Query]) -> Float[Tensor, "sample layer d_model"]:
        """The vectors of each query, before ``strength``; float32 on the CPU.

        Args:
            queries: prompts as the large model will read them, or texts for the small one (under
                ``reads="question"`` see ``generator_texts``).

        Raises:
            ValueError: no queries, or one that the small model cannot read.
        """
        if not queries:
            raise ValueError("queries is empty; give at least one prompt or text")
        texts = [query.text if isinstance(query, Prompt) else query for query in queries]
        states = self.generator.states(texts).to(self.expansion.bias.device)
        return self.expansion(states).float().cpu()

    def intervention(self, queries: Sequence[Query]) -> PromptVectors:
        """The vectors as an edit of the residual stream, for ``score``, ``answer``, ``evaluate`` and ``steer``."""
        return PromptVectors(
            self.vectors(queries),
            self.layers,
            self.design.strength,
            self.design.position,
            name="atv",
            fingerprint=self.provenance.fingerprint,
        )

    @contextmanager
    def steer(self, model: HookedTransformer, queries: Query | Sequence[Query]) -> Iterator[HookedTransformer]:
        """Steer a model for as long as the context lasts, each row of a batch with the vectors of its query.

        Args:
            model: the model that the ATV was trained for.
            queries: one prompt per row, in the order of the rows; every pass in the context runs these prompts.

        Raises:
            ValueError: another model; another number of rows; see ``cast_lens.steering.steer``.
        """
        self.check(model)
        listed = [queries] if isinstance(queries, Prompt | str) else list(queries)
        with steer(model, self.intervention(listed)):
            yield model

    def check(self, model: HookedTransformer) -> None:
        """Refuse any model other than the one that this was trained for.

        Raises:
            ValueError: for another model.
        """
        check_model(model, self.provenance, what=KIND)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, design, training and provenance inside; whole or not at all."""
        about = {
            "design": asdict(self.design),
            "training": asdict(self.training),
            "layers": list(self.layers),
            "shape": [self.generator.width, *self.expansion.shape],
            "generator": {"name": self.generator.name, "fingerprint": self.generator.fingerprint},
            "n_parameters": self.n_parameters,
            "run": {"steps": self.steps, "validation": self.validation},
            "provenance": asdict(self.provenance),
        }
        return save_tensors(Path(path), state(self.expansion, self.generator), kind=KIND, about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: HookedTransformer, *, generator: Generator | None = None) -> ATV:
        """Read what ``save`` wrote.

        Args:
            path: path of the file.
            model: the large model, which may contain the small one.
            generator: the small model, if it cannot be loaded from the source in the design.

        Raises:
            ValueError: another large or small model than the ATV was trained with, or no saved ATV.
        """
        tensors, about = load_tensors(Path(path), kind=KIND)
        provenance = provenance_of(about)
        check_model(model, provenance, what=KIND)
        design, training = design_of(about), training_of(about)
        small = build_generator(design, model) if generator is None else generator
        known = about["generator"]
        if small.fingerprint != known["fingerprint"]:
            raise ValueError(
                f"{path} was trained with the small model {known['name']!r} (fingerprint {known['fingerprint']!r}), "
                f"but {small.name!r} has {small.fingerprint!r}; give that one as generator=..."
            )
        d_small, n_layers, d_model = about["shape"]
        expansion = Expansion(d_small, n_layers, d_model, rank=design.rank)
        restore(tensors, expansion.to(model.cfg.device), small)
        layers = tuple(about["layers"])
        return cls(design, training, layers, small, expansion, **about["run"], provenance=provenance)


def state(expansion: Expansion, generator: Generator) -> dict[str, Tensor]:
    """All learned parameters by name, and the constants that standardise states."""
    found = {f"expansion.{name}": value for name, value in expansion.state_dict().items()}
    if generator.module is not None:
        found |= {f"generator.{name}": value for name, value in generator.module.named_parameters()}
    return {name: value.detach().cpu() for name, value in found.items()}


@torch.no_grad()
def restore(tensors: dict[str, Tensor], expansion: Expansion, generator: Generator) -> None:
    """Load the result of ``state``."""
    own = {name.removeprefix("expansion."): value for name, value in tensors.items() if name.startswith("expansion.")}
    expansion.load_state_dict(own)
    if generator.module is not None:
        for name, parameter in generator.module.named_parameters():
            parameter.copy_(tensors[f"generator.{name}"])


def vector_layers(model: HookedTransformer, design: Design) -> tuple[int, ...]:
    """The blocks that get a vector.

    Raises:
        ValueError: when the model does not have them.
    """
    return check_layers(model, design.layers)


def design_of(about: dict[str, Any]) -> Design:
    """The design in a file's JSON."""
    layers = about["design"]["layers"]
    return Design(**{**about["design"], "layers": None if layers is None else tuple(layers)})
