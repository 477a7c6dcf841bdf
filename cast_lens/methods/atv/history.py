"""How a training run went so far, and what follows from it: when it ends, which epoch is kept, what is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .design import Training
from .watching import Step

if TYPE_CHECKING:
    import pandas as pd


@dataclass(slots=True)
class History:
    """What happened so far.

    Attributes:
        losses: of every step.
        validations: pairs (steps done, validation loss).
        best: index into ``validations`` of the kept one; -1 before the first.
    """

    losses: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: int = -1

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def lowest(self) -> float:
        """Lowest validation loss; infinite before the first validation."""
        return self.validations[self.best][1] if self.validations else math.inf

    def validated(self, loss: float) -> bool:
        """Take up the validation loss of an epoch; whether it is the lowest so far."""
        better = not self.validations or loss < self.lowest
        self.validations.append((self.steps, loss))
        if better:
            self.best = len(self.validations) - 1
        return better

    def over(self, training: Training) -> bool:
        """Whether the last epoch is done, or ``patience`` epochs went by without a lower validation loss."""
        done = len(self.validations)
        return done >= training.epochs or (done > 0 and done - 1 - self.best >= training.patience)

    def after_step(self, training: Training, n_train: int) -> Step:
        """What is told after a step of training on ``n_train`` prompts an epoch."""
        latest, lowest = (self.validations[-1][1], self.lowest) if self.validations else (None, None)
        total = math.ceil(n_train / training.batch) * training.epochs
        return Step(self.steps, total, len(self.validations) + 1, self.losses[-1], latest, lowest)

    def after_epoch(self, training: Training, n_train: int) -> Step:
        """What is told after the validation that ends an epoch."""
        note = ""
        if self.over(training):
            note = "last epoch" if len(self.validations) >= training.epochs else "stopped early"
        told = self.after_step(training, n_train)
        return replace(told, epoch=len(self.validations), validated=True, note=note)

    def to_frame(self) -> pd.DataFrame:
        """``step, loss, split, best``, as ``plots.plot_loss`` takes it."""
        import pandas as pd

        rows: list[tuple[int, float, str, bool]] = [
            (step, loss, "train", False) for step, loss in enumerate(self.losses, start=1)
        ]
        rows += [
            (step, loss, "validation", index == self.best)
            for index, (step, loss) in enumerate(self.validations)
        ]
        return pd.DataFrame(rows, columns=["step", "loss", "split", "best"])
