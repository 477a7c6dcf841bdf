"""Seeded samples of a task's examples (what is shown, averaged and tested), and the splits that they come from.

One rule for all samples: classes take turns, in a random order, each giving its next example in a random order. Class
counts therefore differ by one at most for as long as every class has examples left, and a class is never missing from
a sample that has as many examples as there are classes. Accuracy over such a sample weights classes equally (as far as
the split allows), whatever the order or the balance of the file. Classes are the labels of a classification and the
letters of multiple choice; free answers are sampled as one class.

A sample depends on ids and classes only, so that parallel tasks in several languages give parallel samples, and the
first examples of a sample are the smaller sample of the same seed.

``make_splits`` makes train, validation and test that never share an example, by these rules in this order:

- *train* is the file ``train``; without one ``validation_pool``, then ``demos``.
- *validation* is the file ``validation``; without one up to 100 items of ``validation_pool`` where that is
  not already train; without either a fifth of train, at most 100 items, is moved there.
- a task in one file whose records name no split is cut into test (30 %, at most 500 inputs), validation (20 %, at most
  100) and train (the rest); records that ask the same input stay together.
- items that are moved are chosen by a hash of seed and id, in proportion to the classes and at least one of each that
  can spare one: a file sorted by label gives splits with all labels, and parallel files in several languages are cut at
  the same ids.
- an input that occurs in two splits stays in the later one (test before validation before train) and is
  dropped from the other, with a warning. Inputs are compared without white space but with case.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from .templates import admissible, gold, gold_letter, letters
from .types import Example, Kind, Prompt, Split, Task

if TYPE_CHECKING:
    import pandas as pd


# Exchanges tried for each shuffled answer; a few suffice where the chance level can be reached at all.
_EXCHANGES = 16


def stable_seed(*parts: object) -> int:
    """An integer from any printable parts, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def input_key(text: str) -> str:
    """The key by which inputs are compared: their text apart from white space. Case counts."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def in_turn(classes: Iterable[Sequence[Example]]) -> list[Example]:
    """One example of each class in turn, until all are used up."""
    return [example for turn in zip_longest(*classes) for example in turn if example is not None]


def sample_examples(
    task: Task,
    n: int | None = None,
    *,
    split: Split = "test",
    seed: int = 0,
    exclude: Sequence[Example] = (),
    distinct: bool = False,
) -> tuple[Example, ...]:
    """A seeded sample of a split, balanced over the task's classes.

    Args:
        task: whose examples these are.
        n: how many; None for all of them (in sampling order).
        split: where they come from.
        seed: seed of the sample.
        exclude: examples to leave out, by id and by input.
        distinct: take one example per input only.

    Returns:
        examples in sampling order: the first ``k`` of them are the sample of size ``k``.

    Raises:
        ValueError: when ``n`` is below one or more than the split holds, or the split is unknown.

    >>> from collections import Counter
    >>> from cast_lens.tasks import load_task, sample_examples
    >>> sample = sample_examples(load_task("finance-sentiment"), 9, seed=0)
    >>> sorted(Counter(example.answer for example in sample).items())
    [('negative', 3), ('neutral', 3), ('positive', 3)]
    """
    ids, inputs = {example.id for example in exclude}, {input_key(example.input) for example in exclude}
    offered = [
        example
        for example in (_distinct(task.split(split)) if distinct else task.split(split))
        if example.id not in ids and input_key(example.input) not in inputs
    ]
    if n is not None and not 1 <= n <= len(offered):
        left_out = f" beside the {len(ids)} that are excluded" if ids else ""
        raise ValueError(
            f"n={n} must be from 1 to {len(offered)}, the examples that the {split} split of {task.name!r} "
            f"holds{left_out}"
        )
    classes = _shuffled(task, sorted(offered, key=lambda example: example.id), random.Random(seed))
    return tuple(in_turn(classes)[:n])


def label_counts(task: Task, examples: Iterable[Example], *, split: str = "test") -> pd.DataFrame:
    """How often each class occurs in what was used.

    Args:
        task: whose examples these are.
        examples: e.g. from `sample_examples`.
        split: what to call them in the table (``train``, ``validation``, ``test``).

    Returns:
        one row per admissible class: ``task, split, label, n``; ``n`` is 0 for a class that is missing. Free answers
        have a single row with an empty label.
    """
    import pandas as pd  # A listing of tasks must not wait for it.

    used = list(examples)
    counts = Counter(class_of(task.kind, example) for example in used)
    labels = task.labels or sorted({letter for example in used for letter in letters(example)} or {""})
    rows = [(task.name, split, label, counts[label]) for label in labels]
    return pd.DataFrame(rows, columns=["task", "split", "label", "n"])


def class_of(kind: Kind, example: Example) -> str:
    """The class that samples are balanced over: the label, the right option's letter, or nothing for free answers."""
    if kind == "free":
        return ""
    return gold_letter(example) if kind == "multiple-choice" else example.answer


