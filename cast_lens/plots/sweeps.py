"""Where steering works: the layer × strength plane."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from .layout import METRICS, SHARES, blank, hover_text, in_order, menu, metric_text, nested, require, require_choice
from .style import PALETTE, SEQUENTIAL

UNSTEERED = "unsteered"
PANEL_HEIGHT = 150


def plot_sweep(frame: pd.DataFrame, *, source: str | None = None, metric: str | None = None) -> go.Figure:
    """Heat maps over layer (x) and strength (y): one row of maps per source, the vector and its placebos as
    panels.

    A ring marks the chosen cell. All panels share one colour scale; the menu changes the metric. Cells show
    their n, interval and, where the frame says, the answers that changed, on hover.

    Args:
        frame: ``source, kind, layer, strength, n`` and one column or more of outcomes (``first_match,
            first_valid, choice_correct, gold_logprob, exact_match, valid``); perhaps ``chosen``,
            ``<metric>_low`` and ``<metric>_high``; ``changed`` and ``n_changed`` from
            ``evaluation.changed_answers``; and rows of kind ``unsteered``, which go to the hover text.
        source: rows to plot; all sources when None.
        metric: shown at first; the first one that the frame has when None.

    Raises:
        ValueError: when a column is missing, the frame is empty, or source or metric are not in it.
    """
    require(frame, ["source", "kind", "layer", "strength", "n"], figure="plot_sweep")
    if source is not None:
        require_choice("source", source, in_order(frame["source"]), figure="plot_sweep")
        frame = frame[frame["source"] == source]
    cells = frame[frame["kind"] != UNSTEERED]
    metrics = [name for name in METRICS if name in frame and bool(cells[name].notna().all())]
    require_choice("metric", metric or "".join(metrics[:1]), metrics, figure="plot_sweep")
    shown = metrics.index(metric) if metric else 0
    panels = list(cells.groupby(["source", "kind"], sort=False))
    title = f"Sweep on the validation split of {source}" if source else "Sweeps on the sources' validation splits"
    figure = make_subplots(
        rows=len(panels), cols=1, shared_xaxes=True, vertical_spacing=min(0.12, 0.4 / len(panels)),
        subplot_titles=[kind if source else f"{name}: {kind}" for (name, kind), _ in panels],
        figure=blank(title, height=150 + (PANEL_HEIGHT + 40) * len(panels)),
    )  # fmt: skip
    for row, ((name, _), panel) in enumerate(panels, start=1):
        unsteered = frame[(frame["source"] == name) & (frame["kind"] == UNSTEERED)]
        figure.add_trace(_map(panel, unsteered, metrics, metrics[shown]), row=row, col=1)
    for row, (_, panel) in enumerate(panels, start=1):
        figure.add_trace(_ring(panel), row=row, col=1)
    updates = [_update([panel for _, panel in panels], one) for one in metrics]
    figure.update_layout(coloraxis=updates[shown][1]["coloraxis"])
    if len(metrics) > 1:
        figure.update_layout(
            updatemenus=[menu([METRICS[one] for one in metrics], updates, name="Metric", active=shown)]
        )
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False, type="category", title_text="strength")
    figure.update_xaxes(title_text="layer", row=len(panels))
    return figure


def _axes(panel: pd.DataFrame) -> tuple[list[int], list[str]]:
    """Layers, and strengths as text: they are not evenly spaced, and each deserves a full row."""
    layers = sorted(int(layer) for layer in panel["layer"].unique())
    return layers, [f"{strength:g}" for strength in sorted(panel["strength"].unique())]


def _grid(panel: pd.DataFrame, column: str) -> pd.DataFrame:
    return panel.pivot(index="strength", columns="layer", values=column).sort_index().sort_index(axis=1)


def _values(panel: pd.DataFrame, metric: str) -> Float[np.ndarray, "strength layer"]:
    return _grid(panel, metric).to_numpy(dtype=np.float64)


def _map(panel: pd.DataFrame, unsteered: pd.DataFrame, metrics: Sequence[str], shown: str) -> go.Heatmap:
    layers, strengths = _axes(panel)
    lines, columns = _hover_lines(panel, unsteered, metrics)
    return go.Heatmap(
        x=layers,
        y=strengths,
        z=nested(_values(panel, shown).round(4)),
        customdata=nested(np.stack([_values(panel, column).round(3) for column in columns], axis=-1)),
        text=_notes(panel, metrics),
        coloraxis="coloraxis",
        hovertemplate="<br>".join(["layer %{x}, strength %{y}", *lines]) + "%{text}<extra></extra>",
        xgap=1,
        ygap=1,
    )


def _hover_lines(panel: pd.DataFrame, unsteered: pd.DataFrame, metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """Lines of the hover template, one per metric, and the columns that they refer to."""
    columns, lines = ["n"], ["n = %{customdata[0]}"]
    for metric in metrics:
        form = ":.0%" if metric in SHARES else ":.2f"
        line = f"{METRICS[metric]} %{{customdata[{len(columns)}]{form}}}"
        columns.append(metric)
        if {f"{metric}_low", f"{metric}_high"} <= set(panel.columns):
            line += f" [%{{customdata[{len(columns)}]{form}}}, %{{customdata[{len(columns) + 1}]{form}}}]"
            columns += [f"{metric}_low", f"{metric}_high"]
        if len(unsteered):
            line += f", unsteered {metric_text(metric, float(unsteered[metric].iloc[0]))}"
        lines.append(line)
    return lines, columns


def _notes(panel: pd.DataFrame, metrics: Sequence[str]) -> list[list[str]]:
    """What only some cells have: outcomes of whole answers, and the answers that changed."""
    rest = [name for name in METRICS if name in panel and name not in metrics]
    texts = []
    for row in panel.to_dict("records"):
        known = [f"{METRICS[name]} {metric_text(name, row[name])}" for name in rest if row[name] == row[name]]
        changed = _changes(row)
        texts.append("".join(f"<br>{line}" for line in (*known, *changed)))
    grid = _grid(panel.assign(text=texts), "text")
    return [[text if isinstance(text, str) else "" for text in row] for row in grid.to_numpy()]


def _changes(row: Mapping[Hashable, Any]) -> list[str]:
    """Lines of hover text on the answers that a cell changes; none where answers were not written out."""
    lines = row.get("changed")
    if not isinstance(lines, str) or not lines:
        return []
    count = f"{row['n_changed']:.0f} of {row['n']:.0f} answers change" if "n_changed" in row else "answers change"
    return [f"<b>{count}</b>", *(hover_text(line, width=64, limit=150) for line in lines.splitlines())]


def _ring(panel: pd.DataFrame) -> go.Scatter:
    """The chosen cell of a panel; placebo panels have none."""
    chosen = panel[panel["chosen"].astype(bool)] if "chosen" in panel else panel.head(0)
    strengths = [f"{strength:g}" for strength in chosen["strength"]]
    return go.Scatter(
        x=[*chosen["layer"], *chosen["layer"]],
        y=strengths * 2,
        mode="markers",
        name="chosen",
        showlegend=False,
        # Two rings, so that one of them is visible against any cell.
        marker={
            "symbol": "circle-open",
            "size": [16] * len(chosen) + [12] * len(chosen),
            "color": ["#ffffff"] * len(chosen) + [PALETTE[7]] * len(chosen),
            "line": {"width": 2.5},
            "opacity": 1,
        },
        hoverinfo="skip",
    )


def _update(panels: Sequence[pd.DataFrame], metric: str) -> list[Any]:
    """Arguments of ``Plotly.update`` that show a metric: values and colour scale."""
    values = [_values(panel, metric) for panel in panels]
    low = 0.0 if metric in SHARES else float(min(np.nanmin(value) for value in values))
    high = float(max(np.nanmax(value) for value in values))
    axis = {
        "colorscale": SEQUENTIAL,
        "cmin": low,
        "cmax": high if high > low else low + 1,
        "colorbar": {
            "title": {"text": METRICS[metric], "side": "right"},
            "tickformat": ".0%" if metric in SHARES else "",
            "thickness": 14,
            "outlinewidth": 0,
        },
    }
    return [{"z": [nested(value.round(4)) for value in values]}, {"coloraxis": axis}, list(range(len(panels)))]
