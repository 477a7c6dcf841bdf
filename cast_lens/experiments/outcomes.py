"""Tables of what conditions did on the same examples, with intervals, tests, corrections and verdicts.

Against zero-shot: ``contrast_table`` (one row per condition), ``pooled_table`` (over all pairs of tasks),
``draws_table`` (over draws), ``split_rows`` (format and choice). Against each other: ``side_by_side``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

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
    paired_proportions,
    relative_boost,
    t_interval,
)

BASELINE = "zero-shot"
SIGNIFICANT = 0.05
"""Corrected p-values below it are called a gain or a loss."""
# Sign flips where outcomes are multiples of no common unit; all others are counted exactly.
PERMUTATIONS = 1999
UNIT = ("target", "source", "sample")
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
        keys: columns that identify a condition; ``target`` and ``method`` among them.
        tested: which methods are compared with zero-shot as findings; p-values are Holm-adjusted over these.
        n_bootstrap: replicates of every interval.
        seed: seed of the replicates.
        metrics: columns of 0 and 1; conditions where one is NaN throughout have no row for it.

    Returns:
        ``keys``, ``metric, n`` (queries whose outcome is known with and without the condition), ``value, low, high``
        (Wilson's interval), ``baseline, gain, gain_low, gain_high`` (score interval for paired shares; exact for few
        queries), ``p_value`` (mid-p: McNemar, or sign flips by query where seeds are averaged), ``p_adjusted,
        n_tests, layer, strength, excluded`` (rows left out because an outcome is unknown, as after an overflow),
        ``verdict`` (see ``with_verdicts``). A target without zero-shot outcomes, whose cell failed, has no row.
    """
    if outcomes.empty:
        return _contrasts([], keys, tested)
    zero = {
        target: part.drop_duplicates("sample").set_index("sample")
        for target, part in outcomes[outcomes["method"] == BASELINE].groupby("target", sort=False)
    }
    rows = []
    for values, cell in outcomes.groupby(list(keys), sort=False):
        named = dict(zip(keys, values, strict=True))
        for metric in metrics:
            base = zero.get(named["target"])
            if base is None or cell[metric].isna().all() or base[metric].isna().all():
                continue
            found = compared(base[metric], cell, metric, n_bootstrap=n_bootstrap, seed=seed)
            place = {"layer": int(cell["layer"].iloc[0]), "strength": float(cell["strength"].iloc[0])}
            rows.append({**named, "metric": metric, **found, **place})
    return _contrasts(rows, keys, tested)