def warn_missing_classes(prompts: Iterable[Prompt]) -> None:
    """Warn where no prompt has some admissible answer as its gold answer: accuracy then says nothing about it.

    Only answers that are admissible for all prompts of a task count, and only where there are enough prompts (one per
    admissible answer) for all of them to occur.
    """
    tasks: dict[str, dict[tuple[str, str], Prompt]] = {}
    for prompt in (prompt for prompt in prompts if prompt.gold):
        tasks.setdefault(prompt.task, {})[prompt.sample_id, prompt.query] = prompt
    for name, found in tasks.items():
        asked = list(found.values())
        shared = [answer for answer in asked[0].choices if all(answer in prompt.choices for prompt in asked[1:])]
        counts = Counter(prompt.gold for prompt in asked)
        missing = [answer for answer in shared if answer not in counts]
        if missing and len(asked) >= len(shared):
            present = ", ".join(f"{n} {answer!r}" for answer, n in counts.most_common())
            warnings.warn(
                f"task {name!r}: no evaluated example has the answer {' or '.join(map(repr, missing))} "
                f"({len(asked)} examples: {present}); accuracy says nothing about it. "
                "Sample examples by label, as sample_examples does",
                stacklevel=3,
            )


def demonstrations(
    task: Task, *, shots: int, seed: int = 0, exclude: Sequence[Example] = (), pool: Split = "train"
) -> tuple[Example, ...]:
    """Examples to show, balanced over the task's classes, in a random order.

    A letter that few items have comes after the others, so that it is not in every prompt.

    Args:
        task: where they come from.
        shots: how many.
        seed: seed of the sample and of the order.
        exclude: examples that must not be shown, by id or by input. The others keep their places.
        pool: the split that they come from.

    Raises:
        ValueError: for shots below one or above what the pool holds, or an unknown pool.

    >>> from cast_lens.tasks import demonstrations, load_task
    >>> [one.answer for one in demonstrations(load_task("review-sentiment"), shots=2, seed=0)]
    ['positive', 'negative']
    """
    return Pool.of(task, pool).ranked(seed, shots=shots).sample(exclude)


@dataclass(frozen=True, slots=True)
class Pool:
    """The examples of one split that may be shown, one per input, sorted by id.

    Attributes:
        task, split: where they come from.
        examples: the first example of each input.
        keys: what each example's input is compared by, by id.
    """

    task: Task
    split: Split
    examples: tuple[Example, ...]
    keys: Mapping[str, str]

    @classmethod
    def of(cls, task: Task, split: Split) -> Pool:
        """The pool of a task's split.

        Raises:
            ValueError: when the split is unknown.
        """
        examples = sorted(_distinct(task.split(split)), key=lambda example: example.id)
        return cls(task, split, tuple(examples), {example.id: input_key(example.input) for example in examples})

    def ranked(self, seed: int, *, shots: int) -> RankedPool:
        """The pool in sampling order.

        Raises:
            ValueError: for shots below one.
        """
        if shots < 1:
            raise ValueError(f"shots={shots} demonstrates nothing; give at least 1, or build a zero-shot prompt")
        rng = random.Random(seed)
        classes = _shuffled(self.task, self.examples, rng)
        # A letter that a few items have (an E among A to D) would otherwise be in every five-shot prompt.
        enough = len(self.examples) / (4 * len(classes)) if self.task.kind == "multiple-choice" else 0
        common = [members for members in classes if len(members) >= enough]
        rare = [members for members in classes if len(members) < enough]
        ranked = (*in_turn(common), *in_turn(rare))
        return RankedPool(self, ranked, tuple(rng.sample(range(shots), shots)))


