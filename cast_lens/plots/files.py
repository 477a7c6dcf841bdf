"""Figures on disk (a page that opens offline, a picture where a browser is found, the numbers behind both), and the
small HTML tables that a notebook shows for an object that ends a cell.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.offline

from ..files import atomic_write
from .layout import LAYER_MARK, METRICS, SHARES, SLIDER_HEIGHT

_log = logging.getLogger("cast_lens")

Png = Literal["auto", "never"]
WIDTH = 1000
SCALE = 2.0
"""Twice the pixels of the layout: sharp on a projector and in print."""
SECONDS = 120.0
"""A picture that takes longer is given up; on an idle machine one takes below 1."""

HOW_TO = (
    "PNG missing ({reason}); the HTML and CSV are there. For PNG, install the extra with "
    "pip install 'cast-lens[static]', and Chrome or Chromium from your system, or with plotly_get_chrome"
)


def write_figure(figure: go.Figure, frame: pd.DataFrame, folder: Path, name: str, *, png: Png = "auto") -> list[Path]:
    """Write one figure as ``name.html``, ``name.csv`` and, where possible, ``name.png``.

    Args:
        figure: from a ``plot_`` function.
        frame: the numbers behind it.
        folder: made as needed; all pages in it share one ``plotly.min.js``, so they open offline.
        name: name of the files, without ending.
        png: ``never`` to leave pictures out. With ``auto`` a missing browser is a warning that says how to
            get one.

    Returns:
        the files written.
    """
    return write_figures({name: (figure, frame)}, folder, png=png)


def write_figures(
    figures: Mapping[str, tuple[go.Figure, pd.DataFrame]], folder: Path, *, png: Png = "auto"
) -> list[Path]:
    """Write several figures, with one browser for all pictures (starting it takes seconds, a picture a
    fraction).

    Args:
        figures: figure and frame by file name without ending.
        folder, png: as in ``write_figure``.

    Returns:
        the files written.

    Raises:
        ValueError: when a name is not a plain file name, or ``png`` is unknown.
    """
    if png not in ("auto", "never"):
        raise ValueError(f"png={png!r} is unknown; choose auto or never")
    for name in figures:
        if name in ("", "..") or Path(name).name != name:
            raise ValueError(f"name={name!r} must be a plain file name, without folders or an ending")
    written = []
    if figures:
        written.append(_library(folder))
    for name, (figure, frame) in figures.items():
        page = figure.to_html(include_plotlyjs="directory", config={"displaylogo": False, "responsive": True})
        written.append(atomic_write(folder / f"{name}.html", page.encode()))
        written.append(atomic_write(folder / f"{name}.csv", frame.to_csv(index=False).encode()))
    if png == "auto" and figures:
        written += _pictures({name: figure for name, (figure, _) in figures.items()}, folder)
    return written


def _library(folder: Path) -> Path:
    path, wanted = folder / "plotly.min.js", plotly.offline.get_plotlyjs().encode()
    if path.is_file() and path.stat().st_size == len(wanted):
        return path
    return atomic_write(path, wanted)


def _pictures(figures: Mapping[str, go.Figure], folder: Path) -> list[Path]:
    """PNG files of all figures, or one logged line: a missing or broken browser must not end a run."""
    paths = {folder / f"{name}.png": figure for name, figure in figures.items()}
    for path in paths:
        # A picture of an earlier run must not remain next to the new page.
        path.unlink(missing_ok=True)
    problem = _draw(paths)
    if problem:
        _log.warning(HOW_TO.format(reason=problem[:300]))
    return [path for path in paths if path.is_file()]


def _draw(figures: Mapping[Path, go.Figure]) -> str:
    """Have a browser render the figures; returns what went wrong, empty when nothing did."""
    try:
        from kaleido import write_fig_from_object_sync
        from kaleido.errors import ChromeNotFoundError
    except ImportError:
        return "kaleido is not installed"
    jobs = [
        {
            "fig": picture.to_dict(),
            "path": path,
            "opts": {"format": "png", "width": WIDTH, "height": picture.layout.height, "scale": SCALE},
        }
        for path, picture in ((path, still(figure)) for path, figure in figures.items())
    ]
    try:
        # No MathJax: it would be fetched from the network, and no text here uses it.
        problems = write_fig_from_object_sync(jobs, kopts={"mathjax": False, "timeout": SECONDS})
    except ChromeNotFoundError:
        return "no Chrome or Chromium was found"
    except Exception as error:
        problems = (error,)
    return "" if not problems else f"the browser failed: {type(problems[0]).__name__} {problems[0]}"


def still(figure: go.Figure) -> go.Figure:
    """A copy for a picture: no sliders and menus; the title says what a slider was set to, unless all of it is shown
    and the slider moves a mark, which goes with it.
    """
    picture = go.Figure(figure)
    if not (picture.layout.sliders or picture.layout.updatemenus):
        return picture
    marks = [shape for shape in picture.layout.shapes if shape.name == LAYER_MARK]
    picture.layout.shapes = [shape for shape in picture.layout.shapes if shape.name != LAYER_MARK]
    for slider in picture.layout.sliders:
        if not marks:
            picture.layout.title.text += f", {slider.name.lower()} {slider.steps[slider.active].label}"
        picture.layout.height -= SLIDER_HEIGHT
        picture.layout.margin.t = None
    picture.layout.sliders = picture.layout.updatemenus = None
    return picture


# From the lowest to the highest value of a grid: white to the palette's blue.
LOW, HIGH = (255, 255, 255), (0, 114, 178)
DARK = 0.55
"""Share of the way to ``HIGH`` from which on text is white."""


def sweep_preview(cells: pd.DataFrame, *, unsteered: str = "unsteered") -> str:
    """One shaded grid per direction, strengths down and layers across, on one scale.

    Args:
        cells: one row per cell: ``kind, layer, strength`` and outcomes, as ``Sweep.to_frame`` gives them.
        unsteered: kind of the row without steering.
    """
    steered = cells[cells["kind"] != unsteered]
    metric = next((name for name in METRICS if name in cells and bool(steered[name].notna().all())), None)
    if metric is None or steered.empty:
        return cells.to_html(index=False)
    factor = 100 if metric in SHARES else 1
    plain = factor * float(cells.loc[cells["kind"] == unsteered, metric].mean())
    low, high = factor * steered[metric].min(), factor * steered[metric].max()
    grids = []
    for kind, part in steered.groupby("kind", sort=False):
        grid = factor * part.pivot_table(index="strength", columns="layer", values=metric)
        shown = grid.style.map(_shade, low=low, high=high).format("{:.0f}" if factor == 100 else "{:.2f}")
        grids.append(shown.format_index("{:g}", axis=0).set_caption(str(kind)).to_html())
    unit = " (%)" if factor == 100 else ""
    return f"<p>{METRICS[metric]}{unit}; unsteered {plain:.3g}</p>" + "".join(grids)


def bars_preview(values: Sequence[float], index: Sequence[int], *, title: str, column: str) -> str:
    """One bar per row.

    Args:
        values: finite numbers from 0.
        index: what each bar is for, such as a layer.
        title, column: captions.
    """
    frame = pd.DataFrame({column: np.asarray(values, dtype=float)}, index=pd.Index(index, name="layer"))
    shown = frame.style.bar(color=f"rgb{HIGH}", vmin=0.0, width=60, align="left").format("{:.3g}")
    return str(shown.set_caption(title).to_html())


def _shade(value: float, *, low: float, high: float) -> str:
    share = (value - low) / (high - low) if high > low else 0.0
    colour = tuple(round(a + share * (b - a)) for a, b in zip(LOW, HIGH, strict=True))
    return f"background-color: rgb{colour}; color: {'white' if share > DARK else 'black'}"
