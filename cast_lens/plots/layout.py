"""What figures share: checks on a frame, formatted numbers, an empty figure, interval bands, sliders and menus."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from .style import translucent

METRICS = {
    "exact_match": "exact match",
    "first_match": "first token right",
    "valid": "label validity",
    "choice_correct": "label-restricted accuracy",
    "macro_f1": "macro-F1",
    "first_valid": "first token admissible",
    "gold_logprob": "log-probability of the gold answer",
    "gold_margin": "log-probability margin of the gold answer",
}
"""Outcomes as they are written on axes."""

SHARES = frozenset({"exact_match", "valid", "choice_correct", "macro_f1", "first_match", "first_valid"})
"""Outcomes between 0 and 1, shown in per cent."""


def require(frame: pd.DataFrame, columns: Sequence[str], *, figure: str) -> None:
    """Refuse a frame that cannot be plotted.

    Raises:
        ValueError: when columns are missing or there are no rows.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{figure} needs the columns {', '.join(columns)}; the frame lacks {', '.join(missing)} "
            f"and has {', '.join(map(str, frame.columns)) or 'none'}"
        )
    if frame.empty:
        raise ValueError(f"{figure} got a frame without rows; was the stage that makes it finished?")


def require_choice(name: str, value: object, allowed: Sequence[object], *, figure: str) -> None:
    """Refuse an option that the frame does not have.

    Raises:
        ValueError: when ``value`` is not among ``allowed``.
    """
    if value not in allowed:
        raise ValueError(f"{figure}: {name}={value!r} is not in the frame; it has {', '.join(map(str, allowed))}")


def in_order(values: pd.Series) -> list[str]:
    """The different values, in order of their first appearance."""
    return [str(value) for value in dict.fromkeys(values)]


def percent(value: float) -> str:
    """A share as whole per cent; a dash when it is not known."""
    return f"{100 * value:.0f} %" if np.isfinite(value) else "–"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign; never minus zero."""
    if not np.isfinite(value):
        return "–"
    whole = round(100 * value)
    return f"{whole:+d}".replace("-", "−") if whole else "0"


def points_interval(low: float, high: float) -> str:
    """An interval of differences; empty when it is not known."""
    return f"[{points(low)}, {points(high)}]" if np.isfinite(low) and np.isfinite(high) else ""


def metric_text(metric: str, value: float) -> str:
    """One outcome with its unit."""
    if not np.isfinite(value):
        return "–"
    return percent(value) if metric in SHARES else f"{value:.2f}"


def hover_text(text: object, *, width: int = 56, limit: int = 280) -> str:
    """A sample's text for hover: cut, wrapped, and safe to show as HTML."""
    plain = " ".join(str(text).split())
    if len(plain) > limit:
        plain = plain[: limit - 1] + "…"
    return "<br>".join(html.escape(line) for line in textwrap.wrap(plain, width))


def layer_text(layers: Sequence[int]) -> list[str]:
    """Layers as slider labels."""
    return [str(int(layer)) for layer in layers]


SLIDER_HEIGHT = 80
"""Pixels that a slider adds to a figure."""
LAYER_MARK = "chosen layer"
"""Name of the shape that a layer slider moves."""


def cosine_range(*values: pd.Series) -> tuple[float, float]:
    """Ends of a cosine axis: 1 above, and below the quarter under the smallest value, 0 at most."""
    low = min(0.0, *(float(one.min()) for one in values))
    return max(-1.0, np.floor(4 * low) / 4), 1.0


ROW_HEIGHT = 34
"""Pixels of one row of a heat map of tasks."""


BAR = {"lenmode": "pixels", "len": 150, "y": 1, "yanchor": "top"}
"""A colour bar of fixed length for heat maps that may be only two rows high."""


