"""Evaluates an adaptive task vector and analyses its vectors: outcomes, cosines, norms, projections.

- ``evaluate_atv``, ``gains``: outcomes of every example, unsteered and steered, and their difference per task;
- ``generate_vectors``: the vectors of some queries; ``generated_cosines``, ``generated_norms``,
  ``generated_against``, ``generated_cloud``: frames about them.

Controls return ``PromptVectors``, one vector per prompt, so a control is one more entry in the same call:

- ``another_query``: does it matter which query was read? Vectors of another query of the same task keep everything that
  the task's queries share; those of another task's query keep only the general properties of generated vectors;
- ``task_means``: is one vector per task enough?
- ``random_directions``: do random directions of the same lengths have the same effect?
- ``constant_vectors``: do untrained vectors, such as CAST's for each task, have the same effect?
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor

from ...engine import Progress, quiet
from ...evaluation import evaluate
from ...geometry.projection import NEIGHBOURS, umap_plane
from ...interventions import Intervention, PromptVectors
from ...models.lens import HookedTransformer
from ...placebos import random_like
from ...stats import paired_difference
from ...tasks import Split, Task, zero_shot_prompts
from ...vectors import SteeringVector
from ..conditions import OUTCOMES
from ..training import draw_examples, generator_texts
from .model import ATV


def evaluate_atv(
    model: HookedTransformer,
    atv: ATV,
    tasks: Sequence[Task],
    *,
    split: Split = "test",
    examples: int = 1000,
    seed: int = 0,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Zero-shot prompts of some tasks, unsteered and under the ATV, in one pass of the engine.

    Args:
        model: the model that the ATV was trained for.
        atv: the adaptive task vector.
        tasks: any tasks; the column ``seen`` says whether they were seen in training.
        split: the split whose examples are evaluated.
        examples: examples of each task at most, balanced over the classes.
        seed: seed of the draw.
        progress: wraps the batches.

    Returns:
        the rows of ``evaluate`` with ``method`` (``zero-shot`` or ``atv``) and ``seen``.

    Raises:
        ValueError: another model; no tasks; see ``evaluate``.
    """
    atv.check(model)
    known = set(atv.provenance.task.split(" + "))
    drawn = [(task, draw_examples(task, examples, seed=seed, split=split)) for task in tasks]
    prompts = [prompt for task, chosen in drawn for prompt in zero_shot_prompts(task, chosen)]
    texts = [text for task, chosen in drawn for text in generator_texts(task, chosen, atv.design.reads)]
    frame = evaluate(model, prompts, [atv.intervention(texts)], progress=progress)
    method = frame["variant"].map({0: "zero-shot", 1: "atv"})
    return frame.assign(method=method, seen=frame["task"].isin(known))


