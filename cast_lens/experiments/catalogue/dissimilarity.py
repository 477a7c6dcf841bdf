"""Does steering hold where source and target differ and prompting fails?

Each pair of different tasks is steered with the source's vector and, apart from that, prompted with demonstrations of
the same source; the two answer the same queries. Pairs are then ordered by how far apart the tasks are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...methods import cross_task_few_shot, evaluate_conditions
from ...stats import mean_interval
from ..bench import Bench, fits, test_examples
from ..cells import Cell
from ..distances import DISTANCES
from ..legacy import Experiment, Tasks, settings_first
from ..matrix_tests import as_matrix, matrix_test
from ..outcomes import BASELINE, holm, side_by_side
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM, changes_of, crossed_outcomes
from .dissimilarity_reading import METRICS, OUTCOMES, PROMPTED, draw, read

if TYPE_CHECKING:
    import pandas as pd

GROUPS = 3


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then a target's steered and prompted answers, and its distances."""
    kinds = ("steered", "prompted", "distances")
    return [*settings_first(config), *(Cell(kind, target) for target in config.targets for kind in kinds)]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of one target, or its distance from every source."""
    if cell.kind == "steered":
        return crossed_outcomes(bench, cell.target).assign(part="outcomes")
    if cell.kind == "prompted":
        return prompted_rows(bench, cell.target)
    return distance_rows(bench, cell.target)


def prompted_rows(bench: Bench, target: str) -> pd.DataFrame:
    """Cross-task prompting with each source; sources whose demonstrations do not fit the context are left out."""
    import pandas as pd

    config, task = bench.config, bench.tasks[target]
    queries = test_examples(config, task)
    made = [
        cross_task_few_shot(bench.tasks[source], task, queries, shots=config.shots, seed=config.seed)
        for source in config.sources
        if source != target
    ]
    fitting = [condition for condition in made if fits(bench, condition.prompts)]
    if not fitting:
        return pd.DataFrame()
    found = evaluate_conditions(bench.model, fitting, chat=config.chat, progress=bench.progress)
    return found.drop(columns="text").assign(part="outcomes", own=False)


def distance_rows(bench: Bench, target: str) -> pd.DataFrame:
    """One row a source."""
    import pandas as pd

    rows = [
        {
            "target": target,
            "source": source,
            **{name: one(bench, source, target) for name, one in DISTANCES.items()},
        }
        for source in bench.config.sources
        if source != target
    ]
    return pd.DataFrame(rows).assign(part="distances")


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair and metric. ``overall``, ``correlations``, ``groups``, ``failing``."""
    import pandas as pd

    outcomes = rows[(rows["part"] == "outcomes") & ~rows["own"].fillna(False).astype(bool)]
    distances = rows[rows["part"] == "distances"]
    compared = [(CAST, PROMPTED)]
    draws, seed = config.bootstrap, config.seed
    pairs = side_by_side(
        outcomes[outcomes["method"] != BASELINE],
        compared,
        within=("target", "source"),
        n_bootstrap=draws,
        seed=seed,
        metrics=METRICS,
    )
    changes = pd.concat(
        [
            changes_of(outcomes, method, metric).assign(method=method, metric=metric)
            for method in OUTCOMES
            for metric in METRICS
        ],
        ignore_index=True,
    )
    result = _with_gains(pairs, changes).merge(
        distances[["target", "source", *DISTANCES]], on=["target", "source"], how="left"
    )
    return {
        "result": result,
        "overall": side_by_side(
            outcomes, [*compared, (CAST, RANDOM)], n_bootstrap=draws, seed=seed, metrics=METRICS
        ),
        "correlations": _correlations(result, config),
        "groups": _groups(result, changes, config),
        "failing": _failing(changes, config),
    }


def _with_gains(pairs: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The gain over zero-shot of each method beside the comparison of the two."""
    means = changes.groupby(["target", "source", "metric", "method"], sort=False)["change"].mean()
    wide = means.unstack("method").rename(
        columns={method: f"{name}_gain" for method, name in OUTCOMES.items()}
    )
    return pairs.merge(wide.reset_index(), on=["target", "source", "metric"], how="left")


def _correlations(result: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Rank correlation of every distance with what steering and prompting gain, and with their difference."""
    import pandas as pd

    rows = []
    for metric in METRICS:
        part = result[result["metric"] == metric]
        for name in DISTANCES:
            for outcome in ("difference", "steered_gain", "prompted_gain"):
                found = matrix_test(as_matrix(part, name), as_matrix(part, outcome), seed=config.seed)
                # A correlation that is not defined was not tested.
                p = found.p if found.statistic == found.statistic else np.nan
                rows.append((metric, name, outcome, found.n, found.statistic, p))
    return holm(
        pd.DataFrame(rows, columns=["metric", "distance", "outcome", "pairs", "correlation", "p_value"])
    )


def grouped(values: pd.Series) -> pd.Series:
    """Groups from near to far, 0 to at most 2: single values where there are few, thirds otherwise."""
    import pandas as pd

    places = np.unique(values)
    if len(places) <= GROUPS:
        return pd.Series(np.searchsorted(places, values), index=values.index)
    edges = np.quantile(values, np.arange(1, GROUPS) / GROUPS)
    return pd.Series(np.searchsorted(edges, values, side="right"), index=values.index)


def _groups(result: pd.DataFrame, changes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Mean gain over zero-shot of each method in each group of pairs, from near to far."""
    import pandas as pd

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
                found = _mean(part, config)
                rows.append({"metric": metric, "distance": name, "group": group, "method": method, **found})
                rows[-1]["x"] = float(placed.loc[placed["group"] == group, name].mean())
    return pd.DataFrame(rows)


def _failing(changes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """What each method gains where prompting fails: decided on every second query, measured on the others."""
    import pandas as pd

    number = changes.groupby(["target", "source", "metric", "method"], sort=False).cumcount()
    halves = changes.assign(half=number % 2)
    key = ["target", "source", "metric", "half"]
    judged = halves[halves["method"] == PROMPTED].groupby(key, sort=False)["change"].mean().reset_index()
    judged["fails"] = judged["change"] <= 0
    judged["half"] = 1 - judged["half"]
    measured = halves.merge(judged[[*key, "fails"]], on=key)
    rows = []
    for (metric, fails, method), part in measured.groupby(["metric", "fails", "method"], sort=False):
        rows.append({"metric": metric, "prompting_fails": fails, "method": method, **_mean(part, config)})
    return pd.DataFrame(rows)


def _mean(part: pd.DataFrame, config: ExperimentConfig) -> dict[str, float]:
    units = part["target"] + "\n" + part["sample"]
    one = mean_interval(part["change"], clusters=units, n_bootstrap=config.bootstrap, seed=config.seed)
    pairs = len(part[["target", "source"]].drop_duplicates())
    return {"pairs": pairs, "n": one.n, "gain": one.value, "gain_low": one.low, "gain_high": one.high}


EXPERIMENT = Experiment(
    "dissimilarity",
    "Does steering hold where source and target differ and prompting fails?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("overall", "correlations", "failing"),
)
