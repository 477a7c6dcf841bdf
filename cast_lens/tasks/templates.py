"""How examples become text: the templates of arXiv 2405.10548, plain ones for other data, and the renderer.

The bodies of the known data sets are that paper's, character by character, with the blank that it leaves
before each line break. Two things differ from its prompts, and are the same here for every task:
demonstrations are separated by a blank line, and the lettered options carry no trailing blank (the paper's
MedMCQA has one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter, ascii_uppercase

from .types import Example, Kind, Task, Template

PAPER = "2405.10548"

PREMISE_HYPOTHESIS = Template(f"{PAPER}/001", "Premise: {premise} \nHypothesis: {hypothesis} \nLabel:")
TWO_QUESTIONS = Template(f"{PAPER}/002", "Question 1: {question1} \nQuestion 2: {question2} \nLabel:")
PASSAGE = Template(f"{PAPER}/003", "Context: {passage} \nQuestion: {question} \nAnswer:")
PASSAGE_OPTIONS = Template(f"{PAPER}/003", "Context: {context} \nQuestion: {question}\n{options} \nAnswer:")
SENTENCE = Template(f"{PAPER}/004", "Sentence: {input} \nLabel:")
QUESTION_OPTIONS = Template(f"{PAPER}/005", "Question: {input}\n{options} \nAnswer:")

WORD = Template("word", "Q: {input}\nA:", definition="")
ARROW = Template("2310.15916", "example:{input}->", definition="")
"""How arXiv 2310.15916 asks; see ``methods.arrow_task_vector``."""
PLAIN: Mapping[Kind, Template] = {
    "classification": Template("plain-classification", "Sentence: {input}\nLabel:"),
    "multiple-choice": Template("plain-multiple-choice", "Question: {input}\n{options}\nAnswer:"),
    "free": WORD,
}
FAMILIES: Mapping[Kind, str] = {
    "classification": "classification",
    "multiple-choice": "multiple-choice",
    "free": "word",
}


@dataclass(frozen=True, slots=True)
class KnownTask:
    """What we know of a public data set before reading it.

    Attributes:
        template: the body of arXiv 2405.10548 for it.
        kind, family: as in `Task`.
        instruction: our own wording; the paper's replaces it where a folder has them.
        labels: the label words, or the letters, that the wording lists.
    """

    template: Template
    kind: Kind
    family: str
    instruction: str
    labels: tuple[str, ...]

    def misfit(self, kind: Kind, labels: Sequence[str], examples: Sequence[Example]) -> str:
        """Why this wording is wrong for a task of that name; empty where it fits."""
        if kind != self.kind:
            return f"it is {kind}, not {self.kind}"
        if kind == "multiple-choice":
            options = Counter(len(example.choices) for example in examples).most_common(1)[0][0]
            if options != len(self.labels):
                return f"most records have {options} options, not {len(self.labels)}"
        elif set(labels) != set(self.labels):
            return f"its labels are {', '.join(labels)}, not {', '.join(self.labels)}"
        shared = set.intersection(*(set(example.fields) for example in examples)) | {"input", "options"}
        absent = sorted({name for _, name, _, _ in Formatter().parse(self.template.body) if name} - shared)
        return f"records have no field {absent[0]!r}" if absent else ""


def _classification(template: Template, instruction: str, *labels: str) -> KnownTask:
    return KnownTask(template, "classification", "classification", instruction, labels)


def _multiple_choice(template: Template, instruction: str, options: int = 4) -> KnownTask:
    letters = tuple(ascii_uppercase[:options])
    return KnownTask(template, "multiple-choice", "multiple-choice", instruction, letters)


_NLI_LABELS = ("entailment", "neutral", "contradiction")
_NLI = (
    'Decide whether the hypothesis follows from the premise. Label the pair "entailment" if it follows, '
    '"contradiction" if it cannot be true, and "neutral" if neither holds.'
)

KNOWN: Mapping[str, KnownTask] = {
    "ag_news": _classification(
        SENTENCE,
        'Name the topic of the news text. The label is "world", "sports", "business" or "technology".',
        "world",
        "sports",
        "business",
        "technology",
    ),
    "sst2": _classification(
        SENTENCE,
        'Judge the sentence from a film review. The label is "positive" or "negative".',
        "negative",
        "positive",
    ),
    "financial_phrasebank": _classification(
        SENTENCE,
        "Judge the sentence from financial news as an investor would. "
        'The label is "positive", "negative" or "neutral".',
        "negative",
        "neutral",
        "positive",
    ),
    "sib200": _classification(
        SENTENCE,
        'Name the topic of the sentence. The label is "entertainment", "geography", "health", "politics", '
        '"science/technology", "sports" or "travel".',
        "entertainment",
        "geography",
        "health",
        "politics",
        "science/technology",
        "sports",
        "travel",
    ),
    "mnli": _classification(PREMISE_HYPOTHESIS, _NLI, *_NLI_LABELS),
    "xnli": _classification(PREMISE_HYPOTHESIS, _NLI, *_NLI_LABELS),
    "qqp": _classification(
        TWO_QUESTIONS,
        "Decide whether the two questions ask the same thing. "
        'Label the pair "duplicate" if they do and "not duplicate" if they do not.',
        "not duplicate",
        "duplicate",
    ),
    "boolq": KnownTask(
        PASSAGE,
        "classification",
        "yes-no",
        'Read the passage and answer the question about it with "True" or "False".',
        ("True", "False"),
    ),
    "race": _multiple_choice(
        PASSAGE_OPTIONS,
        "Read the passage and answer the question about it with the letter of the right option, A to D.",
    ),
    "social_i_qa": _multiple_choice(
        PASSAGE_OPTIONS,
        "Answer the question about the people in this situation with the letter of the best option, A to C.",
        3,
    ),
    "arc_easy": _multiple_choice(
        QUESTION_OPTIONS, "Answer the school science question with the letter of the right option: A, B, C or D."
    ),
    "arc_challenge": _multiple_choice(
        QUESTION_OPTIONS, "Answer the school science question with the letter of the right option: A, B, C or D."
    ),
    "commonsense_qa": _multiple_choice(
        QUESTION_OPTIONS,
        "Answer the everyday question with the letter of the most sensible option: A, B, C, D or E.",
        5,
    ),
    "sciq": _multiple_choice(
        QUESTION_OPTIONS, "Answer the science question with the letter of the right option: A, B, C or D."
    ),
    "medmcqa": _multiple_choice(
        QUESTION_OPTIONS, "Answer the medical exam question with the letter of the right option: A, B, C or D."
    ),
}


def plain_instruction(kind: Kind, labels: tuple[str, ...]) -> str:
    """An instruction for a task that comes with none: it only says what may answer."""
    if kind == "classification":
        quoted = [f'"{label}"' for label in labels]
        return f"Label the sentence. The label is {', '.join(quoted[:-1])} or {quoted[-1]}."
    return "Answer the question with the letter of the right option." if kind == "multiple-choice" else ""


def check_template(template: Template, offered: frozenset[str], *, where: str) -> None:
    """Refuse a template that could not be filled in.

    Args:
        template: as the user wrote it.
        offered: names that every example offers to the body, ``input`` and ``options`` among them.
        where: what to call the template's place in an error.

    Raises:
        ValueError: for broken braces, an unknown name, a missing cue, or blanks after the cue.
    """
    names = _names(template.body, offered, f'{where}: "template"')
    _names(template.definition, frozenset({"instruction"}), f'{where}: "definition"')
    _names(template.option, frozenset({"letter", "text"}), f'{where}: "option"')
    if not names:
        raise ValueError(f'{where}: "template" {template.body!r} shows nothing of the example; put {{input}} in it')
    if template.body != template.body.rstrip() or template.body.endswith("}"):
        raise ValueError(f'{where}: "template" {template.body!r} must end in its answer cue, without a blank after it')
    if "options" in offered and "options" not in names:
        raise ValueError(f'{where}: "template" {template.body!r} does not show the options; put {{options}} in it')


def _names(text: str, offered: frozenset[str], where: str) -> set[str]:
    try:
        names = {name for _, name, _, _ in Formatter().parse(text) if name is not None}
    except ValueError as error:
        raise ValueError(f"{where} {text!r} is not a format string: {error}") from None
    if unknown := sorted(names - offered):
        raise ValueError(f"{where} names {{{unknown[0]}}}; known are {', '.join(sorted(offered))}")
    return names


def letters(example: Example) -> tuple[str, ...]:
    """The letters of a multiple-choice example's options; empty where it has none."""
    return tuple(ascii_uppercase[: len(example.choices)])


