"""What a notebook shows for an object that ends a cell: small HTML tables, without plotly and without scripts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .frames import METRICS, SHARES

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
