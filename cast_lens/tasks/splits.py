"""Train, validation and test that never share an example.

The rules, in this order:

- *train* is the file ``train``; without one ``validation_pool``, then ``demos``.
- *validation* is the file ``validation``; without one up to 100 items of ``validation_pool`` where that is
  not already train; without either a fifth of train, at most 100 items, is moved there. Items are picked by a
  hash of seed and id, so that parallel files in several languages are cut at the same ids.
- an input that stands in two splits stays in the later one (test before validation before train) and is
  dropped from the other; the task keeps the count. Case and white space make no difference between inputs.
- an id that stands twice in a folder's files is an error (`cast_lens.tasks.jsonl.check_ids`).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .types import Example

FILES = ("train", "validation", "validation_pool", "test", "demos")
VALIDATION_SHARE = 0.2
VALIDATION_MOST = 100


@dataclass(frozen=True, slots=True)
class Splits:
    """Disjoint splits, and how many examples were dropped to make them so."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: int = 0


def stable_seed(*parts: object) -> int:
    """An integer from any printable parts, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def input_key(text: str) -> str:
    """What two inputs have in common when they ask the same: their text but for case and white space."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def pick(examples: Sequence[Example], count: int, *, seed: int) -> frozenset[str]:
    """Ids of ``count`` examples chosen by a hash of seed and id, whatever their order."""
    ranked = sorted(examples, key=lambda example: (stable_seed(seed, example.id), example.id))
    return frozenset(example.id for example in ranked[:count])


def make_splits(files: Mapping[str, Sequence[Example]], *, seed: int, where: str) -> Splits:
    """Split a task's files by the rules above.

    Args:
        files: examples by file name (`FILES`).
        seed: chooses the validation items that are carved out.
        where: what to call the task in an error.

    Raises:
        ValueError: where there is no test, nothing to train on, or nothing left of a split.
    """
    if "test" not in files:
        raise ValueError(f"{where} has no test split; it has {', '.join(files)}; add test.jsonl")
    source = next((name for name in ("train", "validation_pool", "demos") if name in files), None)
    if source is None:
        raise ValueError(f"{where} has nothing to draw demonstrations from; add train.jsonl")
    train = tuple(files[source])
    train, validation = _validation(files, train, source, seed)
    return disjoint(Splits(train, validation, tuple(files["test"])), where=where)


def disjoint(splits: Splits, *, where: str) -> Splits:
    """Drop from train what validation or test asks too, and from validation what test asks.

    Raises:
        ValueError: where a split is, or would be left, empty.
    """
    validation = _without(splits.validation, splits.test)
    train = _without(splits.train, (*validation, *splits.test))
    dropped = len(splits.train) + len(splits.validation) - len(train) - len(validation)
    sizes = {"train": len(train), "validation": len(validation), "test": len(splits.test)}
    if empty := [name for name, size in sizes.items() if not size]:
        raise ValueError(
            f"{where}: the {empty[0]} split is empty ({dropped} examples dropped because another split asks "
            "the same input); add examples that differ"
        )
    return Splits(train, validation, splits.test, splits.dropped + dropped)


def _validation(
    files: Mapping[str, Sequence[Example]], train: tuple[Example, ...], source: str, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    if "validation" in files:
        return train, tuple(files["validation"])
    if "validation_pool" in files and source != "validation_pool":
        pool = files["validation_pool"]
        chosen = pick(pool, VALIDATION_MOST, seed=seed)
        return train, tuple(example for example in pool if example.id in chosen)
    return carve(train, seed=seed)


def carve(train: Sequence[Example], *, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Move a fifth of train, at least one and at most 100 examples, to validation; both keep their order."""
    count = min(VALIDATION_MOST, max(1, round(VALIDATION_SHARE * len(train))))
    chosen = pick(train, count, seed=seed)
    kept = tuple(example for example in train if example.id not in chosen)
    return kept, tuple(example for example in train if example.id in chosen)


def _without(examples: Iterable[Example], others: Iterable[Example]) -> tuple[Example, ...]:
    others = tuple(others)
    ids, inputs = {example.id for example in others}, {input_key(example.input) for example in others}
    return tuple(
        example for example in examples if example.id not in ids and input_key(example.input) not in inputs
    )
