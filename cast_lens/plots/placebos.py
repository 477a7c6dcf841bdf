"""Where an effect falls among those of its placebos."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from .drawing import blank
from .frames import in_order, percent, require
from .style import NEUTRAL, method_style

BINS = 40
PATTERNS = ("", "/", "x", ".")
"""Fill of the bars of a first, second, ... kind of placebo: all of them are grey."""
TIE = 1e-12
"""Means of the same outcomes in another order differ by rounding; a placebo that ties has reached the effect."""


def plot_placebos(
    frame: pd.DataFrame, *, x_title: str = "exact match", share: bool = True, bins: int = BINS
) -> go.Figure:
    """An effect as a line, and how often its placebos have which effect, as grey bars; how many reach it, in words.

    Args:
        frame: one row an effect: ``method, value``. Methods whose names begin with ``placebo`` make the bars, a kind
            of placebo each; every other row is a line.
        x_title: what the values are.
        share: whether they are shares, shown in per cent.
        bins: bars over the whole range of values.

    Raises:
        ValueError: when a column is missing, the frame is empty, a value is not finite, ``bins`` is below 1, or there
            is no placebo or nothing beside them.
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
    observed = frame[~placebo]
    for method, value in zip(observed["method"], observed["value"], strict=True):
        _line(figure, str(method), float(value))
    told = "<br>".join(reached(frame, share=share))
    figure.update_layout(barmode="stack", bargap=0, title_subtitle={"text": told, "font": {"size": 13}})
    figure.update_layout(margin={"t": 90 + 18 * told.count("<br>")})
    figure.update_xaxes(tickformat=".0%" if share else "")
    figure.update_yaxes(rangemode="tozero", tickformat="d")
    return figure


def reached(frame: pd.DataFrame, *, share: bool = True) -> list[str]:
    """How many placebos of each kind come up to each effect, a sentence a pair.

    Args:
        frame: as for ``plot_placebos``.
        share: whether effects are shares, written in per cent.
    """
    placebo = frame["method"].str.startswith("placebo")
    told = []
    for method, value in frame.loc[~placebo, ["method", "value"]].itertuples(index=False):
        effect = percent(value) if share else f"{value:.3g}"
        for kind, rows in frame[placebo].groupby("method", sort=False):
            hits = int((rows["value"] >= value - TIE * max(1.0, abs(value))).sum())
            told.append(
                f"{method} {effect}: reached by {hits} of {len(rows)} ({percent(hits / len(rows))}), {kind}"
            )
    return told


def _bars(
    values: Float[np.ndarray, " placebo"],
    edges: Float[np.ndarray, " edge"],
    kind: str,
    pattern: str,
    form: str,
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


def _line(figure: go.Figure, method: str, value: float) -> None:
    colour = method_style(method).colour
    figure.add_vline(x=value, line={"color": colour, "width": 3}, name=method)
    figure.add_annotation(
        x=value, y=1, yref="paper", yanchor="bottom", text=method, showarrow=False, font={"color": colour}
    )
