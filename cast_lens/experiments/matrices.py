"""Tests on source × target matrices, whose cells share rows and columns and are not independent of each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ..stats import HypothesisTest

if TYPE_CHECKING:
    import pandas as pd

Matrix = Float[np.ndarray, "target source"]
Statistic = Callable[[Float[np.ndarray, " cell"], Float[np.ndarray, " cell"]], float]


def as_matrix(frame: pd.DataFrame, column: str) -> Matrix:
    """One value a pair as [target, source], NaN where a pair is missing; in order of first appearance."""
    targets, sources = (list(dict.fromkeys(frame[name])) for name in ("target", "source"))
    found = np.full((len(targets), len(sources)), np.nan)
    for target, source, value in zip(frame["target"], frame["source"], frame[column], strict=True):
        found[targets.index(target), sources.index(source)] = value
    return found


def spearman(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Rank correlation; NaN for fewer than 3 cells or a constant column."""
    from scipy.stats import rankdata

    if x.size < 3 or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    left, right = (ranks - ranks.mean() for ranks in (rankdata(x), rankdata(y)))
    return float(left @ right / np.sqrt(left @ left * (right @ right)))


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
    from scipy.stats import rankdata

    ranks: Matrix = rankdata(matrix).reshape(matrix.shape)
    return ranks - ranks.mean()


def _correlation(x: Float[np.ndarray, " cell"], y: Float[np.ndarray, " cell"]) -> float:
    """Of two centred columns."""
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def _every(
    rows: int, columns: int
) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    for left in itertools.permutations(range(rows)):
        for right in itertools.permutations(range(columns)):
            yield np.array(left), np.array(right)


def _drawn(
    rows: int, columns: int, count: int, seed: int
) -> Iterator[tuple[Int[np.ndarray, " target"], Int[np.ndarray, " source"]]]:
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield generator.permutation(rows), generator.permutation(columns)