def gold_letter(example: Example) -> str:
    """The letter of the right option.

    Where two options read the same, ``fields["label"]`` says which one is meant.
    """
    stated = example.fields.get("label", "")
    named = dict(zip(letters(example), example.choices, strict=True))
    if named.get(stated) == example.answer:
        return stated
    return ascii_uppercase[example.choices.index(example.answer)]


def body(task: Task, example: Example) -> str:
    """The example as the model reads it, up to and with the answer cue."""
    lettered = zip(letters(example), example.choices, strict=True)
    options = "\n".join(task.template.option.format(letter=letter, text=text) for letter, text in lettered)
    parts = {**example.fields, "input": example.input, "options": options}
    return task.template.body.format(**parts)


def definition(task: Task) -> str:
    """What opens a prompt of the task: its instruction, or nothing."""
    return task.template.definition.format(instruction=task.instruction) if task.instruction else ""


def lettered(task: Task) -> bool:
    """Whether options are shown with letters, which are the answers; otherwise the texts of the options are."""
    return task.kind == "multiple-choice" and bool(task.template.option)


def gold(task: Task, example: Example) -> str:
    """The right answer as the model should write it: a letter, a label word, or free text."""
    return gold_letter(example) if lettered(task) else example.answer


def admissible(task: Task, example: Example) -> tuple[str, ...]:
    """What may answer the example: its letters or options, the label words, or nothing for free answers."""
    if task.kind != "multiple-choice":
        return task.labels
    return letters(example) if lettered(task) else example.choices
