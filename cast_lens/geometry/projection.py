"""The activations in two dimensions, zero-shot and few-shot prompts of all tasks in one joint basis.

PCA is linear, so parallel differences look parallel in it, as far as its two axes explain the variance. UMAP only shows
neighbourhoods: directions and distances between clusters mean nothing.

A picture of activations is convincing even if it is wrong. Before you interpret one, plot ``planted_differences`` that
are exactly parallel and others that have nothing in common, to see what the figure shows and what it invents.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.linalg import eigh
from torch import Tensor

from ..vectors import DifferenceVectors, Provenance
from .resampling import centred, check_comparable

Method = Literal["pca", "umap"]
CONDITIONS = ("zero-shot", "few-shot")
NEIGHBOURS = 15
"""UMAP's own default (arXiv 1802.03426)."""


def project(
    differences: Sequence[DifferenceVectors], layer: int, *, method: Method = "pca", seed: int = 0
) -> pd.DataFrame:
    """Zero-shot and few-shot activations of all tasks at one layer, in a plane fitted on all of them.

    Args:
        differences: one per task, from one model at the same layers.
        layer: block index.
        method: ``pca`` (centred, each axis oriented so that few-shot is on its positive side on average) or
            ``umap`` (15 neighbours, seeded, single-threaded, so that a seed gives one picture on one
            machine).
        seed: seed of UMAP; PCA needs none.

    Returns:
        ``task, sample_id, condition`` (``zero-shot`` or ``few-shot``), ``layer, x, y, explained_x,
        explained_y``: the last two are the share of variance along each PCA axis, NaN for UMAP.

    Raises:
        ValueError: for different models or layers, duplicate names, fewer than two samples, an unknown
            method, activations that do not vary, or too few activations for UMAP.
    """
    check_comparable(differences)
    if method not in ("pca", "umap"):
        raise ValueError(f"method={method!r} is unknown; choose pca or umap")
    frame = pd.DataFrame(
        [(one.task, sample, side) for one in differences for side in CONDITIONS for sample in one.sample_ids],
        columns=["task", "sample_id", "condition"],
    ).assign(layer=layer)
    activations = _activations(differences, layer)
    if not centred(activations).any():
        raise ValueError(f"the activations at layer {layer} are all the same, so they span no plane; check the capture")
    if method == "umap":
        points, explained = umap_plane(activations, seed), np.full(2, np.nan)
    else:
        points, explained = _pca(activations, frame["condition"].to_numpy() == "few-shot")
    return frame.assign(x=points[:, 0], y=points[:, 1], explained_x=explained[0], explained_y=explained[1])


def project_layers(
    differences: Sequence[DifferenceVectors],
    *,
    layers: Sequence[int] | None = None,
    method: Method = "pca",
    seed: int = 0,
) -> pd.DataFrame:
    """``project`` at several layers (None for all), in one frame; each layer has its own basis.

    Raises:
        ValueError: see ``project``; if no layer is given.
    """
    check_comparable(differences)
    chosen = differences[0].layers if layers is None else tuple(layers)
    if not chosen:
        raise ValueError("layers is empty; name at least one layer, or pass None for all")
    frames = [project(differences, layer, method=method, seed=seed) for layer in chosen]
    return pd.concat(frames, ignore_index=True)


def arrow_cosines(projection: pd.DataFrame) -> pd.DataFrame:
    """Cosine between the mean arrows of each pair of tasks *in the plane*, as a reader sees them in a projection.

    Compare it with ``parallelism``, which measures the same arrows in the full space. Under PCA the two agree as far as
    two axes explain the variance; under UMAP they need not agree at all.

    Args:
        projection: from ``project`` or ``project_layers``.

    Returns:
        ``task_a, task_b, layer, drawn_cosine``, one row per layer and unordered pair; NaN if an arrow has length 0.
    """
    ends = projection.groupby(["layer", "task", "condition"], sort=False)[["x", "y"]].mean()
    arrows = ends.xs("few-shot", level="condition") - ends.xs("zero-shot", level="condition")
    rows = []
    for layer, part in arrows.groupby(level="layer", sort=False):
        values = part.to_numpy()
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        units = values / np.where(lengths > 0, lengths, np.nan)
        names = list(part.index.get_level_values("task"))
        for a, b in zip(*np.triu_indices(len(names), k=1), strict=True):
            rows.append((names[a], names[b], layer, float(units[a] @ units[b])))
    return pd.DataFrame(rows, columns=["task_a", "task_b", "layer", "drawn_cosine"])


def _activations(differences: Sequence[DifferenceVectors], layer: int) -> Float[np.ndarray, "total d_model"]:
    for one in differences:
        one.at(layer)  # names the layers that are there when this one is not
    row = differences[0].layers.index(layer)
    sides = [side[:, row].double().numpy() for one in differences for side in (one.zero_shot, one.few_shot)]
    return np.concatenate(sides)


