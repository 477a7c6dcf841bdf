"""What methods are trained on: prompts in several templates, their answers, and what a small model reads of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..engine import TokenPrompt, tokenise
from ..models.lens import HookedTransformer
from ..tasks import Example, Prompt, Split, Task, demonstrations, input_key, zero_shot
from ..tasks.templates import PLAIN
from .training import Training

TEMPLATES = ("own", "bare", "plain")
GeneratorReads = Literal["prompt", "question"]
"""What a small model reads: the prompt, or ``Q: … A:``."""


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One prompt with its answer.

    Attributes:
        prompt: tokens, with the answer and what ends it as its only answer.
        generator_text: what the small model of an adaptive task vector reads.
        task, sample, template: where it comes from.
        text, answer: the same as text, for people.
    """

    prompt: TokenPrompt
    generator_text: str
    task: str
    sample: str
    template: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything that a training run sees.

    Attributes:
        train, validation: items.
    """

    train: tuple[TrainingItem, ...]
    validation: tuple[TrainingItem, ...]

    @property
    def items(self) -> tuple[TrainingItem, ...]:
        """Both, training first."""
        return (*self.train, *self.validation)

    @property
    def digest(self) -> str:
        """Identifies the data: a run is only continued on the same."""
        parts = [(item.prompt.tokens, item.prompt.answers, item.generator_text) for item in self.items]
        text = json.dumps([len(self.train), parts], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def question(example: Example) -> str:
    """What the small model reads in the code of arXiv 2506.03426, whatever the task."""
    return f"Q: {example.input} \n A: "


def generator_texts(task: Task, examples: Sequence[Example], reads: GeneratorReads) -> list[str]:
    """What the small model reads of zero-shot prompts in the task's own template."""
    if reads == "question":
        return [question(example) for example in examples]
    return [zero_shot(task, example).text for example in examples]


def gather(
    model: HookedTransformer, tasks: Sequence[Task], training: Training, *, reads: GeneratorReads = "prompt"
) -> TrainingData:
    """Prompts and answers of all tasks, checked before anything is trained.

    Raises:
        ValueError: no tasks or examples; tasks of one name with different labels; an unknown template; an answer that
            tokenises to nothing; a prompt that does not fit the model's context.
    """
    _check(tasks, training.templates)
    found: dict[Split, list[TrainingItem]] = {"train": [], "validation": []}
    limits: dict[Split, int] = {"train": training.examples, "validation": training.validation}
    for split, items in found.items():
        # Whatever the training: how well the task is asked as it will be asked.
        templates = training.templates if split == "train" else training.templates[:1]
        for task in tasks:
            chosen = draw_examples(task, limits[split], seed=training.seed, split=split)
            items += _items(model, task, chosen, templates, training.ending, reads)
    return TrainingData(tuple(found["train"]), tuple(found["validation"]))


def draw_examples(task: Task, count: int, *, seed: int, split: Split) -> tuple[Example, ...]:
    """Up to ``count`` examples of a split, balanced over the classes; all of them when there are no more."""
    pool = task.split(split)
    if count >= len({input_key(example.input) for example in pool}):
        return pool
    return demonstrations(task, shots=count, seed=seed, pool=split)


def _check(tasks: Sequence[Task], templates: Sequence[str]) -> None:
    if not tasks:
        raise ValueError("tasks is empty: there are no training examples; give at least one task")
    unknown = [name for name in templates if name not in TEMPLATES]
    if unknown or not templates:
        raise ValueError(f"templates={list(templates)} must be one or more of {', '.join(TEMPLATES)}")
    known: dict[str, Task] = {}
    for task in tasks:
        first = known.setdefault(task.name, task)
        if (first.labels, first.kind) != (task.labels, task.kind):
            raise ValueError(
                f"two tasks are named {task.name!r} but have different answers ({first.kind}: "
                f"{', '.join(first.labels) or 'none listed'}; {task.kind}: "
                f"{', '.join(task.labels) or 'none listed'}); rename one of them"
            )
        for split in ("train", "validation"):
            if not task.split("train" if split == "train" else "validation"):
                raise ValueError(f"task {task.name!r} has no {split} examples; training needs some")


def _items(
    model: HookedTransformer,
    task: Task,
    examples: Sequence[Example],
    templates: Sequence[str],
    ending: str,
    reads: GeneratorReads,
) -> list[TrainingItem]:
    prompts: dict[tuple[str, str], tuple[Example, str, Prompt]] = {}
    for example in examples:
        for name in templates:
            prompt = replace(asked(task, example, name), choices=())
            if not prompt.gold.strip():
                raise ValueError(
                    f"{task.name} {example.id} has an empty answer, which tokenises to nothing; give it a text"
                )
            prompts.setdefault((example.id, prompt.text), (example, name, prompt))
    rows = list(prompts.values())
    # An ending must not hide an answer that the tokenizer knows nothing of.
    tokenise(model, [prompt for *_, prompt in rows])
    tokens = tokenise(model, [replace(prompt, gold=prompt.gold + ending) for *_, prompt in rows])
    return [
        TrainingItem(
            prompt=ready,
            generator_text=question(example) if reads == "question" else prompt.text,
            task=task.name,
            sample=example.id,
            template=name,
            text=prompt.text,
            answer=prompt.gold,
        )
        for (example, name, prompt), ready in zip(rows, tokens, strict=True)
    ]


def asked(task: Task, example: Example, template: str) -> Prompt:
    """A zero-shot prompt in one of the ways of ``TEMPLATES``."""
    if template == "own":
        return zero_shot(task, example)
    chosen = task if template == "bare" else replace(task, template=PLAIN[task.kind])
    return zero_shot(chosen, example, instruction=False)
