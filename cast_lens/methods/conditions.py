"""A condition is what a method asks of the model on a target: prompts, and perhaps one intervention.

Methods differ in nothing else, so all of them are evaluated by one function, on the same examples, and every
comparison between them is paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from ..engine import Progress, quiet
from ..evaluation import evaluate
from ..interventions import Steering
from ..tasks import Prompt
from .batching import BatchedCondition

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("exact_match", "valid", "choice_correct")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One method on one target.

    Attributes:
        method: name in frames and figures; names that begin with ``placebo:`` are controls.
        prompts: one a target example, in the examples' order.
        source: task that demonstrations or vector come from; empty for none.
        intervention: edit of the residual stream; None for prompting methods.
        seed: of whatever the method draws.
    """

    method: str
    prompts: tuple[Prompt, ...]
    source: str = ""
    intervention: Steering | None = None
    seed: int = 0


AnyCondition = Condition | BatchedCondition


def evaluate_conditions(
    model: HookedTransformer,
    conditions: Sequence[AnyCondition],
    *,
    chat: bool = False,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Outcomes of several conditions, one row an example and condition.

    Conditions that share their prompts share one pass of the engine; those with several queries to a prompt come last.

    Returns:
        ``target, sample, method, source, layer, strength, operator, position, seed, text, gold, answer`` and the
        outcomes of ``evaluate``. Without an intervention layer is -1 and strength 0. What several queries in one
        prompt cannot tell is NaN; see ``BatchedCondition.outcomes``.
    """
    import pandas as pd

    groups: dict[tuple[Prompt, ...], list[Condition]] = {}
    together = [condition for condition in conditions if isinstance(condition, BatchedCondition)]
    for condition in conditions:
        if isinstance(condition, Condition):
            groups.setdefault(condition.prompts, []).append(condition)
    frames = []
    for prompts, members in groups.items():
        edits = [member.intervention for member in members if member.intervention is not None]
        found = evaluate(model, prompts, edits, chat=chat, progress=progress)
        variant = 0
        for member in members:
            variant += member.intervention is not None
            rows = found[found["variant"] == (variant if member.intervention is not None else 0)]
            frames.append(_named(rows, member))
    frames += [_named(batch.outcomes(model, chat=chat, progress=progress), batch) for batch in together]
    joined = pd.concat(frames, ignore_index=True).rename(columns={"task": "target"})
    first = ["target", "sample", "method", "source", "layer", "strength", "operator", "position", "seed"]
    rest = [name for name in joined.columns if name not in {*first, "variant", "name"}]
    return joined[first + rest]


def _named(rows: pd.DataFrame, condition: AnyCondition) -> pd.DataFrame:
    return rows.assign(method=condition.method, source=condition.source, seed=condition.seed)
