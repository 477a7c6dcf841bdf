"""Builds prompts: zero-shot, few-shot and cross-task, as pure text.

A zero-shot prompt is the task's definition and the query. A few-shot prompt of the same query opens with the same
definition, shows demonstrations, and ends in exactly the same query text:

    Definition: …            Definition: …
    Review: query            Review: first demonstration
    Label:                   Label: positive

                             Review: query
                             Label:

A cross-task prompt (arXiv 2405.10548 section 3) shows demonstrations of a source task under the source's definition,
then the target's definition and query.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

from .answers import is_match, is_valid, normalise_answer
from .splits import input_key, stable_seed
from .templates import admissible, body, definition, gold
from .types import Example, Prompt, Split, Task

Demonstrations = Literal["fixed", "per-query"]

__all__ = [
    "Demonstrations",
    "cross_task",
    "cross_task_prompts",
    "demonstrations",
    "few_shot",
    "few_shot_prompts",
    "is_match",
    "is_valid",
    "normalise_answer",
    "zero_shot",
    "zero_shot_prompts",
]

# Permutations tried for shuffled labels: the chance that none of them is near the chance level is negligible.
_TRIES = 64


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How the demonstrations of a few-shot prompt are drawn; see `few_shot`."""

    shots: int
    seed: int
    demonstrations: Demonstrations
    pool: Split
    instruction: bool
    shuffle_labels: bool

    def shown(self, task: Task, query: Example) -> tuple[tuple[str, str], ...]:
        if self.demonstrations not in ("fixed", "per-query"):
            raise ValueError(
                f'demonstrations={self.demonstrations!r} is unknown; choose "fixed" or "per-query"'
            )
        fixed = self.demonstrations == "fixed"
        seed = self.seed if fixed else stable_seed(self.seed, query.id)
        drawn = demonstrations(task, shots=self.shots, seed=seed, exclude=(query,), pool=self.pool)
        answers = [gold(task, example) for example in drawn]
        if self.shuffle_labels:
            answers = _uninformative(task, drawn, seed=seed, pool=self.pool)
        bodies = [body(task, example) for example in drawn]
        if self.instruction:
            bodies[0] = definition(task) + bodies[0]
        return tuple(zip(bodies, answers, strict=True))


def zero_shot(task: Task, example: Example, *, instruction: bool = True) -> Prompt:
    """The query alone.

    Args:
        task: gives the template and the admissible answers.
        example: the query.
        instruction: whether the task's definition opens the prompt.
    """
    opening = definition(task) if instruction else ""
    return _prompt(task, example, shown=(), opening=opening)