def _contrasts(rows: list[dict[str, Any]], keys: Sequence[str], tested: Callable[[str], bool]) -> pd.DataFrame:
    found = ["n", "excluded", "value", "low", "high", "baseline", "gain", "gain_low", "gain_high", "p_value"]
    frame = _table(rows, [*keys, "metric", *found, "layer", "strength"])
    wanted = frame["p_value"].where(frame["method"].map(tested).astype(bool))
    adjusted = adjust_p_values(frame.assign(p=wanted), column="p")
    return with_verdicts(frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"]), of="gain")


def with_verdicts(frame: pd.DataFrame, *, of: str) -> pd.DataFrame:
    """The frame with ``verdict``: ``gain`` or ``loss`` where the corrected test finds one, else ``not shown``.

    Args:
        frame: with ``p_adjusted`` and the change.
        of: column of the change.

    Returns:
        rows that were not tested have an empty verdict.
    """
    found = np.where(frame["p_adjusted"] < SIGNIFICANT, np.where(frame[of] > 0, "gain", "loss"), "not shown")
    return frame.assign(verdict=np.where(frame["p_adjusted"].isna(), "", found))


def _table(rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame, which has its columns even without rows."""
    return pd.DataFrame(rows) if rows else pd.DataFrame({name: pd.Series(dtype=float) for name in columns})


def compared(zero: pd.Series, cell: pd.DataFrame, metric: str, *, n_bootstrap: int, seed: int) -> dict[str, Any]:
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
    options: dict[str, Any] = {"clusters": queries if repeated else None, "n_bootstrap": n_bootstrap, "seed": seed}
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
        by: columns that identify a condition.
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
    if outcomes.empty:
        return _table([], [*by, *POOLED])
    rows = []
    for values, paired in _beside(outcomes, metrics).groupby(list(by), sort=False):
        named = dict(zip(by, values if isinstance(values, tuple) else (values,), strict=True))
        if named.get("method") == BASELINE:
            continue
        for metric in metrics:
            known = paired.dropna(subset=[metric, f"{metric}_0"])
            if known.empty:
                continue
            excluded = {"excluded": len(paired) - len(known)}
            rows.append({**named, "metric": metric, **_pooled(known, metric, n_bootstrap, seed), **excluded})
    return _table(rows, [*by, *POOLED])


POOLED = ("metric", "pairs", "n", "value", "baseline", "gain", "gain_low", "gain_high", "excluded")


def _baseline(outcomes: pd.DataFrame) -> pd.DataFrame:
    """The zero-shot rows, each query of a target once."""
    return outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])


def _beside(outcomes: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Rows with zero-shot's outcomes of the same query in ``METRIC_0``; a query that it was not asked has no row."""
    zero = _baseline(outcomes)[["target", "sample", *metrics]]
    return outcomes.merge(zero, on=["target", "sample"], suffixes=("", "_0"))


def _pooled(paired: pd.DataFrame, metric: str, n_bootstrap: int, seed: int) -> dict[str, Any]:
    before, after = paired[f"{metric}_0"].to_numpy(float), paired[metric].to_numpy(float)
    options: dict[str, Any] = {"clusters": query_of(paired).to_numpy(), "n_bootstrap": n_bootstrap, "seed": seed}
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
        **over_tasks(cells[metric] - cells[f"{metric}_0"]),
        **_spread("boost_", boost, value="boost"),
        **_spread("negative_", negative, value="negative"),
        "queries": queries,
        "detectable": detectable(before, after, queries),
    }


def over_tasks(gains: pd.Series) -> dict[str, float]:
    """The interval over target tasks; the gains are indexed by target and source."""
    tasks = gains.groupby(level="target").mean()
    found = t_interval(tasks)
    enough = len(tasks) >= TASKS
    low, high = (found.low, found.high) if enough else (float("nan"), float("nan"))
    return {"tasks": len(tasks), "gain_tasks": found.value, "gain_tasks_low": low, "gain_tasks_high": high}


def query_of(rows: pd.DataFrame) -> pd.Series:
    """The query behind each row, named with its target: the unit of resampling."""
    return rows["target"] + "\n" + rows["sample"].astype(str)


def over_queries(
    rows: pd.DataFrame, column: str, *, name: str = "gain", n_bootstrap: int, seed: int
) -> dict[str, float]:
    """Mean of a column over the pairs of some rows; whatever was done to one query is resampled together.

    Returns:
        ``pairs, n``, and the mean under ``name`` with its interval in ``NAME_low, NAME_high``.
    """
    one = mean_interval(rows[column], clusters=query_of(rows), n_bootstrap=n_bootstrap, seed=seed)
    pairs = len(rows[["target", "source"]].drop_duplicates())
    return {"pairs": pairs, "n": one.n, **_spread(f"{name}_", one, value=name)}


def draws_table(outcomes: pd.DataFrame, *, metrics: Sequence[str] = OUTCOMES) -> pd.DataFrame:
    """Each condition over all its pairs, draw by draw: what another draw of samples and demonstrations would change.

    Args:
        outcomes: as in ``contrast_table``, with a column ``draw``.
        metrics: as in ``contrast_table``.

    Returns:
        ``method, metric, pairs, n`` (draws), ``gain, gain_low, gain_high`` (Student's interval over draws), ``least,
        most`` (draw). Conditions of a single draw have no row.
    """
    columns = ["method", "metric", "pairs", "n", "gain", "gain_low", "gain_high", "least", "most"]
    if outcomes.empty:
        return _table([], columns)
    rows = []
    for method, cell in _beside(outcomes, metrics).groupby("method", sort=False):
        for metric in metrics:
            paired = cell.dropna(subset=[metric, f"{metric}_0"])
            if paired["draw"].nunique() < 2:
                continue
            gains = (paired[metric] - paired[f"{metric}_0"]).groupby(paired["draw"]).mean()
            pairs = len(paired.drop_duplicates(["target", "source"]))
            named = {"method": method, "metric": metric, "pairs": pairs, "n": len(gains)}
            spread = _spread("gain_", t_interval(gains), value="gain")
            rows.append({**named, **spread, "least": gains.min(), "most": gains.max()})
    return _table(rows, columns)


def detectable(before: Float[np.ndarray, " row"], after: Float[np.ndarray, " row"], n: int) -> float:
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
) -> pd.DataFrame:
    """The exact-match gain over zero-shot of each condition, split into format and choice.

    Returns:
        ``keys, n`` and ``total, format, choice`` with ``_low`` and ``_high`` each, and ``excluded`` (rows with an
        unknown outcome). Free answers have no admissible set and no row. See ``stats.gain_split``.
    """
    parts = [f"{part}{end}" for part in ("total", "format", "choice") for end in ("", "_low", "_high")]
    columns = [*keys, "n", *parts, "excluded"]
    if outcomes.empty:
        return _table([], columns)
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
    return _table(rows, columns)


