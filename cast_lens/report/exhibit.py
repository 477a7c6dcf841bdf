"""A figure with the words that stand beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go


@dataclass(frozen=True, slots=True, eq=False)
class Exhibit:
    """One figure with its words.

    Attributes:
        name: of the files, and of the figure in the page.
        section: of the page.
        title: heading of the figure.
        caption: how to read it.
        alt: what it shows, for those who do not see it.
        figure: the figure.
        frame: the numbers behind it.
    """

    name: str
    section: str
    title: str
    caption: str
    alt: str
    figure: go.Figure
    frame: pd.DataFrame

    @property
    def counted(self) -> str:
        """How many samples, answers or whatever the caption speaks of stand behind a number; empty when unknown."""
        known = self.frame.get("n", pd.Series(dtype=float)).dropna()
        if known.empty:
            return ""
        least, most = int(known.min()), int(known.max())
        return f"n = {least:,}." if least == most else f"n = {least:,} to {most:,}."


def file_name(task: str) -> str:
    """A task's name as part of a file name: hub data sets have slashes in theirs."""
    return re.sub(r"[^\w.-]+", "-", task)
