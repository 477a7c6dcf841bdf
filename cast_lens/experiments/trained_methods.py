"""What ``atv`` trains and compares: adaptive task vectors, a constant one, adapters; on the same examples."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import tokenise
from ..evaluation import answer_limit
from ..interventions import PromptVectors, Steering
from ..methods import Condition, evaluate_conditions
from ..methods.adapters import AdapterDesign, train_adapter
from ..methods.atv import ATV, Design, Expansion, Training, another_query, generator_texts, random_directions, train
from ..methods.training import draw_examples
from ..steering import generate
from ..tasks import Prompt, Task
from .cells import Cell
from .config import RunConfig
from .costs import seconds
from .protocol import Tasks
from .workspace import Workspace, test_examples

ATV_NAME = "atv"
RANDOM = "placebo: random directions (atv)"
ANOTHER = "placebo: another query's vectors (atv)"
OTHER_TASK = "placebo: another task's vectors (atv)"
AVERAGED = "atv averaged over the task"
ONE_FOR_ALL = "atv averaged over all tasks"
# Factors on the strength that an adaptive task vector was trained with.
FACTORS = (0.25, 0.5, 2.0, 4.0)


def vectors_of_queries(workspace: Workspace, atv: ATV, name: str) -> PromptVectors:
    """The vectors of the test queries of a task."""
    task = workspace.tasks[name]
    return atv.intervention(generator_texts(task, test_examples(workspace.config, task), atv.design.reads))


def atv_placebos(prompts: tuple[Prompt, ...], edit: PromptVectors, *, seed: int) -> list[Condition]:
    """Random directions of the vectors' own norms; vectors of other queries of the task."""
    tasks = [prompt.task for prompt in prompts]
    noise, other = (random_directions(edit, seed=seed), another_query(edit, tasks, same_task=True, seed=seed))
    return [
        Condition(RANDOM, prompts, intervention=noise, seed=seed),
        Condition(ANOTHER, prompts, intervention=other, seed=seed),
    ]


def atv_variants(
    workspace: Workspace, atv: ATV, seen: dict[str, Task], prompts: tuple[Prompt, ...], edit: PromptVectors, after: str
) -> list[Condition]:
    """Other strengths; one vector for the task, for all tasks; another task's vectors.

    Args:
        workspace: model and tasks.
        atv: what writes the vectors.
        seen: the tasks that it was trained on.
        prompts: prompts of one task.
        edit: their own vectors.
        after: the other task.
    """
    name = prompts[0].task
    found = [
        Condition(f"{ATV_NAME} × {factor:g}", prompts, intervention=replace(edit, strength=factor * edit.strength))
        for factor in FACTORS
    ]
    means = {task.name: _mean(atv, task) for task in seen.values()}
    every = torch.stack(list(means.values())).mean(dim=0)
    for method, one in ((AVERAGED, means.get(name)), (ONE_FOR_ALL, every)):
        if one is not None:
            found.append(
                Condition(method, prompts, intervention=replace(edit, directions=one.expand_as(edit.directions)))
            )
    if after != name:
        other = vectors_of_queries(workspace, atv, after).directions
        rows = other[torch.arange(len(prompts)) % len(other)]
        found.append(Condition(OTHER_TASK, prompts, intervention=replace(edit, directions=rows)))
    return found


def _mean(atv: ATV, task: Task) -> Float[Tensor, "1 layer d_model"]:
    """The mean of the vectors of a task's training queries: what is left of them without the query."""
    chosen = draw_examples(task, atv.training.examples, seed=atv.training.seed, split="train")
    return atv.vectors(generator_texts(task, chosen, atv.design.reads)).mean(dim=0, keepdim=True)


ATV_FULL, ATV_LOW, STATIC, LORA, PREFIX = (ATV_NAME, "atv low-rank", "static atv", "lora", "prefix-tuning")
TRAINED = {
    ATV_FULL: "adaptive task vector, one full linear map",
    ATV_LOW: "adaptive task vector of rank ``atv_rank``",
    STATIC: "one learned vector per layer, the same for every query",
    LORA: "LoRA on all linear maps, as many parameters as the adaptive task vector of low rank",
    PREFIX: "prefix-tuning, as many parameters as the adaptive task vector of low rank",
}
# Of at least three tried, the one with the lowest validation loss after 4 epochs on 8 examples of each of four tasks:
# 5e-4 to 5e-3, 2e-3 to 2e-2, 0.05 to 0.5, 1e-3 to 1e-2, 3e-3 to 3e-2. The fewer parameters are behind a number of a
# vector, the less a step of Adam moves it.
LEARNING_RATES = {ATV_FULL: 2e-3, ATV_LOW: 6e-3, STATIC: 0.5, LORA: 4e-3, PREFIX: 1e-2}
ADAPTERS = {LORA: "lora", PREFIX: "prefix"}


