"""Measures of transfer: what a gain is made of, how large it is in relation, and how often it is a loss.

An exact match is an answer that is admissible and right, so its gain has two parts: the *format* of the
answer and the *choice* of it. ``gain_split`` gives both, without rest, at one of two levels. Each writes
accuracy as a product and splits its change in the manner of Shapley: a factor's change, times the mean of the
other one before and after.

- ``rates``: accuracy is ``V * C``, V the share of valid answers and C the accuracy among them. Format is
  ``dV * (C0 + C1) / 2``, choice ``dC * (V0 + V1) / 2``. Where no answer is valid C is undefined, and
  label-restricted accuracy stands in. C is taken over different examples before and after: if the few valid
  answers before were the easy ones, C falls, and choice with it, though no preference changed.
- ``examples``: each example has a validity v and a choice c, which is whether the answer is right if it is
  valid, and whether the label-restricted choice is right if not. Its match is ``v * c``, its format part
  ``dv * (c0 + c1) / 2``, its choice part ``dc * (v0 + v1) / 2``; both are averaged. It is free of that
  selection, and steadier when few answers are valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from .arrays import as_outcomes, as_pair, check_share
from .bootstrap import Estimate, Statistic, bootstrap_means, proportion_interval

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("exact_match", "valid", "choice_correct")
PARTS = ("total", "format", "choice")
Outcomes = Float[np.ndarray, "example 3"]
_Split = tuple[Float[np.ndarray, "example column"], Statistic, list[list[float]]]
"""Columns to average, what to make of their means, and the three levels of each side."""


def gain_split(
    baseline: pd.DataFrame,
    steered: pd.DataFrame,
    *,
    level: Literal["rates", "examples"] = "rates",
    on: Sequence[str] = ("sample_id",),
    cluster: str | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The gain in exact match, split without rest into the *format* of the answer and the *choice* of it.

    See the top of this file for the two levels.

    Args:
        baseline: one row an example with the columns ``exact_match``, ``valid``, ``choice_correct`` (0 or 1).
        steered: the same examples, steered.
        level: see above.
        on: columns that name an example in both frames; empty to go by row order.
        cluster: column of ``baseline`` with the resampling unit; the example when None.
        n_bootstrap: replicates of the paired bootstrap.
        seed: of the replicates.
        confidence: of the BCa intervals.

    Returns:
        Rows ``total``, ``format``, ``choice`` with the columns ``part, value, low, high, n, baseline,
        steered``; the last two hold exact match, validity, and the accuracy of the choice (C, or the mean of
        c) on each side.

    Raises:
        ValueError: on missing columns, outcomes other than 0 and 1, an exact match that is not valid, or
            examples that are not the same, once each.
    """
    import pandas as pd

    if level not in ("rates", "examples"):
        raise ValueError(f"level={level!r} is unknown; choose rates or examples")
    baseline, steered = _aligned(baseline, steered, on)
    if cluster is not None and cluster not in baseline:
        raise ValueError(f"cluster={cluster!r} is no column of baseline; it has {list(baseline.columns)}")
    before, after = _outcomes("baseline", baseline), _outcomes("steered", steered)
    columns, statistic, levels = (_by_rates if level == "rates" else _by_examples)(before, after)
    estimates = bootstrap_means(
        columns,
        statistic,
        clusters=None if cluster is None else baseline[cluster].to_numpy(),
        n_bootstrap=n_bootstrap,
        seed=seed,
        confidence=confidence,
    )
    rows = [
        (part, one.value, one.low, one.high, one.n, first, second)
        for part, one, first, second in zip(PARTS, estimates, *levels, strict=True)
    ]
    return pd.DataFrame(rows, columns=["part", "value", "low", "high", "n", "baseline", "steered"])


