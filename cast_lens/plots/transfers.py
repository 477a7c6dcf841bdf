"""What a source's vector does to a target: the matrix, the forest with placebos, format against choice."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from .layout import (
    BAR,
    METRICS,
    ROW_HEIGHT,
    beside,
    blank,
    error_bars,
    in_order,
    nested,
    points,
    points_interval,
    require,
    require_choice,
)
from .style import NEUTRAL, PALETTE, method_order, method_style

GAIN_COLUMNS = ("target", "source", "method", "metric", "gain", "gain_low", "gain_high")
LEGEND_ABOVE = {"y": 1, "yanchor": "bottom"}
"""Forests are tall: below them nobody would find the legend."""
NUMBER_SIZES = {13: 18, 9: 36}
"""Size of printed numbers, and how many of that size fit beside each other; more are left to the hover text."""
PART_COLOURS = {"format": PALETTE[1], "choice": PALETTE[0]}


def plot_transfer_matrix(
    frame: pd.DataFrame, *, metrics: Sequence[str] = ("exact_match",), method: str = "cast", reach: float | None = None
) -> go.Figure:
    """Gain over zero-shot of every source's vector (x) on every target (y), in percentage points.

    One panel per metric, all on one colour scale: exact match beside label validity and label-restricted
    accuracy shows at once whether a gain is the format of the answer or the choice of it. Orange is a loss,
    blue a gain; a number is bold when its corrected p-value is below 0.05 (without
    p-values: when its interval excludes zero).

    Args:
        frame: ``target, source, method, metric, gain, gain_low, gain_high``; perhaps ``target_family,
            source_family`` (tasks are then put beside their kin) and ``p_adjusted`` for hover.
        metrics: panels.
        method: rows to plot; methods whose names begin with it count, so that a source's own target is there.
        reach: gain, in points, at which the colours end: give figures that are compared the same one. The largest of
            the frame when None.

    Raises:
        ValueError: when a column is missing, a metric or the method is not in the frame, or ``reach`` is not positive.
    """
    require(frame, GAIN_COLUMNS, figure="plot_transfer_matrix")
    if reach is not None and not reach > 0:
        raise ValueError(f"plot_transfer_matrix: reach={reach} must be above 0, in percentage points")
    for metric in metrics:
        require_choice("metrics", metric, in_order(frame["metric"]), figure="plot_transfer_matrix")
    methods = [name for name in in_order(frame["method"]) if name.startswith(method)]
    require_choice("method", method, [method] if methods else in_order(frame["method"]), figure="plot_transfer_matrix")
    rows = frame[frame["method"].isin(methods) & frame["metric"].isin(list(metrics))]
    targets, sources = _by_family(rows, "target"), _by_family(rows, "source")
    # A heading as wide as its panel would run into the next one.
    names = [METRICS.get(metric, metric).replace("restricted ", "restricted<br>") for metric in metrics]
    title = f"Gain in {names[0]} over zero-shot" if len(names) == 1 else "Gain over zero-shot"
    figure = blank(title, height=230 + ROW_HEIGHT * len(targets))
    figure = beside(figure, names, rows=len(targets), x="source of the vector")
    columns = len(sources) * len(metrics)
    size = next((size for size, room in NUMBER_SIZES.items() if columns <= room), None)
    for place, metric in enumerate(metrics, start=1):
        part = rows[rows["metric"] == metric]
        figure.add_trace(_gains(part, targets, sources, size=size), row=1, col=place)
    reach = reach or max(float(np.nanmax(np.abs(100 * rows["gain"]))), 1.0)
    bar = {"title": {"text": "percentage points", "side": "right"}, "tickformat": "d", **BAR}
    figure.update_layout(coloraxis={"cmin": -reach, "cmax": reach, "cmid": 0, "colorbar": bar})
    figure.update_yaxes(autorange="reversed", showgrid=False, ticklen=0)
    figure.update_xaxes(showgrid=False, ticklen=0, tickangle=-40)
    figure.update_yaxes(title_text="target", col=1)
    return figure


def _rows(frame: pd.DataFrame, metric: str, *, figure: str) -> pd.DataFrame:
    require(frame, GAIN_COLUMNS, figure=figure)
    require_choice("metric", metric, in_order(frame["metric"]), figure=figure)
    return frame[frame["metric"] == metric]


def _by_family(rows: pd.DataFrame, side: str) -> list[str]:
    if f"{side}_family" in rows:
        rows = rows.sort_values(f"{side}_family", kind="stable")
    return in_order(rows[side])


LEVEL = 0.05
"""A corrected p-value below it counts."""


def _differs(row: Mapping[Hashable, Any]) -> bool:
    """Whether a gain counts as one: by its corrected p-value, or by its interval in a table without tests."""
    if "p_adjusted" in row:
        return bool(row["p_adjusted"] < LEVEL)
    return bool(row["gain_low"] > 0 or row["gain_high"] < 0)


def _gains(rows: pd.DataFrame, targets: Sequence[str], sources: Sequence[str], *, size: int | None) -> go.Heatmap:
    """One metric's gains; a pair without the metric stays blank."""
    gain = np.full((len(targets), len(sources)), np.nan)
    text = [["" for _ in sources] for _ in targets]
    hover = [["" for _ in sources] for _ in targets]
    for row in rows.to_dict("records"):
        a, b = targets.index(row["target"]), sources.index(row["source"])
        shown, sure = points(row["gain"]), _differs(row)
        gain[a, b], text[a][b] = 100 * row["gain"], f"<b>{shown}</b>" if sure else shown
        p_value = f"<br>adjusted p = {row['p_adjusted']:.3g}" if "p_adjusted" in row else ""
        interval = points_interval(row["gain_low"], row["gain_high"])
        hover[a][b] = f"{row['target']}, vector of {row['source']}<br>{shown} points {interval}{p_value}"
    return go.Heatmap(
        x=list(sources),
        y=list(targets),
        z=nested(gain.round(2)),
        text=text,
        texttemplate="%{text}" if size else None,
        textfont={"size": size},
        customdata=hover,
        coloraxis="coloraxis",
        hovertemplate="%{customdata}<extra></extra>",
        xgap=2,
        ygap=2,
    )


