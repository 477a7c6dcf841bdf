"""One vector, many unrelated targets: what it does to each, and what order there is in the matrix.

Sources are targets of each other as well. Three questions are asked of the matrix of gains, each against its null: do
targets (and sources) fall into clusters, do some tasks give or take more than others, and do pairs of one template
family gain more than pairs of two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...methods import OUTCOMES
from .. import wording
from ..bench import Bench
from ..cells import Cell
from ..legacy import Drawing, Experiment, Frames, Reading, Tasks, settings_first
from ..matrix_tests import as_matrix, clusters, hubs, matrix_test, mean_gap
from ..outcomes import contrast_table, pooled_table
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM, changes_of, crossed_outcomes, steerable

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("exact_match", "choice_correct")
METHODS = (CAST, RANDOM)


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then one cell a task that is steered by all sources."""
    return [*settings_first(config), *(Cell("steered", target) for target in steerable(config, tasks))]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of a target under every source."""
    return crossed_outcomes(bench, cell.target)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, method and metric. ``hubs``, ``structure``, ``clusters``: the matrix's order."""
    outcomes = rows.assign(own=rows["own"].astype(bool))
    families = {name: task.family for name, task in tasks.items()}
    draws, seed = config.bootstrap, config.seed
    away = outcomes[~outcomes["own"]]
    result = contrast_table(away, tested=lambda name: name == CAST, n_bootstrap=draws, seed=seed)
    result = result.assign(
        target_family=result["target"].map(families),
        source_family=[families.get(name, "") for name in result["source"]],
    )
    structure, members = _structure(result, config)
    return {
        "result": result,
        "methods": pooled_table(away, n_bootstrap=draws, seed=seed),
        "hubs": _hubs(away, config),
        "structure": structure,
        "clusters": members,
    }


