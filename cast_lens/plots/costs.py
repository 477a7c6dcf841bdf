"""What a query costs: bars by method."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from .drawing import ROW_HEIGHT, blank
from .frames import require
from .style import PALETTE

BARS = {"gflops": "prompts run in full", "cached_gflops": "common beginning of the prompts kept"}


def plot_costs(frame: pd.DataFrame) -> go.Figure:
    """Operations a query under each method, cheapest at the bottom.

    Args:
        frame: ``method, gflops``; perhaps ``cached_gflops`` (with the keys and values of what all prompts begin with
            kept).

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(frame, ["method", "gflops"], figure="plot_costs")
    rows = frame.sort_values("gflops", kind="stable")
    height = 200 + ROW_HEIGHT * len(rows)
    figure = blank("Operations a query", height=height, x="GFLOP a query")
    for place, (column, name) in enumerate(BARS.items()):
        if column in rows:
            bar = {"color": PALETTE[2 * place]}
            figure.add_trace(go.Bar(x=rows[column], y=rows["method"], orientation="h", name=name, marker=bar))
    return figure.update_yaxes(ticklen=0)
