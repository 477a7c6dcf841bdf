"""Association: correlation and its test, area under the ROC curve, silhouette.

The numbers are those of scipy and scikit-learn. Where a measure is not defined, these functions return NaN (or 0)
instead of a warning or an error.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from scipy.stats import permutation_test, rankdata, spearmanr

from .arrays import as_pair
from .significance import BATCH, HypothesisTest


def spearman(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"], *, least: int = 3) -> float:
    """Spearman's rank correlation; NaN for fewer than ``least`` cells, or if a column does not vary."""
    if x.size < least or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    return float(spearmanr(x, y).statistic)


def auroc(scores: Float[np.ndarray, " pair"], lost: Bool[np.ndarray, " pair"]) -> float:
    """Probability that a pair which does not lose has a higher score than a pair which does.

    Ties count half. NaN unless there are pairs of both kinds.
    """
    if lost.all() or not lost.any():
        return float("nan")
    # Mann and Whitney's U; scikit-learn checks its input for 4 ms, too long for every bootstrap replicate.
    gained, ranks = int((~lost).sum()), rankdata(scores)
    return float((ranks[~lost].sum() - gained * (gained + 1) / 2) / (gained * int(lost.sum())))


def silhouette(distances: Float[np.ndarray, "row row"], labels: Int[np.ndarray, " row"]) -> float:
    """Mean silhouette (Rousseeuw 1987) from distances.

    A row that is alone in its cluster counts as 0. The result is 0 for a single cluster, or one cluster per row.
    """
    member = labels[:, None] == np.unique(labels)
    rows, clusters = member.shape
    if not 2 <= clusters < rows:
        return 0.0
    # scikit-learn's silhouette_score gives the same and takes milliseconds, of which a permutation test has thousands.
    sizes, sums = member.sum(axis=0), distances @ member
    own = (np.arange(rows), member.argmax(axis=1))
    inside = sums[own] / np.maximum(sizes[own[1]] - 1, 1)
    outside = np.where(member, np.inf, sums / sizes).min(axis=1)
    widest = np.maximum(inside, outside)
    alone_or_equal = (sizes[own[1]] == 1) | (widest == 0)
    return float(np.where(alone_or_equal, 0.0, (outside - inside) / np.where(widest == 0, 1.0, widest)).mean())


def correlation_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Literal["pearson", "spearman"] = "spearman",
    n_permutations: int = 9999,
    seed: int = 0,
) -> HypothesisTest:
    """Correlation of two columns, tested by permuting y.

    Rows must be independent of each other; the cells of a source × target matrix are not.

    Raises:
        ValueError: if lengths differ, there are fewer than 3 rows, or a column does not vary.
    """
    left, right = as_pair(x=x, y=y)
    if left.size < 3 or not np.ptp(left) or not np.ptp(right):
        raise ValueError("x and y must have 3 rows or more and vary; a constant column has no correlation")
    if method == "spearman":
        left, right = rankdata(left), rankdata(right)
    left, right = left - left.mean(), right - right.mean()
    unit = left / np.sqrt(left @ left * (right @ right))
    found = permutation_test(
        (right,),
        lambda drawn, axis: (drawn * unit).sum(axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=n_permutations,
        batch=max(1, BATCH // left.size),
        random_state=np.random.default_rng(seed),
    )
    return HypothesisTest(float(found.statistic), float(found.pvalue), left.size)
