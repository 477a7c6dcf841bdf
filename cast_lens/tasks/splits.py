"""Train, validation and test that never share an example.

The rules, in this order:

- *train* is the file ``train``; without one ``validation_pool``, then ``demos``.
- *validation* is the file ``validation``; without one up to 100 items of ``validation_pool`` where that is
  not already train; without either a fifth of train, at most 100 items, is moved there.
- a task in one file whose records name no split is cut into test (30 %, at most 500 inputs), validation (20 %, at most
  100) and train (the rest); records that ask the same input stay together.
- items that are moved are chosen by a hash of seed and id, in proportion to the classes and at least one of each that
  can spare one: a file sorted by label gives splits with all labels, and parallel files in several languages are cut at
  the same ids.
- an input that occurs in two splits stays in the later one (test before validation before train) and is
  dropped from the other, with a warning. White space makes no difference between inputs; case does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .sampling import input_key, stable_seed
from .types import Example

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
        raise ValueError(f"{where} has no test split; it has {', '.join(files)}; add test.jsonl")
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
    """Drop from train what validation or test asks too, and from validation what test asks; warn about it.

    Raises:
        ValueError: where a split is, or would be left, empty.
    """
    validation = _without(splits.validation, splits.test)
    train = _without(splits.train, (*validation, *splits.test))
    lost = {
        "train": len(splits.train) - len(train),
        "validation": len(splits.validation) - len(validation),
    }
    dropped = sum(lost.values())
    sizes = {"train": len(train), "validation": len(validation), "test": len(splits.test)}
    if empty := [name for name, size in sizes.items() if not size]:
        raise ValueError(
            f"{where}: the {empty[0]} split is empty ({dropped} examples dropped because another split asks "
            "the same input); add examples that differ"
        )
    if dropped:
        told = " and ".join(f"{count} of the {name} split" for name, count in lost.items() if count)
        warnings.warn(
            f"{where}: {told} dropped, because a later split (test, or validation) asks the same input",
            stacklevel=2,
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
