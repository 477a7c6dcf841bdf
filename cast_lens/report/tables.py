"""Frames as text: estimates with their intervals in one column, shares in per cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

Rows = list[list[str]]
LONGEST = 100
"""Rows of a table in the page; the rest is in its parquet file."""

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
        *("exact_match_unsteered", "first_match_unsteered", "first_match_placebo"),
        *("baseline", "unsteered", "negative", "foreign", "baseline_foreign", "random"),
        *("gain", "boost", "total", "format", "choice", "detectable", "share", "anti_steerable", "changed"),
        *("oracle_gain", "chosen_gain", "halves_gain", "gain_least", "gain_most", "gain_tasks"),
        *("luck", "near_share", "losing_share", "accuracy", "always"),
    }
)
"""Columns that hold shares in a table without metrics: printed in per cent."""
OF_METRIC = frozenset(
    {
        *("value", "against_value", "baseline", "unsteered", "gain", "gain_tasks", "difference", "change"),
        *("oracle_gain", "chosen_gain", "halves_gain", "gain_least", "gain_most", "least", "most"),
        *("zero-shot", "cast", "placebo: shuffled labels", "placebo: random direction"),
        *("cross-task few-shot", "retrieved few-shot", "few-shot"),
    }
)
"""Columns that are shares where the metric of their row is one, whatever their own name; see ``SHARE_METRICS``."""
METRIC_COLUMNS = ("metric", "measure", "outcome")
SHARE_METRICS = frozenset(
    {
        *("exact_match", "valid", "choice_correct", "macro_f1", "first_match", "first_valid", "accuracy"),
        *("changed", "anti_steerable", "negative"),
    }
)
"""Metrics that are shares of examples; any other (a log-probability, a slope) keeps its own unit."""
OWNERS = ("difference", "value", "y")
"""Whose interval ``low`` and ``high`` are: the first of these that a frame has."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A frame as the page prints it.

    Attributes:
        name: name of the frame.
        columns: headings.
        rows: cells as text.
        left_out: rows that are in the parquet file only.
    """

    name: str
    columns: Sequence[str]
    rows: Rows
    left_out: int = 0


def table(name: str, frame: pd.DataFrame) -> Table:
    """A frame as a table of the page."""
    columns, rows = printed(frame.head(LONGEST))
    return Table(name, columns, rows, max(0, len(frame) - LONGEST))


def label_table(labels: pd.DataFrame) -> Table:
    """How often each label occurs among the examples that a run used: one row per task and use."""
    rows = [
        [str(task), str(use), str(int(part["n"].sum())), ", ".join(_counts(part))]
        for (task, use), part in labels.groupby(["task", "use"], sort=False)
    ]
    return Table("labels", ["task", "examples used as", "n", "labels"], rows)


def _counts(part: pd.DataFrame) -> list[str]:
    return [f"{label} {n}" for label, n in zip(part["label"], part["n"], strict=True)]


def missing_labels(labels: pd.DataFrame) -> list[str]:
    """One warning per task and use in which a label of the task does not occur."""
    if labels.empty:
        return []
    told = []
    for (task, use), part in labels.groupby(["task", "use"], sort=False):
        missing = [str(label) for label in part.loc[part["n"] == 0, "label"]]
        if missing:
            told.append(
                f"None of the {int(part['n'].sum())} {use} examples of {task} is labelled {' or '.join(missing)}: "
                "numbers on them say nothing about telling these labels apart."
            )
    return told


def printed(frame: pd.DataFrame) -> tuple[list[str], Rows]:
    """Column headings and cells; the ends of an interval go into the column that it belongs to.

    Shares are printed in per cent: in the heading where a whole column holds shares, in the cells where only some rows
    do because the metric differs from row to row.
    """
    spans = {name: _ends(name, frame) for name in frame.columns}
    hidden = {end for ends in spans.values() if ends for end in ends}
    shown = [name for name in frame.columns if name not in hidden]
    shares = {name: _shares(str(name), frame) for name in shown}
    heads = [_head(str(name), shares[name]) for name in shown]
    rows = [
        [_cell(name, row, spans[name], shares[name], at) for name in shown]
        for at, (_, row) in enumerate(frame.iterrows())
    ]
    return heads, rows


def _shares(name: str, frame: pd.DataFrame) -> list[bool]:
    """Row by row, whether a column holds a share."""
    metric = next((column for column in METRIC_COLUMNS if column in frame.columns and column != name), None)
    if name in OF_METRIC and metric is not None:
        return frame[metric].astype(str).isin(SHARE_METRICS).tolist()
    return [name in SHARES] * len(frame)


def _ends(name: str, frame: pd.DataFrame) -> tuple[str, str] | None:
    """``x_low`` and ``x_high`` are of ``x``, or of ``x_y`` where there is no ``x``; see ``OWNERS`` for plain ones."""
    columns = set(frame.columns)
    stem, _, _ = name.rpartition("_")
    for owner in [name] if stem in columns else [name, stem]:
        if owner and {f"{owner}_low", f"{owner}_high"} <= columns:
            return f"{owner}_low", f"{owner}_high"
    plain = next((owner for owner in OWNERS if owner in columns), None)
    return ("low", "high") if name == plain and {"low", "high"} <= columns else None


def _head(name: str, shares: list[bool]) -> str:
    text = name.replace("_", " ")
    return f"{text}, %" if shares and all(shares) else text


def _cell(name: str, row: pd.Series, ends: tuple[str, str] | None, shares: list[bool], at: int) -> str:
    share = shares[at]
    value = _number(name, row[name], share)
    if value and ends is not None:
        low, high = (_number(name, row[end], share) for end in ends)
        value = f"{value} [{low}, {high}]" if low and high else value
    return f"{value} %" if value and share and not all(shares) else value


def _number(name: str, value: Any, share: bool) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    if isinstance(value, bool) or type(value).__name__ == "bool":
        return "yes" if value else "no"
    if pd.isna(value):
        return ""
    sign = "+" if name in SIGNED else ""
    if float(value).is_integer() and not share:
        return _plain(f"{int(value):{sign}d}")
    return _plain(f"{100 * float(value):{sign}.1f}" if share else f"{float(value):{sign}.3g}")


def _plain(text: str) -> str:
    """Without a sign where the number rounds to zero, and with a real minus elsewhere."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
