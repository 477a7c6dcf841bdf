"""One vector, many unrelated targets: its effect on each, and the structure of the transfer matrix.

Sources are also targets of each other. The matrix of gains is tested against null distributions with three questions:
do targets (and sources) form clusters, do some tasks give or take more than others, and do pairs within one template
family gain more than pairs across families?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from ... import plots
from ...methods import OUTCOMES
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import contrast_table, holm, pooled_table
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, settings_first
from ..transfer_matrix import (
    CAST,
    RANDOM,
    as_matrix,
    changes_of,
    clusters,
    crossed_outcomes,
    different_steerable,
    hubs,
    matrix_test,
    mean_gap,
    with_families,
)
from ..workspace import Workspace

METRICS = ("exact_match", "choice_correct")
METHODS = (CAST, RANDOM)
STRUCTURE = ["method", "metric", "question", "statistic", "p_value", "n", "detail"]


@dataclass(frozen=True, slots=True)
class Transferability(Experiment):
    """What does one vector do to many unrelated targets?"""

    name = "transferability"
    title = "Transferability"
    compared = (
        "Each source steers every target at its own setting (including the other sources, but never itself), on the "
        "same test queries as zero-shot. The clusters' null distribution permutes values within columns and chooses "
        "the cut again; the families' null relabels whole rows and columns. P-values of the structure are "
        "Holm-adjusted over its table."
    )
    limits = (
        "With few sources and targets only a strong structure can show; finding none does not prove that there is "
        "none. A task that gains from every source may simply have had the wrong answer format before. Hubs are "
        "picked after the fact, the highest and lowest of several, and their intervals do not allow for that. "
        f"{sentences.LIMITS}"
    )
    shown = ("structure", "hubs", "methods")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one cell per task that is steered by all sources.

        Raises:
            ValueError: when no pair of different tasks can be steered.
        """
        names = different_steerable(config, tasks)
        return [*settings_first(config), *(Cell("steered", target) for target in names)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of a target under every source."""
        return crossed_outcomes(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """The effect of vectors on each task, and the structure of the matrix.

        Returns:
            ``result``: one row per pair, method and metric; ``methods``: over all pairs; ``hubs, structure,
            clusters``: the order of the matrix.
        """
        found = rows.get("steered", pd.DataFrame())
        away = found[~found["own"].astype(bool)] if len(found) else found
        result = with_families(contrast_table(away, tested=lambda name: name == CAST, **config.resampling), tasks)
        structure, members = structure_of(result, config)
        return {
            "result": result,
            "methods": pooled_table(away, **config.resampling),
            "hubs": hubs_of(away, config),
            "structure": structure,
            "clusters": members,
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """Mean gain, strongest placebo, verdicts of single pairs."""
        return Findings(sentences.transfer(frames["methods"], frames["result"]))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The matrix, and its margins."""
        result, margins = frames["result"], frames["hubs"]
        if (result["method"] == CAST).any():
            yield ReportFigure(
                "matrix",
                "Effect of one vector on many targets",
                "Change from zero-shot in percentage points for the contrastive mean; tasks of one family are next "
                "to each other. Bold: the interval excludes zero.",
                "Heat maps of gain by target and source.",
                plots.plot_transfer_matrix(result, metrics=sentences.metrics(result), method=CAST),
                result,
            )
        lines = margins[margins["method"] == CAST].assign(method=margins["role"] + ": " + margins["task"])
        if len(lines):
            yield ReportFigure(
                "hubs",
                "Tasks that give and tasks that take",
                "Mean change over the pairs of each task as a source and as a target, with 95 % intervals over "
                "examples.",
                "Forest plot of the mean change of each task in both roles.",
                plots.plot_methods(lines, metrics=OUTCOMES, sort=False),
                lines,
            )


EXPERIMENT = Transferability


def hubs_of(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Mean change of each task as a source and as a target."""
    frames = []
    for method in METHODS:
        for metric in METRICS:
            changes = changes_of(outcomes, method, metric) if len(outcomes) else outcomes
            if len(changes):
                found = hubs(changes, **config.resampling)
                frames.append(found.assign(method=method, metric=metric))
    columns = ["role", "task", "gain", "gain_low", "gain_high", "method", "metric"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def structure_of(result: pd.DataFrame, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per question, method and metric; and which task fell into which cluster."""
    rows, members = [], []
    for method in METHODS:
        for metric in METRICS:
            part = result[(result["method"] == method) & (result["metric"] == metric)]
            if part.empty:
                continue
            named = {"method": method, "metric": metric}
            rows.append({**named, **families_of(part, config)})
            gains = as_matrix(part, "gain")
            for role, matrix in (("target", gains), ("source", gains.T)):
                found, kept = clusters_of(part, role, matrix, config)
                rows.append({**named, **found})
                members += [{**named, "role": role, **one} for one in kept]
    found_rows = pd.DataFrame(rows, columns=STRUCTURE if not rows else None)
    return holm(found_rows), pd.DataFrame(members, columns=["method", "metric", "role", "task", "cluster"])


def families_of(part: pd.DataFrame, config: RunConfig) -> dict[str, Any]:
    """Whether pairs of one template family gain more."""
    same = (part["target_family"] == part["source_family"]).astype(float)
    found = matrix_test(as_matrix(part.assign(same=same), "same"), as_matrix(part, "gain"), mean_gap, seed=config.seed)
    return {
        "question": "same family minus other families",
        "statistic": found.statistic,
        # If all pairs share a family, or none does, there is no gap to test.
        "p_value": found.p if found.statistic == found.statistic else np.nan,
        "n": found.n,
        "detail": f"{int(same.sum())} of {len(part)} pairs share a family",
    }


def clusters_of(
    part: pd.DataFrame, role: str, matrix: Float[np.ndarray, "task other"], config: RunConfig
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Whether targets, or sources, fall into clusters."""
    names = list(dict.fromkeys(part[role]))
    row: dict[str, Any] = {"question": f"silhouette of {role} clusters", "n": len(names)}
    found = clusters(matrix, seed=config.seed)
    if found is None:
        nothing = "too few tasks, or tasks that do not differ"
        return {**row, "statistic": np.nan, "p_value": np.nan, "detail": nothing}, []
    groups = [
        ", ".join(name for name, label in zip(names, found.labels, strict=True) if label == one)
        for one in np.unique(found.labels)
    ]
    row |= {"statistic": found.silhouette, "p_value": found.p, "null": float(np.median(found.null))}
    kept = [{"task": names[index], "cluster": int(found.labels[index])} for index in found.order]
    return {**row, "detail": " | ".join(groups)}, kept
