"""Forests of pooled effects: one row a method or variant, one panel a metric, intervals drawn."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from .drawing import ROW_HEIGHT, beside, blank, error_bars
from .frames import METRICS, in_order, points_interval, require
from .style import NEUTRAL, PALETTE, method_order

METHODS_COLUMNS = ("method", "metric", "gain", "gain_low", "gain_high", "n")


def plot_methods(
    frame: pd.DataFrame,
    *,
    metrics: Sequence[str] = ("exact_match", "valid", "choice_correct"),
    baseline: str = "zero-shot",
    sort: bool = True,
) -> go.Figure:
    """Mean gain of each method over all its pairs, one panel a metric; placebos hollow and grey.

    Args:
        frame: ``method, metric, gain, gain_low, gain_high, n``; perhaps ``pairs``.
        metrics: panels; those that the frame lacks are left out.
        baseline: what the gains are over, for the title.
        sort: prompting first, then steering, then placebos; False keeps the frame's order.

    Raises:
        ValueError: when a column is missing or no metric is in the frame.
    """
    require(frame, METHODS_COLUMNS, figure="plot_methods")
    shown = [metric for metric in metrics if (frame["metric"] == metric).any()]
    if not shown:
        raise ValueError(f"plot_methods: none of the metrics {list(metrics)} is in the frame")
    names = in_order(frame["method"])
    names = sorted(names, key=method_order) if sort else names
    figure = blank(f"Gain over {baseline}, with 95 % intervals", height=200 + ROW_HEIGHT * len(names))
    titles = [METRICS.get(metric, metric) for metric in shown]
    figure = beside(figure, titles, rows=len(names), x="percentage points")
    for place, metric in enumerate(shown, start=1):
        for placebo in (False, True):
            rows = frame[(frame["metric"] == metric) & (frame["method"].str.startswith("placebo") == placebo)]
            if len(rows):
                figure.add_trace(_marks(rows, placebo=placebo, legend=place == 1), row=1, col=place)
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], ticklen=0)
    figure.update_xaxes(zeroline=True, zerolinewidth=2)
    return figure


def _marks(rows: pd.DataFrame, *, placebo: bool, legend: bool) -> go.Scatter:
    colour = NEUTRAL if placebo else PALETTE[0]
    value, low, high = (100 * rows[column] for column in ("gain", "gain_low", "gain_high"))
    spans = [points_interval(*ends) for ends in zip(rows["gain_low"], rows["gain_high"], strict=True)]
    return go.Scatter(
        x=value,
        y=rows["method"],
        mode="markers",
        name="placebo" if placebo else "method",
        legendgroup=str(placebo),
        showlegend=legend,
        marker={
            "color": colour,
            "symbol": "circle-open" if placebo else "circle",
            "size": 9,
            "line": {"width": 1.5, "color": colour},
        },
        error_x={**error_bars(value, low, high), "color": colour},
        customdata=list(zip(spans, rows["n"], strict=True)),
        hovertemplate="%{y}: %{x:+.1f} points %{customdata[0]}, %{customdata[1]} answers<extra></extra>",
    )
