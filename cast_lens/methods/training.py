"""Training shared by all trained methods: options, epochs with early stopping, progress and provenance.

Adaptive task vectors and adapters are trained by the same loop on the same items, so that they differ only in what is
learned.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..engine import TokenPrompt, tokenise
from ..extraction import versions
from ..models import fingerprint, model_name
from ..models.lens import HookedTransformer
from ..tasks import Example, Prompt, Split, Task, demonstrations, input_key, zero_shot
from ..tasks.sampling import stable_seed
from ..tasks.templates import PLAIN
from ..vectors import Provenance

# Weight of the latest step in the displayed loss, which is smoothed because single steps vary a lot.
SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Training:
    """How something is fitted against the frozen large model.

    Learning rate, weight decay, epochs and examples are those of arXiv 2506.03426. Its batch of one example and its
    lack of any model selection are not: 32 prompts per step keep a processor busy, and the epoch with the lowest
    validation loss is kept.

    Attributes:
        examples: how many training examples per task are used, at most, balanced over the classes.
        validation: how many validation examples per task are used, at most.
        templates: how each example is worded: ``own`` (the task's template with its definition), ``bare`` (without the
            definition), or ``plain`` (a template for the task's kind, whatever the task). Identical prompts count once.
            Validation uses the first wording only.
        ending: text after each answer, which the model learns to write too, so that decoding stops there; the paper's
            recipe has none.
        learning_rate: the learning rate of Adam; constant, without warm-up or clipping.
        weight_decay: the weight decay of Adam.
        batch: prompts per training step.
        epochs: the maximum number of epochs.
        patience: how many epochs without a lower validation loss are allowed before training stops; the paper's recipe
            never stops early.
        seed: the seed of the initialisation, of the chosen examples and of the order of prompts.
        memory_mb: the memory in MB for keys and values of the prompts, which are kept from epoch to epoch.
        recompute: use gradient checkpointing: less memory, one more forward pass.
        mixed_precision: run the large model in bfloat16 where PyTorch's autocast does so.
        checkpoint_steps: how many steps lie between two checkpoints; one is also written after each epoch.
    """

    examples: int = 90
    validation: int = 90
    templates: tuple[str, ...] = ("own", "bare", "plain")
    ending: str = "\n"
    learning_rate: float = 5e-4
    weight_decay: float = 1e-5
    batch: int = 32
    epochs: int = 15
    patience: int = 2
    seed: int = 0
    memory_mb: float = 2000.0
    recompute: bool = False
    mixed_precision: bool = False
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "templates", tuple(self.templates))
        for name in ("examples", "validation", "batch", "epochs", "patience", "checkpoint_steps"):
            if int(getattr(self, name)) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("learning_rate", "memory_mb"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be 0 or more")

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """The number format that the large model runs in, as a context."""
        if not self.mixed_precision:
            return nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of training, or the validation after an epoch.

    Attributes:
        number: number of steps so far.
        total: number of steps unless training stops early.
        epoch: current epoch, counted from 1.
        loss: mean over the step's prompts in nats per token.
        validation: latest validation loss; None before the first.
        best: lowest validation loss so far.
        validated: whether this is the validation after an epoch.
        note: after the last step, why training ended.
    """

    number: int
    total: int
    epoch: int
    loss: float
    validation: float | None = None
    best: float | None = None
    validated: bool = False
    note: str = ""


Watch = Callable[[Step], None]


def silent(step: Step) -> None:
    """Report nothing."""


@dataclass(slots=True)
class History:
    """The course of a training run so far.

    Attributes:
        losses: loss of every step.
        validations: pairs of a number of steps and the validation loss after them.
        best: index in ``validations`` of the lowest loss; -1 before the first validation.
    """

    losses: list[float] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best: int = -1

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return len(self.losses)

    @property
    def lowest(self) -> float:
        """Lowest validation loss; infinite before the first validation."""
        return self.validations[self.best][1] if self.validations else math.inf

    def validated(self, loss: float) -> bool:
        """Add the validation loss of an epoch, and return whether it is the lowest so far."""
        better = not self.validations or loss < self.lowest
        self.validations.append((self.steps, loss))
        if better:
            self.best = len(self.validations) - 1
        return better

    def over(self, training: Training) -> bool:
        """Whether the last epoch is done, or ``patience`` epochs passed without a lower validation loss."""
        done = len(self.validations)
        return done >= training.epochs or (done > 0 and done - 1 - self.best >= training.patience)

    def after_step(self, training: Training, n_train: int) -> Step:
        """The report after a training step, with ``n_train`` prompts per epoch."""
        latest, lowest = (self.validations[-1][1], self.lowest) if self.validations else (None, None)
        total = math.ceil(n_train / training.batch) * training.epochs
        return Step(self.steps, total, len(self.validations) + 1, self.losses[-1], latest, lowest)

    def after_epoch(self, training: Training, n_train: int) -> Step:
        """The report after the validation that ends an epoch."""
        note = ""
        if self.over(training):
            note = "last epoch" if len(self.validations) >= training.epochs else "stopped early"
        step = self.after_step(training, n_train)
        return replace(step, epoch=len(self.validations), validated=True, note=note)

    def to_frame(self) -> pd.DataFrame:
        """``step, loss, split, best``, as ``plots.plot_loss`` takes it."""
        rows: list[tuple[int, float, str, bool]] = [
            (step, loss, "train", False) for step, loss in enumerate(self.losses, start=1)
        ]
        rows += [(step, loss, "validation", index == self.best) for index, (step, loss) in enumerate(self.validations)]
        return pd.DataFrame(rows, columns=["step", "loss", "split", "best"])


def batches(count: int, *, size: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Indices of ``count`` training items, ``size`` per step, in an order that depends on seed and epoch."""
    shuffler = torch.Generator().manual_seed(stable_seed(seed, epoch) % 2**63)
    order = torch.randperm(count, generator=shuffler).tolist()
    for start in range(0, count, size):
        yield order[start : start + size]


def run_epochs(
    history: History,
    training: Training,
    n_train: int,
    *,
    step: Callable[[list[int]], float],
    validate: Callable[[], float],
    keep: Callable[[], None],
    watch: Watch = silent,
    checkpoint: Callable[[], object] | None = None,
) -> None:
    """Train until the last epoch or early stopping, continuing where ``history`` ends.

    Args:
        history: history of the run, which is extended.
        training: batch, epochs, patience, order and steps between checkpoints.
        n_train: number of prompts per epoch.
        step: takes one step on the training items with these indices and returns its loss.
        validate: returns the current validation loss.
        keep: stores the current state as the best so far.
        watch: called after every step and every validation.
        checkpoint: writes everything that the next step depends on.
    """
    per_epoch = math.ceil(n_train / training.batch)
    while not history.over(training):
        epoch = len(history.validations)
        order = batches(n_train, size=training.batch, seed=training.seed, epoch=epoch)
        for number, places in enumerate(order, start=epoch * per_epoch):
            if number < history.steps:
                continue
            history.losses.append(step(places))
            watch(history.after_step(training, n_train))
            if checkpoint is not None and history.steps % training.checkpoint_steps == 0:
                checkpoint()
        if history.validated(validate()):
            keep()
        if checkpoint is not None:
            checkpoint()
        watch(history.after_epoch(training, n_train))


@contextmanager
def loss_bar() -> Iterator[Watch]:
    """A bar with the smoothed loss and the time left on a terminal, otherwise one line per epoch on standard error.

    Yields:
        the ``watch`` argument of training functions.
    """
    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("at most"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        line = bar.add_task("train", total=None, loss="")
        smoothed: list[float] = []

        def watch(step: Step) -> None:
            if not step.validated:
                before = smoothed[-1] if smoothed else step.loss
                smoothed[:] = [before + SMOOTHING * (step.loss - before)]
            loss = smoothed[-1] if smoothed else step.loss
            text = f"loss {loss:.3f}"
            if step.validation is not None:
                text += f", validation {step.validation:.3f} (best {step.best:.3f})"
            bar.update(line, completed=step.number, total=step.total, description=f"epoch {step.epoch}", loss=text)
            if step.note or (step.validated and not shown):
                end = f": {step.note}" if step.note else ""
                console.print(f"epoch {step.epoch}, step {step.number}, {text}{end}", highlight=False)

        yield watch


def trained_on(
    model: HookedTransformer, tasks: Sequence[Task], training: Training, history: History, *, what: str
) -> Provenance:
    """The provenance of a trained object; its note begins with ``what``."""
    return Provenance(
        model=model_name(model),
        fingerprint=fingerprint(model),
        task=" + ".join(dict.fromkeys(task.name for task in tasks)),
        template=" + ".join(training.templates),
        seed=training.seed,
        versions=versions(),
        note=f"{what}, {history.steps} steps, validation loss {history.lowest:.4f}",
    )


def provenance_of(about: dict[str, Any]) -> Provenance:
    """The provenance in a file's JSON."""
    return Provenance.from_json(about["provenance"])


def training_of(about: dict[str, Any]) -> Training:
    """The training in a file's JSON."""
    return Training(**{**about["training"], "templates": tuple(about["training"]["templates"])})


def check_model(model: HookedTransformer, provenance: Provenance, *, what: str) -> None:
    """Refuse any model other than the one that an object was trained for.

    Raises:
        ValueError: for another model; ``what`` names the trained object in the message.
    """
    found = fingerprint(model)
    if found != provenance.fingerprint:
        raise ValueError(
            f"this {what} was trained for {provenance.model!r} (fingerprint {provenance.fingerprint!r}), but the model "
            f"{model_name(model)!r} has {found!r}; load that model, or train another {what} for this one"
        )


TEMPLATES = ("own", "bare", "plain")
GeneratorReads = Literal["prompt", "question"]
"""What a small model reads: the prompt, or ``Q: … A:``."""


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One prompt with its answer.

    Attributes:
        prompt: the tokenised prompt; its only answer includes the text that ends it.
        generator_text: text for the small model of an adaptive task vector.
        task, sample, template: names of its task, example and template.
        text, answer: prompt and answer as text.
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
    """The training and validation items of a run.

    Attributes:
        train, validation: the items.
    """

    train: tuple[TrainingItem, ...]
    validation: tuple[TrainingItem, ...]

    @property
    def items(self) -> tuple[TrainingItem, ...]:
        """Both, training first."""
        return (*self.train, *self.validation)

    @property
    def digest(self) -> str:
        """A hash of the data; a run is only continued with the same data."""
        parts = [(item.prompt.tokens, item.prompt.answers, item.generator_text) for item in self.items]
        text = json.dumps([len(self.train), parts], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def question(example: Example) -> str:
    """The small model's input in the code of arXiv 2506.03426, the same for all tasks."""
    return f"Q: {example.input} \n A: "


def generator_texts(task: Task, examples: Sequence[Example], reads: GeneratorReads) -> list[str]:
    """The small model's inputs for zero-shot prompts in the task's own template."""
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
        # Validation always uses the wording of later evaluations.
        templates = training.templates if split == "train" else training.templates[:1]
        for task in tasks:
            chosen = draw_examples(task, limits[split], seed=training.seed, split=split)
            items += _items(model, task, chosen, templates, training.ending, reads)
    return TrainingData(tuple(found["train"]), tuple(found["validation"]))


def draw_examples(task: Task, count: int, *, seed: int, split: Split) -> tuple[Example, ...]:
    """Up to ``count`` examples of a split, balanced over the classes."""
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
    # An ending must not hide an answer that tokenises to nothing.
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