def blank(title: str, *, height: int, x: str = "", y: str = "") -> go.Figure:
    """A figure without traces: title on top, axis titles, legend in rows below the axes."""
    figure = go.Figure()
    # The legend begins below tick labels and axis title, which take about 56 of the figure's pixels.
    below = -56 / max(height - 160, 100)
    figure.update_layout(
        template="cast_lens",
        title={"text": title, "y": 1, "yref": "container", "yanchor": "top"},
        height=height,
        legend={"orientation": "h", "x": 0, "y": below, "yanchor": "top"},
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def beside(figure: go.Figure, titles: Sequence[str], *, rows: int, x: str) -> go.Figure:
    """Heat maps side by side that share their y axis.

    ``layout.meta["narrow"]`` holds what puts them one below the other on a narrow screen, for pages that can
    change a layout; a plain plotly page leaves them side by side.

    Args:
        figure: without traces.
        titles: one per panel; a single panel has no title.
        rows: rows of each heat map.
        x: title of the x axes, written once.
    """
    panels = make_subplots(
        rows=1,
        cols=len(titles),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=titles if len(titles) > 1 else None,
        figure=figure,
    )
    middle, last = len(titles) // 2 + 1, len(titles)
    panels.update_xaxes(title_text=x, col=middle)
    if last == 1:
        return panels
    narrow = {
        **_stacked(last, body=ROW_HEIGHT * rows),
        **{f"xaxis{middle}.title.text": "", f"xaxis{last}.title.text": x},
    }
    return panels.update_layout(meta={"narrow": narrow}).update_annotations(font={"size": 13})


def _stacked(count: int, *, body: int) -> dict[str, Any]:
    """Changes of a layout that put panels of the given height in pixels one below the other."""
    title, labels, around = 46, 95, 150
    inner = count * (title + body + labels) - labels
    # The colour bar is hidden: there is no room for it, and heat maps print their numbers.
    changes: dict[str, Any] = {"height": inner + around, "coloraxis.showscale": False}
    for place in range(count):
        number = str(place + 1) if place else ""
        top = 1 - (place * (title + body + labels) + title) / inner
        changes[f"xaxis{number}.domain"] = [0, 1]
        changes[f"yaxis{number}.domain"] = [top - body / inner, top]
        changes[f"yaxis{number}.showticklabels"] = True
        changes[f"annotations[{place}].x"] = 0.5
        changes[f"annotations[{place}].y"] = top
    return changes


def band(
    x: ArrayLike, low: ArrayLike, high: ArrayLike, *, colour: str, alpha: float = 0.15, **trace: Any
) -> go.Scatter:
    """The area between two lines; points without an interval are left out."""
    at, bottom, top = (np.asarray(values, dtype=np.float64) for values in (x, low, high))
    known = np.isfinite(bottom) & np.isfinite(top)
    at, bottom, top = at[known], bottom[known], top[known]
    return go.Scatter(
        x=np.concatenate([at, at[::-1]]),
        y=np.concatenate([top, bottom[::-1]]),
        fill="toself",
        fillcolor=translucent(colour, alpha),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        **{"showlegend": False, **trace},
    )


def error_bars(value: ArrayLike, low: ArrayLike, high: ArrayLike, *, thickness: float = 1.5) -> dict[str, Any]:
    """Plotly's error bars from an interval."""
    middle, bottom, top = (np.asarray(values, dtype=np.float64) for values in (value, low, high))
    return {"array": top - middle, "arrayminus": middle - bottom, "thickness": thickness, "width": 0}


def slider(labels: Sequence[str], updates: Sequence[list[Any]], *, name: str, active: int) -> dict[str, Any]:
    """A slider whose steps update traces and layout.

    Args:
        labels: one per step.
        updates: arguments of ``Plotly.update``, one list per step: data, layout, trace numbers.
        name: what is chosen, shown before the label.
        active: step shown at first.
    """
    return {
        "name": name,
        "active": active,
        "currentvalue": {"prefix": f"{name} ", "xanchor": "left"},
        "x": 0,
        "y": 1.01,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 10},
        "len": 1,
        "steps": _choices(labels, updates),
    }


def add_slider(
    figure: go.Figure, labels: Sequence[str], updates: Sequence[list[Any]], *, name: str, active: int
) -> None:
    """Put a slider between title and axes, with room for it."""
    figure.update_layout(sliders=[slider(labels, updates, name=name, active=active)], margin={"t": 140})
    figure.update_layout(height=figure.layout.height + SLIDER_HEIGHT)


def menu(labels: Sequence[str], updates: Sequence[list[Any]], *, name: str, active: int) -> dict[str, Any]:
    """A drop-down menu whose entries update traces and layout; arguments as in ``slider``."""
    return {
        "type": "dropdown",
        "name": name,
        "active": active,
        "buttons": _choices(labels, updates),
        "x": 1,
        "xanchor": "right",
        "y": 1.02,
        "yanchor": "bottom",
        "showactive": True,
    }


def _choices(labels: Sequence[str], updates: Sequence[list[Any]]) -> list[dict[str, Any]]:
    pairs = zip(labels, updates, strict=True)
    return [{"label": label, "method": "update", "args": arguments} for label, arguments in pairs]


def nested(values: ArrayLike) -> list[Any]:
    """Numbers as plain lists, None for NaN: plotly does not convert the arguments of a slider."""
    array = np.asarray(values, dtype=np.float64)
    found = array.astype(object)
    found[np.isnan(array)] = None
    return list(found.tolist())