def plot_gain(frame: pd.DataFrame, *, metric: str = "exact_match") -> go.Figure:
    """Forest plot: gain over zero-shot of every condition on every target, with intervals, placebos included.

    Args:
        frame: ``target, source, method, metric, gain, gain_low, gain_high``; perhaps ``n``. Zero-shot itself
            is the line at 0.
        metric: rows to plot.

    Raises:
        ValueError: when a column is missing or the metric is not in the frame.
    """
    rows = _rows(frame, metric, figure="plot_gain")
    rows = rows[(rows["method"] != "zero-shot") & rows["gain"].notna()]
    places, labels = _places(rows)
    end = max(places.values(), default=0.0) + 1
    figure = blank(f"Gain in {METRICS.get(metric, metric)} over zero-shot", height=210 + round(12 * end))
    for method in sorted(in_order(rows["method"]), key=method_order):
        part = rows[rows["method"] == method]
        figure.add_trace(_whiskers(part, [places[key] for key in _keys(part)], method))
    figure.update_layout(legend=LEGEND_ABOVE, margin={"t": 100})
    figure.update_xaxes(title_text="percentage points", zeroline=True, zerolinewidth=2)
    heights, texts = zip(*labels, strict=True) if labels else ((), ())
    figure.update_yaxes(tickvals=heights, ticktext=texts, range=[end, -1], zeroline=False, showgrid=False, ticklen=0)
    return figure


