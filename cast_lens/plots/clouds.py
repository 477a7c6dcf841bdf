"""Activations and their differences: clouds with arrows, entropy, agreement within and between tasks, and the vectors
that an adaptive task vector generates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from .layout import (
    add_slider,
    band,
    blank,
    cosine_range,
    hover_text,
    in_order,
    layer_text,
    nested,
    percent,
    require,
    require_choice,
)
from .style import NEUTRAL, PALETTE, task_style

ENDS = ("zero-shot", "few-shot")


@dataclass(frozen=True, slots=True)
class Arrows:
    """One layer's arrows: the points of every trace, and what the axes show.

    Attributes:
        x, y: for each trace its points; in a sample trace zero-shot twice, few-shot, gap, over and over. Where angles
            follow the previous point plotly does not plot a first point, so the start is listed twice.
        x_title, y_title: titles of the axes.
    """

    x: list[list[float | None]]
    y: list[list[float | None]]
    x_title: str
    y_title: str

    def update(self) -> list[Any]:
        """As arguments of ``Plotly.update``."""
        titles = {"xaxis.title.text": self.x_title, "yaxis.title.text": self.y_title}
        return [{"x": self.x, "y": self.y}, titles, list(range(len(self.x)))]


def plot_projection(frame: pd.DataFrame, *, method: str = "pca", layer: int | None = None) -> go.Figure:
    """Each sample's activation, from its zero-shot prompt (dot) to its few-shot prompt (arrowhead).

    The bold arrow of a task joins the centres of its two clouds. PCA is linear, so there it is the projection
    of the mean difference vector, and parallel vectors look parallel as far as two axes reach. UMAP gets
    points, hollow for zero-shot, and no arrows: directions in it mean nothing. The slider changes the layer;
    each layer has its own axes.

    Args:
        frame: from ``geometry.project`` or ``project_layers``: ``task, sample_id, condition, layer, x, y``;
            perhaps ``method`` (``pca`` or ``umap``; inferred from the explained variance without it), ``text``
            for hover, ``explained_x, explained_y``.
        method: rows to plot.
        layer: shown at first; the middle one when None.

    Raises:
        ValueError: when a column is missing, the frame is empty, or method or layer are not in it.
    """
    require(frame, ["task", "sample_id", "condition", "layer", "x", "y"], figure="plot_projection")
    methods = projection_methods(frame)
    require_choice("method", method, in_order(methods), figure="plot_projection")
    frame = frame[methods == method]
    layers = sorted(int(value) for value in frame["layer"].unique())
    shown = layers[len(layers) // 2] if layer is None else layer
    require_choice("layer", shown, layers, figure="plot_projection")
    tasks, means = in_order(frame["task"]), method == "pca"
    arrows = {one: _arrows(frame[frame["layer"] == one], tasks, means=means) for one in layers}
    note = "PCA" if means else f"{method.upper()}: no directions"
    where = f", layer {shown}" if len(layers) == 1 else ""
    figure = blank(f"From zero-shot to few-shot activations ({note}){where}", height=620)
    for task in tasks:
        trace = _sample_trace(task, frame[frame["task"] == task], arrows=means)
        figure.add_trace(trace.update(showlegend=not means))
    figure.add_traces([_mean_trace(task) for task in tasks if means])
    for trace, x, y in zip(figure.data, arrows[shown].x, arrows[shown].y, strict=True):
        trace.update(x=x, y=y)
    figure.update_xaxes(title_text=arrows[shown].x_title)
    figure.update_yaxes(title_text=arrows[shown].y_title, zeroline=False, scaleanchor="x" if means else None)
    if len(layers) > 1:
        updates = [arrows[one].update() for one in layers]
        add_slider(figure, layer_text(layers), updates, name="Layer", active=layers.index(shown))
    return figure


def projection_methods(frame: pd.DataFrame) -> pd.Series:
    """Method of each row: as given, else UMAP where no variance is explained."""
    if "method" in frame:
        return frame["method"]
    unexplained = frame["explained_x"].isna() if "explained_x" in frame else pd.Series(False, index=frame.index)
    return unexplained.map({True: "umap", False: "pca"})


def _arrows(rows: pd.DataFrame, tasks: list[str], *, means: bool) -> Arrows:
    points: dict[str, list[list[float | None]]] = {"x": [], "y": []}
    for axis, traces in points.items():
        sides = [_sides(rows[rows["task"] == task], axis) for task in tasks]
        traces.extend(nested(np.pad(side, ((0, 0), (0, 1)), constant_values=np.nan).ravel().round(4)) for side in sides)
        traces.extend(nested(side.mean(axis=0).round(4)) for side in sides if means)
    titles = [_axis_title(rows, axis, place) if means else f"UMAP {place}" for place, axis in enumerate("xy", start=1)]
    return Arrows(points["x"], points["y"], *titles)


def _sides(rows: pd.DataFrame, axis: str) -> np.ndarray:
    """[sample, 3]: the zero-shot coordinate of each sample, once more, and the few-shot one."""
    wide = rows.pivot(index="sample_id", columns="condition", values=axis)
    order = [ENDS[0], *ENDS]
    return wide.loc[list(dict.fromkeys(rows["sample_id"])), order].to_numpy(dtype=np.float64)


def _axis_title(rows: pd.DataFrame, axis: str, place: int) -> str:
    name = f"principal component {place}"
    return f"{name} ({percent(rows[f'explained_{axis}'].iloc[0])} of variance)" if f"explained_{axis}" in rows else name


def _sample_trace(task: str, rows: pd.DataFrame, *, arrows: bool) -> go.Scatter:
    """A task's samples: arrows, or hollow and filled points where a direction would mean nothing."""
    once = rows.drop_duplicates("sample_id")
    texts = [hover_text(text, limit=160) for text in (once["text"] if "text" in once else once["sample_id"])]
    colour = task_style(task).colour
    ends = ("circle", "circle", "arrow") if arrows else ("circle-open", "circle-open", "circle")
    sizes = (0, 5, 8) if arrows else (0, 7, 7)
    return go.Scatter(
        mode="lines+markers" if arrows else "markers",
        name=task,
        legendgroup=task,
        line={"color": colour, "width": 1},
        opacity=0.7,
        marker={
            "color": colour,
            "symbol": [*ends, "circle"] * len(texts),
            "size": [*sizes, 0] * len(texts),
            "opacity": 1,
            "line": {"width": 0 if arrows else 1.5, "color": colour},
            "angleref": "previous" if arrows else "up",
        },
        text=[f"{side}<br>{text}" for text in texts for side in (ENDS[0], *ENDS, ENDS[1])],
        hovertemplate=f"<b>{task}</b>, %{{text}}<extra></extra>",
    )


