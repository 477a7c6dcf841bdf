"""What a task is: examples in three splits, a template, and the answers that are admissible.

Everything here is plain text and immutable; no model is needed to build or inspect a task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from .answers import AnswerReading, AnswerRule

if TYPE_CHECKING:
    import pandas as pd

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SHIPPED = "shipped"
Kind = Literal["classification", "multiple-choice", "free"]
# ISO 639-1, and the codes of languages that have none there but occur in public data sets.
_LANGUAGES = (
    " aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el"
    " en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it"
    " iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt"
    " my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl"
    " sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo"
    " za zh zu arz ary ast ceb ckb fil haw hmn kmr nso pes swh wuu yue"
    " "
)
# Examples that a notebook shows of a task.
SHOWN = 3


def is_language(text: str) -> bool:
    """Whether a text is a language code: ISO 639-1, or one of some longer ones, perhaps with a script or region."""
    base, _, rest = text.replace("_", "-").partition("-")
    return f" {base} " in _LANGUAGES and (not rest or re.fullmatch(r"[A-Z][a-z]{3}|[A-Z]{2}", rest) is not None)


@dataclass(frozen=True, slots=True)
class Example:
    """One item of a task.

    Attributes:
        id: unique within the task; parallel tasks in other languages use the same id for the same item.
        input: the bare text that is asked about.
        answer: the gold answer as text. For multiple choice this is the text of the right option.
        choices: the options of a multiple-choice item, in the order of their letters; empty otherwise.
        fields: named parts of the input (``premise``, ``question``, ...) for templates that show them apart.
        language: ISO 639-1 code of the text.
    """

    id: str
    input: str
    answer: str
    choices: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)
    language: str = "en"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query as the model will read it, with its demonstrations and admissible answers.

    Pure text: the engine tokenises it, optionally through the model's chat template.

    Attributes:
        demonstrations: pairs (text that ends in the answer cue, answer), in order; empty for zero-shot.
        query: the text that ends in the answer cue.
        gold: the right answer as the model should write it (a letter for multiple choice).
        choices: the admissible answers; empty for free answers.
        task: name of the task that the query comes from.
        sample_id: id of the query's example.
        reading: how answers are read; None to decide it from ``choices`` and ``gold`` alone.
    """

    demonstrations: tuple[tuple[str, str], ...]
    query: str
    gold: str
    choices: tuple[str, ...]
    task: str
    sample_id: str
    reading: AnswerReading | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        """The prompt as one string: demonstrations, each followed by its answer, then the query."""
        shown = [f"{body} {answer}" for body, answer in self.demonstrations]
        return "\n\n".join([*shown, self.query])


@dataclass(frozen=True, slots=True)
class Template:
    """How an example becomes text.

    Attributes:
        name: stored in the provenance.
        body: a format string over ``input``, the example's fields and ``options``; it ends in the answer cue,
            without a trailing space.
        definition: a format string over ``instruction`` that opens a zero-shot prompt and the first
            demonstration; empty to leave the instruction out.
        option: a format string over ``letter`` and ``text`` for one lettered option; empty where options have no
            letters and their texts are the answers.
    """

    name: str
    body: str
    definition: str = "Definition: {instruction}\n"
    option: str = "{letter}. {text}"


