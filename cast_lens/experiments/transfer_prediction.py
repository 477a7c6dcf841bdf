"""How well a number predicts the sign of a gain, on tasks that were not used to calibrate it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from ..stats import auroc, spearman

# Targets of each kind from which on an interval over targets is given.
LEAST = 3


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions of pairs, each from pairs that do not hold its target.

    Attributes:
        scores: the predictor, standardised and turned so that more means a larger gain, [pair].
        harmful: predicted to lose, [pair].
    """

    scores: Float[np.ndarray, " pair"]
    harmful: Bool[np.ndarray, " pair"]


def leave_one_task_out(pairs: pd.DataFrame, values: Float[np.ndarray, " pair"]) -> HeldOut:
    """Predict the pairs of each target from the pairs in which it is neither target nor source.

    From those are learned: in which direction the predictor is read (the sign of its rank correlation with the gain),
    its mean and spread, and the threshold below which a pair is called harmful.

    Args:
        pairs: ``target, source, gain``.
        values: the predictor of each pair.
    """
    gains = pairs["gain"].to_numpy(float)
    scores, harmful = np.zeros(len(pairs)), np.zeros(len(pairs), bool)
    for target in dict.fromkeys(pairs["target"]):
        held = (pairs["target"] == target).to_numpy()
        others = ~held & (pairs["source"] != target).to_numpy()
        if not others.any():
            continue
        known, lost = values[others], gains[others] < 0
        sign, spread = np.sign(np.nan_to_num(spearman(known, gains[others]))), known.std()
        scale = sign / spread if spread > 0 else 0.0
        scores[held] = (values[held] - known.mean()) * scale
        threshold = best_threshold((known - known.mean()) * scale, lost)
        harmful[held] = scores[held] < threshold
    return HeldOut(scores, harmful)


def best_threshold(scores: Float[np.ndarray, " pair"], lost: Bool[np.ndarray, " pair"]) -> float:
    """Below it pairs are called harmful with the fewest errors; the lowest of equally good ones."""
    places = np.unique(scores)
    between = [-np.inf, *((places[1:] + places[:-1]) / 2), np.inf]
    errors = [int(((scores < place) != lost).sum()) for place in between]
    return float(between[int(np.argmin(errors))])


def auroc_interval(
    pairs: pd.DataFrame, scores: Float[np.ndarray, " pair"], *, n_bootstrap: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the AUROC over resampled targets, each with all its pairs.

    NaN when fewer than ``LEAST`` targets have a pair that loses, or fewer have one that does not: resampling so
    few would give an interval that is too narrow.
    """
    lost = pairs["gain"].to_numpy(float) < 0
    if min(pairs.loc[kind, "target"].nunique() for kind in (lost, ~lost)) < LEAST:
        return float("nan"), float("nan")
    rows = [np.flatnonzero(pairs["target"] == target) for target in dict.fromkeys(pairs["target"])]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n_bootstrap):
        drawn = np.concatenate([rows[index] for index in generator.integers(0, len(rows), len(rows))])
        found.append(auroc(scores[drawn], lost[drawn]))
    known = np.array(found)[np.isfinite(found)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