@dataclass(frozen=True, slots=True)
class RankedPool:
    """A pool in sampling order, which gives every query the same demonstrations.

    Attributes:
        pool: whose examples these are.
        examples: all of them; the first ones are shown.
        order: the order in which they are shown.
    """

    pool: Pool
    examples: tuple[Example, ...]
    order: tuple[int, ...]

    def sample(self, exclude: Sequence[Example] = ()) -> tuple[Example, ...]:
        """The first examples, each excluded one replaced in its place by the next one of its class.

        Raises:
            ValueError: when fewer are left than were asked for.
        """
        shots, task = len(self.order), self.pool.task
        ids = {example.id for example in exclude}
        inputs = {input_key(example.input) for example in exclude}
        hidden = {own for own, key in self.pool.keys.items() if own in ids or key in inputs}
        if shots > len(self.examples) - len(hidden):
            raise ValueError(
                f"shots={shots} is more than the {len(self.examples) - len(hidden)} distinct examples that the "
                f"{self.pool.split} split of {task.name!r} can show; ask for fewer, or give it more examples. "
                "Steering it with another task's vector needs none of them: cl.recommend, cast-lens recommend"
            )
        spare = [example for example in self.examples[shots:] if example.id not in hidden]
        first = self.examples[:shots]
        shown = [_stand_in(task, example, spare) if example.id in hidden else example for example in first]
        return tuple(shown[place] for place in self.order)


def shuffled_answers(task: Task, shown: Sequence[Example], *, seed: int, pool: Split) -> list[str]:
    """Answers for demonstrations that carry no information about their inputs: the placebo of few-shot prompting.

    The right answers are permuted, and then exchanged in pairs until they are right as often as chance (half
    of the time for two labels, never for free answers), because a permutation of few answers is often nearly
    right or nearly all wrong, and both inform. A single demonstration gets an answer at random.

    Args:
        task: whose answers are admissible.
        shown: the demonstrations.
        seed: seed of the permutation.
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
        beyond = sum(bool(choices) and answer not in choices for answer, choices in zip(answers, allowed, strict=True))
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


def _distinct(examples: Sequence[Example]) -> list[Example]:
    """The first example of each input."""
    return list({input_key(example.input): example for example in reversed(examples)}.values())[::-1]


def _shuffled(task: Task, examples: Sequence[Example], rng: random.Random) -> list[list[Example]]:
    """The examples of each class in a random order, classes in a random order."""
    grouped: dict[str, list[Example]] = {label: [] for label in task.labels}
    for example in examples:
        grouped.setdefault(class_of(task.kind, example), []).append(example)
    # Label order, not alphabetical order, is what parallel tasks share.
    order = task.labels or sorted(grouped)
    classes = [rng.sample(members, len(members)) for label in order if (members := grouped[label])]
    rng.shuffle(classes)
    return classes


def _stand_in(task: Task, example: Example, spare: list[Example]) -> Example:
    """Take from ``spare`` the next example of the same class, or else the next one."""
    same = [other for other in spare if class_of(task.kind, other) == class_of(task.kind, example)]
    chosen = (same or spare)[0]
    spare.remove(chosen)
    return chosen


FILES = ("train", "validation", "validation_pool", "test", "demos")
# What else a split is called.
SPLIT_NAMES = {"training": "train", "dev": "validation", "val": "validation", "valid": "validation"}
VALIDATION_SHARE, VALIDATION_MOST = 0.2, 100
TEST_SHARE, TEST_MOST = 0.3, 500
ClassOf = Callable[[Example], str]
"""What splits are balanced over; see `cast_lens.tasks.sampling.class_of`."""


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint splits, and how many examples were dropped to make them so."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: int = 0


def pick(examples: Sequence[Example], count: int, *, seed: int, class_of: ClassOf) -> frozenset[str]:
    """Ids of ``count`` examples, chosen by a hash of seed and id in proportion to the classes.

    Every class that has two examples or more gives at least one, where ``count`` allows it.
    """
    by_id = sorted(examples, key=lambda example: example.id)
    classes: dict[str, list[Example]] = {}
    for example in by_id:
        classes.setdefault(class_of(example), []).append(example)
    # Members are ranked by the share of their class that is moved with them; the first of each class goes first, unless
    # it is the only one.
    ranked = []
    for place, members in enumerate(classes.values()):
        members.sort(key=lambda example: (stable_seed(seed, example.id), example.id))
        shares = [(rank + 1) / len(members) for rank in range(len(members))]
        shares[0] = shares[0] if len(members) == 1 else 0.0
        ranked += [(share, place, member.id) for share, member in zip(shares, members, strict=True)]
    return frozenset(name for *_, name in sorted(ranked)[:count])


def make_splits(
    files: Mapping[str, Sequence[Example]], *, seed: int, where: str, class_of: ClassOf = lambda example: ""
) -> Splits:
    """Split a task's files by the rules above.

    Args:
        files: examples by file name (`FILES`); under ``""`` those of a single file that names no splits.
        seed: chooses the items that are moved.
        where: what to call the task in an error.
        class_of: what the moved items are balanced over.

    Raises:
        ValueError: where there is no test, nothing to train on, or nothing left of a split.
    """
    if "" in files:
        return _cut(files[""], seed=seed, where=where, class_of=class_of)
    if "test" not in files:
        raise ValueError(
            f"{where} has no test split; it has {', '.join(files)}; add test.jsonl, or rename the file whose answers "
            "you want to test on (validation is then taken from train)"
        )
    source = next((name for name in ("train", "validation_pool", "demos") if name in files), None)
    if source is None:
        raise ValueError(f"{where} has no examples to show as demonstrations; add train.jsonl")
    train, test = tuple(files[source]), tuple(files["test"])
    if "validation" in files:
        validation = tuple(files["validation"])
    elif "validation_pool" in files and source != "validation_pool":
        chosen = pick(files["validation_pool"], VALIDATION_MOST, seed=seed, class_of=class_of)
        validation = _those(files["validation_pool"], chosen)
    else:
        train, validation = carve(train, seed=seed, class_of=class_of)
    return disjoint(Splits(train, validation, test), where=where)


def carve(
    examples: Sequence[Example],
    *,
    seed: int,
    share: float = VALIDATION_SHARE,
    most: int = VALIDATION_MOST,
    class_of: ClassOf = lambda example: "",
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Move a share of the examples, at least one and at most ``most``, to another split; both keep their order."""
    count = min(most, max(1, round(share * len(examples))))
    chosen = pick(examples, count, seed=seed, class_of=class_of)
    return tuple(example for example in examples if example.id not in chosen), _those(examples, chosen)