@dataclass(frozen=True, slots=True)
class Task:
    """A named set of examples with one template.

    Attributes:
        name: e.g. ``review-sentiment``, or ``review-sentiment.de`` for another language.
        kind: ``classification`` (label words), ``multiple-choice`` (lettered options) or ``free``.
        family: groups tasks of one answer format in figures: ``classification``, ``multiple-choice``,
            ``yes-no``, ``word``.
        template: how an example becomes text.
        instruction: what the task asks for, shown through the template's ``definition``; may be empty.
        labels: admissible label words of a classification task; empty otherwise.
        train, validation, test: examples; no two splits share an id or an input.
        language: ISO 639-1 code.
        origin: where the examples come from (``shipped``, a folder, a hub data set with its revision).
        dropped: examples left out on loading because a later split asks the same input.
        answer_rule: how exact match is decided: ``task``, from the task's own answers, or ``2405.10548``, as that paper
            does; see `cast_lens.tasks.answers`.
        reading: the reading that follows.
    """

    name: str
    kind: Kind
    family: str
    template: Template
    instruction: str
    labels: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    language: str = "en"
    origin: str = SHIPPED
    dropped: int = 0
    answer_rule: AnswerRule = "task"
    reading: AnswerReading = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reading", _reading(self))

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any] | tuple[str, str]] | pd.DataFrame,
        *,
        name: str = "task",
        instruction: str | None = None,
        template: str | None = None,
        labels: Sequence[str] | None = None,
        fields: Mapping[str, str] | None = None,
        language: str = "en",
        seed: int = 0,
    ) -> Task:
        """A task of your own from a list or a frame, split by seed unless the records name their splits.

        Args:
            records: dictionaries with ``input`` and ``answer`` (and what else a file's records may hold, see
                `cast_lens.tasks.records`), pairs of the two, or the rows of a frame. At least three.
            name: name of the task.
            instruction: what opens a prompt.
            template: the body of the prompt, e.g. ``"Review: {input}\\nLabel:"``.
            labels: the admissible answers; without them, and without ``choices``, answers are free.
            fields: what the records call their fields, as ``{"input": "text", "answer": "verdict"}``.
            language: ISO 639-1 code.
            seed: chooses test and validation.

        Raises:
            ValueError: naming the record that is wrong, as `load_task` does.

        >>> from cast_lens.tasks import Task
        >>> Task.from_records([("hot", "cold"), ("big", "small"), ("up", "down")], name="opposites")
        Task('opposites', free, train/validation/test 1/1/1, records)
        """
        from .loading import task_from_records  # Types know nothing of files.

        return task_from_records(
            records,
            name=name,
            instruction=instruction,
            template=template,
            labels=labels,
            fields=fields,
            language=language,
            seed=seed,
        )

    def split(self, name: Split) -> tuple[Example, ...]:
        """The examples of one split.

        Raises:
            ValueError: when ``name`` is not a split.
        """
        if name not in SPLITS:
            raise ValueError(f"split={name!r} is unknown; choose one of {', '.join(SPLITS)}")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def __repr__(self) -> str:
        sizes = "/".join(str(len(self.split(name))) for name in SPLITS)
        return f"Task({self.name!r}, {self.kind}, train/validation/test {sizes}, {self.origin})"

    def _repr_html_(self) -> str:
        """The first training examples, before the template."""
        cells = [(escape(one.input), escape(one.answer)) for one in self.train[:SHOWN]]
        rows = "".join(f"<tr><td>{text}</td><td>{answer}</td></tr>" for text, answer in cells)
        head = "<tr><th>input</th><th>answer</th></tr>"
        return f"<p>{escape(repr(self))}</p><table>{head}{rows}</table>"


def _reading(task: Task) -> AnswerReading:
    """How a task's answers are read; see `AnswerReading.of`."""
    if task.kind == "multiple-choice":
        return AnswerReading(task.answer_rule)
    if task.labels:
        return AnswerReading.of(task.labels, rule=task.answer_rule, labels=True)
    examples = [example for name in SPLITS for example in task.split(name)]
    pairs = [(example.input, example.answer) for example in examples]
    return AnswerReading.of((answer for _, answer in pairs), copies=pairs, rule=task.answer_rule)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One row of a task listing: what a task is, without its examples.

    Attributes:
        name, kind, family, language, labels, origin: as in `Task`.
        sizes: number of train, validation and test examples.
    """

    name: str
    kind: Kind
    family: str
    language: str
    sizes: tuple[int, int, int]
    labels: tuple[str, ...]
    origin: str

    @classmethod
    def of(cls, task: Task) -> TaskInfo:
        """The listing of a loaded task."""
        sizes = (len(task.train), len(task.validation), len(task.test))
        return cls(task.name, task.kind, task.family, task.language, sizes, task.labels, task.origin)