class TrainedOptions(Protocol):
    """What is trained, on how much: the options of ``catalogue.atv.AdaptiveTaskVectors``, which explains each."""

    @property
    def atv_examples(self) -> tuple[int, ...]:
        """Training examples per task."""

    @property
    def atv_holdout_examples(self) -> int:
        """Training examples per task where something is held out."""

    @property
    def atv_epochs(self) -> int:
        """Epochs at most."""

    @property
    def atv_batch(self) -> int:
        """Prompts per step."""

    @property
    def atv_rank(self) -> int:
        """Rank of the low-rank vector."""

    @property
    def atv_methods(self) -> tuple[str, ...]:
        """What is trained."""

    @property
    def atv_holdouts(self) -> tuple[str, ...]:
        """What is held out."""


def trained_methods(options: TrainedOptions) -> list[str]:
    """What is trained; without the extra ``peft`` no adapters, unless they are asked for by name.

    Raises:
        ValueError: an unknown method, or an adapter without ``peft``.
    """
    unknown = [name for name in options.atv_methods if name not in TRAINED]
    if unknown:
        raise ValueError(f"atv_methods={unknown} are unknown; choose from {', '.join(TRAINED)}")
    there = importlib.util.find_spec("peft") is not None
    if not there and set(options.atv_methods) & set(ADAPTERS):
        raise ValueError(
            f"atv_methods={list(options.atv_methods)} needs peft, which is not installed; run "
            'pip install "cast-lens[peft]", or leave lora and prefix-tuning out'
        )
    return [name for name in options.atv_methods or TRAINED if there or name not in ADAPTERS]


def holdouts(options: TrainedOptions, config: RunConfig, tasks: Tasks) -> list[str]:
    """What is held out of training, in turn: every target, and every family with several of the tasks.

    Raises:
        ValueError: when something else is asked for, or nothing would be left to train on.
    """
    by_task = [f"task:{name}" for name in config.targets]
    families = dict.fromkeys(tasks[name].family for name in config.targets)
    members = {family: [one for one in tasks.values() if one.family == family] for family in families}
    known = [*by_task, *(f"family:{family}" for family, found in members.items() if len(found) > 1)]
    chosen = list(options.atv_holdouts) or [name for name in known if len(held_out(name, tasks)) < len(tasks)]
    for name in chosen:
        if name not in known:
            raise ValueError(f"atv_holdouts: {name!r} is not one of {', '.join(known)}")
        if len(held_out(name, tasks)) == len(tasks):
            raise ValueError(f"atv_holdouts: {name!r} leaves no task to train on; add tasks of other families")
    return chosen


def held_out(name: str, tasks: Tasks) -> set[str]:
    """The tasks that a hold-out keeps from training; none for the empty name."""
    kind, _, what = name.partition(":")
    if not kind:
        return set()
    return {what} if kind == "task" else {task.name for task in tasks.values() if task.family == what}