def _keys(rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(zip(rows["target"], rows["source"], rows["method"], strict=True))


def _whiskers(rows: pd.DataFrame, heights: Sequence[float], method: str) -> go.Scatter:
    """One method's gains, each with its interval."""
    style = method_style(method)
    value, low, high = (100 * rows[column] for column in ("gain", "gain_low", "gain_high"))
    pairs = [f"{target} ← {source}" if source else target for target, source, _ in _keys(rows)]
    spans = [points_interval(*ends) for ends in zip(rows["gain_low"], rows["gain_high"], strict=True)]
    line = {"width": 1.5, "color": style.colour}
    return go.Scatter(
        x=value,
        y=heights,
        mode="markers",
        name=method,
        marker={"color": style.colour, "symbol": style.symbol, "size": 8, "line": line},
        error_x={**error_bars(value, low, high), "color": style.colour},
        customdata=list(zip(pairs, spans, strict=True)),
        hovertemplate=f"%{{customdata[0]}}<br>{method}: %{{x:+.0f}} points %{{customdata[1]}}<extra></extra>",
    )


def _places(rows: pd.DataFrame) -> tuple[dict[tuple[str, str, str], float], list[tuple[float, str]]]:
    """Height of every (target, source, method), and the labels: each target, and its sources below it."""
    places: dict[tuple[str, str, str], float] = {}
    labels: list[tuple[float, str]] = []
    height = 0.0
    for target, part in rows.groupby("target", sort=False):
        labels.append((height, f"<b>{target}</b>"))
        if not (part["source"] == "").any():
            height += 1.4
        for source, group in sorted(part.groupby("source", sort=False), key=lambda item: item[0] != ""):
            methods = sorted(in_order(group["method"]), key=method_order)
            for place, method in enumerate(methods):
                places[str(target), str(source), method] = height + place
            if source:
                labels.append((height + (len(methods) - 1) / 2, f"← {source}"))
            height += len(methods) + 0.8
        height += 1.2
    return places, labels


def plot_split(frame: pd.DataFrame, *, method: str = "cast") -> go.Figure:
    """What the gain in exact match is made of: format (an admissible answer at all) and choice (the right
    one).

    Bars stack to the total (diamond); the lines below a bar are the intervals of its two parts and of the
    total.

    Args:
        frame: ``target, source, method`` and ``total, format, choice``, each with ``_low`` and ``_high``.
        method: rows to plot; methods that begin with it count.

    Raises:
        ValueError: when a column is missing or the method is not in the frame.
    """
    parts = [f"{part}{end}" for part in ("total", "format", "choice") for end in ("", "_low", "_high")]
    require(frame, ["target", "source", "method", *parts], figure="plot_split")
    require_choice(
        "method", method, [name for name in in_order(frame["method"]) if name.startswith(method)], figure="plot_split"
    )
    rows = frame[frame["method"].str.startswith(method)]
    at = np.arange(len(rows), dtype=np.float64)
    figure = blank("Gain in exact match: format and choice", height=200 + 52 * len(rows))
    for part, colour in PART_COLOURS.items():
        figure.add_trace(_bars(rows, at - 0.1, part, colour))
    marks = (("format", "line-ns", 0.24), ("choice", "line-ns", 0.36), ("total", "diamond", -0.1))
    for part, symbol, below in marks:
        figure.add_trace(_part_marks(rows, at + below, part, symbol))
    figure.update_layout(barmode="relative", legend=LEGEND_ABOVE, margin={"t": 80})
    figure.update_xaxes(title_text="percentage points", zeroline=True, zerolinewidth=2)
    labels = [label.replace(" ← ", "<br>← ") for label in _pair_names(rows)]
    ticks = {"tickvals": at, "ticktext": labels, "ticklen": 0}
    figure.update_yaxes(**ticks, range=[len(rows) - 0.4, -0.6], zeroline=False, showgrid=False)
    return figure


def _pair_names(rows: pd.DataFrame) -> list[str]:
    return [f"{target} ← {source}" for target, source in zip(rows["target"], rows["source"], strict=True)]


def _bars(rows: pd.DataFrame, at: Float[np.ndarray, " pair"], part: str, colour: str) -> go.Bar:
    return go.Bar(
        x=100 * rows[part],
        y=at,
        orientation="h",
        width=0.46,
        name=part,
        legendgroup=part,
        marker={"color": colour},
        hoverinfo="skip",
    )


def _part_marks(rows: pd.DataFrame, at: Float[np.ndarray, " pair"], part: str, symbol: str) -> go.Scatter:
    """The value of one part, and its interval as a line."""
    colour = PART_COLOURS.get(part, NEUTRAL)
    value, low, high = (100 * rows[f"{part}{end}"] for end in ("", "_low", "_high"))
    spans = [points_interval(*ends) for ends in zip(rows[f"{part}_low"], rows[f"{part}_high"], strict=True)]
    return go.Scatter(
        x=value,
        y=at,
        mode="markers",
        name=part,
        legendgroup=part,
        showlegend=part == "total",
        marker={"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2, "color": colour}},
        error_x={**error_bars(value, low, high), "color": colour},
        customdata=list(zip(_pair_names(rows), spans, strict=True)),
        hovertemplate=f"%{{customdata[0]}}<br>{part}: %{{x:+.0f}} points %{{customdata[1]}}<extra></extra>",
    )
