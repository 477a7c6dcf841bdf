"""Everything that a view may show, as plain data for the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from plotly.offline import get_plotlyjs_version

from ..geometry import alignment_samples, project_layers
from ..plots.parallel import family_style
from ..plots.style import NEUTRAL, PALETTE, TEXT, task_style, template
from ..report.page import THEMES, plain
from ..tasks import Task, zero_shot
from ..vectors import DifferenceVectors

CONFIDENCE = 0.95
SIDES = ("zero-shot", "few-shot")
LONGEST = 280
"""Characters of a sample's text that hover shows."""
UNKNOWN = "family not known"
BANDS = ("cosine", "low", "high", "null_pairs_low", "null_pairs_high", "null_random_low", "null_random_high")


def view_data(
    differences: Sequence[DifferenceVectors],
    tasks: Mapping[str, Task],
    curves: pd.DataFrame | None,
    umap: pd.DataFrame | None,
) -> dict[str, Any]:
    """The data of a view; ``templates/explore.js`` reads it.

    Args:
        differences: one per task, from one model at the same layers.
        tasks: texts, answers and families of those that are known.
        curves: from ``geometry.parallelism``; None for a single task.
        umap: from ``geometry.project_layers``.
    """

    layers = list(differences[0].layers)
    family = {one.task: tasks[one.task].family if one.task in tasks else UNKNOWN for one in differences}
    planes = {"pca": _planes(project_layers(differences), differences)}
    if umap is not None:
        planes["umap"] = _planes(umap, differences)
    where = differences[0].provenance
    return plain(
        {
            "title": f"Difference vectors of {where.model}",
            "plotly": get_plotlyjs_version(),
            "layers": layers,
            "confidence": CONFIDENCE,
            "sides": SIDES,
            "tasks": _tasks(differences, tasks, family),
            "families": _families(family),
            "conditions": [PALETTE[1], PALETTE[0]],
            "palette": PALETTE,
            "neutral": NEUTRAL,
            "text": TEXT,
            "projections": planes,
            "pairs": [] if curves is None else _pairs(curves, family),
            "templates": {theme: template(theme).to_plotly_json() for theme in THEMES},
        }
    )


def _tasks(
    differences: Sequence[DifferenceVectors], tasks: Mapping[str, Task], family: Mapping[str, str]
) -> list[dict[str, Any]]:
    frame = alignment_samples(differences)
    own = frame[frame["task"] == frame["other"]]
    found = []
    for one in differences:
        style, rows = task_style(one.task), own[own["task"] == one.task]
        found.append(
            {
                "name": one.task,
                "family": family[one.task],
                "colour": style.colour,
                "symbol": style.symbol,
                "samples": _samples(one, tasks.get(one.task)),
                "cosine": [part["cosine"].to_numpy() for _, part in rows.groupby("layer")],
                "length": one.values.norm(dim=-1).T.numpy(),
            }
        )
    return found


def _samples(one: DifferenceVectors, task: Task | None) -> list[dict[str, str]]:
    """Id, text and gold answer of each sample; text and answer are empty when the task is not known."""
    examples = {}
    if task is not None:
        every = (*task.train, *task.validation, *task.test)
        examples = {example.id: (example.input, zero_shot(task, example).gold) for example in every}
    found = []
    for name in one.sample_ids:
        text, gold = examples.get(name, ("", ""))
        short = " ".join(text.split())
        cut = short if len(short) <= LONGEST else short[: LONGEST - 1] + "…"
        found.append({"id": name, "text": cut, "gold": gold})
    return found


def _planes(frame: pd.DataFrame, differences: Sequence[DifferenceVectors]) -> dict[str, Any]:
    """For each layer and task x and y of the zero-shot and the few-shot point of each sample, one after the other."""
    planes = []
    layers = sorted(int(layer) for layer in frame["layer"].unique())
    for layer in layers:
        rows = frame[frame["layer"] == layer]
        wide = rows.pivot(index=["task", "sample_id"], columns="condition", values=["x", "y"])
        order = [(axis, side) for side in SIDES for axis in ("x", "y")]
        points = [wide.loc[one.task].loc[list(one.sample_ids), order].to_numpy().ravel() for one in differences]
        shares = rows[["explained_x", "explained_y"]].iloc[0].to_numpy(dtype=np.float64)
        planes.append({"points": points, "explained": shares if np.isfinite(shares).all() else None})
    return {"layers": layers, "planes": planes}


def _families(family: Mapping[str, str]) -> dict[str, str]:
    return {name: family_style(name, name).colour for name in dict.fromkeys(family.values())}


def _pairs(curves: pd.DataFrame, family: Mapping[str, str]) -> list[dict[str, Any]]:
    found = []
    for (task_a, task_b), unsorted in curves.groupby(["task_a", "task_b"], sort=False):
        rows = unsorted.sort_values("layer")
        style = family_style(*sorted((family[str(task_a)], family[str(task_b)])))
        bands = {name: rows[name].to_numpy(dtype=np.float64) for name in BANDS}
        found.append(
            {
                "a": task_a, "b": task_b, "entry": style.entry, "colour": style.colour, "dash": style.dash, **bands,
            }
        )  # fmt: skip
    return found
