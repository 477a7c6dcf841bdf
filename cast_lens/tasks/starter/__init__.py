"""The built-in suite: what each task asks, in which words, in which languages.

The examples are in ``<task>.<language>.jsonl`` and were written for this project. In another language
the instruction, the cues and the label words are all in that language; an item keeps its id and its split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..records import Line, read_lines
from ..sampling import Splits, disjoint
from ..templates import WORD
from ..types import SHIPPED, SPLITS, Example, Kind, Task, TaskInfo, Template

FOLDER = Path(__file__).parent

_OPEN: Mapping[str, str] = {
    "en": "Definition: {instruction}\n",
    "de": "Definition: {instruction}\n",
    "fr": "Définition : {instruction}\n",
    "es": "Definición: {instruction}\n",
}


@dataclass(frozen=True, slots=True)
class StarterTask:
    """One task of the suite in one language; attributes as in `Task`."""

    kind: Kind
    family: str
    template: Template
    instruction: str = ""
    labels: tuple[str, ...] = ()


def _labels(body: str, instruction: str, labels: Sequence[str], *, language: str = "en") -> StarterTask:
    template = Template(f"starter/label.{language}", body, definition=_OPEN[language])
    return StarterTask("classification", "classification", template, instruction, tuple(labels))


def _options(instruction: str) -> StarterTask:
    template = Template("starter/options.en", "Question: {input}\n{options}\nAnswer:")
    return StarterTask("multiple-choice", "multiple-choice", template, instruction)


_WORDS = StarterTask("free", "word", WORD)

STARTER: Mapping[str, StarterTask] = {
    "review-sentiment": _labels(
        "Review: {input}\nLabel:",
        'Decide whether the writer of the review is satisfied or not. The label is "positive" or "negative".',
        ("positive", "negative"),
    ),
    "review-sentiment.de": _labels(
        "Bewertung: {input}\nUrteil:",
        "Entscheide, ob die Person, die diese Bewertung geschrieben hat, zufrieden ist oder nicht. "
        "Das Urteil lautet „positiv“ oder „negativ“.",
        ("positiv", "negativ"),
        language="de",
    ),
    "review-sentiment.fr": _labels(
        "Avis : {input}\nVerdict :",
        "Décide si la personne qui a écrit cet avis est satisfaite ou non. Le verdict est « positif » ou « négatif ».",
        ("positif", "négatif"),
        language="fr",
    ),
    "review-sentiment.es": _labels(
        "Reseña: {input}\nVeredicto:",
        "Decide si la persona que escribió esta reseña está satisfecha o no. El veredicto es «positivo» o «negativo».",
        ("positivo", "negativo"),
        language="es",
    ),
    "headline-topic": _labels(
        "Headline: {input}\nLabel:",
        'Name the topic of the headline. The label is "world", "sports", "business" or "technology".',
        ("world", "sports", "business", "technology"),
    ),
    "headline-topic.de": _labels(
        "Schlagzeile: {input}\nThema:",
        "Nenne das Thema der Schlagzeile. Es lautet „Welt“, „Sport“, „Wirtschaft“ oder „Technik“.",
        ("Welt", "Sport", "Wirtschaft", "Technik"),
        language="de",
    ),
    "headline-topic.fr": _labels(
        "Titre : {input}\nThème :",
        "Indique le thème du titre de presse. C'est « monde », « sport », « économie » ou « technologie ».",
        ("monde", "sport", "économie", "technologie"),
        language="fr",
    ),
    "headline-topic.es": _labels(
        "Titular: {input}\nTema:",
        "Indica el tema del titular. Es «mundo», «deportes», «economía» o «tecnología».",
        ("mundo", "deportes", "economía", "tecnología"),
        language="es",
    ),
    "finance-sentiment": _labels(
        "Sentence: {input}\nLabel:",
        "Judge what the sentence from financial news means for the company. "
        'The label is "positive", "negative" or "neutral".',
        ("positive", "negative", "neutral"),
    ),
    "question-type": _labels(
        "Question: {input}\nLabel:",
        'Say what kind of answer the question asks for. The label is "person", "place", "date" or "number".',
        ("person", "place", "date", "number"),
    ),
    "science": _options("Answer the science question with the letter of the right option: A, B, C or D."),
    "geography": _options("Answer the geography question with the letter of the right option: A, B, C or D."),
    "everyday-sense": _options(
        "Answer the question about everyday life with the letter of the most sensible option: A, B, C or D."
    ),
    "yes-no-facts": StarterTask(
        "classification",
        "yes-no",
        Template("starter/yes-no.en", "Question: {input}\nAnswer:"),
        'Answer the question of fact with "yes" or "no".',
        ("yes", "no"),
    ),
    "country-capital": _WORDS,
    "present-past": _WORDS,
    "singular-plural": _WORDS,
    "antonym": _WORDS,
    "english-french": _WORDS,
    "english-german": _WORDS,
    "english-spanish": _WORDS,
}


def starter_file(name: str) -> Path:
    """The file of a shipped task; ``review-sentiment`` without a language is the English one."""
    task, _, language = name.partition(".")
    return FOLDER / f"{task}.{language or 'en'}.jsonl"


def starter_names() -> tuple[str, ...]:
    """The names of the built-in tasks, in the order in which they are shown."""
    return tuple(name for name in STARTER if starter_file(name).exists())


def load_starter(name: str) -> Task:
    """A task of the built-in suite.

    Raises:
        ValueError: where its file holds what the suite's own rules forbid.
    """
    task, path = STARTER[name], starter_file(name)
    language = name.partition(".")[2] or "en"
    lines = read_lines(path, language=language)
    splits = disjoint(by_split_field(lines, task.kind), where=name)
    return Task(
        name=name,
        kind=task.kind,
        family=task.family,
        template=task.template,
        instruction=task.instruction,
        labels=task.labels,
        train=splits.train,
        validation=splits.validation,
        test=splits.test,
        language=language,
        dropped=splits.dropped,
    )


def starter_info(name: str) -> TaskInfo:
    """What `TaskInfo.of` says about a task of the suite, counted without making its examples."""
    task = STARTER[name]
    lines = starter_file(name).read_text(encoding="utf-8").splitlines()
    counted = Counter(json.loads(line)["split"] for line in lines)
    train, validation, test = (counted[split] for split in SPLITS)
    return TaskInfo(
        name, task.kind, task.family, name.partition(".")[2] or "en", (train, validation, test), task.labels, SHIPPED
    )


def by_split_field(lines: Sequence[Line], kind: Kind) -> Splits:
    """Sort the lines of one file by their ``split`` field.

    Raises:
        ValueError: naming the line whose ``split`` is not one of train, validation and test.
    """
    found: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for line in lines:
        if line.split not in found:
            raise ValueError(f'{line.where}: field "split": expected one of {", ".join(SPLITS)}, got {line.split!r}')
        options = line.example.choices if kind == "multiple-choice" else ()
        found[line.split].append(replace(line.example, choices=options))
    train, validation, test = (tuple(found[split]) for split in SPLITS)
    return Splits(train, validation, test)
