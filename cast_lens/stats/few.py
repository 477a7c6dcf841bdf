"""Intervals over so few units that resampling them says little."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .arrays import as_values, check_share
from .bootstrap import Estimate


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of a few independent values with Student's interval: for 2 to about 10 units, which resampling makes too
    narrow.

    Right where the values are about normal; take it of logarithms where they spread over orders of magnitude.

    Args:
        values: one a unit; a single one has no interval (NaN).
        confidence: of the interval.

    Raises:
        ValueError: on values that are empty or not finite, or a confidence outside (0, 1).
    """
    from scipy.stats import t

    check_share("confidence", confidence)
    column = as_values("values", values)
    n, mean = column.size, float(column.mean())
    if n == 1:
        return Estimate(mean, np.nan, np.nan, 1, 1)
    reach = float(t.ppf((1 + confidence) / 2, n - 1) * column.std(ddof=1) / n**0.5)
    return Estimate(mean, mean - reach, mean + reach, n, n)
