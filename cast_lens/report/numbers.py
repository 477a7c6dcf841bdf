"""Frames as text: estimates with their intervals in one column, shares in per cent."""

from __future__ import annotations

from typing import Any

import pandas as pd

Rows = list[list[str]]

SIGNED = frozenset(
    {
        *("gain", "boost", "total", "format", "choice", "difference", "change", "slope"),
        *("oracle_gain", "halves_gain", "gain_least", "gain_most", "gain_tasks"),
    }
)
"""Columns whose sign matters: printed with it."""
SHARES = frozenset(
    {
        *("exact_match", "valid", "choice_correct", "first_match", "first_valid"),
        *("value", "against_value", "baseline", "unsteered", "negative", "foreign", "baseline_foreign"),
        *("gain", "boost", "total", "format", "choice", "detectable", "share", "anti_steerable", "changed"),
        *("random", "difference", "change"),
        *("oracle_gain", "chosen_gain", "halves_gain", "gain_least", "gain_most", "gain_tasks"),
        *("luck", "near_share", "losing_share", "accuracy", "always"),
    }
)
"""Columns that hold shares: printed in per cent."""
OWNERS = ("difference", "value", "y")
"""Whose interval ``low`` and ``high`` are: the first of these that a frame has."""


def printed(frame: pd.DataFrame) -> tuple[list[str], Rows]:
    """Column headings and cells; the ends of an interval go into the column that it belongs to."""
    spans = {name: _ends(name, frame) for name in frame.columns}
    hidden = {end for ends in spans.values() if ends for end in ends}
    shown = [name for name in frame.columns if name not in hidden]
    heads = [_head(str(name)) for name in shown]
    rows = [[_cell(str(name), row, spans[name]) for name in shown] for _, row in frame.iterrows()]
    return heads, rows


def _ends(name: str, frame: pd.DataFrame) -> tuple[str, str] | None:
    """``x_low`` and ``x_high`` are of ``x``, or of ``x_y`` where there is no ``x``; see ``OWNERS`` for plain ones."""
    columns = set(frame.columns)
    stem, _, _ = name.rpartition("_")
    for owner in [name] if stem in columns else [name, stem]:
        if owner and {f"{owner}_low", f"{owner}_high"} <= columns:
            return f"{owner}_low", f"{owner}_high"
    plain = next((owner for owner in OWNERS if owner in columns), None)
    return ("low", "high") if name == plain and {"low", "high"} <= columns else None


def _head(name: str) -> str:
    text = name.replace("_", " ")
    return f"{text}, %" if name in SHARES else text


def _cell(name: str, row: pd.Series, ends: tuple[str, str] | None) -> str:
    value = _number(name, row[name])
    if ends is None or value == "":
        return value
    low, high = (_number(name, row[end]) for end in ends)
    return f"{value} [{low}, {high}]" if low and high else value


def _number(name: str, value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if pd.isna(value):
        return ""
    if float(value).is_integer() and name not in SHARES:
        return f"{int(value)}".replace("-", "−")
    number = 100 * float(value) if name in SHARES else float(value)
    sign = "+" if name in SIGNED else ""
    form = f"{sign}.1f" if name in SHARES else f"{sign}.3g"
    return f"{number:{form}}".replace("-", "−")
