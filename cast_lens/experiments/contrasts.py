"""Tables of what each condition did against zero-shot on the same examples, with intervals, tests and corrections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..methods import OUTCOMES
from ..stats import (
    Estimate,
    adjust_p_values,
    gain_split,
    mcnemar_mid_p,
    mean_interval,
    minimal_detectable_effect,
    negative_transfer_rate,
    paired_difference,
    paired_permutation_test,
    relative_boost,
    t_interval,
)

BASELINE = "zero-shot"
# Sign flips where outcomes are multiples of no common unit; all others are counted exactly.
PERMUTATIONS = 1999
TASKS = 5
"""Fewest target tasks for which an interval over tasks is given."""
THESE_TASKS = (
    "Pooled intervals and tests resample the queries of these tasks and are right for these tasks alone; what another "
    "task would gain is the interval over tasks (each target counts once; Student's, given from "
    f"{TASKS} target tasks on), which is wider."
)
"""Beside every pooled table."""
MID_P = (
    "p-values are mid-p values (McNemar, or sign flips where draws are averaged). They stay conservative where few "
    "answers change: with fewer than 5 changed answers no p-value can fall below 0.05, so there a large p is no "
    "evidence that nothing happened; the interval says how much may have."
)
"""Beside every table of p-values."""


def contrast_table(
    outcomes: pd.DataFrame,
    *,
    keys: Sequence[str] = ("target", "method", "source"),
    tested: Callable[[str], bool],
    n_bootstrap: int,
    seed: int,
    metrics: Sequence[str] = OUTCOMES,
) -> pd.DataFrame:
    """One row per condition and metric, against zero-shot on the same examples of the same target.

    Args:
        outcomes: rows of ``evaluate_conditions`` with the columns ``keys``; zero-shot rows of every target among
            them. Rows of one condition that repeat a sample (several placebo seeds) are averaged per sample.
        keys: columns that tell conditions apart; ``target`` and ``method`` among them.
        tested: which methods are compared with zero-shot as findings; p-values are Holm-adjusted over these.
        n_bootstrap: replicates of every interval.
        seed: of the replicates.
        metrics: columns of 0 and 1; conditions where one is NaN throughout have no row for it.

    Returns:
        ``keys``, ``metric, n`` (queries whose outcome is known with and without the condition), ``value, low, high``
        (Wilson's interval), ``baseline, gain, gain_low, gain_high`` (score interval for paired shares; exact for few
        queries), ``p_value`` (mid-p: McNemar, or sign flips by query where seeds are averaged), ``p_adjusted,
        n_tests, layer, strength, excluded`` (rows left out because an outcome is unknown, as after an overflow).
    """
    zero = {
        target: part.drop_duplicates("sample").set_index("sample")
        for target, part in outcomes[outcomes["method"] == BASELINE].groupby("target", sort=False)
    }
    rows = []
    for values, cell in outcomes.groupby(list(keys), sort=False):
        named = dict(zip(keys, values, strict=True))
        for metric in metrics:
            if cell[metric].isna().all() or zero[named["target"]][metric].isna().all():
                continue
            found = compared(zero[named["target"]][metric], cell, metric, n_bootstrap=n_bootstrap, seed=seed)
            place = {"layer": int(cell["layer"].iloc[0]), "strength": float(cell["strength"].iloc[0])}
            rows.append({**named, "metric": metric, **found, **place})
    frame = pd.DataFrame(rows)
    wanted = frame["p_value"].where(frame["method"].map(tested))
    adjusted = adjust_p_values(frame.assign(p=wanted), column="p")
    return frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])


def compared(
    zero: pd.Series, cell: pd.DataFrame, metric: str, *, n_bootstrap: int, seed: int
) -> dict[str, Any]:
    """One condition against its baseline, which is indexed by sample; rows with an unknown outcome are left out."""
    baseline, values = zero.reindex(cell["sample"]).to_numpy(float), cell[metric].to_numpy(float)
    known = ~np.isnan(baseline) & ~np.isnan(values)
    queries = cell["sample"].to_numpy()[known]
    named = {"n": len(set(queries)), "excluded": int((~known).sum())}
    if not known.any():
        nothing = ("value", "low", "high", "baseline", "gain", "gain_low", "gain_high", "p_value")
        return {**named, **dict.fromkeys(nothing, float("nan"))}
    baseline, values = baseline[known], values[known]
    repeated = named["n"] < len(queries)
    options: dict[str, Any] = {
        "clusters": queries if repeated else None,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    level, gain = mean_interval(values, **options), paired_difference(baseline, values, **options)
    if repeated:
        flips = {"clusters": queries, "seed": seed, "n_permutations": PERMUTATIONS, "mid_p": True}
        p_value = paired_permutation_test(baseline, values, **flips).p
    else:
        p_value = mcnemar_mid_p(baseline, values).p
    return {
        **named,
        **_spread("", level, value="value"),
        "baseline": float(np.mean(baseline)),
        **_spread("gain_", gain, value="gain"),
        "p_value": p_value,
    }


def _spread(prefix: str, one: Estimate, *, value: str) -> dict[str, float]:
    return {value: one.value, f"{prefix}low": one.low, f"{prefix}high": one.high}


def pooled_table(
    outcomes: pd.DataFrame,
    *,
    by: Sequence[str] = ("method",),
    n_bootstrap: int,
    seed: int,
    metrics: Sequence[str] = OUTCOMES,
) -> pd.DataFrame:
    """Each condition over all its pairs of target and source: the headline numbers, absolute and relative.

    Examples count once, each with everything that was done to it, so these intervals are right for these tasks and too
    narrow for another one (see ``THESE_TASKS``); ``gain_tasks_low`` and ``gain_tasks_high`` are the interval over
    tasks.

    Args:
        outcomes: as in ``contrast_table``.
        by: columns that tell conditions apart.
        n_bootstrap, seed, metrics: as in ``contrast_table``.

    Returns:
        ``by``, ``metric, pairs, n`` (rows with a known outcome), ``excluded`` (rows without), ``value, baseline, gain,
        gain_low, gain_high`` (score interval at the effective number of queries), ``tasks`` (targets), ``gain_tasks,
        gain_tasks_low, gain_tasks_high`` (mean gain over target tasks with Student's interval, for another task with
        these sources; NaN ends below ``TASKS`` of them), ``boost, boost_low, boost_high`` (ratio of grand means minus
        1), ``negative, negative_low, negative_high`` (share of pairs below zero-shot, Wilson), ``queries`` (per pair),
        ``detectable`` (smallest gain of a single pair that McNemar's mid-p test would find with 80 % power, at the
        discordance seen; NaN where none is).
    """
    zero = _baseline(outcomes)
    rows = []
    for values, cell in outcomes.groupby(list(by), sort=False):
        named = dict(zip(by, values if isinstance(values, tuple) else (values,), strict=True))
        if named.get("method") == BASELINE:
            continue
        for metric in metrics:
            paired = _beside(zero, cell, metric)
            known = paired.dropna(subset=[metric, f"{metric}_0"])
            if known.empty:
                continue
            excluded = {"excluded": len(paired) - len(known)}
            rows.append({**named, "metric": metric, **_pooled(known, metric, n_bootstrap, seed), **excluded})
    return pd.DataFrame(rows)


def _baseline(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The zero-shot rows, each query of a target once."""
    return outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])