def _mean_trace(task: str) -> go.Scatter:
    style = task_style(task)
    return go.Scatter(
        mode="lines+markers",
        name=task,
        legendgroup=task,
        line={"color": style.colour, "width": 4},
        marker={
            "color": style.colour,
            "symbol": [style.symbol, style.symbol, "arrow"],
            "size": [0, 9, 18],
            "angleref": "previous",
            "opacity": 1,
            "line": {"width": 0},
        },
        hovertemplate=f"<b>{task}</b>: centre of the cloud<extra></extra>",
    )


def plot_entropy(frame: pd.DataFrame) -> go.Figure:
    """Matrix entropy of zero-shot (dotted) and few-shot (solid) activations by layer.

    Args:
        frame: from ``geometry.entropy_by_layer``: ``task, layer, condition, entropy``; perhaps ``n``.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["task", "layer", "condition", "entropy"], figure="plot_entropy")
    figure = blank("Matrix entropy of the activations", height=460, x="layer", y="matrix entropy (nats)")
    for (task, condition), unsorted in frame.groupby(["task", "condition"], sort=False):
        rows, style = unsorted.sort_values("layer"), task_style(str(task))
        few = condition == "few-shot"
        figure.add_trace(
            go.Scatter(
                x=rows["layer"],
                y=rows["entropy"],
                mode="lines+markers",
                name=str(task),
                legendgroup=str(task),
                showlegend=few,
                line={"color": style.colour, "width": 2, "dash": "solid" if few else "dot"},
                marker={"symbol": style.symbol if few else f"{style.symbol}-open", "size": 5},
                hovertemplate=f"{task}, {condition}<br>layer %{{x}}: %{{y:.2f}} nats<extra></extra>",
            )
        )
    figure.update_yaxes(rangemode="tozero")
    _key(figure, {"few-shot": "solid", "zero-shot": "dot"})
    return figure


def plot_cohesion(frame: pd.DataFrame) -> go.Figure:
    """How well the difference vectors of one task agree: mean cosine between two samples' differences, by
    layer.

    Args:
        frame: from ``geometry.cohesion``: ``task, layer, pairwise_cosine, low, high``; perhaps ``n``.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["task", "layer", "pairwise_cosine", "low", "high"], figure="plot_cohesion")
    figure = blank("Agreement of difference vectors within a task", height=460, x="layer", y="mean pairwise cosine")
    for task, unsorted in frame.groupby("task", sort=False):
        rows, style = unsorted.sort_values("layer"), task_style(str(task))
        figure.add_trace(band(rows["layer"], rows["low"], rows["high"], colour=style.colour, legendgroup=str(task)))
        figure.add_trace(
            go.Scatter(
                x=rows["layer"],
                y=rows["pairwise_cosine"],
                mode="lines+markers",
                name=str(task),
                legendgroup=str(task),
                line={"color": style.colour, "width": 2, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 5},
                customdata=rows[["low", "high"]].to_numpy(),
                hovertemplate=f"{task}<br>layer %{{x}}: %{{y:.2f}} "
                "[%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>",
            )
        )
    figure.update_yaxes(range=cosine_range(frame["low"]))
    return figure


