"""Draws demonstrations: balanced over the classes, seeded, never the query; and their placebo."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from .splits import input_key, stable_seed
from .templates import admissible, gold
from .types import Example, Split, Task

# Exchanges tried for each shuffled answer; a few suffice where the chance level can be reached at all.
_EXCHANGES = 16


def demonstrations(
    task: Task, *, shots: int, seed: int, exclude: Sequence[Example] = (), pool: Split = "train"
) -> tuple[Example, ...]:
    """Examples to show, balanced over the task's classes, in a seeded order.

    Classes are the labels, or the letters of the right options; their counts differ by one at most as long as
    every class has examples left (a letter that few items have comes after the others). The draw depends
    on ids and classes only, so parallel tasks show parallel examples.

    Args:
        task: where they are drawn from.
        shots: how many.
        seed: of the draw and of the order.
        exclude: examples that must not be shown, by id or by input. The others keep their places.
        pool: the split that they are drawn from.

    Raises:
        ValueError: for shots below one or above what the pool holds, or an unknown pool.
    """
    return Pool.of(task, pool).shuffled(seed, shots=shots).deal(exclude)


@dataclass(frozen=True, slots=True)
class Pool:
    """The examples of one split that may be shown, one an input, by class and id.

    Attributes:
        task, split: where they come from.
        classes: the examples of each class.
        keys: what each example's input is compared by, by id.
    """

    task: Task
    split: Split
    classes: tuple[tuple[Example, ...], ...]
    keys: dict[str, str]

    @classmethod
    def of(cls, task: Task, split: Split) -> Pool:
        """The pool of a task's split.

        Raises:
            ValueError: when there is no such split.
        """
        by_input = {input_key(example.input): example for example in reversed(task.split(split))}
        examples = sorted(by_input.values(), key=lambda example: example.id)
        keys = {example.id: key for key, example in by_input.items()}
        return cls(task, split, tuple(_classes(task, examples)), keys)

    def shuffled(self, seed: int, *, shots: int) -> Deck:
        """The pool in drawing order: one example of each class in turn, classes and members in random order.

        Raises:
            ValueError: for shots below one.
        """
        if shots < 1:
            raise ValueError(
                f"shots={shots} demonstrates nothing; give at least 1, or build a zero-shot prompt"
            )
        rng = random.Random(seed)
        classes = [rng.sample(members, len(members)) for members in self.classes]
        rng.shuffle(classes)
        # A letter that a few items have (an E among A to D) would otherwise be in every five-shot prompt.
        enough = len(self.keys) / (4 * len(classes)) if self.task.kind == "multiple-choice" else 0
        common = [members for members in classes if len(members) >= enough]
        rare = [members for members in classes if len(members) < enough]
        turns = chain(zip_longest(*common), zip_longest(*rare))
        ranked = [example for turn in turns for example in turn if example is not None]
        return Deck(self, tuple(ranked), tuple(rng.sample(range(shots), shots)))


@dataclass(frozen=True, slots=True)
class Deck:
    """A pool in drawing order, from which the same demonstrations are dealt to every query.

    Attributes:
        pool: whose examples these are.
        ranked: its examples; the first ones are shown.
        order: the order in which they are shown.
    """

    pool: Pool
    ranked: tuple[Example, ...]
    order: tuple[int, ...]

    def deal(self, exclude: Sequence[Example] = ()) -> tuple[Example, ...]:
        """The first examples, each excluded one replaced in its place by the next one of its class.

        Raises:
            ValueError: when fewer are left than were asked for.
        """
        shots, task = len(self.order), self.pool.task
        ids = {example.id for example in exclude}
        inputs = {input_key(example.input) for example in exclude}
        hidden = {own for own, key in self.pool.keys.items() if own in ids or key in inputs}
        if shots > len(self.ranked) - len(hidden):
            raise ValueError(
                f"shots={shots} is more than the {len(self.ranked) - len(hidden)} distinct examples that the "
                f"{self.pool.split} split of {task.name!r} can show; ask for fewer"
            )
        spare = [example for example in self.ranked[shots:] if example.id not in hidden]
        first = self.ranked[:shots]
        shown = [_stand_in(task, example, spare) if example.id in hidden else example for example in first]
        return tuple(shown[place] for place in self.order)


def shuffled_answers(task: Task, shown: Sequence[Example], *, seed: int, pool: Split) -> list[str]:
    """Answers for demonstrations that say nothing about their inputs: the placebo of few-shot prompting.

    The right answers are permuted, and then exchanged in pairs until they are right as often as chance (half
    of the time for two labels, never for free answers), because a permutation of few answers is often nearly
    right or nearly all wrong, and both inform. A single demonstration gets an answer at random.

    Args:
        task: whose answers are admissible.
        shown: the demonstrations.
        seed: of the permutation.
        pool: where answers come from when there is nothing to permute.
    """
    rng = random.Random(stable_seed(seed, "shuffled answers"))
    right = [gold(task, example) for example in shown]
    allowed = [admissible(task, example) for example in shown]
    if len(set(right)) == 1:
        others = sorted({gold(task, example) for example in task.split(pool)} - set(right)) or right
        return [rng.choice(choices or others) for choices in allowed]
    chance = sum(1 / len(choices) for choices in allowed if choices)

    def distance(answers: Sequence[str]) -> float:
        hits = sum(answer == own for answer, own in zip(answers, right, strict=True))
        beyond = sum(
            bool(choices) and answer not in choices for answer, choices in zip(answers, allowed, strict=True)
        )
        return float(abs(hits - chance) + len(right) * beyond)

    answers = rng.sample(right, len(right))
    for _ in range(_EXCHANGES * len(right)):
        if distance(answers) <= 0.5:  # as near to chance as a whole number comes
            break
        first, second = rng.sample(range(len(right)), 2)
        other = list(answers)
        other[first], other[second] = answers[second], answers[first]
        if distance(other) <= distance(answers):
            answers = other
    return answers


def _classes(task: Task, examples: Sequence[Example]) -> list[tuple[Example, ...]]:
    if task.kind == "free":
        return [tuple(examples)]
    answers = [gold(task, example) for example in examples]
    # Label order, not alphabetical order, is what parallel tasks share.
    order = task.labels or tuple(sorted(set(answers)))
    grouped = [
        tuple(e for e, own in zip(examples, answers, strict=True) if own == answer) for answer in order
    ]
    return [members for members in grouped if members]


def _stand_in(task: Task, example: Example, spare: list[Example]) -> Example:
    """Take from ``spare`` the next example of the same class, or else the next one."""
    same = [other for other in spare if task.kind == "free" or gold(task, other) == gold(task, example)]
    chosen = (same or spare)[0]
    spare.remove(chosen)
    return chosen
