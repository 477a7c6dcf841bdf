"""Curves and trade-offs: scaling, steerability, gain against side effects, training loss, chosen samples, and the
tokens that move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .layout import band, blank, error_bars, hover_text, in_order, percent, require
from .style import NEUTRAL, PALETTE, method_order, method_styles

MANY = 6
"""Lines whose bands can overlap and still be distinguished."""


def plot_scaling(
    frame: pd.DataFrame, *, x_title: str = "source samples", y_title: str = "exact match", share: bool = True
) -> go.Figure:
    """How an outcome grows with the number of samples or demonstrations, one line per method, intervals shaded.

    Args:
        frame: ``x, y, method, low, high``; perhaps ``n``.
        x_title, y_title: titles of the axes.
        share: whether y is a share, shown in per cent from 0.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["x", "y", "method", "low", "high"], figure="plot_scaling")
    figure = blank(f"{y_title[:1].upper()}{y_title[1:]} by {x_title}", height=460, x=x_title, y=y_title)
    names = sorted(in_order(frame["method"]), key=method_order)
    styles = method_styles(names)
    # Many bands of normal shade would hide the lines.
    alpha = 0.15 if len(names) <= MANY else 0.03
    for method in names:
        rows, style = frame[frame["method"] == method].sort_values("x"), styles[method]
        ends = rows["x"], rows["low"], rows["high"]
        figure.add_trace(band(*ends, colour=style.colour, alpha=alpha, legendgroup=method))
        form = ".0%" if share else ".3g"
        figure.add_trace(
            go.Scatter(
                x=rows["x"],
                y=rows["y"],
                mode="lines+markers",
                name=method,
                legendgroup=method,
                line={"color": style.colour, "width": 2, "dash": "dot" if method.startswith("placebo") else "solid"},
                marker={"symbol": style.symbol, "size": 8},
                customdata=rows[["low", "high"]].to_numpy(),
                hovertemplate=f"{method}<br>%{{x}} {x_title}: %{{y:{form}}} "
                f"[%{{customdata[0]:{form}}}, %{{customdata[1]:{form}}}]<extra></extra>",
            )
        )
    figure.update_yaxes(tickformat=".0%" if share else "", rangemode="tozero" if share else "normal")
    return figure


def plot_steerability(frame: pd.DataFrame, *, y_title: str = "log-odds of the gold answer") -> go.Figure:
    """How each example's score depends on the strength (arXiv 2407.12404): examples that go the wrong way stand
    out.

    Args:
        frame: one row per example and strength: ``sample, strength, score, anti_steerable`` (from
            ``stats.steerability``); perhaps ``task``, which parts the traces.
        y_title: what the score is.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["sample", "strength", "score", "anti_steerable"], figure="plot_steerability")
    figure = blank("Response of each example to the strength", height=460, x="strength", y=y_title)
    for against, name, colour in ((False, "follows", PALETTE[0]), (True, "goes against (anti-steerable)", PALETTE[7])):
        rows = frame[frame["anti_steerable"].astype(bool) == against].sort_values(["sample", "strength"])
        figure.add_trace(_threads(rows, name, colour))
    figure.update_xaxes(zeroline=True)
    figure.update_yaxes(zeroline=True)
    return figure


def _threads(rows: pd.DataFrame, name: str, colour: str) -> go.Scatter:
    """One line per example, all in one trace, with gaps between them."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    samples = list(rows.groupby("sample", sort=False))
    for sample, part in samples:
        x += [*part["strength"], None]
        y += [*part["score"], None]
        text += [str(sample)] * (len(part) + 1)
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="lines",
        name=f"{name}: {len(samples)}",
        line={"color": colour, "width": 1.2},
        opacity=0.6,
        hovertemplate="%{text}<br>strength %{x}: %{y:.2f}<extra></extra>",
    )


