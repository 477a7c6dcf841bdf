"""The vectors that an adaptive task vector writes for test queries, and what they are compared with.

Placebos of the same norms, other strengths, averages over queries, another task's vectors.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions import PromptVectors
from ..methods import Condition
from ..methods.atv import ATV, another_query, generator_texts, random_directions
from ..methods.training_data import draw_examples
from ..tasks import Prompt, Task
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
    noise, other = (
        random_directions(edit, seed=seed),
        another_query(edit, tasks, same_task=True, seed=seed),
    )
    return [
        Condition(RANDOM, prompts, intervention=noise, seed=seed),
        Condition(ANOTHER, prompts, intervention=other, seed=seed),
    ]


def atv_variants(
    workspace: Workspace,
    atv: ATV,
    seen: dict[str, Task],
    prompts: tuple[Prompt, ...],
    edit: PromptVectors,
    after: str,
) -> list[Condition]:
    """Other strengths; one vector for the task, for all tasks; another task's vectors.

    Args:
        workspace: model and tasks.
        atv: what writes the vectors.
        seen: the tasks that it was trained on.
        prompts: of one task.
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