def asked(config: RunConfig, name: str, tasks: Tasks) -> list[str]:
    """The targets that a training is tested on: all that were seen, or all that were held out."""
    away = held_out(name, tasks)
    return [target for target in config.targets if not away or target in away]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Something that was trained, as the experiment uses it.

    Attributes:
        outcomes: rows of ``evaluate_conditions`` of some targets.
        answer: writes the answer to one prompt, in the plain way.
        about: ``parameters, setting, steps, validation, train_seconds`` (NaN where the training was continued).
    """

    outcomes: Callable[[Sequence[str]], pd.DataFrame]
    answer: Callable[[Prompt], object]
    about: dict[str, Any]


def fit(workspace: Workspace, options: TrainedOptions, cell: Cell, folder: Path, *, variants: bool) -> Fitted:
    """Train what a cell asks for.

    Args:
        workspace: model and tasks.
        options: how much is trained.
        cell: ``variant`` is a key of ``TRAINED``, ``source`` a hold-out, ``number`` the examples per task.
        folder: for checkpoints.
        variants: whether an adaptive task vector is also tried at other strengths and averaged.
    """
    config = workspace.config
    away = held_out(cell.source, workspace.tasks)
    tasks = [task for name, task in workspace.tasks.items() if name not in away]
    training = Training(
        examples=cell.number,
        validation=config.validation,
        templates=("own",),
        epochs=options.atv_epochs,
        batch=options.atv_batch,
        seed=config.seed,
    )
    if cell.variant in ADAPTERS:
        return _adapter(workspace, cell.variant, tasks, training, parameters=budget(workspace, options.atv_rank))
    training = replace(training, learning_rate=LEARNING_RATES[cell.variant])
    made = design(options.atv_rank, int(workspace.model.cfg.n_layers), cell.variant)
    return _vectors(workspace, cell.variant, made, tasks, training, folder, variants=variants)


def design(atv_rank: int, n_layers: int, method: str) -> Design:
    """The adaptive task vector of a method: it reads the large model's own residual at the middle layer."""
    if method == STATIC:
        return Design(generator="constant")
    rank = atv_rank if method == ATV_LOW else None
    return Design(generator="residual", layer=n_layers // 2, rank=rank)


def budget(workspace: Workspace, atv_rank: int) -> int:
    """Parameters of the adaptive task vector of low rank, which adapters are given too."""
    cfg = workspace.model.cfg
    width = int(cfg.d_model)
    return Expansion(width, int(cfg.n_layers), width, rank=atv_rank).n_parameters


def _adapter(workspace: Workspace, method: str, tasks: list[Task], training: Training, *, parameters: int) -> Fitted:
    started = time.perf_counter()
    kind: Any = ADAPTERS[method]
    made = train_adapter(
        workspace.model,
        workspace.config.model,
        tasks,
        design=AdapterDesign(kind, parameters, LEARNING_RATES[method]),
        training=training,
    )
    taken = time.perf_counter() - started

    def outcomes(targets: Sequence[str]) -> pd.DataFrame:
        found = [made.evaluate(workspace.base(name).prompts, progress=workspace.progress) for name in targets]
        joined = pd.concat(found, ignore_index=True).rename(columns={"task": "target"})
        return joined.drop(columns=["variant", "name", "condition"]).assign(
            method=method, source="", seed=training.seed
        )

    about = {"parameters": made.n_parameters, "setting": made.setting, "steps": made.steps}
    return Fitted(
        outcomes, lambda prompt: made.answer([prompt]), {**about, "validation": made.validation, "train_seconds": taken}
    )


def _vectors(
    workspace: Workspace,
    method: str,
    shape: Design,
    tasks: list[Task],
    training: Training,
    folder: Path,
    *,
    variants: bool,
) -> Fitted:
    config, model = workspace.config, workspace.model
    continued, started = folder.exists(), time.perf_counter()
    made = train(model, tasks, design=shape, training=training, folder=folder, progress=workspace.progress)
    taken = float("nan") if continued else time.perf_counter() - started
    own = {task.name: task for task in tasks}

    def outcomes(targets: Sequence[str]) -> pd.DataFrame:
        conditions: list[Condition] = []
        for name in targets:
            base, edit = workspace.base(name), vectors_of_queries(workspace, made, name)
            conditions.append(Condition(method, base.prompts, intervention=edit))
            if method == ATV_FULL:
                conditions += atv_placebos(base.prompts, edit, seed=config.seed)
            if variants:
                after = targets[(list(targets).index(name) + 1) % len(targets)]
                conditions += atv_variants(workspace, made, own, base.prompts, edit, after)
        return evaluate_conditions(model, conditions, progress=workspace.progress)

    about = {
        "parameters": made.n_parameters,
        "setting": "" if made.design.rank is None else f"rank {made.design.rank}",
        "steps": made.steps,
        "validation": made.validation,
        "train_seconds": taken,
    }
    return Fitted(outcomes, lambda prompt: answer_plainly(workspace, prompt, [made.intervention([prompt])]), about)


def answer_plainly(workspace: Workspace, prompt: Prompt, edits: Sequence[Steering]) -> object:
    """The answer to one prompt by the plain route, through hooks; as long as ``evaluate`` lets it be."""
    limit = answer_limit(tokenise(workspace.model, [prompt]))
    return generate(workspace.model, [prompt.text], interventions=edits, max_new_tokens=limit)


def cost_row(
    workspace: Workspace,
    method: str,
    prompts: Sequence[Prompt],
    answer: Callable[[Prompt], object],
    about: dict[str, Any],
) -> dict[str, Any]:
    """What a query costs under a method: tokens that are read, and seconds, one query at a time."""
    taken = [seconds(lambda prompt=prompt: answer(prompt), workspace.model) for prompt in prompts]  # type: ignore[misc]
    tokens = [len(prompt.tokens) for prompt in tokenise(workspace.model, list(prompts))]
    return {
        "method": method,
        "queries": len(taken),
        "tokens": sum(tokens) / len(tokens),
        "seconds": sorted(taken)[len(taken) // 2],
        **about,
    }
