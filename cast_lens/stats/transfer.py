"""Measures of transfer: the parts of a gain, relative gains, and how often a gain is a loss.

An exact match is an answer that is admissible and right, so its gain has two parts: the *format* and the *choice* of
the answer. ``gain_split`` computes both for each example. An example has a validity v and a choice c: whether the
answer is right if it is valid, and whether the label-restricted choice is right if it is not. Its match is ``v * c``,
its format part ``dv * (c0 + c1) / 2`` and its choice part ``dc * (v0 + v1) / 2`` (Shapley: the change of one factor
times the mean of the other before and after). The averages of the two parts add up to the gain.

The product of the two *rates* (validity, and accuracy among valid answers) is not split instead. That would blame the
choice whenever the few answers that were valid before were the easy ones, and its intervals fail in this case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import t

from .arrays import as_outcomes, as_pair, as_values, check_share
from .association import spearman
from .bootstrap import bootstrap_means, mean_interval
from .intervals import Estimate, difference_interval, paired_ratio, proportion_interval

OUTCOMES = ("exact_match", "valid", "choice_correct")
PARTS = ("total", "format", "choice")
EXAMPLE = ("task", "sample", "sample_id", "text")
"""Columns that identify an example, if a frame has them."""
Outcomes = Float[np.ndarray, "example 3"]


def gain_split(
    baseline: pd.DataFrame,
    steered: pd.DataFrame | None = None,
    *,
    on: Sequence[str] | None = None,
    cluster: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """The gain in exact match, split without remainder into *format* and *choice* as defined in the module docstring.

    Args:
        baseline: one row per example with the columns ``exact_match``, ``valid``, ``choice_correct`` (0 or 1; NaN where
            unknown). Alone, the whole frame of ``evaluate``: each of its conditions is compared with the unsteered one.
        steered: the same examples, steered.
        on: columns that name an example in both frames; empty to go by row order. By default those of ``task, sample,
            sample_id, text`` that both have.
        cluster: column of ``baseline`` with the independent unit; the example when None.
        confidence: confidence level of the intervals (score intervals, as in ``paired_proportions``).

    Returns:
        Rows ``total``, ``format``, ``choice`` with the columns ``part, value, low, high, n, baseline, steered,
        excluded`` (and ``condition`` for a whole frame). ``baseline`` and ``steered`` hold exact match, validity, and
        the mean of c on each side; ``excluded`` counts the examples with an unknown outcome, which are left out.

    Raises:
        ValueError: for missing columns, one frame without an unsteered condition, outcomes other than 0 and 1, an exact
            match that is not valid, no example whose outcomes are known, or examples that are not the same, once each.

    >>> before = pd.DataFrame({"exact_match": [0, 0, 1, 0], "valid": [0, 1, 1, 0], "choice_correct": [1, 0, 1, 1]})
    >>> after = pd.DataFrame({"exact_match": [1, 0, 1, 1], "valid": [1, 1, 1, 1], "choice_correct": [1, 0, 1, 1]})
    >>> gain_split(before, after, on=()).set_index("part")["value"].to_dict()
    {'total': 0.5, 'format': 0.5, 'choice': 0.0}
    """
    if steered is None:
        each = [
            gain_split(plain, cell, on=on, cluster=cluster, confidence=confidence).assign(condition=name)
            for name, plain, cell in _conditions(baseline)
        ]
        found = pd.concat(each, ignore_index=True)
        return found[["condition", *found.columns.drop("condition")]]
    if on is None:
        on = [name for name in EXAMPLE if name in baseline and name in steered] or ["sample_id"]
    baseline, steered = _aligned(baseline, steered, on)
    if cluster is not None and cluster not in baseline:
        raise ValueError(f"cluster={cluster!r} is not a column of baseline; it has {list(baseline.columns)}")
    columns = list(OUTCOMES)
    known = baseline[columns].notna().all(axis=1).to_numpy() & steered[columns].notna().all(axis=1).to_numpy()
    if len(baseline) and not known.any():
        raise ValueError("baseline and steered share no example whose outcomes are all known")
    baseline, steered = baseline[known], steered[known]
    parts, levels = _by_examples(_outcomes("baseline", baseline), _outcomes("steered", steered))
    clusters = None if cluster is None else baseline[cluster].to_numpy()
    rows = []
    for part, column, (first, second) in zip(PARTS, parts.T, levels, strict=True):
        one = difference_interval(column, clusters, confidence=confidence)
        rows.append((part, one.value, one.low, one.high, one.n, first, second, int((~known).sum())))
    names = ["part", "value", "low", "high", "n", "baseline", "steered", "excluded"]
    return pd.DataFrame(rows, columns=names)


def relative_boost(
    baseline: ArrayLike,
    treated: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Ratio of grand means minus 1, with a paired interval: the headline figure of arXiv 2405.10548.

    0.5 means 50 % more. The ratio is large if the baseline is small (a baseline that fails on format, for example), so
    report the absolute difference as well.

    Args:
        baseline: outcome of each example, or accuracy of each source x target cell.
        treated: the same examples or cells with the treatment.
        clusters: label of the resampling unit, or None.
        n_bootstrap: number of replicates.
        seed: seed of the replicates.
        confidence: confidence level of the interval.

    Returns:
        The estimate, with a score interval if all outcomes are 0 or 1 (``intervals.paired_ratio``), otherwise with a
        BCa bootstrap interval. Value and interval are NaN if all baseline outcomes are 0.

    Raises:
        ValueError: if columns differ in length, are empty or not finite, or the baseline has a negative mean.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    if before.mean() < 0:
        raise ValueError(f"baseline has mean {before.mean():g}; a relative boost needs accuracies, 0 or more")
    if not before.any():
        return Estimate(np.nan, np.nan, np.nan, before.size, before.size)
    if np.isin([before, after], (0.0, 1.0)).all():
        ratio = paired_ratio(before, after, clusters, confidence=confidence)
        return replace(ratio, value=ratio.value - 1, low=ratio.low - 1, high=ratio.high - 1)
    columns = np.stack([before, after], axis=1)
    return bootstrap_means(
        columns, _ratio, clusters=clusters, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence
    )[0]


def recovered_fraction(
    zero_shot: ArrayLike, few_shot: ArrayLike, steered: ArrayLike, *, confidence: float = 0.95
) -> Estimate:
    """Share of the in-context-learning gain that steering recovers: ``(steered - zero) / (few - zero)``.

    The interval is Fieller's, which remains valid if the denominator is uncertain. Unless few-shot prompting itself is
    clearly better (or worse) than zero-shot, it is ``-inf`` to ``inf``, because the share then means nothing.

    Args:
        zero_shot: outcome of each example.
        few_shot: outcome of the same examples with demonstrations.
        steered: outcome of the same examples with steered zero-shot prompts.
        confidence: confidence level of the interval.

    Returns:
        The estimate; its value is NaN if few-shot and zero-shot means are equal.

    Raises:
        ValueError: if columns differ in length, are not finite, or have fewer than 2 examples.
    """
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
    """Share of source × target cells in which the treatment is below the baseline, with Wilson's interval.

    Cells that share a source or a target are not independent, so the interval is, if anything, too narrow, and a cell
    just below its baseline may be noise.

    Args:
        baseline: accuracy of each cell without the treatment.
        treated: accuracy of the same cells with it.
        confidence: confidence level of the interval.

    Raises:
        ValueError: if columns differ in length, are empty or not finite.
    """
    before, after = as_pair(baseline=baseline, treated=treated)
    return proportion_interval(int((after < before).sum()), before.size, confidence=confidence)


def _conditions(outcomes: pd.DataFrame) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Name, unsteered rows and steered rows of each condition in a frame of ``evaluate``."""
    if not {"condition", "variant"} <= set(outcomes.columns) or set(outcomes["variant"]) <= {0}:
        raise ValueError(
            "one frame must be that of evaluate with at least one intervention (columns variant and condition); "
            f"it has {list(outcomes.columns)}; or give two frames, baseline and steered"
        )
    plain = outcomes[outcomes["variant"] == 0]
    rest = outcomes[outcomes["variant"] != 0]
    return [(str(cell["condition"].iloc[0]), plain, cell) for _, cell in rest.groupby("variant", sort=True)]


