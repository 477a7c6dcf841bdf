"""Are difference vectors parallel? Cosines by layer, and as a matrix with a layer slider."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from .layout import (
    BAR,
    LAYER_MARK,
    ROW_HEIGHT,
    add_slider,
    band,
    blank,
    cosine_range,
    in_order,
    layer_text,
    nested,
    require,
    require_choice,
)
from .style import DASHES, NEUTRAL, PALETTE

FAMILIES = ("classification", "multiple-choice", "word", "yes-no")
NAMED_PAIRS = 8
"""Up to this many pairs each has its own colour and legend entry; above it, each combination of families."""


@dataclass(frozen=True, slots=True)
class PairStyle:
    """How a pair of tasks is plotted; ``entry`` is its legend entry, which others may share."""

    entry: str
    colour: str
    dash: str


ACROSS = PairStyle("two families", "#8a6d9c", "solid")
"""Many pairs of different families share one colour: which is which is said where one points."""


def plot_parallelism(frame: pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """Cosine between the mean differences of every two tasks, layer by layer.

    The slider moves an upright line, to read all pairs off at one layer; in a report it moves with the other
    figures' layers. Pairs within a family above, pairs across families below (one panel when the frame has no
    families). Shaded: each pair's bootstrap interval; grey: where random directions, and differences of random
    zero-shot prompts, would be.

    Args:
        frame: from ``geometry.parallelism``: ``layer, task_a, task_b, cosine, low, high``; with ``family_a,
            family_b`` the panels part, with ``null_random_low, null_random_high, null_pairs_low,
            null_pairs_high`` the nulls are shown (the widest over a panel's pairs at each layer).
        layer: marked at first; the middle one when None.

    Raises:
        ValueError: when a column is missing, the frame is empty, or the layer is not in it.
    """
    require(frame, ["layer", "task_a", "task_b", "cosine", "low", "high"], figure="plot_parallelism")
    layers = sorted(int(value) for value in frame["layer"].unique())
    marked = layers[len(layers) // 2] if layer is None else layer
    require_choice("layer", marked, layers, figure="plot_parallelism")
    panels = _panels(frame)
    figure = blank("Parallelism of mean difference vectors", height=150 + 290 * len(panels))
    figure = make_subplots(
        rows=len(panels),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.09,
        subplot_titles=[name for name, _ in panels],
        figure=figure,
    )
    styles = _pair_styles(frame)
    seen: set[str] = set()
    for row, (_, panel) in enumerate(panels, start=1):
        for trace in (*_nulls(panel), *_pairs(panel, styles)):
            trace.showlegend = bool(trace.name) and trace.legendgroup not in seen
            seen.update([trace.legendgroup] if trace.name else [])
            figure.add_trace(trace, row=row, col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    figure.update_yaxes(title_text="cosine", range=cosine_range(frame["cosine"], frame["low"]), zeroline=True)
    figure.update_xaxes(title_text="layer", row=len(panels))
    if len(layers) > 1:
        _mark(figure, layers, marked)
    return figure


def _mark(figure: go.Figure, layers: list[int], marked: int) -> None:
    """An upright line at a layer, through all panels, and the slider that moves it."""
    line = {"color": NEUTRAL, "width": 2, "dash": "dot"}
    place = {"x0": marked, "x1": marked, "y0": 0, "y1": 1, "yref": "paper"}
    figure.add_shape(type="line", name=LAYER_MARK, line=line, **place)
    updates = [[{}, {"shapes[0].x0": one, "shapes[0].x1": one}, []] for one in layers]
    add_slider(figure, layer_text(layers), updates, name="Layer", active=layers.index(marked))


def _panels(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "family_a" not in frame or "family_b" not in frame:
        return [("All pairs of tasks", frame)]
    within = frame["family_a"] == frame["family_b"]
    parts = [("Two tasks of one family", frame[within]), ("Two tasks of different families", frame[~within])]
    return [(name, part) for name, part in parts if len(part)]


def _nulls(panel: pd.DataFrame) -> Iterator[go.Scatter]:
    names = {"null_pairs": ("null: no change of prompt", 0.16), "null_random": ("null: random directions", 0.30)}
    by_layer = panel.groupby("layer")
    for column, (name, alpha) in names.items():
        if f"{column}_low" not in panel or f"{column}_high" not in panel:
            continue
        low, high = by_layer[f"{column}_low"].min(), by_layer[f"{column}_high"].max()
        yield band(low.index, low, high, colour=NEUTRAL, alpha=alpha, name=name, legendgroup=column)


def _pairs(panel: pd.DataFrame, styles: dict[tuple[str, str], PairStyle]) -> Iterator[go.Scatter]:
    crowded = len(panel.groupby(["task_a", "task_b"])) > 10
    for (task_a, task_b), unsorted in panel.groupby(["task_a", "task_b"], sort=False):
        rows, style = unsorted.sort_values("layer"), styles[task_a, task_b]
        layer, low, high = rows["layer"], rows["low"], rows["high"]
        yield band(layer, low, high, colour=style.colour, alpha=0.05 if crowded else 0.14, legendgroup=style.entry)
        yield go.Scatter(
            x=layer,
            y=rows["cosine"],
            mode="lines",
            name=style.entry,
            legendgroup=style.entry,
            line={"color": style.colour, "width": 2, "dash": style.dash},
            opacity=0.6 if crowded else 1,
            customdata=rows[["low", "high"]].to_numpy(),
            hovertemplate=f"{task_a} – {task_b}<br>layer %{{x}}: cosine %{{y:.2f}} "
            "[%{customdata[0]:.2f}, %{customdata[1]:.2f}]<extra></extra>",
        )


def _pair_styles(frame: pd.DataFrame) -> dict[tuple[str, str], PairStyle]:
    pairs = frame.drop_duplicates(["task_a", "task_b"])
    keys = list(zip(pairs["task_a"], pairs["task_b"], strict=True))
    if len(keys) <= NAMED_PAIRS or "family_a" not in frame or "family_b" not in frame:
        cycle = [(colour, dash) for dash in DASHES for colour in PALETTE]
        return {key: PairStyle(" – ".join(key), *cycle[place % len(cycle)]) for place, key in enumerate(keys)}
    families = zip(pairs["family_a"], pairs["family_b"], strict=True)
    return {key: family_style(str(a), str(b)) if a == b else ACROSS for key, (a, b) in zip(keys, families, strict=True)}


def family_style(first: str, second: str) -> PairStyle:
    """A colour for each family, and one for each combination of two."""
    entry = f"within {first}" if first == second else f"{first} – {second}"
    known = [*zip(FAMILIES, FAMILIES, strict=True), *combinations(FAMILIES, 2)]
    place = (
        known.index((first, second)) if (first, second) in known else zlib.crc32(entry.encode()) % (2 * len(PALETTE))
    )
    return PairStyle(entry, PALETTE[place % len(PALETTE)], DASHES[place // len(PALETTE)])


def plot_cosine_matrix(frame: pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """The square of cosines between mean differences, with a slider over layers.

    Args:
        frame: from ``geometry.cosine_matrix`` at one or several layers, or from ``geometry.parallelism`` (its
            pairs are mirrored): ``layer, task_a, task_b, cosine``.
        layer: shown at first; the last one when None.

    Raises:
        ValueError: when a column is missing, the frame is empty, or the layer is not in it.
    """
    require(frame, ["layer", "task_a", "task_b", "cosine"], figure="plot_cosine_matrix")
    layers = sorted(int(value) for value in frame["layer"].unique())
    shown = layers[-1] if layer is None else layer
    require_choice("layer", shown, layers, figure="plot_cosine_matrix")
    tasks = in_order(pd.concat([frame["task_a"], frame["task_b"]]))
    squares = {one: _square(frame[frame["layer"] == one], tasks) for one in layers}
    figure = blank("Cosine between mean difference vectors", height=max(340, 160 + ROW_HEIGHT * len(tasks)))
    figure.add_trace(
        go.Heatmap(
            x=tasks,
            y=tasks,
            z=squares[shown],
            coloraxis="coloraxis",
            texttemplate="%{z:.2f}" if len(tasks) <= 12 else None,
            hovertemplate="%{y} – %{x}<br>cosine %{z:.2f}<extra></extra>",
        )
    )
    scale = {"cmin": -1, "cmax": 1, "cmid": 0, "colorbar": {"title": {"text": "cosine", "side": "right"}, **BAR}}
    figure.update_layout(coloraxis=scale, meta={"narrow": {"coloraxis.showscale": len(tasks) > 12}})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=-40)
    if len(layers) > 1:
        updates = [[{"z": [nested(squares[one].round(3))]}, {}, [0]] for one in layers]
        add_slider(figure, layer_text(layers), updates, name="Layer", active=layers.index(shown))
    return figure


def _square(rows: pd.DataFrame, tasks: list[str]) -> Float[np.ndarray, "task task"]:
    """Both triangles of the matrix: a pair given once counts both ways, a task has cosine 1 with itself."""
    square = np.full((len(tasks), len(tasks)), np.nan)
    np.fill_diagonal(square, 1.0)
    for task_a, task_b, cosine in zip(rows["task_a"], rows["task_b"], rows["cosine"], strict=True):
        a, b = tasks.index(str(task_a)), tasks.index(str(task_b))
        square[a, b] = square[b, a] = cosine
    return square