def _hubs(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    import pandas as pd

    frames = []
    for method in METHODS:
        for metric in METRICS:
            changes = changes_of(outcomes, method, metric)
            if len(changes):
                found = hubs(changes, n_bootstrap=config.bootstrap, seed=config.seed)
                frames.append(found.assign(method=method, metric=metric))
    return pd.concat(frames, ignore_index=True)


def _structure(result: pd.DataFrame, config: ExperimentConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a question, method and metric; and which task fell into which cluster."""
    import pandas as pd

    rows, members = [], []
    for method in METHODS:
        for metric in METRICS:
            part = result[(result["method"] == method) & (result["metric"] == metric)]
            if part.empty:
                continue
            named = {"method": method, "metric": metric}
            rows.append({**named, **_families(part, config)})
            gains = as_matrix(part, "gain")
            for role, matrix in (("target", gains), ("source", gains.T)):
                found, kept = _clusters(part, role, matrix, config)
                rows.append({**named, **found})
                members += [{**named, "role": role, **one} for one in kept]
    return pd.DataFrame(rows), pd.DataFrame(members, columns=["method", "metric", "role", "task", "cluster"])


def _families(part: pd.DataFrame, config: ExperimentConfig) -> dict[str, Any]:
    same = (part["target_family"] == part["source_family"]).astype(float)
    found = matrix_test(
        as_matrix(part.assign(same=same), "same"), as_matrix(part, "gain"), mean_gap, seed=config.seed
    )
    return {
        "question": "same family less other families",
        "statistic": found.statistic,
        # A gap between pairs of which all, or none, share a family was not tested.
        "p_value": found.p if found.statistic == found.statistic else np.nan,
        "n": found.n,
        "detail": f"{int(same.sum())} of {len(part)} pairs share a family",
    }


def _clusters(
    part: pd.DataFrame, role: str, matrix: np.ndarray, config: ExperimentConfig
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
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


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods = frames["methods"]
    answer = [
        *(wording.pooled(methods, CAST, metric=metric) for metric in METRICS),
        *(_placebo(methods, metric) for metric in METRICS),
        *(_ends(frames["hubs"], role, metric) for metric in METRICS for role in ("source", "target")),
        *(_question(frames["structure"], metric) for metric in METRICS),
        wording.significant(frames["result"], CAST),
    ]
    targets = frames["result"]["target"].nunique()
    return Reading(
        tuple(part for part in answer if part),
        f"{len(config.sources)} sources, each at its own setting, on {targets} targets (the sources among them, never "
        f"on themselves), {config.test} test queries each. The clusters' null exchanges values within columns and "
        "chooses the cut anew; the families' null renames whole rows and columns.",
        f"With {len(config.sources)} sources and {targets} targets only strong order can show; no order found is no "
        "proof of none. A task that gains from every source may simply have had the wrong answer format before. Hubs "
        "are named after the fact, the highest and lowest of several, and their intervals do not allow for that. "
        + wording.LIMITS,
    )


def _placebo(methods: pd.DataFrame, metric: str) -> str:
    found = wording.against_placebos(methods, CAST, metric=metric)
    return f"In {wording.NAMES[metric]}, {found[0].lower()}{found[1:]}" if found else ""


def _ends(frame: pd.DataFrame, role: str, metric: str) -> str:
    """The tasks that give (or take) most and least."""
    rows = frame[(frame["method"] == CAST) & (frame["metric"] == metric) & (frame["role"] == role)]
    if len(rows) < 2:
        return ""
    most, least = rows.loc[rows["gain"].idxmax()], rows.loc[rows["gain"].idxmin()]
    noise = frame[(frame["method"] == RANDOM) & (frame["metric"] == metric) & (frame["role"] == role)]
    spread = noise["gain"].max() - noise["gain"].min()
    return (
        f"As a {role}, {most['task']} has the highest mean change in {wording.NAMES[metric]}, {_span(most)} points, "
        f"and {least['task']} the lowest, {_span(least)}: {100 * (most['gain'] - least['gain']):.1f} points apart "
        f"(random directions: {100 * spread:.1f})."
    )


def _span(row: pd.Series) -> str:
    return f"{wording.points(row['gain'])} {wording.interval(row['gain_low'], row['gain_high'])}"


def _question(structure: pd.DataFrame, metric: str) -> str:
    """Families and clusters of one metric."""
    rows = structure[(structure["method"] == CAST) & (structure["metric"] == metric)]
    parts = []
    for row in rows.itertuples():
        if row.statistic != row.statistic:
            known = "not defined here" if row.question.startswith("same") else str(row.detail)
            parts.append(f"{row.question}: {known}")
        elif row.question.startswith("same"):
            parts.append(
                f"{row.question}: {wording.points(row.statistic)} points, p = {row.p_value:.3f} ({row.detail})"
            )
        else:
            parts.append(
                f"{row.question}: {row.statistic:.2f}, null's median {row.null:.2f}, p = {row.p_value:.3f} "
                f"({row.detail})"
            )
    return f"Order in the matrix of {wording.NAMES[metric]}: {'; '.join(parts)}." if parts else ""


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """The matrix, and its margins."""
    from ... import plots

    result, margins = frames["result"], frames["hubs"]
    lines = margins[margins["method"] == CAST].assign(method=margins["role"] + ": " + margins["task"])
    return [
        Drawing(
            "matrix",
            "What one vector does to many targets",
            "Change against zero-shot in percentage points, for the contrastive mean; tasks of one family stand "
            "together. Bold: the interval excludes zero.",
            "Heat maps of gain by target and source.",
            plots.plot_transfer_matrix(result, metrics=wording.metrics(result), method=CAST),
            result,
        ),
        Drawing(
            "hubs",
            "Tasks that give and tasks that take",
            "Mean change over the pairs of each task as a source and as a target, with 95 % intervals over examples.",
            "Forest plot of the mean change of each task in both roles.",
            plots.plot_methods(lines, metrics=OUTCOMES, sort=False),
            lines,
        ),
    ]


EXPERIMENT = Experiment(
    "transferability",
    "What does one vector do to many unrelated targets, and how is the matrix built?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("structure", "hubs"),
)