def few_shot(
    task: Task,
    example: Example,
    *,
    shots: int,
    seed: int,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> Prompt:
    """The query after demonstrations of its own task.

    Args:
        task: gives template, demonstrations and admissible answers.
        example: the query; never among its own demonstrations, by id or by input.
        shots: demonstrations, at least one.
        seed: of the demonstrations and of their order.
        demonstrations: ``fixed``: the same ones in the same order for every query of (task, shots, seed), which lets
            the engine share their computation; where the query is itself among them, another one of its class takes
            its place. ``per-query``: drawn anew for each query.
        pool: the split that they are drawn from.
        instruction: whether the task's definition opens the prompt.
        shuffle_labels: placebo: the demonstrations' answers are permuted among them, as often right as chance.

    Raises:
        ValueError: for shots below one or above what the pool holds, an unknown pool or way of drawing.
    """
    drawing = _Drawing(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return _prompt(task, example, shown=drawing.shown(task, example), opening="")


def cross_task(
    source: Task,
    target: Task,
    example: Example,
    *,
    shots: int,
    seed: int,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> Prompt:
    """A target query after demonstrations of a source task (arXiv 2405.10548 section 3).

    Arguments and errors are those of `few_shot`, with the demonstrations drawn from ``source``. Each task's
    definition opens its own part.
    """
    drawing = _Drawing(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    opening = definition(target) if instruction else ""
    return _prompt(target, example, shown=drawing.shown(source, example), opening=opening)


def zero_shot_prompts(task: Task, examples: Iterable[Example], *, instruction: bool = True) -> list[Prompt]:
    """`zero_shot` of every example, in order."""
    return [zero_shot(task, example, instruction=instruction) for example in examples]


def few_shot_prompts(
    task: Task,
    examples: Iterable[Example],
    *,
    shots: int,
    seed: int,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> list[Prompt]:
    """`few_shot` of every example, in order."""
    drawing = _Drawing(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    return [_prompt(task, example, shown=drawing.shown(task, example), opening="") for example in examples]


def cross_task_prompts(
    source: Task,
    target: Task,
    examples: Iterable[Example],
    *,
    shots: int,
    seed: int,
    demonstrations: Demonstrations = "fixed",
    pool: Split = "train",
    instruction: bool = True,
    shuffle_labels: bool = False,
) -> list[Prompt]:
    """`cross_task` of every example, in order."""
    drawing = _Drawing(shots, seed, demonstrations, pool, instruction, shuffle_labels)
    opening = definition(target) if instruction else ""
    return [
        _prompt(target, example, shown=drawing.shown(source, example), opening=opening)
        for example in examples
    ]


def demonstrations(
    task: Task, *, shots: int, seed: int, exclude: Sequence[Example] = (), pool: Split = "train"
) -> tuple[Example, ...]:
    """Examples to show, balanced over the task's classes, in a seeded order.

    Classes are the labels, or the letters of the right options; their counts differ by one at most as long as every
    class has examples left. The draw depends on ids and classes only, so parallel tasks show parallel examples.

    Args:
        task: where they are drawn from.
        shots: how many.
        seed: of the draw and of the order.
        exclude: examples that must not be shown, by id or by input. The others keep their places.
        pool: the split that they are drawn from.

    Raises:
        ValueError: for shots below one or above what the pool holds, or an unknown pool.
    """
    if shots < 1:
        raise ValueError(f"shots={shots} demonstrates nothing; give at least 1, or build a zero-shot prompt")
    rng = random.Random(seed)
    ranked = _ranked(task, _distinct(task.split(pool)), rng)
    ids = {example.id for example in exclude}
    inputs = {input_key(example.input) for example in exclude}
    allowed = [example.id not in ids and input_key(example.input) not in inputs for example in ranked]
    if shots > sum(allowed):
        raise ValueError(
            f"shots={shots} is more than the {sum(allowed)} distinct examples that the {pool} split of "
            f"{task.name!r} can show; ask for fewer"
        )
    first = rng.sample(range(shots), shots)
    spare = [example for example, free in zip(ranked[shots:], allowed[shots:], strict=True) if free]
    shown = [
        example if free else _stand_in(task, example, spare)
        for example, free in zip(ranked[:shots], allowed[:shots], strict=True)
    ]
    return tuple(shown[place] for place in first)


def _prompt(task: Task, example: Example, *, shown: tuple[tuple[str, str], ...], opening: str) -> Prompt:
    return Prompt(
        demonstrations=shown,
        query=opening + body(task, example),
        gold=gold(task, example),
        choices=admissible(task, example),
        task=task.name,
        sample_id=example.id,
    )


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """One example an input, ordered by id."""
    by_input = {input_key(example.input): example for example in reversed(examples)}
    return sorted(by_input.values(), key=lambda example: example.id)


def _ranked(task: Task, examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """The pool in drawing order: one example of each class in turn, classes and members in random order."""
    classes = _classes(task, examples)
    for members in classes:
        rng.shuffle(members)
    rng.shuffle(classes)
    # A letter that only a few items have (an E among A to D) would be shown in half of all prompts: it comes last.
    enough = len(examples) / (4 * len(classes)) if task.kind == "multiple-choice" else 0
    common = [members for members in classes if len(members) >= enough]
    rare = [members for members in classes if len(members) < enough]
    turns = chain(zip_longest(*common), zip_longest(*rare))
    return [example for turn in turns for example in turn if example is not None]


def _classes(task: Task, examples: Sequence[Example]) -> list[list[Example]]:
    if task.kind == "free":
        return [list(examples)]
    answers = [gold(task, example) for example in examples]
    # Label order, not alphabetical order, is what parallel tasks share.
    order = task.labels or tuple(sorted(set(answers)))
    grouped = {
        answer: [e for e, own in zip(examples, answers, strict=True) if own == answer] for answer in order
    }
    return [members for members in grouped.values() if members]


def _stand_in(task: Task, example: Example, spare: list[Example]) -> Example:
    """Take from ``spare`` the next example of the same class, or else the next one."""
    same = [other for other in spare if task.kind == "free" or gold(task, other) == gold(task, example)]
    chosen = (same or spare)[0]
    spare.remove(chosen)
    return chosen


def _uninformative(task: Task, shown: Sequence[Example], *, seed: int, pool: Split) -> list[str]:
    """Answers that say nothing about the inputs: a permutation that is right as often as chance would be."""
    rng = random.Random(stable_seed(seed, "shuffled labels"))
    right = [gold(task, example) for example in shown]
    allowed = [admissible(task, example) for example in shown]
    chance = sum(1 / len(choices) for choices in allowed if choices)
    tries = [_relabelled(task, right, allowed, rng, pool) for _ in range(_TRIES)]

    def distance(answers: list[str]) -> float:
        hits = sum(answer == own for answer, own in zip(answers, right, strict=True))
        out = sum(bool(ok) and answer not in ok for answer, ok in zip(answers, allowed, strict=True))
        return abs(hits - chance) + len(right) * out

    return min(tries, key=distance)


def _relabelled(
    task: Task, right: Sequence[str], allowed: Sequence[tuple[str, ...]], rng: random.Random, pool: Split
) -> list[str]:
    if len(set(right)) > 1:
        return rng.sample(list(right), len(right))
    # One demonstration, or several with one answer: there is nothing to permute.
    others = sorted({gold(task, example) for example in task.split(pool)})
    return [rng.choice(choices or others) for choices in allowed]
