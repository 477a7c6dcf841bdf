"""What a comparison of n examples can and cannot detect."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from .arrays import check_share


def mcnemar_power(n: int, *, discordance: float, effect: float, alpha: float = 0.05, mid_p: bool = False) -> float:
    """Chance that McNemar's test finds an effect: a sum over the number of changed examples, without approximation.

    Args:
        n: examples, each under both conditions.
        discordance: share of examples whose answer changes between right and wrong.
        effect: gained minus lost, as a share of n; at most the discordance.
        alpha: two-sided level.
        mid_p: whether the test is ``mcnemar_mid_p``; ``mcnemar_exact`` otherwise.

    Raises:
        ValueError: on n below 1, or shares that cannot be.
    """
    check_share("alpha", alpha)
    if n < 1 or not 0 < discordance <= 1 or abs(effect) > discordance:
        raise ValueError(
            f"n={n}, discordance={discordance}, effect={effect}: n must be 1 or more, discordance in (0, 1], "
            "and the effect no larger than the discordance, since only changed answers can make a difference"
        )
    changed = np.arange(n + 1)
    critical = binom.ppf(alpha / 2, changed, 0.5)
    # The largest count that is still rejected: the quantile itself only where its tail is no larger than alpha / 2.
    tail = binom.cdf(critical, changed, 0.5) - (binom.pmf(critical, changed, 0.5) / 2 if mid_p else 0.0)
    critical = np.where(tail <= alpha / 2, critical, critical - 1)
    gained = (1 + effect / discordance) / 2
    rejected = binom.cdf(critical, changed, gained) + binom.sf(changed - critical - 1, changed, gained)
    return float((binom.pmf(changed, n, discordance) * rejected).sum())


def minimal_detectable_effect(
    n: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8, mid_p: bool = False
) -> float:
    """Smallest change in accuracy that a paired comparison of n examples finds with the given power.

    A difference below it is not evidence that there is no effect. Exact, for the test that ``mid_p`` names.

    Args:
        n: examples, each under both conditions.
        discordance: share of examples expected to change between right and wrong (``McNemar.discordance``).
        alpha: two-sided level.
        power: wanted chance of finding it.
        mid_p: as in ``mcnemar_power``.

    Returns:
        A share between 0 and the discordance; NaN when even the largest possible effect would be missed too
        often.

    Raises:
        ValueError: as ``mcnemar_power``, or when power does not lie between alpha and 1.
    """
    check_share("power", power)
    if power <= alpha:
        raise ValueError(f"power={power} must exceed alpha={alpha}, which is the power at no effect")

    def excess(effect: float) -> float:
        return mcnemar_power(n, discordance=discordance, effect=effect, alpha=alpha, mid_p=mid_p) - power

    return float(brentq(excess, 0.0, discordance)) if excess(discordance) > 0 else float("nan")
