"""What an adapter is: its kind, its budget of parameters, its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

AdapterKind = Literal["lora", "prefix"]
KINDS: tuple[AdapterKind, ...] = get_args(AdapterKind)
# LoRA: the rate that arXiv 2506.03426 settled on after a first one failed; over a handful of steps 0.001 falls faster.
# Prefix: of 0.003, 0.01 and 0.03 the one with the lowest validation loss (1.08, 0.69, 0.96) after two epochs of two
# tasks on the embedded model.
LEARNING_RATES: dict[AdapterKind, float] = {"lora": 4e-4, "prefix": 1e-2}


@dataclass(frozen=True, slots=True)
class AdapterDesign:
    """A rival of an adaptive task vector at equal parameters.

    Attributes:
        kind: ``lora`` (arXiv 2106.09685), low-rank changes of every linear map but the output head; ``prefix``
            (arXiv 2101.00190), keys and values of virtual tokens before the prompt, in every layer, learned directly.
        parameters: to come near to: the rank, or the number of virtual tokens, is rounded, and at least 1.
        learning_rate: of Adam; the kind's own when None (``LEARNING_RATES``).

    Raises:
        ValueError: on an unknown kind, fewer than 1 parameter, or a learning rate that is not positive.
    """

    kind: AdapterKind
    parameters: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if self.parameters < 1:
            raise ValueError(f"parameters={self.parameters} must be 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite, or None")

    @property
    def rate(self) -> float:
        """The learning rate that is used."""
        return LEARNING_RATES[self.kind] if self.learning_rate is None else self.learning_rate

    def size(self, unit: int) -> int:
        """The rank or number of virtual tokens that comes nearest to the budget when one has ``unit`` parameters."""
        return max(1, round(self.parameters / unit))
