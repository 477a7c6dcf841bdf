"""Tables of what each condition did against zero-shot on the same examples, with intervals, tests and corrections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..methods import OUTCOMES
from ..stats import (
    Estimate,
    adjust_p_values,
    gain_split,
    mcnemar_exact,
    mean_interval,
    minimal_detectable_effect,
    negative_transfer_rate,
    paired_difference,
    paired_permutation_test,
    proportion_interval,
    relative_boost,
    t_interval,
)

if TYPE_CHECKING:
    import pandas as pd

BASELINE = "zero-shot"
# Sign flips where outcomes are multiples of no common unit; all others are counted exactly.
PERMUTATIONS = 1999


def contrast_table(
    outcomes: pd.DataFrame,
    *,
    keys: Sequence[str] = ("target", "method", "source"),
    tested: Callable[[str], bool],
    n_bootstrap: int,
    seed: int,
    metrics: Sequence[str] = OUTCOMES,
) -> pd.DataFrame:
    """One row a condition and metric, against zero-shot on the same examples of the same target.

    Args:
        outcomes: rows of ``evaluate_conditions`` with the columns ``keys``; zero-shot rows of every target among
            them. Rows of one condition that repeat a sample (several placebo seeds) are averaged a sample.
        keys: columns that tell conditions apart; ``target`` and ``method`` among them.
        tested: which methods are compared with zero-shot as findings; p-values are Holm-adjusted over these.
        n_bootstrap: replicates of every interval.
        seed: of the replicates.
        metrics: columns of 0 and 1; conditions where one is NaN throughout have no row for it.

    Returns:
        ``keys``, ``metric, n, value, low, high`` (Wilson's interval, or BCa where seeds are averaged),
        ``baseline, gain, gain_low, gain_high`` (paired BCa bootstrap), ``p_value`` (exact McNemar; paired
        permutation where seeds are averaged), ``p_adjusted, n_tests, layer, strength``.
    """
    import pandas as pd

    zero = {
        target: part.drop_duplicates("sample").set_index("sample")
        for target, part in outcomes[outcomes["method"] == BASELINE].groupby("target", sort=False)
    }
    rows = []
    for values, cell in outcomes.groupby(list(keys), sort=False):
        named = dict(zip(keys, values, strict=True))
        for metric in metrics:
            if cell[metric].isna().all():
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
    """One condition against its baseline, which is indexed by sample."""
    means = cell.groupby("sample", sort=False)[metric].mean()
    baseline, values = zero.loc[means.index].to_numpy(float), means.to_numpy(float)
    if cell["sample"].duplicated().any():
        level = mean_interval(values, n_bootstrap=n_bootstrap, seed=seed)
        p_value = paired_permutation_test(baseline, values, seed=seed, n_permutations=PERMUTATIONS).p
    else:
        level = proportion_interval(int(values.sum()), len(values))
        p_value = mcnemar_exact(baseline, values).p
    gain = paired_difference(baseline, values, n_bootstrap=n_bootstrap, seed=seed)
    return {
        "n": len(values),
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

    Examples are resampled within targets, each with everything that was done to it, so intervals are right for
    these tasks and say nothing about other tasks.

    Args:
        outcomes: as in ``contrast_table``.
        by: columns that tell conditions apart.
        n_bootstrap, seed, metrics: as in ``contrast_table``.

    Returns:
        ``by``, ``metric, pairs, n`` (rows), ``value, baseline, gain, gain_low, gain_high, boost, boost_low,
        boost_high`` (ratio of grand means minus 1), ``negative, negative_low, negative_high`` (share of pairs
        below zero-shot, Wilson), ``queries`` (of a pair), ``detectable`` (smallest gain of a single pair that an
        exact McNemar test would find with 80 % power, at the discordance seen; NaN where none is).
    """
    import pandas as pd

    zero = _baseline(outcomes)
    rows = []
    for values, cell in outcomes.groupby(list(by), sort=False):
        named = dict(zip(by, values if isinstance(values, tuple) else (values,), strict=True))
        if named.get("method") == BASELINE:
            continue
        for metric in metrics:
            part = cell.dropna(subset=[metric])
            if part.empty:
                continue
            paired = _beside(zero, part, metric)
            rows.append({**named, "metric": metric, **_pooled(paired, metric, n_bootstrap, seed)})
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
    options = {"clusters": units, "n_bootstrap": n_bootstrap, "seed": seed}
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
        **_spread("boost_", boost, value="boost"),
        **_spread("negative_", negative, value="negative"),
        "queries": queries,
        "detectable": detectable(before, after, queries),
    }


def draws_table(outcomes: pd.DataFrame, *, metrics: Sequence[str] = OUTCOMES) -> pd.DataFrame:
    """Each condition over all its pairs, draw by draw: what another draw of samples and demonstrations would change.

    Args:
        outcomes: as in ``contrast_table``, with a column ``draw``.
        metrics: as in ``contrast_table``.

    Returns:
        ``method, metric, pairs, n`` (draws), ``gain, gain_low, gain_high`` (Student's interval over draws), ``least,
        most`` (draw). Conditions of a single draw have no row.
    """
    import pandas as pd

    zero = _baseline(outcomes)
    rows = []
    for method, cell in outcomes.groupby("method", sort=False):
        for metric in metrics:
            part = cell.dropna(subset=[metric])
            if part["draw"].nunique() < 2:
                continue
            paired = _beside(zero, part, metric)
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
    return minimal_detectable_effect(n, discordance=changed)


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
        ``keys, n`` and ``total, format, choice`` with ``_low`` and ``_high`` each. Free answers have no admissible
        set and no row. See ``stats.gain_split`` (level ``examples``).
    """
    import pandas as pd

    rows = []
    admissible = outcomes.dropna(subset=["valid", "choice_correct"])
    zero = _baseline(admissible)
    for values, cell in admissible[admissible["method"].map(wanted)].groupby(list(keys), sort=False):
        named = dict(zip(keys, values, strict=True))
        found = gain_split(
            zero[zero["target"] == named["target"]],
            cell,
            level="examples",
            on=("sample",),
            n_bootstrap=n_bootstrap,
            seed=seed,
        ).set_index("part")
        row: dict[str, Any] = {**named, "n": len(cell)}
        for name in ("total", "format", "choice"):
            one = found.loc[name]
            row |= {name: one["value"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        rows.append(row)
    return pd.DataFrame(rows)


def gain_lines(rows: pd.DataFrame, x: pd.Series, methods: pd.Series) -> pd.DataFrame:
    """Rows of a pooled table for ``plots.plot_scaling``: ``x``, ``method``, and ``y, low, high`` in points."""
    ends = {"y": "gain", "low": "gain_low", "high": "gain_high"}
    return rows.assign(x=x, method=methods, **{name: 100 * rows[column] for name, column in ends.items()})
