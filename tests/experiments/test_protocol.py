"""Captions say how many stand behind a figure."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

from cast_lens.experiments.protocol import ReportFigure


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ({"n": [48, 48]}, "n = 48."),
        ({"n": [1152, 288]}, "n = 288 to 1,152."),
        ({"n": [24.0, float("nan")]}, "n = 24."),
        ({"n": [float("nan")]}, ""),
        ({"gain": [0.1]}, ""),
    ],
)
def test_n_is_that_of_the_frame(frame: dict[str, list[float]], told: str) -> None:
    one = ReportFigure("a", "Title", "Caption.", "alt", go.Figure(), pd.DataFrame(frame))
    assert one.counted == told