def _aligned(baseline: pd.DataFrame, steered: pd.DataFrame, on: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
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


def _by_examples(
    before: Outcomes, after: Outcomes
) -> tuple[Float[np.ndarray, "example part"], list[tuple[float, float]]]:
    """The parts of each example's gain, and the mean of each outcome before and after."""
    sides = [
        np.column_stack([side[:, :2], np.where(side[:, 1] == 1, side[:, 0], side[:, 2])]) for side in (before, after)
    ]
    (exact_0, valid_0, choice_0), (exact_1, valid_1, choice_1) = (side.T for side in sides)
    form = (valid_1 - valid_0) * (choice_0 + choice_1) / 2
    choice = (choice_1 - choice_0) * (valid_0 + valid_1) / 2
    levels = [(float(first.mean()), float(second.mean())) for first, second in zip(*(s.T for s in sides), strict=True)]
    return np.stack([exact_1 - exact_0, form, choice], axis=1), levels


def _ratio(means: Float[np.ndarray, "*stack 2"]) -> Float[np.ndarray, "*stack part"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return means[..., 1:] / means[..., :1] - 1


def _fieller(gain: float, reference: float, covariance: Float[np.ndarray, "2 2"]) -> tuple[float, float]:
    """Ratios r at which ``gain - r * reference`` may be 0; the covariance includes the quantile."""
    square = reference**2 - covariance[1, 1]
    if square <= 0:
        return -np.inf, np.inf
    middle = gain * reference - covariance[0, 1]
    reach = np.sqrt(max(0.0, middle**2 - square * (gain**2 - covariance[0, 0])))
    return float((middle - reach) / square), float((middle + reach) / square)


def steerability(scores: Float[np.ndarray, "sample strength"], strengths: ArrayLike) -> pd.DataFrame:
    """How the score of each example responds to the strength: a least-squares line and a rank correlation.

    Args:
        scores: [sample, strength], such as the log-odds of the gold answer.
        strengths: the strengths, in the order of the columns; -1.5 ... 1.5 in the source.

    Returns:
        One row per example: ``slope`` (score per unit of strength), ``intercept``, ``residual`` (root mean
        square distance from the line), ``spearman`` (with the strength; NaN when the score never changes),
        ``anti_steerable`` (slope below 0).

    Raises:
        ValueError: for scores that are not finite or do not fit, or fewer than two different strengths.
    """
    at = as_values("strengths", strengths)
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != at.size or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite [sample, strength={at.size}], got {values.shape}")
    if np.unique(at).size < 2:
        raise ValueError("strengths must hold two different values or more for a slope")
    centred = at - at.mean()
    slope = values @ centred / (centred @ centred)
    intercept = values.mean(axis=1) - slope * at.mean()
    residual = np.sqrt(np.square(values - slope[:, None] * at - intercept[:, None]).mean(axis=1))
    columns = {"slope": slope, "intercept": intercept, "residual": residual}
    columns["spearman"] = [spearman(row, at, least=2) for row in values]
    return pd.DataFrame({**columns, "anti_steerable": slope < 0})


def steerability_summary(
    frame: pd.DataFrame, *, n_bootstrap: int = 2000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """Summarise ``steerability`` over examples.

    Args:
        frame: from ``steerability``.
        n_bootstrap: number of replicates of the BCa intervals.
        seed: seed of the replicates.
        confidence: confidence level of the intervals.

    Returns:
        ``measure, value, low, high, n`` with the rows ``slope``, ``residual`` (means over examples), ``spearman`` (mean
        over examples whose score changes) and ``anti_steerable`` (share with Wilson's interval).

    Raises:
        ValueError: if the frame is empty or lacks a column.
    """
    needed = ("slope", "residual", "spearman", "anti_steerable")
    missing = [column for column in needed if column not in frame]
    if missing or frame.empty:
        raise ValueError(f"frame must come from steerability and hold examples; missing columns: {missing}")
    found = {}
    for measure in needed[:3]:
        values = frame[measure].dropna()
        if len(values):
            found[measure] = mean_interval(values, n_bootstrap=n_bootstrap, seed=seed, confidence=confidence)
    against = int(frame["anti_steerable"].sum())
    found["anti_steerable"] = proportion_interval(against, len(frame), confidence=confidence)
    rows = [(measure, one.value, one.low, one.high, one.n) for measure, one in found.items()]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])
