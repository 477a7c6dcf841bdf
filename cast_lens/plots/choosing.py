"""Rules that choose where to steer: what they gain and harm, whom a gate lets through, and gains against headroom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .layout import blank, error_bars, in_order, points_interval, require
from .style import DASHES, NEUTRAL, PALETTE, SYMBOLS

RULES_COLUMNS = ("rule", "method", "gain", "gain_low", "gain_high", "harmed_share", "pairs", "steered")
CURVE_COLUMNS = ("predictor", "coverage", "gain", "harm", "steered", "gate")
HEADROOM_COLUMNS = ("model", "target", "source", "headroom", "gain", "gain_low", "gain_high", "n")


def plot_rules(frame: pd.DataFrame) -> go.Figure:
    """Mean gain of each rule against the share of pairs that it harms; placebos hollow and grey.

    Args:
        frame: ``rule, method, gain, gain_low, gain_high, harmed_share, pairs, steered``.

    Raises:
        ValueError: when a column is missing.
    """
    require(frame, RULES_COLUMNS, figure="plot_rules")
    figure = blank("Gain and harm of each rule", height=520)
    for method in in_order(frame["method"]):
        rows, placebo = frame[frame["method"] == method], str(method).startswith("placebo")
        colour = NEUTRAL if placebo else PALETTE[0]
        value, low, high = (100 * rows[column] for column in ("gain", "gain_low", "gain_high"))
        spans = [points_interval(*ends) for ends in zip(rows["gain_low"], rows["gain_high"], strict=True)]
        figure.add_trace(
            go.Scatter(
                x=100 * rows["harmed_share"],
                y=value,
                mode="markers" if placebo else "markers+text",
                text=rows["rule"],
                textposition="top center",
                name=str(method),
                marker={"color": colour, "symbol": "circle-open" if placebo else "circle", "size": 9},
                error_y={**error_bars(value, low, high), "color": colour},
                customdata=list(zip(spans, rows["steered"], rows["pairs"], strict=True)),
                hovertemplate="%{text}: %{y:+.1f} %{customdata[0]}<br>harms %{x:.0f} % of %{customdata[2]} pairs, "
                "steers %{customdata[1]}<extra>" + str(method) + "</extra>",
            )
        )
    figure.update_xaxes(title="pairs harmed, per cent", rangemode="tozero")
    figure.update_yaxes(title="change in exact match, percentage points", zeroline=True, zerolinewidth=2)
    return figure


def plot_risk_coverage(frame: pd.DataFrame) -> go.Figure:
    """Mean change over all pairs, by the share of pairs that a gate lets through; a ring where its threshold cuts.

    Args:
        frame: ``predictor, coverage, gain, harm, steered, gate``, one row per predictor and number of steered pairs.

    Raises:
        ValueError: when a column is missing.
    """
    require(frame, CURVE_COLUMNS, figure="plot_risk_coverage")
    figure = blank("Whom to steer: mean change by coverage", height=460)
    for index, name in enumerate(in_order(frame["predictor"])):
        rows = frame[frame["predictor"] == name].sort_values("coverage")
        colour, cut = PALETTE[index % len(PALETTE)], rows[rows["gate"].astype(bool)]
        figure.add_trace(
            go.Scatter(
                x=100 * rows["coverage"],
                y=100 * rows["gain"],
                mode="lines",
                name=str(name),
                legendgroup=str(name),
                line={"color": colour, "dash": DASHES[index % len(DASHES)]},
                customdata=np.stack([rows["steered"], 100 * rows["harm"]], axis=1),
                hovertemplate="%{customdata[0]:.0f} pairs steered: %{y:+.1f} points, %{customdata[1]:.0f} % of them "
                f"lose<extra>{name}</extra>",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=100 * cut["coverage"],
                y=100 * cut["gain"],
                mode="markers",
                name=str(name),
                legendgroup=str(name),
                showlegend=False,
                hoverinfo="skip",
                marker={"color": colour, "symbol": "circle-open", "size": 11, "line": {"width": 2}},
            )
        )
    figure.update_xaxes(title="pairs that are steered, per cent", range=[-2, 102])
    figure.update_yaxes(title="mean change over all pairs, percentage points", zeroline=True, zerolinewidth=2)
    return figure


def plot_headroom(frame: pd.DataFrame) -> go.Figure:
    """Gain of each pair against its headroom, one mark per pair and one colour per model.

    Args:
        frame: ``model, target, source, headroom`` (few-shot minus zero-shot), ``gain, gain_low, gain_high, n``.

    Raises:
        ValueError: when a column is missing.
    """
    require(frame, HEADROOM_COLUMNS, figure="plot_headroom")
    figure = blank("Gain against headroom", height=520)
    names: Sequence[str] = in_order(frame["model"])
    for index, name in enumerate(names):
        rows = frame[frame["model"] == name]
        value, low, high = (100 * rows[column] for column in ("gain", "gain_low", "gain_high"))
        spans = [points_interval(*ends) for ends in zip(rows["gain_low"], rows["gain_high"], strict=True)]
        colour = PALETTE[index % len(PALETTE)]
        figure.add_trace(
            go.Scatter(
                x=100 * rows["headroom"],
                y=value,
                mode="markers",
                name=str(name),
                marker={"color": colour, "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 9},
                error_y={**error_bars(value, low, high), "color": colour, "thickness": 1},
                customdata=list(zip(rows["source"], rows["target"], spans, rows["n"], strict=True)),
                hovertemplate="%{customdata[0]} → %{customdata[1]}: %{y:+.1f} %{customdata[2]}, headroom %{x:+.1f}, "
                "n = %{customdata[3]}<extra>" + str(name) + "</extra>",
            )
        )
    rooms = 100 * frame["headroom"].dropna()
    ends = [min([0.0, *rooms]), max([1.0, *rooms])]
    figure.add_trace(
        go.Scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="all of the headroom",
            line={"color": NEUTRAL, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title="headroom: few-shot minus zero-shot, percentage points", zeroline=True)
    figure.update_yaxes(title="gain of the vector, percentage points", zeroline=True, zerolinewidth=2)
    return figure
