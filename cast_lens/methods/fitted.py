"""What a method has fitted to a source when one direction per layer does not hold it: saved, steered, refused alike.

A ``SteeringVector`` is one direction per layer. Methods that weigh heads, mix sublayers or write head outputs have
more to keep; they subclass ``FittedMethod`` and differ in their tensors and in the intervention that they make of them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..files import load_tensors, save_tensors
from ..interventions import Steering
from ..models.lens import HookedTransformer
from ..tasks import Prompt
from ..vectors import Provenance
from .conditions import Condition
from .training import check_model

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


@dataclass(frozen=True, slots=True, eq=False)
class FittedMethod(ABC):
    """A method as it was fitted to one source.

    Attributes:
        provenance: where it came from; another model is refused by its fingerprint.
    """

    provenance: Provenance

    @property
    def trained(self) -> int:
        """Numbers that were trained by gradient; 0 for what is computed in closed form."""
        return 0

    @abstractmethod
    def intervention(self, *, strength: float = 1.0) -> Steering:
        """What it does to the model, wherever interventions go."""

    @abstractmethod
    def placebo(self, *, seed: int = 0) -> Self:
        """The same kind of edit without its content: of equal size, and of the same signature."""

    def check(self, model: HookedTransformer) -> None:
        """Refuse any model but the one that it was fitted to.

        Raises:
            ValueError: naming both models.
        """
        check_model(model, self.provenance, what=type(self).__name__)

    def condition(
        self, prompts: tuple[Prompt, ...], *, source: str, method: str = "", strength: float = 1.0, seed: int = 0
    ) -> Condition:
        """Zero-shot prompts of a target under this edit.

        Args:
            prompts: prompts of the target.
            source: task that it was fitted to.
            method: name in frames; that of the class when empty.
            strength: see ``intervention``.
            seed: seed of a placebo.
        """
        name = method or type(self).__name__
        return Condition(name, prompts, source=source, intervention=self.intervention(strength=strength), seed=seed)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to one safetensors file, provenance inside; whole or not at all."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.detach().contiguous() for name, value in named.items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in named.items() if name not in tensors and name != "provenance"}
        about = {"provenance": asdict(self.provenance), "fields": rest}
        return save_tensors(Path(path), tensors, kind=type(self).__name__, about=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            ValueError: when the file holds something else, or is damaged.
        """
        tensors, about = load_tensors(Path(path), kind=cls.__name__)
        rest: dict[str, Any] = {name: _tuples(value) for name, value in about.get("fields", {}).items()}
        wanted = {field.name for field in fields(cls)} - {"provenance"}
        if wanted != {*tensors, *rest}:
            raise ValueError(
                f"{os.fspath(path)} holds {sorted({*tensors, *rest})}, not {sorted(wanted)}; is it damaged?"
            )
        return cls(provenance=Provenance.from_json(about.get("provenance")), **tensors, **rest)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
