"""Compiled walks over a directed acyclic graph; the only compiled code of the package."""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np


# no_type_check keeps jaxtyping's import hook from wrapping what numba compiles.
@numba.njit(cache=True)
@no_type_check
def _walk(start, offsets, successors, covered, seen, stamp, stack):
    """Put the uncovered nodes reachable from ``start`` on the stack, marked; return how many."""
    if covered[start] or seen[start] == stamp:
        return 0
    seen[start] = stamp
    stack[0] = start
    filled, done = 1, 0
    while done < filled:
        node = stack[done]
        done += 1
        for edge in range(offsets[node], offsets[node + 1]):
            target = successors[edge]
            if seen[target] != stamp and not covered[target]:
                seen[target] = stamp
                stack[filled] = target
                filled += 1
    return filled


@numba.njit(cache=True)
@no_type_check
def reachable_sizes(starts, offsets, successors, sizes, covered):
    """Summed size of the uncovered nodes reachable from each start."""
    seen = np.full(len(sizes), -1, dtype=np.int64)
    stack = np.empty(len(sizes), dtype=np.int64)
    totals = np.zeros(len(starts), dtype=np.int64)
    for place in range(len(starts)):
        for found in range(_walk(starts[place], offsets, successors, covered, seen, place, stack)):
            totals[place] += sizes[stack[found]]
    return totals


@numba.njit(cache=True)
@no_type_check
def cover(starts, offsets, successors, covered):
    """Mark everything reachable from the starts as covered, in place."""
    seen = np.full(len(covered), -1, dtype=np.int64)
    stack = np.empty(len(covered), dtype=np.int64)
    for place in range(len(starts)):
        for found in range(_walk(starts[place], offsets, successors, covered, seen, place, stack)):
            covered[stack[found]] = True
