"""One vector, many unrelated targets: what it does to each, and what order there is in the matrix.

Sources are targets of each other as well. Three questions are asked of the matrix of gains, each against its null: do
targets (and sources) fall into clusters, do some tasks give or take more than others, and do pairs of one template
family gain more than pairs of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ... import plots
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..matrix_tests import as_matrix, clusters, hubs, matrix_test, mean_gap
from ..outcomes import contrast_table, pooled_table
from ..protocol import (
    Experiment,
    Findings,
    Frames,
    ReportFigure,
    Rows,
    Tasks,
    different_pairs,
    joined,
    settings_first,
)
from ..transfer_matrix import CAST, RANDOM, changes_of, crossed_outcomes, steerable, with_families
from ..workspace import Workspace

METRICS = ("exact_match", "choice_correct")
METHODS = (CAST, RANDOM)
FAMILIES = "same family less other families"


@dataclass(frozen=True, slots=True)
class Transferability(Experiment):
    """What does one vector do to many unrelated targets?"""

    name = "transferability"
    title = "Transferability"
    compared = (
        "Each source's vector at its own setting on every target, the other sources among them and never on the source "
        "itself. The null of the clusters exchanges values within columns and chooses the cut anew; the null of the "
        "families renames whole rows and columns."
    )
    limits = (
        "With few sources and targets only strong order can show; no order found is no proof of none. A task that "
        "gains from every source may simply have had the wrong answer format before. Tasks that give or take most are "
        f"picked after the fact, and their intervals do not allow for that. {sentences.LIMITS}"
    )
    shown = ("methods", "structure", "hubs", "result")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one cell per task that is steered by all sources.

        Raises:
            ValueError: no pair of different tasks.
        """
        targets = steerable(config, tasks)
        different_pairs(config, targets)
        return [*settings_first(config), *(Cell("steered", target) for target in targets)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of a target under every source."""
        return crossed_outcomes(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """The matrix and its order.

        Returns:
            ``result``: one row per pair, method and metric; ``methods``: over all pairs; ``hubs``: mean change of each
            task in both roles; ``structure``: families and clusters against their nulls; ``clusters``: their members.
        """
        outcomes = joined(rows)
        away = outcomes[~outcomes["own"]]
        options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
        result = with_families(contrast_table(away, tested=lambda name: name == CAST, **options), tasks)
        structure, members = order_in(result, seed=config.seed)
        return {
            "result": result,
            "methods": pooled_table(away, **options),
            "hubs": margins(away, config),
            "structure": structure,
            "clusters": members,
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The mean gain with its placebo and verdicts; the order in the matrix of exact match."""
        order = [
            question_clause(row)
            for row in frames["structure"].to_dict("records")
            if (row["method"], row["metric"]) == (CAST, "exact_match")
        ]
        told = [sentences.transfer(frames["methods"], frames["result"])]
        told += [f"Order in the matrix of exact match: {'; '.join(order)}."] if order else []
        return Findings(" ".join(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The matrix, and its margins."""
        result, hub = frames["result"], frames["hubs"]
        steered = result[result["method"] == CAST]
        if steered.empty:
            return
        lines = hub[hub["method"] == CAST]
        lines = lines.assign(method=lines["role"] + ": " + lines["task"])
        yield ReportFigure(
            "matrix",
            "What one vector does to many targets",
            "Change from zero-shot in percentage points, for the contrastive mean; tasks of one family are beside each "
            "other. Bold: the interval excludes zero.",
            "Heat maps of gain by target and source.",
            plots.plot_transfer_matrix(result, metrics=sentences.metrics(steered), method=CAST),
            result,
        )
        yield ReportFigure(
            "hubs",
            "Tasks that give and tasks that take",
            "Mean change over the pairs of each task as a source and as a target, with 95 % intervals over examples.",
            "Forest plot of the mean change of each task in both roles.",
            plots.plot_methods(lines, sort=False),
            lines,
        )


EXPERIMENT = Transferability


def margins(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Mean change of each task as a source and as a target, by method and metric; see ``hubs``."""
    frames = []
    for method in METHODS:
        for metric in METRICS:
            changes = changes_of(outcomes, method, metric)
            found = hubs(changes, n_bootstrap=config.bootstrap, seed=config.seed)
            frames.append(found.assign(method=method, metric=metric))
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def order_in(result: pd.DataFrame, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Families and clusters: one row per question, method and metric; and which task fell into which cluster."""
    rows, members = [], []
    for method in METHODS:
        for metric in METRICS:
            part = result[(result["method"] == method) & (result["metric"] == metric)]
            if part.empty:
                continue
            named = {"method": method, "metric": metric}
            rows.append({**named, **family_gap(part, seed=seed)})
            gains = as_matrix(part, "gain")
            for role, matrix in (("target", gains), ("source", gains.T)):
                found, kept = cluster_rows(part, role, matrix, seed=seed)
                rows.append({**named, **found})
                members += [{**named, "role": role, **one} for one in kept]
    return pd.DataFrame(rows), pd.DataFrame(members, columns=["method", "metric", "role", "task", "cluster"])


def family_gap(part: pd.DataFrame, *, seed: int) -> dict[str, Any]:
    """Whether pairs of one family gain more than pairs of two."""
    same = (part["target_family"] == part["source_family"]).astype(float)
    inside, gains = as_matrix(part.assign(same=same), "same"), as_matrix(part, "gain")
    found = matrix_test(inside, gains, mean_gap, seed=seed)
    return {
        "question": FAMILIES,
        "statistic": found.statistic,
        # A gap between pairs of which all, or none, share a family was not tested.
        "p_value": found.p if found.statistic == found.statistic else np.nan,
        "n": found.n,
        "detail": f"{int(same.sum())} of {len(part)} pairs share a family",
    }


def cluster_rows(
    part: pd.DataFrame, role: str, matrix: np.ndarray, *, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Whether the tasks of one role fall into clusters, and into which."""
    names = list(dict.fromkeys(part[role]))
    row: dict[str, Any] = {"question": f"silhouette of {role} clusters", "n": len(names)}
    found = clusters(matrix, seed=seed)
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


def question_clause(row: dict[Any, Any]) -> str:
    """One question about the order with its answer."""
    if row["statistic"] != row["statistic"]:
        return f"{row['question']}: {'not defined here' if row['question'] == FAMILIES else row['detail']}"
    value = (
        f"{sentences.points(row['statistic'])} points"
        if row["question"] == FAMILIES
        else f"{row['statistic']:.2f} (null's median {row['null']:.2f})"
    )
    return f"{row['question']}: {value}, p = {row['p_value']:.3f}"
