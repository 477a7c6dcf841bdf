"""Two conditions side by side on the same examples, where neither of them is zero-shot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ..methods import OUTCOMES
from ..stats import adjust_p_values, paired_permutation_test, paired_proportions
from .contrasts import BASELINE, PERMUTATIONS

UNIT = ("target", "source", "sample")


def side_by_side(
    outcomes: pd.DataFrame,
    comparisons: Sequence[tuple[str, str]],
    *,
    within: Sequence[str] = (),
    n_bootstrap: int,
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
        n_bootstrap: unused by these tables, whose intervals are not resampled; kept for callers that share options.
        seed: of the exchanges.
        metrics: columns of 0 and 1; one that is NaN throughout has no row.

    Returns:
        ``within, method, against, metric, n`` (rows known on both sides), ``excluded`` (rows that are not), ``value,
        against_value, difference, low, high`` (score interval at the effective number of queries), ``p_value`` (sign
        flips by query, mid-p), ``p_adjusted, n_tests``.
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
    return holm(frame)


def holm(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``p_adjusted`` and ``n_tests`` for its ``p_value``; rows without one are not tested."""
    adjusted = adjust_p_values(frame, column="p_value")
    return frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])


def matched_queries(
    against: pd.DataFrame, treated: pd.DataFrame, metrics: Sequence[str] = OUTCOMES
) -> pd.DataFrame:
    """Outcomes of both sides on the queries that both have, draws averaged; columns of one end in ``_against``."""
    # Demonstrations of the target itself have no source, and stand beside every source of the other side.
    sourceless = (against["source"] == "").all() or (treated["source"] == "").all()
    keys = [key for key in UNIT if not (sourceless and key == "source")]
    before, after = (
        side.groupby(list(UNIT), sort=False)[list(metrics)].mean().reset_index()
        for side in (against, treated)
    )
    return after.merge(before, on=keys, suffixes=("", "_against"))


def change(both: pd.DataFrame, metric: str, *, seed: int) -> dict[str, Any]:
    """One comparison of what ``matched_queries`` found; empty when no outcome is known."""
    rows = len(both)
    both = both.dropna(subset=[metric, f"{metric}_against"])
    if both.empty:
        return {}
    left, right = both[f"{metric}_against"].to_numpy(float), both[metric].to_numpy(float)
    clusters = (both["target"] + "\n" + both["sample"]).to_numpy()
    found = paired_proportions(left, right, clusters=clusters)
    test = paired_permutation_test(
        left, right, clusters=clusters, seed=seed, n_permutations=PERMUTATIONS, mid_p=True
    )
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
    """Outcomes with zero-shot rows once a query, where several cells of a target have answered them."""
    zero = outcomes["method"] == BASELINE
    again = outcomes[zero].duplicated(["target", "sample"])
    return outcomes.drop(index=again.index[again]).reset_index(drop=True)


def _parts(outcomes: pd.DataFrame, within: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if not within:
        yield {}, outcomes
        return
    for values, part in outcomes.groupby(list(within), sort=False):
        yield dict(zip(within, values, strict=True)), part
