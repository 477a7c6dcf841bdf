"""Vectors that an adaptive task vector generates: their cosines to each other and to constant ones, and their norms."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from .clouds import projection_methods
from .frames import hover_text, in_order, percent, require, require_choice
from .layout import band, blank
from .style import NEUTRAL, PALETTE, task_style

# Share of the samples between the ends of a band.
MOST = 0.8


def plot_atv_cosines(frame: pd.DataFrame, *, centred: bool = True) -> go.Figure:
    """Cosine between the vectors of different queries by layer: one line per task within, and one between tasks.

    Args:
        frame: from ``methods.atv.generated_cosines``: ``layer, task_a, task_b, kind, cosine, centred_cosine``.
        centred: without what all vectors have in common.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    column = "centred_cosine" if centred else "cosine"
    require(frame, ["layer", "task_a", "task_b", "kind", column], figure="plot_atv_cosines")
    note = ", without their common part" if centred else ""
    figure = blank(f"Vectors of different queries{note}", height=480, x="layer", y="cosine")
    within, between = (frame[frame["kind"] == kind] for kind in ("within", "between"))
    if len(between):
        by_layer = between.groupby("layer")[column]
        low, middle, high = by_layer.min(), by_layer.mean(), by_layer.max()
        figure.add_trace(band(low.index, low, high, colour=NEUTRAL, legendgroup="between"))
        line = {"color": NEUTRAL, "width": 3}
        figure.add_trace(
            go.Scatter(x=middle.index, y=middle, mode="lines", name="between tasks", legendgroup="between", line=line)
        )
    for task in in_order(within["task_a"]):
        rows, style = within[within["task_a"] == task].sort_values("layer"), task_style(task)
        line = {"color": style.colour, "dash": style.dash, "width": 2}
        figure.add_trace(go.Scatter(x=rows["layer"], y=rows[column], mode="lines", name=task, line=line))
    figure.update_yaxes(range=[-1.02, 1.02])
    return figure


def plot_atv_norms(frame: pd.DataFrame) -> go.Figure:
    """Length of the vectors by layer: the median of each task, with the middle four fifths of its queries.

    Args:
        frame: from ``methods.atv.generated_norms``: ``layer, task, norm``.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["layer", "task", "norm"], figure="plot_atv_norms")
    figure = blank("Length of the vectors", height=480, x="layer", y="norm")
    for task in in_order(frame["task"]):
        norms, style = frame[frame["task"] == task].groupby("layer")["norm"], task_style(task)
        low, middle, high = (norms.quantile(share) for share in ((1 - MOST) / 2, 0.5, (1 + MOST) / 2))
        line = {"color": style.colour, "dash": style.dash, "width": 2}
        figure.add_trace(band(low.index, low, high, colour=style.colour, legendgroup=task))
        figure.add_trace(go.Scatter(x=middle.index, y=middle, mode="lines", name=task, legendgroup=task, line=line))
    figure.update_yaxes(rangemode="tozero")
    return figure


def plot_atv_against(frame: pd.DataFrame) -> go.Figure:
    """Cosine of each task's mean vector with constant vectors, by layer: its own task's, and other tasks'.

    Args:
        frame: from ``methods.atv.generated_against``: ``layer, task, source, same, cosine``.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["layer", "task", "source", "same", "cosine"], figure="plot_atv_against")
    figure = blank("Written vectors against constant ones", height=480, x="layer", y="cosine")
    for same, name, colour in ((True, "own task's", PALETTE[0]), (False, "other tasks'", NEUTRAL)):
        rows = frame[frame["same"].astype(bool) == same]
        if rows.empty:
            continue
        by_layer = rows.groupby("layer")["cosine"]
        low, middle, high = by_layer.min(), by_layer.mean(), by_layer.max()
        figure.add_trace(band(low.index, low, high, colour=colour, legendgroup=name))
        line = {"color": colour, "width": 2}
        figure.add_trace(go.Scatter(x=middle.index, y=middle, mode="lines", name=name, legendgroup=name, line=line))
    figure.update_yaxes(range=[-1.02, 1.02])
    return figure


def plot_atv_cloud(frame: pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """The vectors at one layer in two dimensions, one point per query, coloured by task.

    Args:
        frame: from ``methods.atv.generated_cloud``: ``task, sample_id, layer, x, y``; perhaps ``text`` for hover,
            ``explained_x, explained_y``.
        layer: plotted; the first of the frame when None.

    Raises:
        ValueError: when a column is missing, the frame is empty, or the layer is not in it.
    """
    require(frame, ["task", "sample_id", "layer", "x", "y"], figure="plot_atv_cloud")
    shown = int(frame["layer"].iloc[0]) if layer is None else layer
    require_choice("layer", shown, sorted(set(frame["layer"])), figure="plot_atv_cloud")
    rows = frame[frame["layer"] == shown]
    linear = projection_methods(rows).iloc[0] == "pca"
    titles = [
        f"principal component {place}{_share(rows, axis)}" if linear else f"UMAP {place}"
        for place, axis in enumerate("xy", start=1)
    ]
    note = "PCA" if linear else "UMAP: no directions or distances"
    figure = blank(f"Vectors at layer {shown} ({note})", height=560, x=titles[0], y=titles[1])
    for task in in_order(rows["task"]):
        own, style = rows[rows["task"] == task], task_style(task)
        texts = own["text"] if "text" in own else own["sample_id"]
        figure.add_trace(
            go.Scatter(
                x=own["x"],
                y=own["y"],
                mode="markers",
                name=task,
                marker={"color": style.colour, "symbol": style.symbol, "size": 8, "opacity": 0.75},
                text=[hover_text(text, limit=160) for text in texts],
                hovertemplate=f"<b>{task}</b>, %{{text}}<extra></extra>",
            )
        )
    figure.update_yaxes(zeroline=False, scaleanchor="x" if linear else None)
    figure.update_xaxes(zeroline=False)
    return figure


def _share(rows: pd.DataFrame, axis: str) -> str:
    name = f"explained_{axis}"
    return f" ({percent(rows[name].iloc[0])} of variance)" if name in rows else ""
