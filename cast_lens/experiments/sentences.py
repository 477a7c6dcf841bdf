"""Sentences that tables cannot express: headlines computed from their rows, and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .outcomes import BASELINE

NAMES = {
    "exact_match": "exact match",
    "valid": "label validity",
    "choice_correct": "label-restricted accuracy",
    "macro_f1": "macro-F1 of the preferred label",
}
FORMAT_OR_CHOICE = (
    "A gain in exact match alone may reflect format; only a gain in label-restricted accuracy that the placebos do "
    "not share shows better answers."
)
LIMITS = (
    "These numbers hold for one model, these tasks, one template per task and one draw of demonstrations; intervals "
    f"are over test queries and do not cover another draw of tasks, samples or demonstrations. {FORMAT_OR_CHOICE}"
)
NOTHING = "No condition has an outcome that could be compared."


def points(value: float) -> str:
    """A share as signed percentage points; a value that rounds to zero has no sign, and NaN is unknown."""
    if value != value:
        return "unknown"
    text = f"{100 * value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def interval(low: float, high: float) -> str:
    """A 95 % interval in percentage points; empty when it is not known."""
    return f"[{points(low)}, {points(high)}]" if low == low and high == high else ""


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def headline(parts: Sequence[str]) -> str:
    """One sentence of its clauses, empty ones left out; ``NOTHING`` without any."""
    told = "; ".join(part for part in parts if part)
    return f"{told[0].upper()}{told[1:]}." if told else NOTHING


def metrics(frame: pd.DataFrame, first: str = "exact_match") -> list[str]:
    """The metrics that a table has, in reading order: the one that leads, then the others."""
    return [name for name in dict.fromkeys((first, *NAMES)) if (frame["metric"] == name).any()]


def row_of(table: pd.DataFrame, metric: str = "exact_match", **where: object) -> Mapping[Any, Any] | None:
    """The first row of a table for a metric, with these values in other columns; None without one."""
    if table.empty:
        return None
    rows = table[table["metric"] == metric]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows.to_dict("records")[0] if len(rows) else None


def change(row: Mapping[Any, Any], value: str = "difference") -> str:
    """A change with its interval and, where it was tested, its verdict: ``+3.0 points [+1.0, +5.0] (gain)``."""
    prefix = "" if value == "difference" else f"{value}_"
    span = interval(row[f"{prefix}low"], row[f"{prefix}high"])
    shown = f" ({row['verdict']})" if row.get("verdict") else ""
    return f"{points(row[value])} points{' ' if span else ''}{span}{shown}"


def gain(methods: pd.DataFrame, method: str, metric: str = "exact_match") -> str:
    """The mean gain of a method over all its pairs: ``cast changes exact match by …``; empty without a row."""
    row = row_of(methods, metric, method=method)
    if row is None:
        return ""
    pairs = f"{row['pairs']} pair{'' if row['pairs'] == 1 else 's'}"
    return (
        f"{method} changes {NAMES[metric]} by {change(row, 'gain')} from {BASELINE}'s "
        f"{100 * row['baseline']:.1f} %, over {pairs} and {row['n']} answers"
    )


def strongest_placebo(methods: pd.DataFrame, metric: str = "exact_match") -> str:
    """The placebo with the largest mean gain; empty without one."""
    rows = methods[methods["method"].astype(str).str.startswith("placebo") & (methods["metric"] == metric)]
    rows = rows[~rows["method"].str.endswith("(own vector)")] if len(rows) else rows
    if rows.empty:
        return ""
    best = rows.loc[rows["gain"].idxmax()].to_dict()
    name = str(best["method"]).removeprefix("placebo: ")
    return f"the strongest placebo ({name}) by {change(best, 'gain')}"


def tally(rows: pd.DataFrame, what: str = "pairs", where: str = "") -> str:
    """How often each verdict was reached: ``4 of 23 pairs gain, 1 lose and 18 show neither``; empty if untested."""
    tested = rows[rows["verdict"] != ""]
    if tested.empty:
        return ""
    count = tested["verdict"].value_counts()
    up, down, none = (int(count.get(name, 0)) for name in ("gain", "loss", "not shown"))
    tests = int(tested["n_tests"].max())
    correction = f" after Holm's correction over {tests} tests" if tests > 1 else ""
    return f"{up} of {len(tested)} {what} gain{where and f' {where}'}, {down} lose and {none} show neither{correction}"


def transfer(methods: pd.DataFrame, result: pd.DataFrame, method: str = "cast", metric: str = "exact_match") -> str:
    """The headline of a transfer experiment: mean gain, strongest placebo, verdicts of single pairs.

    A source's vector on its own task is not transfer; it is reported only if there is nothing else.
    """
    names = [name for name in (method, f"{method} (own vector)") if row_of(methods, metric, method=name)]
    if not names:
        return NOTHING
    rows = result[(result["method"] == names[0]) & (result["metric"] == metric)]
    parts = [gain(methods, names[0], metric), strongest_placebo(methods, metric), tally(rows)]
    return "; ".join(part for part in parts if part) + "."
