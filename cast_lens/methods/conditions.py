"""Conditions: the prompts of a method on a target, with or without an intervention.

Methods differ in nothing else, so one function evaluates all of them on the same examples, and every comparison
between them is paired.

- ``Condition``: one prompt per query, with or without an intervention (``steered``, ``placebo_random``,
  ``placebo_shuffled``; those that change the prompt are in ``prompting``);
- ``BatchedCondition``: several queries in one prompt;
- ``evaluate_conditions``: outcomes of any number of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from ..engine import Progress, answer, automatic, quiet, tokenise
from ..evaluation import answer_limit, evaluate
from ..interventions import Operator, Position, Steering
from ..models.lens import HookedTransformer
from ..placebos import random_direction
from ..tasks import Prompt, is_match, is_valid
from ..vectors import SteeringVector

OUTCOMES = ("exact_match", "valid", "choice_correct")
# Columns of ``evaluate`` that cannot be computed from one continuation for several queries.
UNKNOWN = ("gold_logprob", "choice_correct", "first_match", "first_valid", "gold_margin")
# Tokens of a line in addition to its answer: the number, its dot, the newline.
_NUMBERING = 4
# A number at the start of a line, as models write it: ``2. yes``, ``2) yes``, ``[2] yes``, ``2: yes``.
_NUMBERED = re.compile(r"\s*\[?(\d{1,4})[\].):]+(?:\s+|$)(.*)")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One method on one target.

    Attributes:
        method: name in frames and figures; names that begin with ``placebo:`` are controls.
        prompts: one per target example, in the order of the examples.
        source: task that demonstrations or vector come from; empty if there is none.
        intervention: edit of the residual stream; None for prompting methods.
        seed: seed of the method's random choices.
    """

    method: str
    prompts: tuple[Prompt, ...]
    source: str = ""
    intervention: Steering | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how strongly to steer; chosen on the source's own validation split, never with target labels.

    Attributes:
        layer: block index.
        strength: factor on the vector.
        operator: see ``Intervention``.
        position: see ``Intervention``.
        layers: blocks that are edited together, beginning with ``layer``, each with the vector's direction at that
            block; empty to edit ``layer`` alone.

    Raises:
        ValueError: layers that do not begin with ``layer``, or another operator than ``add`` at several of them.
    """

    layer: int
    strength: float
    operator: Operator = "add"
    position: Position = "last"
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.layers and (self.layers[0] != self.layer or self.operator != "add"):
            raise ValueError(
                f"layers={self.layers} must begin with layer={self.layer}, and operator must be 'add' where several "
                f"layers are edited together, got {self.operator!r}"
            )

    def __repr__(self) -> str:
        more = f", layers={self.layers}" if self.layers else ""
        return (
            f"Setting(layer={self.layer}, strength={self.strength}, operator={self.operator!r}, "
            f"position={self.position!r}{more})"
        )

    def edit(self, vector: SteeringVector) -> Steering:
        """A vector (or its placebo) as an intervention at this setting.

        Raises:
            ValueError: a layer that the vector does not have.
        """
        if self.layers:
            return vector.intervention(layers=self.layers, strength=self.strength, position=self.position)
        return vector.intervention(self.layer, strength=self.strength, operator=self.operator, position=self.position)


def steered(
    vector: SteeringVector,
    prompts: tuple[Prompt, ...],
    setting: Setting,
    *,
    source: str,
    method: str = "cast",
    seed: int = 0,
) -> Condition:
    """Zero-shot prompts with the source's vector in the residual stream (arXiv 2507.13236, step 3)."""
    return Condition(method, prompts, source=source, intervention=setting.edit(vector), seed=seed)


def placebo_random(
    vector: SteeringVector, prompts: tuple[Prompt, ...], setting: Setting, *, source: str, seed: int = 0
) -> Condition:
    """A random direction of the vector's norm."""
    noise = random_direction(vector, seed=seed)
    return steered(noise, prompts, setting, source=source, method="placebo: random direction", seed=seed)


def placebo_shuffled(
    shuffled: SteeringVector,
    vector: SteeringVector,
    prompts: tuple[Prompt, ...],
    setting: Setting,
    *,
    source: str,
    seed: int = 0,
) -> Condition:
    """The mean difference vector of demonstrations with shuffled answers, scaled to the vector's norm.

    An effect that it shares with the vector is not due to the right answers in the demonstrations.

    Raises:
        ValueError: when the shuffled vector is zero at the setting's layer.
    """
    own, other = vector.at(setting.layer).norm(), shuffled.at(setting.layer).norm()
    if not bool(other > 0):
        raise ValueError(f"the shuffled-label vector of {source!r} is zero at layer {setting.layer}")
    scaled = shuffled * float(torch.div(own, other))
    return steered(scaled, prompts, setting, source=source, method="placebo: shuffled labels", seed=seed)