def plot_alignment(frame: pd.DataFrame) -> go.Figure:
    """Cosine of each task's samples to its own mean difference (bold) and to other tasks' means (thin), by
    layer.

    Args:
        frame: from ``geometry.alignment``: ``task, other, layer, cosine, low, high``.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["task", "other", "layer", "cosine", "low", "high"], figure="plot_alignment")
    faint = 0.45 if frame["task"].nunique() <= 5 else 0.2
    figure = blank(
        "Do samples point along their own task's mean?", height=460, x="layer", y="mean cosine of samples to a mean"
    )
    for (task, other), unsorted in frame.groupby(["task", "other"], sort=False):
        rows, style, own = unsorted.sort_values("layer"), task_style(str(task)), task == other
        if own:
            figure.add_trace(band(rows["layer"], rows["low"], rows["high"], colour=style.colour, legendgroup=str(task)))
        figure.add_trace(
            go.Scatter(
                x=rows["layer"],
                y=rows["cosine"],
                mode="lines",
                name=str(task),
                legendgroup=str(task),
                showlegend=bool(own),
                opacity=1 if own else faint,
                line={"color": style.colour, "width": 2.5 if own else 1, "dash": "solid" if own else "dot"},
                customdata=rows[["low", "high"]].to_numpy(),
                hovertemplate=f"samples of {task}<br>to the mean of {other}<br>layer %{{x}}: %{{y:.2f}} "
                "[%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>",
            )
        )
    figure.update_yaxes(range=cosine_range(frame["cosine"]))
    _key(figure, {"own mean": "solid", "other means": "dot"})
    return figure


def _key(figure: go.Figure, dashes: dict[str, str]) -> None:
    """Legend entries that say what the dashes mean."""
    for name, dash in dashes.items():
        line = {"color": NEUTRAL, "dash": dash, "width": 2}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name=name, line=line, hoverinfo="skip"))


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
