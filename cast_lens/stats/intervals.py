"""What an interval is, and two that need no resampling: Student's for few units, Wilson's for a single share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from .arrays import as_values, check_share


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval; NaN where the data say nothing about its width (a single unit, or numbers
            without any spread). No interval has zero width.
        high: upper end.
        n: examples behind it.
        units: independent units among them (clusters, or the examples themselves).
        excluded: further examples that were given and left out because their outcome is unknown (NaN).
    """

    value: float
    low: float
    high: float
    n: int
    units: int
    excluded: int = 0


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of a few independent values with Student's interval: for 2 to about 10 units, where a bootstrap interval
    would be too narrow.

    It is right for values that are roughly normal; take logarithms first where they spread over orders of magnitude.

    Args:
        values: one per unit; a single value, or values that are all equal, have no interval (NaN).
        confidence: of the interval.

    Raises:
        ValueError: on values that are empty or not finite, or a confidence outside (0, 1).
    """
    check_share("confidence", confidence)
    column = as_values("values", values)
    n, mean = column.size, float(column.mean())
    if n == 1 or not np.ptp(column) > 1e-12 * max(1.0, abs(mean)):
        return Estimate(mean, np.nan, np.nan, n, n)
    low, high = t.interval(confidence, n - 1, loc=mean, scale=column.std(ddof=1) / n**0.5)
    return Estimate(mean, float(low), float(high), n, n)


def proportion_interval(successes: float, n: float, *, confidence: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (through statsmodels); sound at 0 %, at 100 % and for small n.

    Args:
        successes: how many; a fraction where ``n`` is an effective number of examples.
        n: of how many.
        confidence: of the interval.

    Raises:
        ValueError: unless ``0 <= successes <= n`` and ``n >= 1``.
    """
    check_share("confidence", confidence)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes={successes} of n={n} is not a share; give 0 <= successes <= n, n >= 1")
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Estimate(successes / n, float(low), float(high), round(n), round(n))
