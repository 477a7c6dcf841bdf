"""Does steering hold where source and target differ and prompting fails?

Each pair of different tasks is steered with the source's vector and, separately, prompted with demonstrations of the
same source, on the same queries. Pairs are then ordered by how far apart the tasks are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ... import plots
from ...methods import cross_task_condition
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, holm, over_queries, side_by_side
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, different_pairs, joined, settings_first
from ..transfer_matrix import CAST, DISTANCES, RANDOM, as_matrix, changes_of, crossed_outcomes, matrix_test
from ..workspace import Workspace, fits, test_examples

GROUPS = 3
MEAN = ("pairs", "n", "gain", "gain_low", "gain_high")
METRICS = ("exact_match", "choice_correct")
PROMPTED = "cross-task few-shot"
# Methods, and what their gains are called in columns.
OUTCOMES = {CAST: "steered", PROMPTED: "prompted", RANDOM: "placebo"}


@dataclass(frozen=True, slots=True)
class Dissimilarity(Experiment):
    """Does steering hold where source and target differ and prompting fails?"""

    name = "dissimilarity"
    title = "Dissimilarity"
    compared = (
        "Steering with a source's vector (at the source's own setting) is compared with demonstrations of the same "
        "source in the prompt, on the same test queries of each target, and with random directions of equal norm at "
        "the same setting. Permutations relabel whole targets and sources, because pairs that share a task are not "
        "independent."
    )
    limits = (
        "There are few tasks, so only a strong association can show, and the distances correlate with each other and "
        "with zero-shot errors. Where prompting fails was decided on every second query and measured on the others, "
        "so that no query counts twice; a pair can thus appear on both sides. The parallelism of two tasks uses "
        f"labelled demonstrations of the target. {sentences.LIMITS}"
    )
    shown = ("overall", "correlations", "failing")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then a target's steered and prompted answers, and its distances.

        Raises:
            ValueError: when no source differs from a target.
        """
        targets = list(dict.fromkeys(target for target, _ in different_pairs(config)))
        kinds = ("steered", "prompted", "distances")
        return [*settings_first(config), *(Cell(kind, target) for target in targets for kind in kinds)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of one target, or its distance from every source."""
        if cell.kind == "steered":
            return crossed_outcomes(workspace, cell.target)
        if cell.kind == "prompted":
            return prompted_rows(workspace, cell.target)
        return distance_rows(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """How steering and prompting compare, and how their difference depends on distance.

        Returns:
            ``result``: one row per pair and metric; ``overall``: over all pairs; ``correlations``: of distances with
            gains; ``groups``: gains from near to far; ``failing``: gains where prompting fails.
        """
        found = joined(rows, "steered", "prompted")
        found = found[~found["own"].astype(bool)].reset_index(drop=True) if len(found) else found
        distances = rows.get("distances", pd.DataFrame(columns=["target", "source", *DISTANCES]))
        options: dict[str, Any] = {"seed": config.seed, "metrics": METRICS}
        steered = found[found["method"] != BASELINE] if len(found) else found
        pairs = side_by_side(steered, [(CAST, PROMPTED)], within=("target", "source"), **options)
        changes = all_changes(found)
        result = with_gains(pairs, changes).merge(
            distances[["target", "source", *DISTANCES]], on=["target", "source"], how="left"
        )
        return {
            "result": result,
            "overall": side_by_side(found, [(CAST, PROMPTED), (CAST, RANDOM)], **options),
            "correlations": correlations(result, config),
            "groups": groups(result, changes, config),
            "failing": failing(changes, config),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """Steering against prompting over all pairs, and how many distances go with the difference."""
        row = sentences.row_of(frames["overall"], against=PROMPTED)
        if row is None:
            return Findings(sentences.NOTHING)
        rows = frames["correlations"]
        known = rows[(rows["outcome"] == "difference") & (rows["metric"] == "exact_match")]
        sure = int((known["p_adjusted"] < 0.05).sum())
        return Findings(
            f"Steering differs from prompting with the same source by {sentences.change(row)} in exact match (n = "
            f"{row['n']}); {sure} of {len(known)} distances are associated with that difference after Holm's "
            "correction."
        )

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain by distance, for steering, prompting and placebo."""
        table = frames["groups"]
        for name in DISTANCES:
            rows = table[(table["distance"] == name) & (table["metric"] == "exact_match")]
            if rows.empty:
                continue
            lines = rows.assign(y=rows["gain"], low=rows["gain_low"], high=rows["gain_high"])
            yield ReportFigure(
                f"distance-{name.replace(' ', '-')}",
                f"Gain by distance: {name}",
                "Mean gain in exact match over zero-shot in groups of pairs from near to far, with 95 % intervals over "
                "examples; each point is at the mean distance of its group.",
                f"Gain of steering, prompting and random directions by {name} distance.",
                plots.plot_scaling(lines, x_title=f"{name} distance", y_title="gain in exact match"),
                lines,
            )


EXPERIMENT = Dissimilarity


def prompted_rows(workspace: Workspace, target: str) -> pd.DataFrame:
    """Cross-task prompting with each source; sources whose demonstrations do not fit the context are left out."""
    config, task = workspace.config, workspace.tasks[target]
    queries = test_examples(config, task)
    made = [
        cross_task_condition(workspace.tasks[source], task, queries, shots=config.shots, seed=config.seed)
        for source in config.sources
        if source != target
    ]
    fitting = [condition for condition in made if fits(workspace, condition.prompts)]
    if not fitting:
        return pd.DataFrame()
    return workspace.outcomes(fitting).assign(own=False)


def distance_rows(workspace: Workspace, target: str) -> pd.DataFrame:
    """One row per source."""
    rows = [
        {
            "target": target,
            "source": source,
            **{name: one(workspace, source, target) for name, one in DISTANCES.items()},
        }
        for source in workspace.config.sources
        if source != target
    ]
    return pd.DataFrame(rows)


def all_changes(found: pd.DataFrame) -> pd.DataFrame:
    """Changes against zero-shot of every method and metric, under each other."""
    made = [
        changes_of(found, method, metric).assign(method=method, metric=metric)
        for method in OUTCOMES
        for metric in METRICS
        if len(found)
    ]
    columns = ["target", "source", "sample", "change", "method", "metric"]
    return pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=columns)


