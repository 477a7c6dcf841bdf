"""Methods that change the prompt: zero-shot, few-shot, and demonstrations of another task."""

from __future__ import annotations

from collections.abc import Sequence

from ..tasks import Example, Task, cross_task_prompts, few_shot_prompts, zero_shot_prompts
from .conditions import Condition


def zero_shot(target: Task, examples: Sequence[Example]) -> Condition:
    """The query alone: what everything else is compared with."""
    return Condition("zero-shot", tuple(zero_shot_prompts(target, examples)))


def few_shot(target: Task, examples: Sequence[Example], *, shots: int, seed: int) -> Condition:
    """Labelled demonstrations of the target itself: what a well-resourced target would use.

    Raises:
        ValueError: see ``few_shot_prompts``.
    """
    prompts = few_shot_prompts(target, examples, shots=shots, seed=seed)
    return Condition("few-shot", tuple(prompts), seed=seed)


def cross_task_few_shot(
    source: Task, target: Task, examples: Sequence[Example], *, shots: int, seed: int
) -> Condition:
    """Labelled demonstrations of the source in front of the target's query (arXiv 2405.10548).

    The demonstrations are drawn at random, class-balanced, one set for all queries.

    Raises:
        ValueError: see ``cross_task_prompts``.
    """
    prompts = cross_task_prompts(source, target, examples, shots=shots, seed=seed)
    return Condition("cross-task few-shot", tuple(prompts), source=source.name, seed=seed)
