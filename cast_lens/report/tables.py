"""The tables of the page: outcomes of every condition on every target, the split, the chosen settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..plots.frames import METRICS, in_order, percent, percent_interval, points, points_interval
from .record import OWN, STEERED

OUTCOMES = ("exact_match", "valid", "choice_correct")
SIGNIFICANT = 0.05
COLUMNS = {
    "zero-shot": "Zero-shot",
    STEERED: "Steered",
    "placebo: random direction": "Placebo: random direction",
    "placebo: shuffled labels": "Placebo: shuffled labels",
    "placebo: zero vector": "Placebo: zero vector",
    "cross-task few-shot": "Few-shot, source's examples",
    "few-shot": "Few-shot, own examples",
}
"""Methods in the order of the columns: what steering changed, whether placebos do the same, what examples do.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of the outcome table.

    Attributes:
        method: column.
        value: in per cent, ready to show; a dash when the condition was not run.
        interval: in per cent, or empty.
        sign: ``up`` or ``down`` when the difference to zero-shot survives the correction for many tests.
        rows: how many table rows the cell spans: all sources for a method that needs no source.
    """

    method: str
    value: str
    interval: str
    sign: str = ""
    rows: int = 1


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One source under one metric; cells that span all sources stand in the first row only."""

    source: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class MetricBlock:
    """One metric of a target: its name and a row a source."""

    name: str
    rows: tuple[OutcomeRow, ...]


@dataclass(frozen=True, slots=True)
class TargetTable:
    """All outcomes on one target; ``heads`` holds method and heading of every column."""

    target: str
    family: str
    n: int
    heads: tuple[tuple[str, str], ...]
    blocks: tuple[MetricBlock, ...]


def outcome_tables(transfer: pd.DataFrame) -> list[TargetTable]:
    """One table a target, in the frame's order."""
    # A source's vector on its own task stands in the same column as on other tasks.
    frame = transfer.assign(
        method=transfer["method"].replace(OWN, STEERED), source=transfer["source"].fillna("")
    )
    return [_target_table(part) for _, part in frame.groupby("target", sort=False)]


def _target_table(part: pd.DataFrame) -> TargetTable:
    methods = sorted(in_order(part["method"]), key=_column_order)
    blocks = [
        MetricBlock(METRICS[metric], tuple(_rows(part[part["metric"] == metric], methods)))
        for metric in OUTCOMES
        if (part["metric"] == metric).any()
    ]
    return TargetTable(
        target=str(part["target"].iloc[0]),
        family=str(part["target_family"].iloc[0]) if "target_family" in part else "",
        n=int(part["n"].max()),
        heads=tuple((name, COLUMNS.get(name, name)) for name in methods),
        blocks=tuple(blocks),
    )


def _column_order(method: str) -> tuple[int, str]:
    known = list(COLUMNS)
    return (known.index(method) if method in known else len(known), method)


def _rows(part: pd.DataFrame, methods: list[str]) -> list[OutcomeRow]:
    by_source = {source: rows.set_index("method") for source, rows in part.groupby("source", sort=False)}
    common = by_source.pop("", part.head(0).set_index("method"))
    found = []
    for place, (source, rows) in enumerate(by_source.items() or {"": common}.items()):
        cells = [
            _cell(common, method, len(by_source) or 1) if method in common.index else _cell(rows, method)
            for method in methods
            if place == 0 or method not in common.index
        ]
        found.append(OutcomeRow(str(source), tuple(cells)))
    return found


def _cell(rows: pd.DataFrame, method: str, span: int = 1) -> Cell:
    if method not in rows.index:
        return Cell(method, "–", "", rows=span)
    row = rows.loc[method]
    sign = ""
    if method == STEERED and "p_adjusted" in rows and row["p_adjusted"] < SIGNIFICANT:
        sign = "up" if row["gain"] > 0 else "down"
    return Cell(method, percent(row["value"]), percent_interval(row["low"], row["high"]), sign, span)


def split_rows(split: pd.DataFrame) -> list[tuple[str, ...]]:
    """Target, source, and total, format and choice with their intervals, for every steered pair."""
    rows = split[split["method"].isin([STEERED, OWN])]
    return [
        (row["target"], row["source"], *(_part(row, part) for part in ("total", "format", "choice")))
        for row in rows.to_dict("records")
    ]


def _part(row: Mapping[Any, Any], part: str) -> str:
    return f"{points(row[part])} {points_interval(row[f'{part}_low'], row[f'{part}_high'])}"


def setting_rows(sweep: pd.DataFrame) -> list[tuple[str, ...]]:
    """For each source the chosen layer and strength, and what its validation split showed there."""
    found = []
    for source, part in sweep.groupby("source", sort=False):
        chosen = part[part["chosen"].astype(bool)]
        if chosen.empty:
            continue
        row = chosen.iloc[0]
        cell = part[(part["layer"] == row["layer"]) & (part["strength"] == row["strength"])]
        base, noise = part[part["kind"] == "unsteered"], cell[cell["kind"].str.startswith("placebo")]
        first = [percent(_mean(side, "first_match")) for side in (base, chosen, noise)]
        whole = [percent(_mean(side, "exact_match")) for side in (base, chosen)]
        where = (f"{row['layer']:.0f}", f"{row['strength']:g}", f"{row['n']:.0f}")
        found.append((str(source), *where, *first, *whole))
    return found


def _mean(rows: pd.DataFrame, metric: str) -> float:
    return float(rows[metric].mean()) if metric in rows and len(rows) else np.nan