def relative_boost(
    baseline: ArrayLike,
    treated: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Ratio of grand means minus 1, with a paired BCa interval: the headline figure of arXiv 2405.10548.

    0.5 means half as much again. It is large wherever the baseline is small (a baseline that fails on format,
    say), so show the absolute difference beside it.

    Args:
        baseline: outcome of each example, or accuracy of each source x target cell.
        treated: the same examples or cells with the treatment.
        clusters: label of the resampling unit, or None.
        n_bootstrap: replicates.
        seed: of the replicates.
        confidence: of the interval.

    Returns:
        The estimate; value and interval are NaN when the baseline is 0 throughout.

    Raises:
        ValueError: on columns of different lengths, empty, not finite, or a baseline with a negative mean.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    if before.mean() < 0:
        raise ValueError(f"baseline has mean {before.mean():g}; a relative boost needs accuracies, 0 or more")
    if not before.any():
        return Estimate(np.nan, np.nan, np.nan, before.size, before.size)
    columns = np.stack([before, after], axis=1)
    return bootstrap_means(
        columns, _ratio, clusters=clusters, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )[0]


def recovered_fraction(
    zero_shot: ArrayLike, few_shot: ArrayLike, steered: ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    """Share of the in-context-learning gain that steering recovers: ``(steered - zero) / (few - zero)``.

    The interval is Fieller's, which stays right when the denominator is uncertain: unless few-shot
    prompting itself beats (or trails) zero-shot clearly, it is ``-inf`` to ``inf``, because the share then
    means nothing.

    Args:
        zero_shot: outcome of each example.
        few_shot: of the same examples with demonstrations.
        steered: of the same examples, zero-shot and steered.
        confidence: of the interval.

    Returns:
        The estimate; its value is NaN when few-shot and zero-shot means are equal.

    Raises:
        ValueError: on columns of different lengths, empty, not finite, or of fewer than 2 examples.
    """
    from scipy.stats import t

    check_share("confidence", confidence)
    zero, few, moved = as_pair(zero_shot=zero_shot, few_shot=few_shot, steered=steered)
    n = zero.size
    if n < 2:
        raise ValueError("recovered_fraction needs 2 examples or more")
    gain, reference = (moved - zero).mean(), (few - zero).mean()
    covariance = np.cov(moved - zero, few - zero) / n * t.ppf((1 + confidence) / 2, n - 1) ** 2
    value = gain / reference if reference else np.nan
    low, high = _fieller(gain, reference, covariance)
    return Estimate(float(value), low, high, n, n)


def negative_transfer_rate(baseline: ArrayLike, treated: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Share of source x target cells in which the treatment falls below the baseline, with Wilson's interval.

    Cells that share a source or a target are not independent, so the interval is, if anything, too narrow;
    and a cell just below its baseline may be noise.

    Args:
        baseline: accuracy of each cell without the treatment.
        treated: accuracy of the same cells with it.
        confidence: of the interval.

    Raises:
        ValueError: on columns of different lengths, empty or not finite.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    return proportion_interval(int((after < before).sum()), before.size, confidence=confidence)


def _aligned(
    baseline: pd.DataFrame, steered: pd.DataFrame, on: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    for name, frame in (("baseline", baseline), ("steered", steered)):
        missing = [column for column in (*on, *OUTCOMES) if column not in frame]
        if missing:
            raise ValueError(f"{name} lacks the columns {missing}; it needs {[*on, *OUTCOMES]}")
    if not on:
        return baseline, steered
    keys = [frame.set_index(list(on)).index for frame in (baseline, steered)]
    if not (keys[0].is_unique and keys[1].is_unique) or set(keys[0]) != set(keys[1]):
        raise ValueError(
            f"baseline ({len(keys[0])} rows) and steered ({len(keys[1])} rows) must hold the same examples "
            f"once each by {list(on)}; pick one condition, or name more columns in `on`"
        )
    return baseline, steered.iloc[keys[1].get_indexer(keys[0])]


def _outcomes(name: str, frame: pd.DataFrame) -> Outcomes:
    columns = as_outcomes(**{f"{name}[{column!r}]": frame[column].to_numpy() for column in OUTCOMES})
    broken = int((columns[0] & ~columns[1]).sum())
    if broken:
        raise ValueError(f"{name} has {broken} exact matches that are not valid; a match is a valid answer")
    return np.stack(columns, axis=1).astype(np.float64)


def _by_rates(before: Outcomes, after: Outcomes) -> _Split:
    """Columns of both sides; the product is split after averaging."""
    columns = np.concatenate([before, after], axis=1)
    levels = [[*side.mean(axis=0)[:2], float(_conditional(side.mean(axis=0)))] for side in (before, after)]
    return columns, _rate_split, levels


def _rate_split(means: Float[np.ndarray, "*stack 6"]) -> Float[np.ndarray, "*stack part"]:
    exact_0, valid_0, _, exact_1, valid_1, _ = np.moveaxis(means, -1, 0)
    accuracy_0, accuracy_1 = _conditional(means[..., :3]), _conditional(means[..., 3:])
    form = (valid_1 - valid_0) * (accuracy_0 + accuracy_1) / 2
    choice = (accuracy_1 - accuracy_0) * (valid_0 + valid_1) / 2
    return np.stack([exact_1 - exact_0, form, choice], axis=-1)


def _conditional(means: Float[np.ndarray, "*stack 3"]) -> Float[np.ndarray, "*stack"]:
    """Accuracy among valid answers; label-restricted accuracy where there is none."""
    exact, valid, choice = np.moveaxis(means, -1, 0)
    return np.where(valid > 0, exact / np.where(valid > 0, valid, 1.0), choice)


def _by_examples(before: Outcomes, after: Outcomes) -> _Split:
    """Parts of each example; averaging is all that is left to do."""
    sides = [
        np.column_stack([side[:, :2], np.where(side[:, 1] == 1, side[:, 0], side[:, 2])])
        for side in (before, after)
    ]
    (exact_0, valid_0, choice_0), (exact_1, valid_1, choice_1) = (side.T for side in sides)
    form = (valid_1 - valid_0) * (choice_0 + choice_1) / 2
    choice = (choice_1 - choice_0) * (valid_0 + valid_1) / 2
    columns = np.stack([exact_1 - exact_0, form, choice], axis=1)
    return columns, lambda means: means, [list(side.mean(axis=0)) for side in sides]


def _ratio(means: Float[np.ndarray, "*stack 2"]) -> Float[np.ndarray, "*stack part"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 1:] / means[..., :1] - 1


def _fieller(gain: float, reference: float, covariance: Float[np.ndarray, "2 2"]) -> tuple[float, float]:
    """Ratios r for which ``gain - r * reference`` is not told from 0; the covariance holds the quantile."""
    square = reference**2 - covariance[1, 1]
    if square <= 0:
        return -np.inf, np.inf
    middle = gain * reference - covariance[0, 1]
    reach = np.sqrt(max(0.0, middle**2 - square * (gain**2 - covariance[0, 0])))
    return float((middle - reach) / square), float((middle + reach) / square)
