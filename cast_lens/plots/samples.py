"""Which samples are chosen, and which tokens move."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from .frames import hover_text, percent, require
from .layout import blank
from .style import NEUTRAL, PALETTE


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
    for rows, name, opacity in (
        (frame[~chosen], "not chosen", 0.55),
        (frame[chosen], "chosen, in order", 1.0),
    ):
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
        marker={
            "symbol": "circle-open",
            "size": 8,
            "color": NEUTRAL,
            "line": {"width": 1.5, "color": NEUTRAL},
        },
        customdata=long["placebo"],
        hovertemplate="%{y}: %{x:+.1f} points<br>%{customdata}<extra></extra>",
    )


def visible(token: str) -> str:
    """A token with its white space and line breaks to be seen."""
    return (
        token.replace("<", "‹").replace(">", "›").replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(empty)"
    )
