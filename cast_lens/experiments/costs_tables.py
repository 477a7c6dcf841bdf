"""Costs of queries, a row a method: what is counted, and apart from it what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def counted(rows: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """Tokens and operations a query.

    Args:
        rows: of ``efficiency``: ``part, target, method, queries, tokens, written, flops, flops_cached, once_flops``.
        baseline: method that the ratios are against, on the same targets.

    Returns:
        ``method, targets, n`` (queries), ``tokens, written, gflops, cached_gflops`` a query, ``flops_ratio,
        cached_ratio`` against the baseline run in full, ``once_gflops`` (mean over targets).
    """
    import pandas as pd

    queries = rows[rows["part"] == "query"]
    zero = queries[queries["method"] == baseline].groupby("target")[["flops", "queries"]].sum()
    found = []
    for method, part in queries.groupby("method", sort=False):
        n, targets = part["queries"].sum(), part["target"].unique()
        same = zero.reindex(targets)
        each = (
            float(same["flops"].sum()) / float(same["queries"].sum())
            if same.notna().all(axis=None)
            else float("nan")
        )
        flops, cached = float(part["flops"].sum()) / n, float(part["flops_cached"].sum()) / n
        found.append(
            {
                "method": method,
                "targets": len(targets),
                "n": int(n),
                "tokens": part["tokens"].sum() / n,
                "written": part["written"].sum() / n,
                "gflops": flops / 1e9,
                "cached_gflops": cached / 1e9,
                "flops_ratio": flops / each,
                "cached_ratio": cached / each,
                "once_gflops": float(part.groupby("target")["once_flops"].first().mean()) / 1e9,
            }
        )
    return pd.DataFrame(found)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Latency and memory; these numbers do not repeat.

    Returns:
        ``method, n`` (single calls), ``median_ms, quartile_low_ms, quartile_high_ms`` a query of single calls,
        ``batch_ms`` a query with all at once, ``megabytes`` above the model then (the largest over targets).
    """
    import pandas as pd

    found = []
    for method, part in rows.groupby("method", sort=False):
        single, batch = part[part["part"] == "query"], part[part["part"] == "batch"]
        each = 1e3 * single["seconds"] / single["queries"]
        low, middle, high = each.quantile([0.25, 0.5, 0.75])
        found.append(
            {
                "method": method,
                "n": len(each),
                "median_ms": middle,
                "quartile_low_ms": low,
                "quartile_high_ms": high,
                "batch_ms": 1e3 * batch["seconds"].sum() / batch["queries"].sum(),
                "megabytes": batch["megabytes"].max(),
            }
        )
    return pd.DataFrame(found)
