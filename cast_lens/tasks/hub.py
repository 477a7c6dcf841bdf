"""Loads public data sets from the Hugging Face hub through ``datasets``.

They are the eight sources and five targets of arXiv 2405.10548, and XNLI (of which only the human-translated
validation and test splits are read, so that its languages are parallel by row).

Of each split a seeded, class-balanced sample is taken (`MOST`), as that paper does for its targets; rows are
drawn by index, so that parallel languages stay parallel. Where a data set has no labelled test split its
validation split is the test, and validation is carved out of train. The revision is resolved to a commit,
which the task's ``origin`` records.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import assembled, unknown_task
from .sampling import in_turn, stable_seed
from .settings import Settings
from .templates import KNOWN
from .types import Example, Task

if TYPE_CHECKING:
    from datasets import Dataset

# Data sets that the hub still describes by a script are read from the hub's own conversion.
_CONVERTED = "refs/convert/parquet"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    """What one row says; ``answer`` is empty where the row is unlabelled."""

    input: str
    answer: str
    choices: tuple[str, ...] = ()
    fields: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class HubData:
    """Where a data set is on the hub, and how its rows are read.

    Attributes:
        path, config: as ``datasets.load_dataset`` takes them.
        splits: which of the data set's splits is our train, validation and test. One that
            serves twice is cut in two.
        read: turns a row into an item.
        labels: label words by number, for classification.
        id: the column that identifies a row; without one its split and index do.
        revision: branch, tag or commit.
    """

    path: str
    config: str | None
    splits: Mapping[str, str]
    read: Callable[[Row], Item]
    labels: tuple[str, ...] = ()
    id: str | None = None
    revision: str = "main"


def _text(column: str, labels: tuple[str, ...]) -> Callable[[Row], Item]:
    return lambda row: Item(row[column], _label(row["label"], labels))


def _pair(first: str, second: str, labels: tuple[str, ...]) -> Callable[[Row], Item]:
    def read(row: Row) -> Item:
        fields = {first: row[first], second: row[second]}
        return Item(f"{row[first]}\n{row[second]}", _label(row["label"], labels), fields=fields)

    return read


def _label(number: int, labels: tuple[str, ...]) -> str:
    """The label word; the hub marks an unlabelled row by -1."""
    if number >= len(labels):
        raise ValueError(f"label {number} is beyond the {len(labels)} labels {list(labels)}")
    return labels[number] if number >= 0 else ""


def _boolq(row: Row) -> Item:
    fields = {"passage": row["passage"], "question": row["question"]}
    return Item(f"{row['passage']}\n{row['question']}", str(bool(row["answer"])), fields=fields)


def _lettered(row: Row) -> Item:
    """ARC and CommonsenseQA: options with their own marks, which are letters or digits."""
    options, marks = tuple(row["choices"]["text"]), list(row["choices"]["label"])
    return _options(row["question"], options, marks.index(row["answerKey"]) if row["answerKey"] else -1)


def _race(row: Row) -> Item:
    return _passage(row["article"], row["question"], tuple(row["options"]), "ABCD".index(row["answer"]))


def _social(row: Row) -> Item:
    options = (row["answerA"], row["answerB"], row["answerC"])
    return _passage(row["context"], row["question"], options, int(row["label"]) - 1)


def _sciq(row: Row) -> Item:
    """The right answer has a column of its own: the options get an order that depends on the question."""
    options = [row["correct_answer"], row["distractor1"], row["distractor2"], row["distractor3"]]
    order = random.Random(stable_seed("options", row["question"])).sample(range(4), 4)
    return _options(row["question"], tuple(options[place] for place in order), order.index(0))


def _medmcqa(row: Row) -> Item:
    return _options(row["question"], (row["opa"], row["opb"], row["opc"], row["opd"]), row["cop"])


def _options(question: str, options: tuple[str, ...], right: int) -> Item:
    options = tuple(option.strip() for option in options)
    if right < 0:
        return Item(question, "", options)
    return Item(question, options[right], options, {"label": "ABCDEFGH"[right]})


def _passage(context: str, question: str, options: tuple[str, ...], right: int) -> Item:
    item = _options(f"{context}\n{question}", options, right)
    return Item(
        item.input, item.answer, item.choices, {**(item.fields or {}), "context": context, "question": question}
    )


_OWN = {"train": "train", "validation": "validation", "test": "test"}
_VALIDATION_IS_TEST = {"train": "train", "test": "validation"}
_NLI = ("entailment", "neutral", "contradiction")
_SENTIMENT = ("negative", "positive")
_QUORA = ("not duplicate", "duplicate")
_NEWS = ("world", "sports", "business", "technology")
_FINANCE = ("negative", "neutral", "positive")
_XNLI_LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")

_GLUE = "nyu-mll/glue"
_ARC = "allenai/ai2_arc"
HUB: Mapping[str, HubData] = {
    "ag_news": HubData("fancyzhx/ag_news", None, {"train": "train", "test": "test"}, _text("text", _NEWS), _NEWS),
    "sst2": HubData(_GLUE, "sst2", _VALIDATION_IS_TEST, _text("sentence", _SENTIMENT), _SENTIMENT),
    "mnli": HubData(
        _GLUE, "mnli", {"train": "train", "test": "validation_matched"}, _pair("premise", "hypothesis", _NLI), _NLI
    ),
    "qqp": HubData(_GLUE, "qqp", _VALIDATION_IS_TEST, _pair("question1", "question2", _QUORA), _QUORA),
    "boolq": HubData("google/boolq", None, _VALIDATION_IS_TEST, _boolq, ("True", "False")),
    "commonsense_qa": HubData("tau/commonsense_qa", None, _VALIDATION_IS_TEST, _lettered, id="id"),
    "arc_easy": HubData(_ARC, "ARC-Easy", _OWN, _lettered, id="id"),
    "arc_challenge": HubData(_ARC, "ARC-Challenge", _OWN, _lettered, id="id"),
    "race": HubData("ehovy/race", "all", _OWN, _race),
    "sciq": HubData("allenai/sciq", None, _OWN, _sciq),
    "medmcqa": HubData("openlifescienceai/medmcqa", None, _VALIDATION_IS_TEST, _medmcqa, id="id"),
    "social_i_qa": HubData("allenai/social_i_qa", None, _VALIDATION_IS_TEST, _social, revision=_CONVERTED),
    "financial_phrasebank": HubData(
        "takala/financial_phrasebank",
        "sentences_allagree",
        {"train": "train", "test": "train"},
        _text("sentence", _FINANCE),
        _FINANCE,
        revision=_CONVERTED,
    ),
    **{
        "xnli" if language == "en" else f"xnli.{language}": HubData(
            "facebook/xnli",
            language,
            {"train": "validation", "test": "test"},
            _pair("premise", "hypothesis", _NLI),
            _NLI,
        )
        for language in _XNLI_LANGUAGES
    },
}

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
    if name not in HUB:
        raise unknown_task(name, HUB)
    data = HUB[name]
    revision = resolve_revision(data)
    tables = {split: fetch(data, split, revision=revision) for split in sorted(set(data.splits.values()))}
    return task_from_tables(name, data, tables, seed=seed, revision=revision)


def resolve_revision(data: HubData) -> str:
    """The commit that the data set's revision points to now; without a network the revision itself."""
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
            "network (and unset HF_HUB_OFFLINE), give a folder as tasks=..., or use a built-in task"
        ) from error


def task_from_tables(name: str, data: HubData, tables: Mapping[str, Dataset], *, seed: int, revision: str) -> Task:
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
    settings = Settings(kind=KNOWN[name.partition(".")[0]].kind, labels=data.labels)
    language = name.partition(".")[2] or "en"
    files = {ours: _sample(data, tables, ours, seed=seed, language=language) for ours in data.splits}
    config = f" ({data.config})" if data.config else ""
    origin = f"hub: {data.path}{config} at {revision}"
    return assembled(files, settings, name=name, language=language, origin=origin, seed=seed)


def _sample(data: HubData, tables: Mapping[str, Dataset], ours: str, *, seed: int, language: str) -> list[Example]:
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


def _examples(data: HubData, table: Dataset, indices: list[int], split: str, language: str) -> Iterator[Example]:
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
