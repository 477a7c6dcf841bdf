"""Does the answer follow the strength? Slopes of a score over strengths, example by example (arXiv
2407.12404).

A mean that follows may hide examples that go the other way; that paper found shares near one half on some
data sets.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from .arrays import as_values
from .association import spearman
from .bootstrap import mean_interval
from .intervals import proportion_interval


def steerability(scores: Float[np.ndarray, "sample strength"], strengths: ArrayLike) -> pd.DataFrame:
    """How the score of each example responds to the strength: a least-squares line and a rank correlation.

    Args:
        scores: [sample, strength], such as the log-odds of the gold answer.
        strengths: the strengths, in the order of the columns; -1.5 ... 1.5 in the source.

    Returns:
        One row per example: ``slope`` (score per unit of strength), ``intercept``, ``residual`` (root mean
        square distance from the line), ``spearman`` (with the strength; NaN when the score never changes),
        ``anti_steerable`` (slope below 0).

    Raises:
        ValueError: on scores that are not finite or do not fit, or fewer than two different strengths.
    """
    at = as_values("strengths", strengths)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != at.size or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite [sample, strength={at.size}], got {values.shape}")
    if np.unique(at).size < 2:
        raise ValueError("strengths must hold two different values or more for a slope")
    centred = at - at.mean()
    slope = values @ centred / (centred @ centred)
    intercept = values.mean(axis=1) - slope * at.mean()
    residual = np.sqrt(np.square(values - slope[:, None] * at - intercept[:, None]).mean(axis=1))
    columns = {"slope": slope, "intercept": intercept, "residual": residual}
    columns["spearman"] = [spearman(row, at, least=2) for row in values]
    return pd.DataFrame({**columns, "anti_steerable": slope < 0})


def steerability_summary(
    frame: pd.DataFrame, *, n_bootstrap: int = 2000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """What ``steerability`` found, over examples.

    Args:
        frame: from ``steerability``.
        n_bootstrap: replicates of the BCa intervals.
        seed: of the replicates.
        confidence: of the intervals.

    Returns:
        ``measure, value, low, high, n`` with the rows ``slope``, ``residual``, ``spearman`` (means over
        examples; over those whose score changes at all for ``spearman``) and ``anti_steerable`` (share,
        Wilson's interval).

    Raises:
        ValueError: when the frame is empty or lacks a column.
    """
    needed = ("slope", "residual", "spearman", "anti_steerable")
    missing = [column for column in needed if column not in frame]
    if missing or frame.empty:
        raise ValueError(f"frame must come from steerability and hold examples; missing columns: {missing}")
    found = {}
    for measure in needed[:3]:
        values = frame[measure].dropna()
        if len(values):
            found[measure] = mean_interval(values, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence)
    against = int(frame["anti_steerable"].sum())
    found["anti_steerable"] = proportion_interval(against, len(frame), confidence=confidence)
    rows = [(measure, one.value, one.low, one.high, one.n) for measure, one in found.items()]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])
