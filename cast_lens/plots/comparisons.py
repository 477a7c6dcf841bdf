"""Methods, rules and models side by side.

Pooled gains with their intervals, costs, an effect among its placebos; what each rule gains and harms, and which pairs
a gate lets through; gain against headroom.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from .layout import METRICS, ROW_HEIGHT, beside, blank, error_bars, in_order, percent, points_interval, require
from .style import DASHES, NEUTRAL, PALETTE, SYMBOLS, method_order, method_style

RULES_COLUMNS = ("rule", "method", "gain", "gain_low", "gain_high", "harmed_share", "pairs", "steered")
CURVE_COLUMNS = ("predictor", "coverage", "gain", "harm", "steered", "gate")
HEADROOM_COLUMNS = ("model", "target", "source", "headroom", "gain", "gain_low", "gain_high", "n")
METHODS_COLUMNS = ("method", "metric", "gain", "gain_low", "gain_high", "n")
BARS = {"gflops": "prompts run in full", "cached_gflops": "common beginning of the prompts kept"}
BINS = 40
# Heights at which the names of effects are written above their lines, and pixels between them.
LABEL_ROWS = 4
LABEL_HEIGHT = 15
PATTERNS = ("", "/", "x", ".")
"""Fill of the bars of a first, second, ... kind of placebo: all of them are grey."""
TIE = 1e-12
"""Means of the same outcomes in another order differ by rounding; a placebo that ties has reached the effect."""


def plot_methods(
    frame: pd.DataFrame,
    *,
    metrics: Sequence[str] = ("exact_match", "valid", "choice_correct"),
    baseline: str = "zero-shot",
    sort: bool = True,
) -> go.Figure:
    """Mean gain of each method over all its pairs, one panel per metric; placebos hollow and grey.

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


def plot_costs(frame: pd.DataFrame) -> go.Figure:
    """Operations per query under each method, cheapest at the bottom.

    Args:
        frame: ``method, gflops``; perhaps ``cached_gflops`` (with the keys and values of what all prompts begin with
            kept).

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["method", "gflops"], figure="plot_costs")
    rows = frame.sort_values("gflops", kind="stable")
    height = 200 + ROW_HEIGHT * len(rows)
    figure = blank("Operations per query", height=height, x="GFLOP per query")
    for place, (column, name) in enumerate(BARS.items()):
        if column in rows:
            bar = {"color": PALETTE[2 * place]}
            figure.add_trace(go.Bar(x=rows[column], y=rows["method"], orientation="h", name=name, marker=bar))
    return figure.update_yaxes(ticklen=0)


def plot_placebos(
    frame: pd.DataFrame, *, x_title: str = "exact match", share: bool = True, bins: int = BINS
) -> go.Figure:
    """An effect as a line, and how often its placebos have which effect, as grey bars; how many reach it, in words.

    Args:
        frame: one row per effect: ``method, value``. Methods whose names begin with ``placebo`` make the bars, one
            kind of placebo each; every other row is a line.
        x_title: what the values are.
        share: whether they are shares, shown in per cent.
        bins: bars over the whole range of values.

    Raises:
        ValueError: when a column is missing, the frame is empty, a value is not finite, ``bins`` is below 1, or there
            is not a placebo, or nothing but placebos.
    """
    require(frame, ["method", "value"], figure="plot_placebos")
    placebo = frame["method"].str.startswith("placebo")
    values = frame["value"].to_numpy(dtype=np.float64)
    if placebo.all() or not placebo.any():
        raise ValueError(
            f"plot_placebos: of {len(frame)} rows {placebo.sum()} have a method that begins with 'placebo'; there must "
            "be some of both, the effect and its placebos"
        )
    if not np.isfinite(values).all() or bins < 1:
        raise ValueError(f"plot_placebos: every value must be finite and bins={bins} 1 or more")
    figure = blank("Among its placebos", height=380, x=x_title, y="placebos")
    margin = float(np.ptp(values) or 1.0) / (2 * bins)
    edges = np.linspace(values.min() - margin, values.max() + margin, bins + 1)
    form = ".0%" if share else ".3g"
    for place, kind in enumerate(in_order(frame.loc[placebo, "method"])):
        own = values[(frame["method"] == kind).to_numpy()]
        figure.add_trace(_bars(own, edges, kind, PATTERNS[place % len(PATTERNS)], form))
    observed = frame[~placebo].sort_values("value", kind="stable")
    # Names of neighbours at different heights, or they would overprint each other.
    for place, (method, value) in enumerate(zip(observed["method"], observed["value"], strict=True)):
        _line(figure, str(method), float(value), lift=place % LABEL_ROWS)
    counts = "<br>".join(reached(frame, share=share))
    figure.update_layout(barmode="stack", bargap=0, title_subtitle={"text": counts, "font": {"size": 13}})
    rows = min(LABEL_ROWS, len(observed))
    figure.update_layout(margin={"t": 90 + 18 * counts.count("<br>") + LABEL_HEIGHT * (rows - 1)})
    figure.update_xaxes(tickformat=".0%" if share else "")
    most = max((max(trace.y, default=0) for trace in figure.data), default=0)
    figure.update_yaxes(rangemode="tozero", tickformat="d", dtick=1 if most < 8 else None)
    return figure


def reached(frame: pd.DataFrame, *, share: bool = True) -> list[str]:
    """How many placebos of each kind reach each effect, one sentence per pair.

    Args:
        frame: as for ``plot_placebos``.
        share: whether effects are shares, written in per cent.
    """
    placebo = frame["method"].str.startswith("placebo")
    sentences = []
    for method, value in frame.loc[~placebo, ["method", "value"]].itertuples(index=False):
        effect = percent(value) if share else f"{value:.3g}"
        for kind, rows in frame[placebo].groupby("method", sort=False):
            hits = int((rows["value"] >= value - TIE * max(1.0, abs(value))).sum())
            sentences.append(
                f"{method} {effect}: reached by {hits} of {len(rows)} ({percent(hits / len(rows))}), {kind}"
            )
    return sentences


def _bars(
    values: Float[np.ndarray, " placebo"], edges: Float[np.ndarray, " edge"], kind: str, pattern: str, form: str
) -> go.Bar:
    counts, _ = np.histogram(values, edges)
    return go.Bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=np.diff(edges),
        name=f"{kind}, n = {len(values)}",
        marker={"color": NEUTRAL, "pattern": {"shape": pattern}},
        customdata=np.stack([edges[:-1], edges[1:]], axis=1),
        hovertemplate=f"%{{y}} placebos from %{{customdata[0]:{form}}} to %{{customdata[1]:{form}}}<extra></extra>",
    )


def _line(figure: go.Figure, method: str, value: float, *, lift: int) -> None:
    colour = method_style(method).colour
    figure.add_vline(x=value, line={"color": colour, "width": 3}, name=method)
    figure.add_annotation(
        x=value,
        y=1,
        yref="paper",
        yanchor="bottom",
        yshift=LABEL_HEIGHT * lift,
        text=method,
        showarrow=False,
        font={"color": colour},
    )


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
