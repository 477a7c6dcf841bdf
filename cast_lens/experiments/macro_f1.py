"""Tables of macro-F1: ``contrast_table`` and ``pooled_table`` for a metric that is not a mean over queries.

The prediction is the admissible answer that the model prefers (``preferred``), so that format does not matter, as in
the development code of CAST. See ``stats.macro_f1``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..stats import F1Contrast, adjust_p_values, macro_f1_contrast, negative_transfer_rate
from ..tasks.sampling import stable_seed
from .outcomes import BASELINE, over_tasks, with_verdicts

METRIC = "macro_f1"
KEYS = ("target", "method", "source")


def f1_tables(
    outcomes: pd.DataFrame, *, tested: Callable[[str], bool], n_bootstrap: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Macro-F1 of every condition against zero-shot, by pair and over all pairs.

    Args:
        outcomes: rows of ``evaluate_conditions``, zero-shot rows of every target among them.
        tested: which methods are compared with zero-shot as findings; p-values are Holm-adjusted over these.
        n_bootstrap: replicates of every interval.
        seed: seed of the replicates; conditions of one target share them.

    Returns:
        rows as those of ``contrast_table`` and of ``pooled_table``, with ``metric`` ``macro_f1``. Free answers have no
        classes and no row. A pooled interval is over the queries of these targets; ``gain_tasks`` is over targets.
    """
    contrasts = list(_contrasts(outcomes, n_bootstrap, seed)) if len(outcomes) else []
    if not contrasts:
        return pd.DataFrame(), pd.DataFrame()
    frame = pd.DataFrame([_row(about, found) for about, found in contrasts])
    wanted = frame["p_value"].where(frame["method"].map(tested).astype(bool))
    adjusted = adjust_p_values(frame.assign(p=wanted), column="p")
    frame = frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])
    by_method: dict[str, list[tuple[dict[str, Any], F1Contrast]]] = {}
    for about, found in contrasts:
        if about["method"] != BASELINE:
            by_method.setdefault(about["method"], []).append((about, found))
    pooled = pd.DataFrame([_pooled(method, members) for method, members in by_method.items()])
    return with_verdicts(frame, of="gain"), pooled


def _contrasts(outcomes: pd.DataFrame, n_bootstrap: int, seed: int) -> Iterator[tuple[dict[str, Any], F1Contrast]]:
    zero = outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])
    before = {target: part.set_index("sample")["preferred"] for target, part in zero.groupby("target", sort=False)}
    for values, cell in outcomes.groupby(list(KEYS), sort=False):
        about: dict[str, Any] = dict(zip(KEYS, values, strict=True))
        if about["target"] not in before:
            continue
        draws = cell.pivot_table(index="sample", columns="seed", values="preferred", aggfunc="first", sort=False)
        draws = draws.reindex(cell["sample"].drop_duplicates())
        base = before[about["target"]].reindex(draws.index).fillna("")
        known = (base != "") & (draws.fillna("") != "").all(axis=1)
        if not known.any():
            continue
        gold = cell.drop_duplicates("sample").set_index("sample")["gold"]
        found = macro_f1_contrast(
            gold[known].tolist(),
            base[known].tolist(),
            [draws.loc[known, number].tolist() for number in draws],
            n_bootstrap=n_bootstrap,
            seed=stable_seed(seed, about["target"]),
        )
        place = {"layer": int(cell["layer"].iloc[0]), "strength": float(cell["strength"].iloc[0])}
        yield {**about, **place, "excluded": int((~known).sum())}, found


def _row(about: dict[str, Any], found: F1Contrast) -> dict[str, Any]:
    value, gain = found.value, found.gain
    measured = {"metric": METRIC, "n": value.n, "value": value.value, "low": value.low, "high": value.high}
    change = {"baseline": found.baseline, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    return {**about, **measured, **change, "p_value": found.p}


def _pooled(method: str, members: list[tuple[dict[str, Any], F1Contrast]]) -> dict[str, Any]:
    gains = np.array([found.gain.value for _, found in members])
    low, high = np.quantile(np.mean([found.resampled for _, found in members], axis=0), [0.025, 0.975])
    baselines, values = ([read(one) for _, one in members] for read in (_before, _after))
    index = pd.MultiIndex.from_tuples([(about["target"], about["source"]) for about, _ in members])
    negative = negative_transfer_rate(baselines, values)
    return {
        "method": method,
        "metric": METRIC,
        "pairs": len(members),
        "n": sum(found.value.n for _, found in members),
        "value": float(np.mean(values)),
        "baseline": float(np.mean(baselines)),
        "gain": float(gains.mean()),
        **({"gain_low": float(low), "gain_high": float(high)} if high > low else {}),
        **over_tasks(pd.Series(gains, index=index.set_names(["target", "source"]))),
        "negative": negative.value,
        "negative_low": negative.low,
        "negative_high": negative.high,
        "queries": min(found.value.n for _, found in members),
        "excluded": sum(about["excluded"] for about, _ in members),
    }


def _before(found: F1Contrast) -> float:
    return found.baseline


def _after(found: F1Contrast) -> float:
    return found.value.value
