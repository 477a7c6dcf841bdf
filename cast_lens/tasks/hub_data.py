"""Where the public data sets lie on the Hugging Face hub, and how their rows read.

The eight sources and five targets of arXiv 2405.10548, and XNLI (of which only the human-translated
validation and test splits are read, so that its languages are parallel by row).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .sampling import stable_seed

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
    """Where a data set lies on the hub and how its rows read.

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
        item.input,
        item.answer,
        item.choices,
        {**(item.fields or {}), "context": context, "question": question},
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
    "ag_news": HubData(
        "fancyzhx/ag_news", None, {"train": "train", "test": "test"}, _text("text", _NEWS), _NEWS
    ),
    "sst2": HubData(_GLUE, "sst2", _VALIDATION_IS_TEST, _text("sentence", _SENTIMENT), _SENTIMENT),
    "mnli": HubData(
        _GLUE,
        "mnli",
        {"train": "train", "test": "validation_matched"},
        _pair("premise", "hypothesis", _NLI),
        _NLI,
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
