"""Students and teachers: what is left of the KL after a fit."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from cast_lens.plots.layout import band, blank, in_order, require
from cast_lens.plots.style import DASHES, NEUTRAL, PALETTE, SYMBOLS

PANEL = 300
"""Pixels of the axes of one teacher."""


def plot_students(frame: pd.DataFrame) -> go.Figure:
    """What is left of the KL to each teacher by rank: one panel per teacher, one line per student, intervals shaded.

    The axis is logarithmic; the grey line at 100 % is the unmodified model.

    Args:
        frame: ``teacher, rank, student, left, left_low, left_high, parameters``; shares of the unmodified model's KL.

    Raises:
        ValueError: when a column is missing or the frame is empty.
    """
    require(
        frame, ["teacher", "rank", "student", "left", "left_low", "left_high", "parameters"], figure="plot_students"
    )
    teachers, students = in_order(frame["teacher"]), in_order(frame["student"])
    height = 190 + PANEL * len(teachers)
    figure = make_subplots(
        rows=len(teachers),
        cols=1,
        shared_xaxes=True,
        vertical_spacing=60 / (height - 160),
        subplot_titles=[f"teacher: random {name}" for name in teachers],
        figure=blank("KL that students leave", height=height),
    )
    for row, teacher in enumerate(teachers, start=1):
        for place, student in enumerate(students):
            rows = frame[(frame["teacher"] == teacher) & (frame["student"] == student)].sort_values("rank")
            for trace in _line(rows, student, place, first=row == 1):
                figure.add_trace(trace, row=row, col=1)
    ranks = sorted(set(frame["rank"]))
    figure.add_hline(y=1, line={"color": NEUTRAL, "dash": "dash", "width": 1.5})
    figure.update_xaxes(type="log", tickvals=ranks, ticktext=[str(rank) for rank in ranks])
    figure.update_xaxes(title_text="rank of the teacher", row=len(teachers))
    figure.update_yaxes(type="log", tickformat="~%", dtick=1, title_text="KL left", matches="y")
    return figure.update_annotations(font={"size": 14})


def _line(rows: pd.DataFrame, student: str, place: int, *, first: bool) -> list[go.Scatter]:
    colour = PALETTE[place % len(PALETTE)]
    line = go.Scatter(
        x=rows["rank"],
        y=rows["left"],
        mode="lines+markers",
        name=student,
        showlegend=first,
        line={"color": colour, "width": 2, "dash": DASHES[place % len(DASHES)]},
        marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
        customdata=rows[["left_low", "left_high", "parameters"]].to_numpy(),
        hovertemplate=f"{student}, %{{customdata[2]:.0f}} parameters<br>rank %{{x}}: %{{y:.3p}} "
        "[%{customdata[0]:.3p}, %{customdata[1]:.3p}]<extra></extra>",
        legendgroup=student,
    )
    return [band(rows["rank"], rows["left_low"], rows["left_high"], colour=colour, legendgroup=student), line]