def plot_pareto(
    frame: pd.DataFrame,
    *,
    x_title: str = "loss elsewhere, percentage points",
    y_title: str = "gain, percentage points",
    ratios: bool = False,
) -> go.Figure:
    """Gain on the target against side effects elsewhere: up and to the left is better.

    Rings and the stepped line between them mark the points that no other point beats on both axes.

    Args:
        frame: ``method, gain, side_effect`` as shares (0.1 is 10 points; a side effect is a loss, so less is
            better); perhaps ``gain_low, gain_high, side_effect_low, side_effect_high`` and ``label`` for
            hover.
        x_title, y_title: titles of the axes.
        ratios: draw side effects as multiples (0.1 is 1.1 times) on a logarithmic axis: for those that span orders of
            magnitude, such as a rise of perplexity.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["method", "gain", "side_effect"], figure="plot_pareto")
    figure = blank("Gain against side effects", height=480, x=x_title, y=y_title)
    front = _front(frame)

    def across(values: pd.Series) -> pd.Series:
        return 1 + values if ratios else 100 * values

    figure.add_trace(
        go.Scatter(
            x=across(front["side_effect"]), y=100 * front["gain"], mode="lines+markers", name="not beaten on both",
            line={"color": NEUTRAL, "dash": "dot", "shape": "hv"}, hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 16, "color": NEUTRAL, "line": {"width": 2}},
        )
    )  # fmt: skip
    names = sorted(in_order(frame["method"]), key=method_order)
    styles = method_styles(names)
    across_shown = "×%{x:.3g}" if ratios else "%{x:+.1f}"
    for method in names:
        rows, style = frame[frame["method"] == method], styles[method]
        bars = _bars(rows, "error_x", "side_effect", across, style.colour)
        bars |= _bars(rows, "error_y", "gain", lambda values: 100 * values, style.colour)
        figure.add_trace(
            go.Scatter(
                x=across(rows["side_effect"]),
                y=100 * rows["gain"],
                mode="markers",
                name=method,
                text=rows["label"] if "label" in rows else rows["method"],
                marker={"color": style.colour, "symbol": style.symbol, "size": 9},
                hovertemplate=f"%{{text}}<br>{y_title}: %{{y:+.1f}}<br>{x_title}: {across_shown}<extra></extra>",
                **bars,
            )
        )
    figure.update_xaxes(zeroline=True, tickformat="")
    if ratios:
        _as_ratios(figure, across(frame.filter(like="side_effect").max(axis=1)).max())
    figure.update_yaxes(zeroline=True, tickformat="")
    return figure


def _bars(
    rows: pd.DataFrame, axis: str, name: str, scale: Callable[[pd.Series], pd.Series], colour: str
) -> dict[str, Any]:
    """Error bars along an axis, where the rows have an interval."""
    ends = (name, f"{name}_low", f"{name}_high")
    if not set(ends) <= set(rows.columns):
        return {}
    return {axis: {**error_bars(*(scale(rows[end]) for end in ends), thickness=1.0), "color": colour}}


def _as_ratios(figure: go.Figure, top: float) -> None:
    """Draw the horizontal axis as multiples, with a label per power of ten, or 1, 2 and 5 up to a hundred times."""
    figure.update_xaxes(type="log", tickprefix="×", exponentformat="power", dtick="D2" if top < 100 else 1)
    figure.add_vline(x=1, line={"color": NEUTRAL, "width": 1})


def _front(frame: pd.DataFrame) -> pd.DataFrame:
    """Points that no other beats on both axes, by rising side effect."""
    rows = frame.sort_values(["side_effect", "gain"], ascending=[True, False], kind="stable")
    best_before = rows["gain"].cummax().shift(fill_value=-np.inf)
    return rows[rows["gain"] > best_before]


def plot_loss(frame: pd.DataFrame) -> go.Figure:
    """Training curve.

    Args:
        frame: ``step, loss``; perhaps ``split`` (one line each) and ``best`` (marks the kept step).

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["step", "loss"], figure="plot_loss")
    figure = blank("Training", height=420, x="step", y="loss (nats per token)")
    splits = in_order(frame["split"]) if "split" in frame else ["train"]
    for place, split in enumerate(splits):
        rows = (frame[frame["split"] == split] if "split" in frame else frame).sort_values("step")
        line = {"color": PALETTE[place % len(PALETTE)], "width": 2}
        figure.add_trace(go.Scatter(x=rows["step"], y=rows["loss"], mode="lines", name=split, line=line))
    if "best" in frame and frame["best"].any():
        kept = frame[frame["best"].astype(bool)]
        mark = {"symbol": "circle-open", "size": 12, "color": PALETTE[7], "line": {"width": 2}}
        figure.add_trace(go.Scatter(x=kept["step"], y=kept["loss"], mode="markers", name="kept", marker=mark))
    return figure


