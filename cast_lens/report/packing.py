"""Figures as data in a page: plain JSON, rounded, without what all figures share; and plotly.js, compressed."""

from __future__ import annotations

import base64
import functools
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.offline

from ..experiments.protocol import ReportFigure
from ..plots.style import Theme, template

DIGITS = 4
"""Significant digits of numbers in figures: finer than a pixel."""
THEMES: tuple[Theme, ...] = ("light", "dark")


def figure_data(shown: Sequence[ReportFigure]) -> str:
    """All figures as JSON: two templates, and of each figure its traces and its layout without title and
    template.

    Safe inside a ``script`` element: no ``<`` is left.
    """
    figures = {}
    for one in shown:
        whole = plain(one.figure.to_plotly_json())
        layout = {name: value for name, value in whole["layout"].items() if name not in ("template", "title")}
        figures[one.name] = {"data": whole["data"], "layout": layout}
    templates = {theme: plain(template(theme).to_plotly_json()) for theme in THEMES}
    return as_script({"templates": templates, "figures": figures})


def as_script(value: Any) -> str:
    """Plain data as JSON that is safe inside a ``script`` element: no ``<`` is left."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(value: Any) -> Any:
    """Plotly's JSON as plain lists and numbers, rounded; not-a-number becomes null."""
    if isinstance(value, dict):
        if set(value) >= {"dtype", "bdata"}:
            return plain(_unpacked(value))
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return _rounded(value)
    return value


def _rounded(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _unpacked(value: dict[str, Any]) -> np.ndarray:
    """The array that plotly packed into base64."""
    array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=np.dtype(value["dtype"]).newbyteorder("<"))
    shape = value.get("shape")
    return array.reshape([int(size) for size in str(shape).split(",")]) if shape else array


@functools.cache
def library() -> str:
    """plotly.js, compressed and in base64: 2 MB instead of 5. Every browser since 2023 can unpack it."""
    return base64.b64encode(gzip.compress(plotly.offline.get_plotlyjs().encode(), mtime=0)).decode()