def with_gains(pairs: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The gain over zero-shot of each method beside the comparison of the two."""
    means = changes.groupby(["target", "source", "metric", "method"], sort=False)["change"].mean()
    wide = means.unstack("method").rename(columns={method: f"{name}_gain" for method, name in OUTCOMES.items()})
    wide = wide.reindex(columns=[f"{name}_gain" for name in OUTCOMES.values()])
    return pairs.merge(wide.reset_index(), on=["target", "source", "metric"], how="left")


def correlations(result: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Rank correlation of every distance with what steering and prompting gain, and with their difference."""
    rows = []
    for metric in METRICS:
        part = result[result["metric"] == metric]
        for name in DISTANCES:
            for outcome in ("difference", "steered_gain", "prompted_gain"):
                found = matrix_test(as_matrix(part, name), as_matrix(part, outcome), seed=config.seed)
                # A correlation that is not defined was not tested.
                p = found.p if found.statistic == found.statistic else np.nan
                rows.append((metric, name, outcome, found.n, found.statistic, p))
    return holm(pd.DataFrame(rows, columns=["metric", "distance", "outcome", "pairs", "correlation", "p_value"]))


def grouped(values: pd.Series) -> pd.Series:
    """Groups from near to far, 0 to at most 2: single values where there are few, thirds otherwise."""
    places = np.unique(values)
    if len(places) <= GROUPS:
        return pd.Series(np.searchsorted(places, values), index=values.index)
    edges = np.quantile(values, np.arange(1, GROUPS) / GROUPS)
    return pd.Series(np.searchsorted(edges, values, side="right"), index=values.index)


def groups(result: pd.DataFrame, changes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Mean gain over zero-shot of each method in each group of pairs, from near to far."""
    rows = []
    for metric in METRICS:
        pairs = result[result["metric"] == metric]
        for name in DISTANCES:
            known = pairs.dropna(subset=[name])
            if known.empty:
                continue
            placed = known.assign(group=grouped(known[name]))[["target", "source", "group", name]]
            both = changes[changes["metric"] == metric].merge(placed, on=["target", "source"])
            for (group, method), part in both.groupby(["group", "method"], sort=True):
                found = over_queries(part, "change", **config.resampling)
                rows.append({"metric": metric, "distance": name, "group": group, "method": method, **found})
                rows[-1]["x"] = float(placed.loc[placed["group"] == group, name].mean())
    columns = ["metric", "distance", "group", "method", *MEAN, "x"]
    return pd.DataFrame(rows, columns=columns)


def failing(changes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """The gain of each method where prompting fails: decided on every second query, measured on the others."""
    number = changes.groupby(["target", "source", "metric", "method"], sort=False).cumcount()
    halves = changes.assign(half=number % 2)
    key = ["target", "source", "metric", "half"]
    judged = halves[halves["method"] == PROMPTED].groupby(key, sort=False)["change"].mean().reset_index()
    judged["fails"] = judged["change"] <= 0
    judged["half"] = 1 - judged["half"]
    measured = halves.merge(judged[[*key, "fails"]], on=key)
    rows = []
    for (metric, fails, method), part in measured.groupby(["metric", "fails", "method"], sort=False):
        found = over_queries(part, "change", **config.resampling)
        rows.append({"metric": metric, "prompting_fails": fails, "method": method, **found})
    return pd.DataFrame(rows, columns=["metric", "prompting_fails", "method", *MEAN])