def as_gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``side_by_side`` for ``plots.plot_methods``: the difference and its interval are called a gain."""
    return rows.rename(columns={"difference": "gain", "low": "gain_low", "high": "gain_high"})


def gain_lines(rows: pd.DataFrame, x: pd.Series, methods: pd.Series) -> pd.DataFrame:
    """Rows of a pooled table for ``plots.plot_scaling``: ``x``, ``method``, and ``y, low, high`` in points."""
    ends = {"y": "gain", "low": "gain_low", "high": "gain_high"}
    return rows.assign(x=x, method=methods, **{name: 100 * rows[column] for name, column in ends.items()})


def side_by_side(
    outcomes: pd.DataFrame,
    comparisons: Sequence[tuple[str, str]],
    *,
    within: Sequence[str] = (),
    seed: int,
    metrics: Sequence[str] = OUTCOMES,
) -> pd.DataFrame:
    """One row per comparison and metric, paired by target, source and sample; p-values are Holm-adjusted over all rows.

    Examples are resampled and exchanged as a whole: all that was done to a query of a target stays together, so that
    a query that every source meets counts once. Rows that repeat a query (several draws) are averaged first.

    Args:
        outcomes: rows of ``evaluate_conditions``. A method without a source (zero-shot, in-task demonstrations) is
            paired with every source of the other.
        comparisons: pairs of methods, ``(this, against that)``; pairs that lack rows are left out.
        within: compare within each value of these columns, ``target`` and ``source`` say; empty for all together.
        seed: seed of the exchanges.
        metrics: columns of 0 and 1; one that is NaN throughout has no row.

    Returns:
        ``within, method, against, metric, n`` (rows known on both sides), ``excluded`` (rows that are not), ``value,
        against_value, difference, low, high`` (score interval at the effective number of queries), ``p_value`` (sign
        flips by query, mid-p), ``p_adjusted, n_tests, verdict`` (see ``with_verdicts``).
    """
    rows = []
    for named, part in _parts(outcomes, within):
        by_method = dict(list(part.groupby("method", sort=False)))
        for this, that in comparisons:
            if this not in by_method or that not in by_method:
                continue
            both = matched_queries(by_method[that], by_method[this], metrics)
            for metric in metrics:
                if found := change(both, metric, seed=seed):
                    rows.append({**named, "method": this, "against": that, "metric": metric, **found})
    columns = [*within, "method", "against", "metric", "n", "value", "against_value", "difference"]
    frame = pd.DataFrame(rows, columns=[*columns, "low", "high", "p_value", "excluded"])
    return with_verdicts(holm(frame), of="difference")


def holm(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``p_adjusted`` and ``n_tests`` for its ``p_value``; rows without one are not tested."""
    adjusted = adjust_p_values(frame, column="p_value")
    return frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])


def matched_queries(against: pd.DataFrame, treated: pd.DataFrame, metrics: Sequence[str] = OUTCOMES) -> pd.DataFrame:
    """Outcomes of both sides on the queries that both have, draws averaged; columns of one end in ``_against``."""
    # Demonstrations of the target itself have no source and are compared with every source of the other side.
    sourceless = (against["source"] == "").all() or (treated["source"] == "").all()
    keys = [key for key in UNIT if not (sourceless and key == "source")]
    before, after = (
        side.groupby(list(UNIT), sort=False)[list(metrics)].mean().reset_index() for side in (against, treated)
    )
    return after.merge(before, on=keys, suffixes=("", "_against"))


def change(both: pd.DataFrame, metric: str, *, seed: int) -> dict[str, Any]:
    """One comparison of what ``matched_queries`` found; empty when no outcome is known."""
    rows = len(both)
    both = both.dropna(subset=[metric, f"{metric}_against"])
    if both.empty:
        return {}
    left, right = both[f"{metric}_against"].to_numpy(float), both[metric].to_numpy(float)
    clusters = query_of(both).to_numpy()
    found = paired_proportions(left, right, clusters=clusters)
    test = paired_permutation_test(left, right, clusters=clusters, seed=seed, n_permutations=PERMUTATIONS, mid_p=True)
    return {
        "n": len(both),
        "value": float(right.mean()),
        "against_value": float(left.mean()),
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "p_value": test.p,
        "excluded": rows - len(both),
    }


def once(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes with one zero-shot row per query, where several cells of a target have answered it."""
    if outcomes.empty:
        return outcomes
    zero = outcomes["method"] == BASELINE
    again = outcomes[zero].duplicated(["target", "sample"])
    return outcomes.drop(index=again.index[again]).reset_index(drop=True)


def _parts(outcomes: pd.DataFrame, within: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if outcomes.empty:
        return
    if not within:
        yield {}, outcomes
        return
    for values, part in outcomes.groupby(list(within), sort=False):
        yield dict(zip(within, values, strict=True)), part
