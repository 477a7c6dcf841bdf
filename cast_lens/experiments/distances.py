"""How far apart two tasks are, before anything is steered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..extraction import draw_samples
from ..tasks import Task
from ..tasks.templates import body
from .workspace import Workspace

Distance = Callable[[Workspace, str, str], float]


def family_distance(workspace: Workspace, source: str, target: str) -> float:
    """0 for one template family, 1 for two."""
    return float(workspace.tasks[source].family != workspace.tasks[target].family)


def label_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the Jaccard overlap of the admissible answers; 0 for two free tasks, 1 for a free and a labelled one."""
    left, right = (answers_of(workspace.tasks[name]) for name in (source, target))
    if not left and not right:
        return 0.0
    return 1.0 - len(left & right) / len(left | right)


def answers_of(task: Task) -> frozenset[str]:
    """The admissible answers in lower case: label words, or letters of options; empty for free answers."""
    if task.kind == "multiple-choice":
        most = max((len(example.choices) for example in task.train), default=0)
        return frozenset(chr(ord("a") + index) for index in range(most))
    return frozenset(label.lower() for label in task.labels)


def embedding_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the cosine between the tasks' mean embeddings, see ``Workspace.embed``; no label is read."""
    left, right = (mean_embedding(workspace, name) for name in (source, target))
    return 1.0 - float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


def mean_embedding(workspace: Workspace, name: str) -> Float[np.ndarray, " d_model"]:
    """Mean embedding of the formatted inputs of the task's sample queries, without its definition."""
    task = workspace.tasks[name]
    texts = [body(task, example) for example in draw_samples(task, workspace.extraction())]
    rows: Float[np.ndarray, " d_model"] = np.asarray(workspace.embed(texts), dtype=np.float64).mean(axis=0)
    return rows


def parallelism_distance(workspace: Workspace, source: str, target: str) -> float:
    """1 minus the cosine between the mean differences at the source's chosen layer; reads target demonstrations."""
    layer = workspace.setting(source).layer
    left, right = (workspace.differences(name).at(layer).double().mean(dim=0) for name in (source, target))
    return 1.0 - cosine(left, right)


def cosine(left: Float[Tensor, " d_model"], right: Float[Tensor, " d_model"]) -> float:
    """Cosine of two directions, 0 where one of them is zero."""
    lengths = left.norm() * right.norm()
    return float(left @ right / lengths) if bool(lengths > 0) else 0.0


def residual_cosine(workspace: Workspace, source: str, target: str) -> float:
    """Cosine between the mean zero-shot residuals at the source's chosen layer, no demonstration and no label read."""
    layer = workspace.setting(source).layer
    sides = [workspace.differences(name) for name in (source, target)]
    rows = [side.zero_shot[:, side.layers.index(layer)].double() for side in sides]
    return cosine(*(torch.mean(row, dim=0) for row in rows))


DISTANCES: dict[str, Distance] = {
    "template family": family_distance,
    "label space": label_distance,
    "embedding": embedding_distance,
    "parallelism": parallelism_distance,
}
"""By name in frames."""
