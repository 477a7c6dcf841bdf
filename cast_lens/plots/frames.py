"""What all figures require of a frame, and how they format numbers and text."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

METRICS = {
    "exact_match": "exact match",
    "first_match": "first token right",
    "valid": "label validity",
    "choice_correct": "label-restricted accuracy",
    "first_valid": "first token admissible",
    "gold_logprob": "log-probability of the gold answer",
    "gold_margin": "log-probability margin of the gold answer",
}
"""Outcomes as they are written on axes."""

SHARES = frozenset({"exact_match", "valid", "choice_correct", "first_match", "first_valid"})
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


def percent_interval(low: float, high: float) -> str:
    """An interval of shares; empty when it is not known."""
    return f"[{100 * low:.0f}, {100 * high:.0f}]" if np.isfinite(low) and np.isfinite(high) else ""


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
