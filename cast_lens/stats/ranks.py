"""Agreement of orders and groups: rank correlation, area under the ROC curve, silhouette, defined where they can be.

The numbers are scipy's and scikit-learn's; what is added is what they leave to the caller: NaN (or 0) instead of a
warning or an error where a measure is not defined.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score, silhouette_score


def spearman(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"], *, least: int = 3) -> float:
    """Spearman's rank correlation; NaN for fewer than ``least`` cells or where a column does not vary."""
    if x.size < least or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    return float(spearmanr(x, y).statistic)


def auroc(scores: Float[np.ndarray, " pair"], lost: Bool[np.ndarray, " pair"]) -> float:
    """Chance that a pair which does not lose has a higher score than one which does.

    Ties count half; NaN unless there are pairs of both kinds.
    """
    if lost.all() or not lost.any():
        return float("nan")
    return float(roc_auc_score(~lost, scores))


def silhouette(distances: Float[np.ndarray, "row row"], labels: Int[np.ndarray, " row"]) -> float:
    """Mean silhouette (Rousseeuw 1987) from distances.

    Rows alone in their cluster count 0. A single cluster, or one cluster per row, gives 0.
    """
    clusters = len(np.unique(labels))
    if not 2 <= clusters < len(labels):
        return 0.0
    return float(silhouette_score(distances, labels, metric="precomputed"))
