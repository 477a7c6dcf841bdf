"""The structure of a source × target matrix: clusters against a null, and tasks that give or take more than others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ..stats import mean_interval

if TYPE_CHECKING:
    import pandas as pd

# Fewer items have no clusters to speak of.
LEAST = 4


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """Clusters of the rows of a matrix.

    Attributes:
        labels: cluster of each row, from 0.
        order: rows as the leaves of the tree.
        silhouette: mean over rows; higher is better parted.
        null: the same, best over cuts, in each matrix of the null.
        p: share of the null at least as high, the observed matrix counted.
    """

    labels: Int[np.ndarray, " row"]
    order: Int[np.ndarray, " row"]
    silhouette: float
    null: Float[np.ndarray, " permutation"]
    p: float


def clusters(
    matrix: Float[np.ndarray, "row column"], *, n_permutations: int = 199, seed: int = 0
) -> Clustering | None:
    """Cluster rows by average linkage, cut where the silhouette is best, and ask whether chance does as well.

    Rows are compared over the columns that both have (root mean square difference). The null: within each column, the
    values that are there change rows at random, so that columns keep their levels and rows lose what they share. The
    cut is chosen anew in every matrix of the null.

    Args:
        matrix: NaN where a cell is missing.
        n_permutations: matrices of the null.
        seed: of the null.

    Returns:
        None for fewer than four rows, rows without a common column, or rows that do not differ.
    """
    distances = row_distances(matrix)
    if len(matrix) < LEAST or not np.isfinite(distances).all() or not distances.any():
        return None
    labels, order, best = best_cut(distances)
    generator, null = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        drawn = matrix.copy()
        for column in drawn.T:
            known = np.flatnonzero(np.isfinite(column))
            column[known] = generator.permutation(column[known])
        null.append(best_cut(row_distances(drawn))[2])
    values = np.array(null)
    p = (1 + int((values >= best - 1e-12).sum())) / (1 + n_permutations)
    return Clustering(labels, order, best, values, p)


def row_distances(matrix: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row row"]:
    """Root mean square difference of every two rows over their common columns; NaN without any."""
    known = np.isfinite(matrix)
    filled = np.where(known, matrix, 0.0)
    common = known[:, None] & known[None]
    squares = np.square(filled[:, None] - filled[None]) * common
    count = common.sum(axis=2)
    return np.sqrt(squares.sum(axis=2) / np.where(count > 0, count, np.nan))


def best_cut(
    distances: Float[np.ndarray, "row row"],
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"], float]:
    """Labels at the cut of the tree with the best silhouette, order of the leaves, and that silhouette."""
    from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distances, checks=False), method="average")
    cuts = [fcluster(tree, count, criterion="maxclust") - 1 for count in range(2, len(distances))]
    scores = [silhouette(distances, labels) for labels in cuts]
    best = int(np.argmax(scores))
    return cuts[best].astype(np.int64), leaves_list(tree).astype(np.int64), scores[best]


def silhouette(distances: Float[np.ndarray, "row row"], labels: Int[np.ndarray, " row"]) -> float:
    """Mean silhouette (Rousseeuw 1987) from distances; rows alone in their cluster count 0, one cluster gives 0."""
    names = np.unique(labels)
    if len(names) < 2:
        return 0.0
    values = []
    for row, own in enumerate(labels):
        mates = (labels == own) & (np.arange(len(labels)) != row)
        if not mates.any():
            values.append(0.0)
            continue
        inside = distances[row, mates].mean()
        outside = min(distances[row, labels == name].mean() for name in names if name != own)
        largest = max(inside, outside)
        values.append((outside - inside) / largest if largest > 0 else 0.0)
    return float(np.mean(values))


def hubs(
    changes: pd.DataFrame, *, n_bootstrap: int, seed: int, keys: tuple[str, str] = ("source", "target")
) -> pd.DataFrame:
    """Mean effect of each task as a source and as a target.

    Args:
        changes: ``target, source, sample, change``, one row an example.
        n_bootstrap, seed: of the intervals; an example is redrawn with all that was done to it.
        keys: the two roles.

    Returns:
        ``role, task, pairs, n, gain, gain_low, gain_high``, and ``gain_least, gain_most`` over its pairs.
    """
    import pandas as pd

    rows = []
    for role in keys:
        for task, part in changes.groupby(role, sort=False):
            units = part["target"] + "\n" + part["sample"]
            one = mean_interval(part["change"], clusters=units, n_bootstrap=n_bootstrap, seed=seed)
            pairs = part.groupby(["target", "source"])["change"].mean()
            row = (role, task, len(pairs), one.n, one.value, one.low, one.high, pairs.min(), pairs.max())
            rows.append(row)
    ends = ["gain", "gain_low", "gain_high", "gain_least", "gain_most"]
    return pd.DataFrame(rows, columns=["role", "task", "pairs", "n", *ends])