def gains(frame: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The changes that the ATV causes, with paired bootstrap intervals.

    Args:
        frame: from ``evaluate_atv``.
        seed: seed of the intervals.

    Returns:
        one row per task and outcome, then one over all seen and one over all unseen tasks: ``task, seen, outcome, n,
        zero_shot, atv, difference, low, high``. Outcomes that a task does not have are left out.
    """
    rows = []
    groups = [(str(task), rows_of) for task, rows_of in frame.groupby("task", sort=False)]
    groups += [(f"all {'seen' if seen else 'unseen'} tasks", part) for seen, part in frame.groupby("seen", sort=False)]
    for name, part in groups:
        for outcome in OUTCOMES:
            before, after = (
                part.loc[part["method"] == method, outcome].to_numpy(dtype=float) for method in ("zero-shot", "atv")
            )
            there = (before == before) & (after == after)
            if not there.any():
                continue
            found = paired_difference(before[there], after[there], seed=seed)
            rows.append(
                {
                    "task": name,
                    "seen": bool(part["seen"].iloc[0]),
                    "outcome": outcome,
                    "n": int(there.sum()),
                    "zero_shot": float(before[there].mean()),
                    "atv": float(after[there].mean()),
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(rows)


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """The vectors that an ATV generates for some queries, multiplied by its ``strength``.

    Attributes:
        directions: [sample, layer, d_model], float32 on the CPU.
        layers: block index of each entry of the layer axis.
        tasks, sample_ids: task and id of each sample; samples of a task are consecutive.
    """

    directions: Float[Tensor, "sample layer d_model"]
    layers: tuple[int, ...]
    tasks: tuple[str, ...]
    sample_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        n, layers = self.directions.shape[:2]
        if not n or (layers, n, n) != (len(self.layers), len(self.tasks), len(self.sample_ids)):
            raise ValueError(
                f"directions {tuple(self.directions.shape)}, {len(self.layers)} layers, {len(self.tasks)} tasks and "
                f"{len(self.sample_ids)} sample_ids must agree on at least one [sample, layer, d_model]"
            )

    def __repr__(self) -> str:
        samples, layers, width = self.directions.shape
        return f"Generated({', '.join(self.names)}: {samples} samples × {layers} layers × {width})"

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, each once."""
        return tuple(dict.fromkeys(self.tasks))

    def at(self, layer: int, task: str | None = None) -> Float[Tensor, "sample d_model"]:
        """Vectors at one layer, of one task or of all.

        Raises:
            ValueError: when the layer has no vectors.
        """
        if layer not in self.layers:
            raise ValueError(f"layer={layer} has no vectors; there are some at {', '.join(map(str, self.layers))}")
        rows = [i for i, name in enumerate(self.tasks) if task is None or name == task]
        return self.directions[rows, self.layers.index(layer)].double()


def generate_vectors(
    atv: ATV, tasks: Sequence[Task], *, split: Split = "validation", examples: int = 1000, seed: int = 0
) -> Generated:
    """The vectors for the tasks' queries, each in its own template.

    Raises:
        ValueError: no tasks; a query that the small model cannot read.
    """
    drawn = [(task, draw_examples(task, examples, seed=seed, split=split)) for task in tasks]
    texts = [text for task, chosen in drawn for text in generator_texts(task, chosen, atv.design.reads)]
    return Generated(
        atv.vectors(texts) * atv.design.strength,
        atv.layers,
        tuple(task.name for task, chosen in drawn for _ in chosen),
        tuple(example.id for _, chosen in drawn for example in chosen),
    )


def generated_cosines(generated: Generated) -> pd.DataFrame:
    """Cosine between the vectors of different queries, within and between tasks, layer by layer.

    The component that all vectors share (the bias) raises every cosine, so there is a second one without it, after
    subtracting the mean of the tasks' means.

    Returns:
        one row per layer and pair of tasks: ``layer, task_a, task_b, kind`` (``within`` or ``between``), ``cosine,
        centred_cosine`` (means over pairs of different samples), ``n`` (pairs). No row where there are no pairs.
    """
    rows = []
    names = generated.names
    for layer in generated.layers:
        by_task = [generated.at(layer, name) for name in names]
        centre = torch.stack([vectors.mean(dim=0) for vectors in by_task]).mean(dim=0)
        plain = [F.normalize(vectors, dim=-1) for vectors in by_task]
        centred = [F.normalize(vectors - centre, dim=-1) for vectors in by_task]
        for a, first in enumerate(names):
            for b in range(a, len(names)):
                n = len(plain[a]) * (len(plain[b]) - 1) // 2 if a == b else len(plain[a]) * len(plain[b])
                if n:
                    rows.append(
                        {
                            "layer": layer,
                            "task_a": first,
                            "task_b": names[b],
                            "kind": "within" if a == b else "between",
                            "cosine": _mean_cosine(plain[a], plain[b], same=a == b),
                            "centred_cosine": _mean_cosine(centred[a], centred[b], same=a == b),
                            "n": n,
                        }
                    )
    return pd.DataFrame(rows)


def _mean_cosine(first: Float[Tensor, "sample d"], second: Float[Tensor, "other d"], *, same: bool) -> float:
    total = first @ second.T
    if not same:
        return float(total.mean())
    n = len(first)
    return float((total.sum() - total.diagonal().sum()) / (n * (n - 1)))


def generated_norms(generated: Generated) -> pd.DataFrame:
    """Length of the vectors, one row per layer and sample: ``layer, task, sample_id, norm``."""
    norms = generated.directions.norm(dim=-1)
    return pd.DataFrame(
        {
            "layer": [layer for _ in generated.tasks for layer in generated.layers],
            "task": [task for task in generated.tasks for _ in generated.layers],
            "sample_id": [sample for sample in generated.sample_ids for _ in generated.layers],
            "norm": norms.flatten().numpy(),
        }
    )


def generated_against(generated: Generated, vectors: Mapping[str, SteeringVector]) -> pd.DataFrame:
    """How parallel the vectors of each task are to constant ones, such as CAST's mean difference vectors.

    Args:
        generated: from ``generate_vectors``.
        vectors: constant vectors by source task.

    Returns:
        one row per layer, task of the queries and task of the constant vector: ``layer, task, source, same`` (whether
        they are one task), ``cosine`` (of the mean generated vector), ``sample_cosine`` (mean over samples). Layers
        that a constant vector does not hold are left out.

    Raises:
        ValueError: no vectors, or none with a layer in common.
    """
    rows = []
    for source, vector in vectors.items():
        for layer in (one for one in generated.layers if one in vector.layers):
            constant = vector.at(layer).double()
            for task in generated.names:
                own = generated.at(layer, task)
                rows.append(
                    {
                        "layer": layer,
                        "task": task,
                        "source": source,
                        "same": task == source,
                        "cosine": float(F.cosine_similarity(own.mean(dim=0), constant, dim=0)),
                        "sample_cosine": float(F.cosine_similarity(own, constant[None], dim=-1).mean()),
                    }
                )
    if not rows:
        raise ValueError(
            f"none of the {len(vectors)} constant vectors holds a layer of {list(generated.layers)}; capture them there"
        )
    return pd.DataFrame(rows)


def generated_cloud(
    generated: Generated, layer: int, *, method: Literal["pca", "umap"] = "pca", seed: int = 0
) -> pd.DataFrame:
    """The vectors at one layer in two dimensions, one point per query.

    Args:
        generated: from ``generate_vectors``.
        layer: block index.
        method: ``pca`` (centred) or ``umap`` (of unit vectors, 15 neighbours, seeded), whose distances between
            clusters mean nothing.
        seed: seed of UMAP.

    Returns:
        ``task, sample_id, layer, x, y, explained_x, explained_y``; the last two are shares of variance, NaN for UMAP.

    Raises:
        ValueError: an unknown method, a layer without vectors, or too few vectors.
    """
    if method not in ("pca", "umap"):
        raise ValueError(f"method={method!r} is unknown; choose pca or umap")
    values = generated.at(layer).numpy()
    least = NEIGHBOURS + 1 if method == "umap" else 3
    if len(values) < least:
        raise ValueError(f"method={method!r} needs at least {least} vectors, got {len(values)}; ask for more queries")
    points, explained = (umap_plane(_units(values), seed), np.full(2, np.nan)) if method == "umap" else _pca(values)
    frame = pd.DataFrame({"task": generated.tasks, "sample_id": generated.sample_ids, "layer": layer})
    return frame.assign(x=points[:, 0], y=points[:, 1], explained_x=explained[0], explained_y=explained[1])


def _pca(values: Float[np.ndarray, "sample d"]) -> tuple[Float[np.ndarray, "sample 2"], Float[np.ndarray, " 2"]]:
    """Points and shares of variance; scikit-learn turns each axis so that its largest loading is positive."""
    if not (values != values[0]).any():
        return np.zeros((len(values), 2)), np.zeros(2)
    fitted = PCA(n_components=2, svd_solver="full")
    return fitted.fit_transform(values), fitted.explained_variance_ratio_


def _units(values: Float[np.ndarray, "sample d"]) -> Float[np.ndarray, "sample d"]:
    """Unit vectors, whose distances are ordered like their cosines."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    units: Float[np.ndarray, "sample d"] = values / np.where(lengths > 0, lengths, 1.0)
    return units


def another_query(vectors: PromptVectors, tasks: Sequence[str], *, same_task: bool, seed: int = 0) -> PromptVectors:
    """Give every prompt the vectors of another prompt; each prompt's vectors are used once.

    Args:
        vectors: vectors of some prompts.
        tasks: the task of each prompt.
        same_task: whether the other prompt is of the same task or of another.
        seed: seed of a local generator.

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
    # Shifting by one within a task, or by the size of the largest task over all prompts, leaves none in place.
    circles = mixed if same_task else [[row for rows in mixed for row in rows]]
    turn = 1 if same_task else max(sizes)
    taken = [0] * len(tasks)
    for circle in circles:
        for place, row in enumerate(circle):
            taken[row] = circle[(place + turn) % len(circle)]
    return replace(vectors.of(taken), name=f"another query, {'same' if same_task else 'another'} task")


def task_means(vectors: PromptVectors, tasks: Sequence[str]) -> PromptVectors:
    """Give every prompt the mean vectors of its task's prompts.

    Raises:
        ValueError: another number of tasks than prompts.
    """
    _check(vectors, tasks)
    means = torch.empty_like(vectors.directions)
    for rows in _groups(tasks):
        means[rows] = vectors.directions[rows].double().mean(dim=0).to(means.dtype)
    return replace(vectors, directions=means, name="task means")


def random_directions(vectors: PromptVectors, *, seed: int = 0) -> PromptVectors:
    """A random direction for every prompt and layer, uniform on the sphere with the length of its vector."""
    return replace(vectors, directions=random_like(vectors.directions, seed=seed), name="random directions")


def constant_vectors(edits: Mapping[str, Intervention], tasks: Sequence[str]) -> PromptVectors:
    """Give every prompt the constant vector of its task, at that vector's layer and strength.

    Args:
        edits: interventions by task; all use operator ``add``, the same position and the same model.
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
    """Indices of each task's prompts."""
    return [[i for i, name in enumerate(tasks) if name == task] for task in dict.fromkeys(tasks)]


def _check(vectors: PromptVectors, tasks: Sequence[str]) -> None:
    if len(tasks) != len(vectors.directions):
        raise ValueError(
            f"{len(tasks)} tasks were given for vectors of {len(vectors.directions)} prompts; give one per prompt"
        )