def plot_selection(frame: pd.DataFrame) -> go.Figure:
    """All source samples in a plane, the larger the more influential; chosen ones ringed and numbered in
    order.

    Args:
        frame: one row per sample: ``x, y, influence, rank`` (place in the choice, from 0; anything for the
            others), ``chosen``; perhaps ``text`` or ``sample_id`` for hover, and ``explained_x, explained_y``
            (shares of variance, from ``selection.selection_plane``) for the axes.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["x", "y", "influence", "rank", "chosen"], figure="plot_selection")
    chosen = frame["chosen"].astype(bool)
    largest = frame["influence"].max()
    figure = blank("Source samples: influence and choice", height=560)
    for rows, name, opacity in ((frame[~chosen], "not chosen", 0.55), (frame[chosen], "chosen, in order", 1.0)):
        picked = name.startswith("chosen")
        figure.add_trace(
            go.Scatter(
                x=rows["x"],
                y=rows["y"],
                mode="markers+text" if picked else "markers",
                name=name,
                text=[str(int(rank) + 1) for rank in rows["rank"]] if picked else None,
                # Up and down in turn: neighbours in the plane are often neighbours in the choice.
                textposition=[f"{'bottom' if rank % 2 else 'top'} center" for rank in rows["rank"]],
                marker={
                    "size": rows["influence"],
                    "sizemode": "area",
                    "sizeref": 2 * largest / 22**2 if largest > 0 else 1,
                    "sizemin": 3,
                    "color": PALETTE[7] if picked else PALETTE[6],
                    "opacity": opacity,
                    "line": {"width": 2 if picked else 0, "color": PALETTE[7]},
                },
                customdata=_labels(rows),
                hovertemplate="%{customdata}<br>influence %{marker.size:.3g}<extra></extra>",
            )
        )
    titles = {
        axis: f"principal component {place} ({percent(frame[f'explained_{axis}'].iloc[0])} of variance)"
        for place, axis in enumerate("xy", start=1)
        if f"explained_{axis}" in frame
    }
    figure.update_xaxes(showticklabels=False, ticklen=0, title_text=titles.get("x"))
    figure.update_yaxes(showticklabels=False, ticklen=0, zeroline=False, title_text=titles.get("y"))
    return figure


def _labels(rows: pd.DataFrame) -> list[str]:
    for column in ("text", "sample_id"):
        if column in rows:
            return [hover_text(value) for value in rows[column]]
    return [f"sample {index}" for index in rows.index]


def plot_token_effects(frame: pd.DataFrame, *, top: int = 12) -> go.Figure:
    """What the steered next-token distribution gains and loses: change in probability of the tokens that move
    most, and what placebos do to the same tokens.

    Args:
        frame: ``token, delta`` (change in probability); perhaps ``before, after`` for hover, and columns whose names
            begin with ``placebo``, each the changes under one of them, shown as hollow grey marks.
        top: tokens shown on either side.

    Raises:
        ValueError: when a column is missing, the frame is empty, or ``top`` is below 1.
    """
    require(frame, ["token", "delta"], figure="plot_token_effects")
    if top < 1:
        raise ValueError(f"plot_token_effects: top={top} must be 1 or more")
    ordered = frame.sort_values("delta", ascending=False, kind="stable")
    gains, losses = ordered[ordered["delta"] > 0].head(top), ordered[ordered["delta"] < 0].tail(top)
    figure = blank("Next-token probability: steered minus unsteered", height=170 + 24 * (len(gains) + len(losses)))
    sides = ["before", "after"] if {"before", "after"} <= set(frame.columns) else []
    detail = "<br>%{customdata[0]:.1%} to %{customdata[1]:.1%}" if sides else ""
    for rows, name, colour in ((gains, "gains", PALETTE[0]), (losses, "loses", PALETTE[1])):
        figure.add_trace(
            go.Bar(
                x=100 * rows["delta"],
                y=[visible(token) for token in rows["token"]],
                orientation="h",
                name=name,
                marker={"color": colour},
                customdata=rows[sides].to_numpy() if sides else None,
                hovertemplate=f"%{{y}}: %{{x:+.1f}} points{detail}<extra></extra>",
            )
        )
    placebos = [str(name) for name in frame.columns if str(name).startswith("placebo")]
    if placebos:
        figure.add_trace(_placebo_marks(pd.concat([gains, losses]), placebos))
    figure.update_xaxes(title_text="change, percentage points", zeroline=True, zerolinewidth=2)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def _placebo_marks(rows: pd.DataFrame, names: list[str]) -> go.Scatter:
    """The change of each token under each placebo."""
    long = rows.melt(id_vars="token", value_vars=names, var_name="placebo", value_name="change")
    return go.Scatter(
        x=100 * long["change"],
        y=[visible(token) for token in long["token"]],
        mode="markers",
        name="placebo" if len(names) == 1 else f"{len(names)} placebos",
        marker={"symbol": "circle-open", "size": 8, "color": NEUTRAL, "line": {"width": 1.5, "color": NEUTRAL}},
        customdata=long["placebo"],
        hovertemplate="%{y}: %{x:+.1f} points<br>%{customdata}<extra></extra>",
    )


def visible(token: str) -> str:
    """A token with its white space and line breaks to be seen."""
    return (
        token.replace("<", "‹").replace(">", "›").replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(empty)"
    )
