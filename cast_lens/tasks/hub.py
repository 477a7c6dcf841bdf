"""Loads the public data sets of arXiv 2405.10548, and XNLI, from the Hugging Face hub through ``datasets``.

Of each split a seeded, class-balanced sample is taken (`MOST`), as that paper does for its targets; rows are
drawn by index, so that parallel languages stay parallel. Where a data set has no labelled test split its
validation split is the test, and validation is carved out of train. The revision is resolved to a commit,
which the task's ``origin`` records.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .hub_data import HUB, HubData
from .sampling import class_of, in_turn, stable_seed
from .settings import Settings, wording
from .splits import make_splits
from .templates import KNOWN
from .types import Example, Task

if TYPE_CHECKING:
    from datasets import Dataset

# Enough for any experiment here, and small enough to be read in seconds. Train holds what becomes validation.
MOST: Mapping[str, int] = {"train": 900, "validation": 100, "test": 500}
# Rows read for one that is kept, so that rare classes fill up.
_SPARE = 4


def load_hub(name: str, *, seed: int = 0) -> Task:
    """A data set from the hub, or from the cache that ``datasets`` keeps.

    Args:
        name: one of `HUB`.
        seed: chooses the sample of each split, and the validation items that are carved out.

    Raises:
        ValueError: for an unknown name, or a data set whose columns are not those we know.
        ConnectionError: when the hub cannot be reached.
    """
    from .loading import unknown_task

    if name not in HUB:
        raise unknown_task(name, HUB)
    data = HUB[name]
    revision = resolve_revision(data)
    tables = {split: fetch(data, split, revision=revision) for split in sorted(set(data.splits.values()))}
    return task_from_tables(name, data, tables, seed=seed, revision=revision)


def resolve_revision(data: HubData) -> str:
    """The commit that the data set's revision stands for now; without a network the revision itself."""
    if Path(data.path).is_dir():
        return data.revision
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(data.path, revision=data.revision).sha or data.revision
    except Exception:
        # Which errors mean "no network" differs between the hub's HTTP libraries. Loading comes next: it may
        # still find the data set in the cache, and says what is wrong if it does not.
        return data.revision


def fetch(data: HubData, split: str, *, revision: str) -> Dataset:
    """One split as the hub has it.

    Raises:
        ConnectionError: when the hub cannot be reached and the cache lacks the data set.
    """
    import datasets

    try:
        return datasets.load_dataset(data.path, data.config, split=split, revision=revision)
    except OSError as error:
        raise ConnectionError(
            f"the data set {data.path!r} cannot be fetched from the Hugging Face hub ({error}); connect to a "
            "network (and unset HF_HUB_OFFLINE), give a folder as tasks=..., or use a task that ships"
        ) from error


def task_from_tables(
    name: str, data: HubData, tables: Mapping[str, Dataset], *, seed: int, revision: str
) -> Task:
    """Build a task from the data set's splits; no network is needed.

    Args:
        name: one of `HUB`.
        data: how its rows read.
        tables: the data set's splits by their own names.
        seed: chooses the sample of each split.
        revision: recorded in the task's origin.

    Raises:
        ValueError: when the columns are not those we know.
    """
    kind = KNOWN[name.partition(".")[0]].kind
    language = name.partition(".")[2] or "en"
    files = {ours: _sample(data, tables, ours, seed=seed, language=language) for ours in data.splits}
    splits = make_splits(files, seed=seed, where=name, class_of=partial(class_of, kind))
    examples = [example for part in files.values() for example in part]
    template, instruction, family = wording(name, kind, data.labels, Settings(), examples)
    config = f" ({data.config})" if data.config else ""
    return Task(
        name=name,
        kind=kind,
        family=family,
        template=template,
        instruction=instruction,
        labels=data.labels,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        language=language,
        origin=f"hub: {data.path}{config} at {revision}",
        dropped=splits.dropped,
    )


def _sample(
    data: HubData, tables: Mapping[str, Dataset], ours: str, *, seed: int, language: str
) -> list[Example]:
    """A class-balanced sample of one of our splits: one example of each class in turn."""
    theirs = data.splits[ours]
    table, sharers = tables[theirs], [own for own, split in data.splits.items() if split == theirs]
    # The same indices for every data set of this length, which keeps languages parallel.
    indices = random.Random(stable_seed(seed, theirs)).sample(range(len(table)), len(table))
    share = indices[sharers.index(ours) :: len(sharers)][: MOST[ours] * _SPARE]
    classes: dict[str, list[Example]] = {}
    for example in _examples(data, table.select(share), share, theirs, language):
        classes.setdefault(example.fields.get("label", "") or example.answer, []).append(example)
    return in_turn(classes.values())[: MOST[ours]]


def _examples(
    data: HubData, table: Dataset, indices: list[int], split: str, language: str
) -> Iterator[Example]:
    for index, row in zip(indices, table, strict=True):
        try:
            item, own = data.read(row), row[data.id] if data.id else f"{split}-{index}"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{data.path}, split {split!r}, row {index}: cannot be read ({error!r}); it has the columns "
                f"{', '.join(row)}. The data set's layout has changed: give a folder as tasks=..."
            ) from error
        if item.answer and item.input.strip():
            yield Example(str(own), item.input, item.answer, item.choices, item.fields or {}, language)
