"""A test over strata: does a deliberate choice do better than random draws in its place?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, product
from math import prod

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .arrays import as_values
from .permutation import HypothesisTest

# Exchanges summed at a time.
BATCH = 200_000


def stratified_placebo_test(
    observed: ArrayLike, placebos: Sequence[ArrayLike], *, n_permutations: int = 9999, seed: int = 0
) -> HypothesisTest:
    """Does the mean effect over strata differ from what random draws in its place would give?

    In every stratum (a source task, say) the treatment was applied once and its placebos were drawn at random. The
    null: the treatment is one more such draw. Then each of them was as likely to be called the treatment, in every
    stratum on its own; the p-value is the share of these relabellings whose mean is as far from its expectation.

    With S strata of m placebos p cannot fall below ``1 / (m + 1) ** S``. Strata count equally, whatever their number of
    examples. The outcomes behind the effects may depend on each other within a stratum, as examples and targets do.

    Args:
        observed: effect of the treatment in each stratum.
        placebos: for each stratum the effects of its random draws, measured in the same way.
        n_permutations: random relabellings; where there are no more than that, all of them are enumerated, exactly.
        seed: of the relabellings.

    Returns:
        The mean over strata of the treatment's effect beyond its placebos' mean as statistic, and the two-sided p;
        ``n`` is the number of strata.

    Raises:
        ValueError: strata that do not match, a stratum without placebos, or effects that are not finite.
    """
    effects = as_values("observed", observed)
    if len(placebos) != effects.size:
        raise ValueError(f"observed has {effects.size} strata and placebos {len(placebos)}; give one for each")
    pools = [
        np.concatenate([[own], as_values("placebos", draws)]) for own, draws in zip(effects, placebos, strict=True)
    ]
    # What each member of a stratum would score if it were the treatment: its distance from the others' mean.
    scores = [(pool - pool.mean()) * pool.size / (pool.size - 1) for pool in pools]
    statistic = float(np.mean([score[0] for score in scores]))
    return HypothesisTest(statistic, _relabelled(scores, statistic, n_permutations, seed), effects.size)


def _relabelled(
    scores: Sequence[Float[np.ndarray, " draw"]], statistic: float, n_permutations: int, seed: int
) -> float:
    limit = abs(statistic) - 1e-12 * max(1.0, abs(statistic))
    total = prod(score.size for score in scores)
    if total <= n_permutations:
        every = product(*scores)
        hits = 0
        while block := list(islice(every, BATCH)):
            hits += int((np.abs(np.mean(block, axis=1)) >= limit).sum())
        return hits / total
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.choice(score, size=n_permutations) for score in scores])
    hits = int((np.abs(drawn.mean(axis=0)) >= limit).sum())
    return (1 + hits) / (1 + n_permutations)