def _pca(
    activations: Float[np.ndarray, "total d_model"], few: np.ndarray
) -> tuple[Float[np.ndarray, "total 2"], Float[np.ndarray, " 2"]]:
    values = centred(activations)
    tall = values.shape[0] > values.shape[1]
    gram = values.T @ values if tall else values @ values.T
    last = len(gram) - 1
    squares, vectors = eigh(gram, subset_by_index=[max(0, last - 1), last])
    # Below this an eigenvalue is rounding, and its axis cannot be normalised.
    squares = np.where(squares > 1e-14 * gram.trace(), squares, 0.0)[::-1]
    axes = vectors[:, ::-1]
    if not tall:
        axes = values.T @ (axes / np.sqrt(np.where(squares > 0, squares, np.inf)))
    points, explained = np.zeros((len(values), 2)), np.zeros(2)
    points[:, : len(squares)] = values @ axes
    points[:, : len(squares)] *= _signs(points[:, : len(squares)], axes, few)
    explained[: len(squares)] = squares / gram.trace()
    return points, explained


def _signs(
    points: Float[np.ndarray, "total axis"], axes: Float[np.ndarray, "d_model axis"], few: np.ndarray
) -> Float[np.ndarray, " axis"]:
    """+1 or -1 per axis: puts few-shot on the positive side; without a shift, the largest loading."""
    shift = points[few].mean(axis=0) - points[~few].mean(axis=0)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0)[0]
    # A shift this small against the axis' own spread is rounding, and its sign would differ between machines.
    decided = np.abs(shift) > 1e-9 * np.abs(points).max(axis=0)
    return np.where(np.where(decided, shift, largest) < 0, -1.0, 1.0)


def umap_plane(values: Float[np.ndarray, "total d_model"], seed: int) -> Float[np.ndarray, "total 2"]:
    """UMAP of some rows: 15 neighbours, seeded, single-threaded.

    Raises:
        ValueError: when there are not more rows than neighbours.
    """
    if len(values) <= NEIGHBOURS:
        raise ValueError(
            f"method='umap' needs more than {NEIGHBOURS} activations (its number of neighbours), got "
            f"{len(values)} from all tasks and both prompts; capture more samples, or use method='pca'"
        )
    with warnings.catch_warnings():
        # umap-learn warns on import about its optional parts and, once seeded, that it runs on one thread,
        # which is what a seed is for; on tiny or clustered data its spectral start says that it falls back to
        # a random one.
        warnings.simplefilter("ignore")
        from umap import UMAP

        fitted = UMAP(n_components=2, n_neighbors=NEIGHBOURS, random_state=seed, n_jobs=1).fit_transform(values)
    return np.asarray(fitted, dtype=np.float64)


def planted_differences(
    tasks: Sequence[str],
    *,
    cosine: float,
    samples: int = 24,
    d_model: int = 256,
    shift: float = 3.0,
    apart: float = 4.0,
    scatter: float = 0.3,
    seed: int = 0,
) -> list[DifferenceVectors]:
    """Tasks at one layer whose mean differences have a known cosine for each pair.

    Each task is a round cloud of zero-shot activations with a radius of about 1 and its own centre; centres and
    differences are orthogonal to each other. Few-shot activations are the zero-shot ones plus the task's difference
    plus scatter. The difference of task t is ``shift * (sqrt(c) s + sqrt(1 - c) u_t)`` with orthonormal ``s, u_1, u_2,
    ...``.

    Args:
        tasks: names of the tasks.
        cosine: cosine of the differences of any two tasks, from 0 (nothing in common) to 1 (the same).
        samples: samples per task.
        d_model: width of the activations.
        shift: length of the differences.
        apart: distance of each cloud's centre from the origin.
        scatter: length of the random part of each sample's difference; 0 makes all differences of a task equal.
        seed: seed of directions and scatter.

    Returns:
        One ``DifferenceVectors`` per task, at layer 0, from a model called ``planted``.

    Raises:
        ValueError: for a cosine outside 0 ... 1, or fewer than ``2 * tasks + 1`` dimensions.
    """
    if not 0 <= cosine <= 1:
        raise ValueError(f"cosine={cosine} must be from 0 to 1; more than two differences cannot all point apart")
    if d_model < 2 * len(tasks) + 1:
        raise ValueError(f"d_model={d_model} must be at least {2 * len(tasks) + 1} for {len(tasks)} tasks")
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((d_model, 2 * len(tasks) + 1)))[0].T
    noise = generator.standard_normal((2, len(tasks), samples, d_model)) / np.sqrt(d_model)
    own, centres = axes[1 : len(tasks) + 1], axes[len(tasks) + 1 :]
    differences = shift * (np.sqrt(cosine) * axes[0] + np.sqrt(1 - cosine) * own)
    zero = apart * centres[:, None] + noise[0]
    few = zero + differences[:, None] + scatter * noise[1]
    names = tuple(f"sample {number}" for number in range(samples))
    return [
        DifferenceVectors(_stack(after), _stack(before), (0,), names, Provenance("planted", "planted", task))
        for task, before, after in zip(tasks, zero, few, strict=True)
    ]


def _stack(values: Float[np.ndarray, "sample d_model"]) -> Float[Tensor, "sample 1 d_model"]:
    return torch.tensor(values, dtype=torch.float32)[:, None]
