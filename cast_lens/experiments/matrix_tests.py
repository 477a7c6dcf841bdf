"""Tests and structure of source × target matrices, whose cells share rows and columns and are not independent."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from ..stats import HypothesisTest, mean_interval, silhouette, spearman

Matrix = Float[np.ndarray, "target source"]
# Fewer items have no clusters to speak of.
LEAST = 4
Statistic = Callable[[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]], float]


def as_matrix(frame: pd.DataFrame, column: str) -> Matrix:
    """One value per pair as [target, source], NaN where a pair is missing; in order of first appearance."""
    targets, sources = (list(dict.fromkeys(frame[name])) for name in ("target", "source"))
    found = np.full((len(targets), len(sources)), np.nan)
    for target, source, value in zip(frame["target"], frame["source"], frame[column], strict=True):
        found[targets.index(target), sources.index(source)] = value
    return found


def mean_gap(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Mean of ``y`` where ``x`` is 1, less its mean where ``x`` is 0; NaN where one side is empty."""
    inside = x > 0.5
    if inside.all() or not inside.any():
        return float("nan")
    return float(y[inside].mean() - y[~inside].mean())


def matrix_test(
    x: Matrix, y: Matrix, statistic: Statistic = spearman, *, n_permutations: int = 999, seed: int = 0
) -> HypothesisTest:
    """Do two matrices over the same tasks go together? Targets and sources of ``x`` are renamed at random.

    The null: which target and which source a row and a column of ``x`` belong to has nothing to do with ``y``. Whole
    rows and whole columns change places, so that a target which gains from everything counts as one target, not as
    many cells (the double permutation of Mantel's test). Two-sided.

    Args:
        x, y: NaN where a pair is missing; cells missing in one are left out.
        statistic: of the cells that both have.
        n_permutations: random renamings; with few tasks all of them are gone through instead.
        seed: of the renamings.

    Returns:
        the statistic, NaN with p = 1 where it is not defined; ``n`` is the number of cells.
    """
    observed = _of(x, y, statistic)
    cells = int((np.isfinite(x) & np.isfinite(y)).sum())
    if math.isnan(observed):
        return HypothesisTest(observed, 1.0, cells)
    if statistic is spearman and bool(np.isfinite(x + y).all()):
        # Renaming moves whole ranks: they are the same in every arrangement.
        x, y, statistic = _ranks(x), _ranks(y), _correlation
    total = math.factorial(x.shape[0]) * math.factorial(x.shape[1])
    exact = total <= n_permutations
    rows_columns = (len(x), x.shape[1])
    names = _every(*rows_columns) if exact else _drawn(*rows_columns, n_permutations, seed)
    found = np.array([_of(x[np.ix_(rows, columns)], y, statistic) for rows, columns in names])
    # A renaming that leaves nothing to compare is no more extreme than any other.
    hits = int((np.abs(found) >= abs(observed) - 1e-12).sum())
    p = hits / total if exact else (1 + hits) / (1 + n_permutations)
    return HypothesisTest(observed, p, cells)


def _of(x: Matrix, y: Matrix, statistic: Statistic) -> float:
    both = np.isfinite(x) & np.isfinite(y)
    return statistic(x[both], y[both])


def _ranks(matrix: Matrix) -> Matrix:
    ranks: Matrix = rankdata(matrix).reshape(matrix.shape)
    return ranks - ranks.mean()


def _correlation(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Of two centred columns."""
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _every(rows: int, columns: int) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    for left in itertools.permutations(range(rows)):
        for right in itertools.permutations(range(columns)):
            yield np.array(left), np.array(right)


def _drawn(
    rows: int, columns: int, count: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.permutation(rows), generator.permutation(columns)


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


def clusters(matrix: Float[np.ndarray, "row column"], *, n_permutations: int = 199, seed: int = 0) -> Clustering | None:
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
    tree = linkage(squareform(distances, checks=False), method="average")
    cuts = [fcluster(tree, count, criterion="maxclust") - 1 for count in range(2, len(distances))]
    scores = [silhouette(distances, labels) for labels in cuts]
    best = int(np.argmax(scores))
    return cuts[best].astype(np.int64), leaves_list(tree).astype(np.int64), scores[best]


def hubs(
    changes: pd.DataFrame, *, n_bootstrap: int, seed: int, keys: tuple[str, str] = ("source", "target")
) -> pd.DataFrame:
    """Mean effect of each task as a source and as a target.

    Args:
        changes: ``target, source, sample, change``, one row per example.
        n_bootstrap, seed: of the intervals; an example is redrawn with all that was done to it.
        keys: the two roles.

    Returns:
        ``role, task, pairs, n, gain, gain_low, gain_high``, and ``gain_least, gain_most`` over its pairs.
    """
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
