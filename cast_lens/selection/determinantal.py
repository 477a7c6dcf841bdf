"""Items that are relevant and unlike each other: greedy search for the mode of a determinantal point process.

The kernel of items with relevance ``r`` and unit embeddings ``x`` is ``L[i, j] = r[i] s[i, j] r[j]`` with
``s = (1 + x[i]·x[j]) / 2``. A set's weight is the determinant of its part of ``L``: large where its items are relevant
and point in different directions. The item that raises it most comes next (arXiv 1709.05135), so the first is the most
relevant one. Relevance is ``(1 + cosine) / 2`` with the query, as in arXiv 2302.05698, whose trained similarity and
trade-off are left out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

# What an item must still add, relative to the most relevant one's own weight; below it the rest is rounding.
_EXHAUSTED = 1e-10


def greedy_dpp(
    units: Float[np.ndarray, "sample d_units"], relevance: Float[np.ndarray, " sample"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Indices of the chosen items, in the order of the search; ties go to the first.

    Args:
        units: rows of length 1.
        relevance: positive.
        count: items to choose.

    Returns:
        ``count`` indices. Items that add nothing to those chosen (copies of them) come last, by relevance.

    Raises:
        ValueError: a count that the items do not allow, or relevance that is not positive.
    """
    if not 1 <= count <= len(units):
        raise ValueError(f"count={count} must be from 1 to {len(units)}, the number of items")
    if len(relevance) != len(units) or not bool((relevance > 0).all()):
        raise ValueError("relevance must be one positive number per item")
    # Incremental Cholesky: ``left`` is what each item adds to the determinant, ``rows`` its part along the chosen.
    left = relevance**2
    rows = np.zeros((count, len(units)))
    floor, chosen = _EXHAUSTED * float(left.max()), np.zeros(len(units), dtype=bool)
    order: list[int] = []
    for step in range(count):
        open_ = np.where(chosen, -np.inf, left)
        best = int(open_.argmax())
        if not open_[best] > floor:
            best = int(np.where(chosen, -np.inf, relevance).argmax())
            chosen[best] = True
            order.append(best)
            continue
        kernel = relevance[best] * relevance * (1 + units @ units[best]) / 2
        rows[step] = (kernel - rows[:step].T @ rows[:step, best]) / np.sqrt(left[best])
        left = left - rows[step] ** 2
        chosen[best] = True
        order.append(best)
    return np.array(order, dtype=np.int64)
