"""What a vector method may read of a source task: nothing of any target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformer_lens import HookedTransformer

from ..extraction import Extraction
from ..tasks import Task
from ..vectors import DifferenceVectors

# What the demonstrations on the few-shot side of the difference hold.
DIFFERENCE_KINDS = ("true", "shuffled labels", "random text")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A source task as vector methods see it.

    Attributes:
        model: the model.
        task: the source.
        extraction: how difference vectors are taken; methods that run prompts of their own follow it.
        differences: a kind of ``DIFFERENCE_KINDS`` to difference vectors of the same queries.
        indices: samples that a selection chose; None for all of them.
        seed: of whatever a placebo draws.
        note: how the samples were chosen, kept in the vector's provenance.
    """

    model: HookedTransformer
    task: Task
    extraction: Extraction
    differences: Callable[[str], DifferenceVectors]
    indices: tuple[int, ...] | None = None
    seed: int = 0
    note: str = ""

    def samples(self, kind: str = "true") -> DifferenceVectors:
        """Difference vectors of one kind, checked.

        Raises:
            ValueError: an unknown kind, or other queries than those of kind ``true``.
        """
        if kind not in DIFFERENCE_KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(DIFFERENCE_KINDS)}")
        found = self.differences(kind)
        if kind != "true" and found.sample_ids != self.differences("true").sample_ids:
            raise ValueError(
                f"the {kind!r} difference vectors of {self.task.name!r} are of other queries than the true ones; "
                "extract both with the same samples and seed"
            )
        return found

    def explain(self, what: str, found: DifferenceVectors) -> str:
        """The note of a vector made of the chosen samples."""
        count = len(found) if self.indices is None else len(self.indices)
        return "; ".join(
            part for part in (f"{what}: mean over {count} of {len(found)} samples", self.note) if part
        )
