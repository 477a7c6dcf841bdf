"""The exact null distribution of a sum whose terms may change sign, for terms that are multiples of one unit.

Differences of outcomes are: right minus wrong is -1, 0 or 1, an average over ten draws a multiple of a tenth. Random
exchanges cannot give a p-value below one over their number, which no correction over hundreds of tests survives; the
exact distribution has no such floor, no seed, and costs less.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

# Units tried: 1, 1/2, … Numbers without a common unit do not fall on so coarse a grid by accident.
FINEST = 360
ROUNDING = 1e-7
# Steps of the convolution; 300 examples in units of 1/360 take a tenth of it.
MOST_STEPS = 300_000_000


def exact_flip_p(values: Float[np.ndarray, " unit"], *, mid_p: bool = False) -> float | None:
    """Two-sided p of the sum of values whose signs are coin flips; None when they are multiples of no common unit.

    Args:
        values: finite; those that are 0 do not matter.
        mid_p: count the chance of exactly the observed sum (and of its mirror image) half.
    """
    steps = on_grid(values)
    if steps is None:
        return None
    sizes = np.abs(steps[steps != 0])
    if sizes.size == 0:
        return 1.0
    sizes = np.sort(sizes // np.gcd.reduce(sizes))
    total = int(sizes.sum())
    if sizes.size * total > MOST_STEPS:
        return None
    # chances[s]: that the terms which keep a plus sign add up to s; the sum is then 2 s - total.
    chances, reached = np.zeros(total + 1), 0
    chances[0] = 1.0
    for size in sizes.tolist():
        halved = chances[: reached + 1] / 2
        chances[: reached + 1] = halved
        chances[size : size + reached + 1] += halved
        reached += size
    observed = abs(int(steps.sum())) // int(np.gcd.reduce(np.abs(steps[steps != 0])))
    sums = np.abs(2 * np.arange(total + 1) - total)
    p = chances[sums >= observed].sum()
    if mid_p and observed > 0:
        p -= chances[sums == observed].sum() / 2
    return float(min(1.0, p))


def on_grid(values: Float[np.ndarray, " unit"]) -> Int[np.ndarray, " unit"] | None:
    """The values as multiples of the coarsest unit ``1 / q`` that fits them all, or None."""
    parts = grid_unit(values)
    return None if parts is None else np.rint(values * parts).astype(np.int64)


def grid_unit(values: Float[np.ndarray, " unit"]) -> int | None:
    """The smallest q for which all values are multiples of ``1 / q``, or None."""
    for parts in range(1, FINEST + 1):
        if np.abs(values * parts - np.rint(values * parts)).max() < ROUNDING:
            return parts
    return None