def disjoint(splits: Splits, *, where: str) -> Splits:
    """Drop inputs from train that are in validation or test, and from validation those in test, with a warning.

    Raises:
        ValueError: where a split is, or would be left, empty.
    """
    validation = _without(splits.validation, splits.test)
    train = _without(splits.train, (*validation, *splits.test))
    lost = {"train": len(splits.train) - len(train), "validation": len(splits.validation) - len(validation)}
    dropped = sum(lost.values())
    sizes = {"train": len(train), "validation": len(validation), "test": len(splits.test)}
    if empty := [name for name, size in sizes.items() if not size]:
        parts = (*splits.train, *splits.validation, *splits.test)
        different = len({input_key(example.input) for example in parts})
        why = f"{dropped} examples dropped because another split asks the same input"
        if not dropped:
            why = f"{len(parts)} examples ask {different} different inputs, the first {parts[0].input[:40]!r}"
        raise ValueError(f"{where}: the {empty[0]} split is empty ({why}); add examples that differ")
    if dropped:
        told = " and ".join(f"{count} of the {name} split" for name, count in lost.items() if count)
        warnings.warn(
            f"{where}: {told} dropped, because a later split (test, or validation) asks the same input", stacklevel=2
        )
    return Splits(train, validation, splits.test, splits.dropped + dropped)


def _cut(examples: Sequence[Example], *, seed: int, where: str, class_of: ClassOf) -> Splits:
    """The splits of a single file; examples with one input go to one split."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(input_key(example.input), example)
    rest, test = carve(tuple(first.values()), seed=seed, share=TEST_SHARE, most=TEST_MOST, class_of=class_of)
    # A fifth of the whole, which is more than a fifth of the rest.
    share = VALIDATION_SHARE * len(first) / max(1, len(rest))
    train, validation = carve(rest, seed=seed, share=share, class_of=class_of)
    place = {
        input_key(example.input): number for number, part in enumerate((train, validation, test)) for example in part
    }
    train, validation, test = (
        tuple(example for example in examples if place[input_key(example.input)] == number) for number in range(3)
    )
    return disjoint(Splits(train, validation, test), where=where)


def _those(examples: Iterable[Example], ids: frozenset[str]) -> tuple[Example, ...]:
    return tuple(example for example in examples if example.id in ids)


def _without(examples: Iterable[Example], others: Iterable[Example]) -> tuple[Example, ...]:
    others = tuple(others)
    ids, inputs = {example.id for example in others}, {input_key(example.input) for example in others}
    return tuple(example for example in examples if example.id not in ids and input_key(example.input) not in inputs)
