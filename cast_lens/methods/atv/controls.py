"""What an ATV's vectors are compared with: other queries' vectors, random ones, task means, constant vectors.

Each gives ``PromptVectors``, one per prompt, so a control is one more entry in the same call. Which question each
answers:

- ``another_query``: does it matter which query was read? Vectors of another query of the same task have everything
  that the task has in common; those of another task's query have its size and make only;
- ``task_means``: is there more to it than one vector per task?
- ``random_directions``: does any direction of these lengths do it?
- ``constant_vectors``: does a vector that was never trained do it, CAST's own for each task?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...interventions import Intervention, PromptVectors
from ...placebos import random_like


def another_query(vectors: PromptVectors, tasks: Sequence[str], *, same_task: bool, seed: int = 0) -> PromptVectors:
    """Every prompt gets the vectors of another one, each once.

    Args:
        vectors: of some prompts.
        tasks: the task of each prompt.
        same_task: whether the other prompt is of the same task or of another.
        seed: of a local generator.

    Raises:
        ValueError: another number of tasks than prompts; within a task, one with a single prompt; across tasks, one
            with more than half of all prompts.
    """
    _check(vectors, tasks)
    groups = _groups(tasks)
    sizes = [len(rows) for rows in groups]
    if same_task and min(sizes) < 2:
        raise ValueError("every task needs two or more prompts, or there is no other query of the same task")
    if not same_task and 2 * max(sizes) > len(tasks):
        raise ValueError(
            f"a task has {max(sizes)} of {len(tasks)} prompts; with more than half not all of them can get the vectors "
            "of another task's query, so give more tasks or fewer of its prompts"
        )
    generator = torch.Generator().manual_seed(seed)
    mixed = [[rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()] for rows in groups]
    # A shift by one within a task, or by the size of the largest task when all are in one row, leaves none in place.
    circles = mixed if same_task else [[row for rows in mixed for row in rows]]
    turn = 1 if same_task else max(sizes)
    taken = [0] * len(tasks)
    for circle in circles:
        for place, row in enumerate(circle):
            taken[row] = circle[(place + turn) % len(circle)]
    return replace(vectors.of(taken), name=f"another query, {'same' if same_task else 'another'} task")


def task_means(vectors: PromptVectors, tasks: Sequence[str]) -> PromptVectors:
    """Every prompt gets the mean vectors of its task's prompts.

    Raises:
        ValueError: another number of tasks than prompts.
    """
    _check(vectors, tasks)
    means = torch.empty_like(vectors.directions)
    for rows in _groups(tasks):
        means[rows] = vectors.directions[rows].double().mean(dim=0).to(means.dtype)
    return replace(vectors, directions=means, name="task means")


def random_directions(vectors: PromptVectors, *, seed: int = 0) -> PromptVectors:
    """For every prompt and layer a random direction, uniform on the sphere of its vector's length there."""
    return replace(vectors, directions=random_like(vectors.directions, seed=seed), name="random directions")


def constant_vectors(edits: Mapping[str, Intervention], tasks: Sequence[str]) -> PromptVectors:
    """Every prompt gets the one vector of its task, at that vector's layer and strength.

    Args:
        edits: by task; all of them add, at one position, and were taken from one model.
        tasks: the task of each prompt.

    Raises:
        ValueError: no prompts; a task without a vector; edits that do not add, or differ in position, width or model.
    """
    lacking = sorted(set(tasks) - set(edits))
    if lacking or not tasks:
        raise ValueError(f"every task needs a vector; {', '.join(lacking) or 'no prompts'} among {len(tasks)} prompts")
    used = {task: edits[task] for task in dict.fromkeys(tasks)}
    first = next(iter(used.values()))
    about = {(edit.operator, edit.position, edit.width, edit.fingerprint) for edit in used.values()}
    if len(about) > 1 or first.operator != "add":
        raise ValueError(
            "vectors of several tasks go into one edit only where all of them add, at one position, with one width and "
            f"from one model; got {sorted(about)}"
        )
    layers = tuple(sorted({edit.layer for edit in used.values()}))
    rows = {task: _row(edit, layers) for task, edit in used.items()}
    return PromptVectors(
        torch.stack([rows[task] for task in tasks]),
        layers,
        position=first.position,
        name="constant vectors",
        fingerprint=first.fingerprint,
    )


def _row(edit: Intervention, layers: tuple[int, ...]) -> Float[Tensor, "layer d_model"]:
    row = torch.zeros(len(layers), edit.width, dtype=edit.direction.dtype)
    row[layers.index(edit.layer)] = edit.strength * edit.direction.cpu()
    return row


def _groups(tasks: Sequence[str]) -> list[list[int]]:
    """Places of each task's prompts."""
    return [[i for i, name in enumerate(tasks) if name == task] for task in dict.fromkeys(tasks)]


def _check(vectors: PromptVectors, tasks: Sequence[str]) -> None:
    if len(tasks) != len(vectors.directions):
        raise ValueError(
            f"{len(tasks)} tasks were given for vectors of {len(vectors.directions)} prompts; give one per prompt"
        )