@dataclass(frozen=True, slots=True, eq=False)
class BatchedCondition:
    """A condition whose prompts hold several queries each.

    Attributes:
        method: name in frames and figures.
        queries: the zero-shot prompt of each target example, by which its answer is judged.
        prompts: the prompts that the model reads, each with the next ``queries_per_prompt`` queries.
        queries_per_prompt: how many queries each prompt has; the last prompt may have fewer.
        source: empty, because nothing comes from another task.
        seed: unused, because nothing is random.
    """

    method: str
    queries: tuple[Prompt, ...]
    prompts: tuple[Prompt, ...]
    queries_per_prompt: int
    source: str = ""
    seed: int = 0

    def outcomes(self, model: HookedTransformer, *, chat: bool = False, progress: Progress = quiet) -> pd.DataFrame:
        """One row per query, with the columns of ``evaluate``.

        A line that is missing or not numbered is an empty answer, which is neither a match nor valid.
        ``choice_correct``, ``gold_logprob``, ``gold_margin`` and the ``first_`` columns are NaN.

        Raises:
            ValueError: a prompt that leaves no room for its answers in the context; see ``answer``.
        """
        tokens = tokenise(model, self.queries, chat=chat)
        written = answer(
            model,
            self.prompts,
            max_new_tokens=self.queries_per_prompt * (answer_limit(tokens) + _NUMBERING),
            stop_at_newline=False,
            chat=chat,
            progress=progress,
        )[0]
        size = self.queries_per_prompt
        texts = [
            line
            for start, text in zip(range(0, len(self.queries), size), written, strict=True)
            for line in parse_answers(text or "", len(self.queries[start : start + size]))
        ]
        return _frame(self.queries, texts)


def parse_answers(text: str, count: int) -> list[str]:
    """The answers in a numbered list, in order; empty where the list has none.

    Args:
        text: what the model wrote after ``1.``; the model may also write the ``1.`` itself. The first line with a
            number counts; numbers beyond ``count`` and lines without a number are ignored.
        count: how many answers were asked for.
    """
    lines = text.lstrip().split("\n")
    if not _NUMBERED.match(lines[0]):
        lines[0] = f"1. {lines[0]}"
    found: dict[int, str] = {}
    for line in lines:
        if numbered := _NUMBERED.match(line):
            found.setdefault(int(numbered[1]), numbered[2].strip())
    return [found.get(number, "") for number in range(1, count + 1)]


def _frame(queries: Sequence[Prompt], texts: Sequence[str]) -> pd.DataFrame:
    missing = float("nan")
    rows = [
        {
            "task": prompt.task,
            "sample": prompt.sample_id,
            "name": "unsteered",
            "layer": -1,
            "strength": 0.0,
            "operator": "none",
            "position": "none",
            **dict.fromkeys(UNKNOWN, missing),
            "overflowed": False,
            "text": prompt.query,
            "gold": prompt.gold,
            "answer": text,
            "exact_match": float(is_match(text, prompt)),
            "valid": float(is_valid(text, prompt)) if prompt.choices else missing,
            "preferred": "",
        }
        for prompt, text in zip(queries, texts, strict=True)
    ]
    return pd.DataFrame(rows)


AnyCondition = Condition | BatchedCondition


def evaluate_conditions(
    model: HookedTransformer,
    conditions: Sequence[AnyCondition],
    *,
    chat: bool = False,
    progress: Progress = automatic,
    evaluated: Callable[..., pd.DataFrame] = evaluate,
) -> pd.DataFrame:
    """Outcomes of several conditions, one row per example and condition.

    Conditions that share their prompts share one pass of the engine; those with several queries per prompt come last.

    Args:
        model: the model in this process.
        conditions: the conditions to compare.
        chat, progress: see ``evaluate``.
        evaluated: called like ``evaluate``; ``backends.EvaluatedOn`` runs the model elsewhere.

    Returns:
        ``target, sample, method, source, layer, strength, operator, position, seed, text, gold, answer`` and the
        outcomes of ``evaluate``. Without an intervention layer is -1 and strength 0. Outcomes that cannot be computed
        for several queries in one prompt are NaN; see ``BatchedCondition.outcomes``.
    """
    groups: dict[tuple[Prompt, ...], list[Condition]] = {}
    together = [condition for condition in conditions if isinstance(condition, BatchedCondition)]
    for condition in conditions:
        if isinstance(condition, Condition):
            groups.setdefault(condition.prompts, []).append(condition)
    frames = []
    for prompts, members in groups.items():
        edits = [member.intervention for member in members if member.intervention is not None]
        found = evaluated(model, prompts, edits, chat=chat, progress=progress)
        variant = 0
        for member in members:
            variant += member.intervention is not None
            rows = found[found["variant"] == (variant if member.intervention is not None else 0)]
            frames.append(_named(rows, member))
    frames += [_named(batch.outcomes(model, chat=chat, progress=progress), batch) for batch in together]
    joined = pd.concat(frames, ignore_index=True).rename(columns={"task": "target"})
    first = ["target", "sample", "method", "source", "layer", "strength", "operator", "position", "seed"]
    rest = [name for name in joined.columns if name not in {*first, "variant", "name", "condition"}]
    return joined[first + rest]


def _named(rows: pd.DataFrame, condition: AnyCondition) -> pd.DataFrame:
    return rows.assign(method=condition.method, source=condition.source, seed=condition.seed)
