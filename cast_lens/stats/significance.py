"""Exact McNemar test, and p-values that allow for how many tests there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from .arrays import as_outcomes, check_share

if TYPE_CHECKING:
    import pandas as pd

METHODS = {"holm": "holm", "benjamini-hochberg": "fdr_bh"}


@dataclass(frozen=True, slots=True)
class McNemar:
    """What McNemar's test found.

    Attributes:
        p: two-sided, exact.
        gained: examples wrong before and right after.
        lost: examples right before and wrong after.
        n: examples in all.
    """

    p: float
    gained: int
    lost: int
    n: int

    @property
    def difference(self) -> float:
        """Change in the share of right answers."""
        return (self.gained - self.lost) / self.n

    @property
    def discordance(self) -> float:
        """Share of examples whose answer changed between right and wrong; what power depends on."""
        return (self.gained + self.lost) / self.n


def mcnemar_exact(baseline: ArrayLike, treated: ArrayLike) -> McNemar:
    """Exact McNemar test of right and wrong on the same examples: among those that changed, a fair coin.

    With few changed examples it is conservative: the share of p < 0.05 under the null lies below 5 %. Without
    any, p is 1.

    Raises:
        ValueError: on outcomes other than 0 and 1, or columns of different lengths.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    before, after = as_outcomes(baseline=baseline, treated=treated)
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    table = [[int((before & after).sum()), lost], [gained, int((~before & ~after).sum())]]
    p = float(mcnemar(table, exact=True).pvalue) if gained + lost else 1.0
    return McNemar(min(1.0, p), gained, lost, before.size)


def adjust_p_values(
    frame: pd.DataFrame,
    *,
    column: str = "p",
    method: Literal["holm", "benjamini-hochberg"] = "holm",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """A table of tests with p-values that allow for how many there are.

    Args:
        frame: one row a test; rows without a p-value were not tested and do not count.
        column: where the p-values stand.
        method: ``holm`` bounds the chance of any false rejection, ``benjamini-hochberg`` the expected share
            of false ones among the rejections (for independent or positively dependent tests).
        alpha: level of that bound.

    Returns:
        A new frame with the columns ``p_adjusted``, ``rejected``, ``tests`` (how many were corrected for) and
        ``correction`` (the method).

    Raises:
        ValueError: on an unknown method or column, or p-values outside [0, 1].
    """
    from statsmodels.stats.multitest import multipletests

    check_share("alpha", alpha)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; choose one of {', '.join(METHODS)}")
    if column not in frame:
        raise ValueError(f"column={column!r} is not in the frame; it has {list(frame.columns)}")
    p = frame[column].to_numpy(dtype=np.float64)
    tested = ~np.isnan(p)
    if ((p[tested] < 0) | (p[tested] > 1)).any():
        raise ValueError(f"column={column!r} must hold p-values between 0 and 1")
    adjusted, rejected = np.full(p.size, np.nan), np.zeros(p.size, dtype=bool)
    if tested.any():
        rejected[tested], adjusted[tested] = multipletests(p[tested], alpha=alpha, method=METHODS[method])[:2]
    return frame.assign(p_adjusted=adjusted, rejected=rejected, tests=int(tested.sum()), correction=method)