def _beside(zero: pd.DataFrame, part: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows with zero-shot's outcome of the same query in ``METRIC_0``."""
    return part.merge(zero[["target", "sample", metric]], on=["target", "sample"], suffixes=("", "_0"))


def _pooled(paired: pd.DataFrame, metric: str, n_bootstrap: int, seed: int) -> dict[str, Any]:
    before, after = paired[f"{metric}_0"].to_numpy(float), paired[metric].to_numpy(float)
    units = (paired["target"] + "\n" + paired["sample"]).to_numpy()
    options: dict[str, Any] = {"clusters": units, "n_bootstrap": n_bootstrap, "seed": seed}
    gain, boost = paired_difference(before, after, **options), relative_boost(before, after, **options)
    cells = paired.groupby(["target", "source"], sort=False)[[metric, f"{metric}_0"]].mean()
    negative = negative_transfer_rate(cells[f"{metric}_0"], cells[metric])
    queries = len(paired.drop_duplicates(["target", "source", "sample"])) // len(cells)
    return {
        "pairs": len(cells),
        "n": len(paired),
        "value": float(after.mean()),
        "baseline": float(before.mean()),
        **_spread("gain_", gain, value="gain"),
        **_over_tasks(cells[metric] - cells[f"{metric}_0"]),
        **_spread("boost_", boost, value="boost"),
        **_spread("negative_", negative, value="negative"),
        "queries": queries,
        "detectable": detectable(before, after, queries),
    }


def _over_tasks(gains: pd.Series) -> dict[str, float]:
    """The interval over target tasks; the gains are indexed by target and source."""
    tasks = gains.groupby(level="target").mean()
    found = t_interval(tasks)
    enough = len(tasks) >= TASKS
    low, high = (found.low, found.high) if enough else (float("nan"), float("nan"))
    return {"tasks": len(tasks), "gain_tasks": found.value, "gain_tasks_low": low, "gain_tasks_high": high}


def draws_table(outcomes: pd.DataFrame, *, metrics: Sequence[str] = OUTCOMES) -> pd.DataFrame:
    """Each condition over all its pairs, draw by draw: what another draw of samples and demonstrations would change.

    Args:
        outcomes: as in ``contrast_table``, with a column ``draw``.
        metrics: as in ``contrast_table``.

    Returns:
        ``method, metric, pairs, n`` (draws), ``gain, gain_low, gain_high`` (Student's interval over draws), ``least,
        most`` (draw). Conditions of a single draw have no row.
    """
    zero = _baseline(outcomes)
    rows = []
    for method, cell in outcomes.groupby("method", sort=False):
        for metric in metrics:
            paired = _beside(zero, cell, metric).dropna(subset=[metric, f"{metric}_0"])
            if paired["draw"].nunique() < 2:
                continue
            gains = (paired[metric] - paired[f"{metric}_0"]).groupby(paired["draw"]).mean()
            pairs = len(paired.drop_duplicates(["target", "source"]))
            named = {"method": method, "metric": metric, "pairs": pairs, "n": len(gains)}
            spread = _spread("gain_", t_interval(gains), value="gain")
            rows.append({**named, **spread, "least": gains.min(), "most": gains.max()})
    return pd.DataFrame(rows)


def detectable(before: np.ndarray, after: np.ndarray, n: int) -> float:
    """The smallest gain of one pair that its n would show, at the share of changed examples that was seen."""
    changed = float(np.mean(before != after))
    if not 0 < changed < 1 or n < 2:
        return float("nan")
    return minimal_detectable_effect(n, discordance=changed, mid_p=True)


def split_rows(
    outcomes: pd.DataFrame,
    *,
    keys: Sequence[str] = ("target", "method", "source", "seed"),
    wanted: Callable[[str], bool],
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    """The exact-match gain over zero-shot of each condition, split into format and choice.

    Returns:
        ``keys, n`` and ``total, format, choice`` with ``_low`` and ``_high`` each, and ``excluded`` (rows with an
        unknown outcome). Free answers have no admissible set and no row. See ``stats.gain_split``.
    """
    needed = ["valid", "choice_correct"]
    zero, rows = _baseline(outcomes), []
    for values, cell in outcomes[outcomes["method"].map(wanted)].groupby(list(keys), sort=False):
        named = dict(zip(keys, values, strict=True))
        base = zero[zero["target"] == named["target"]]
        if cell[needed].isna().any(axis=1).all() or base[needed].isna().any(axis=1).all():
            continue
        found = gain_split(base, cell, on=("sample",)).set_index("part")
        row: dict[str, Any] = {**named, "n": int(found["n"].iloc[0])}
        for name in ("total", "format", "choice"):
            one = found.loc[name]
            row |= {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        rows.append({**row, "excluded": int(found["excluded"].iloc[0])})
    return pd.DataFrame(rows)


def gain_lines(rows: pd.DataFrame, x: pd.Series, methods: pd.Series) -> pd.DataFrame:
    """Rows of a pooled table for ``plots.plot_scaling``: ``x``, ``method``, and ``y, low, high`` in points."""
    ends = {"y": "gain", "low": "gain_low", "high": "gain_high"}
    return rows.assign(x=x, method=methods, **{name: 100 * rows[column] for name, column in ends.items()})
