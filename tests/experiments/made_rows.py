"""Outcomes made by hand, as ``crossed_outcomes`` gives them."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from cast_lens.experiments.outcomes import BASELINE
from cast_lens.experiments.transfer_matrix import CAST, RANDOM

Right = Callable[[str, str, str, int], bool]


def crossed(
    targets: tuple[str, ...], sources: tuple[str, ...], right: Right, *, n: int = 8, base: int = 4
) -> pd.DataFrame:
    """Zero-shot answers the first ``base`` queries rightly; a method those of which ``right`` says so.

    Args:
        right: (target, source, method, query number) to whether the answer is right; all three outcomes follow it.
    """
    rows = []
    for target in targets:
        asked = [(BASELINE, "")] + [(method, source) for source in sources for method in (CAST, RANDOM)]
        for method, source in asked:
            own = source == target
            name = "cast (own vector)" if own and method == CAST else method
            for query in range(n):
                hit = query < base if method == BASELINE else right(target, source, method, query)
                row: dict[str, object] = {"target": target, "sample": f"{target}-{query}", "own": own}
                row |= {"method": name, "source": source, "seed": 0, "strength": 1.0}
                row |= {"layer": -1 if method == BASELINE else 2}
                row |= {"answer": "gold" if hit else "other", "valid": 1.0}
                rows.append({**row, "exact_match": float(hit), "choice_correct": float(hit)})
    return pd.DataFrame(rows)


def helps(target: str, source: str, method: str, query: int) -> bool:
    """The vector answers everything rightly, its placebo as zero-shot does."""
    return method == CAST or query < 4


def nothing(target: str, source: str, method: str, query: int) -> bool:
    """Every method answers as zero-shot does."""
    return query < 4


def harms(target: str, source: str, method: str, query: int) -> bool:
    """The vector answers nothing rightly."""
    return method != CAST and query < 4
