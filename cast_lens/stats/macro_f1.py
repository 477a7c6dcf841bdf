"""Macro-F1 (the mean over classes of each class's F1), and how much a treatment changes it on the same examples.

F1 of a class is ``2 hits / (predicted + gold)``. The classes are those that occur among the gold answers or the
predictions, as in scikit-learn; an answer that is not a class counts as a miss. Macro-F1 is not a mean over examples,
so its interval consists of percentiles over resampled examples, and its test swaps the two predictions of an example at
random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .arrays import check_share
from .intervals import Estimate

Weights = Float[np.ndarray, "replicate sample"]


@dataclass(frozen=True, slots=True, eq=False)
class F1Contrast:
    """Macro-F1 with and without a treatment.

    Attributes:
        value: macro-F1 with the treatment, averaged over its draws.
        baseline: macro-F1 without it.
        gain: the difference; its interval is over examples.
        p: two-sided p-value of the test that swaps the two predictions of each example.
        resampled: the gain in each replicate, for means over several contrasts of the same examples.
    """

    value: Estimate
    baseline: float
    gain: Estimate
    p: float
    resampled: Float[np.ndarray, " replicate"]


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Predictions as indicators: which class is predicted, and whether it is right."""

    predicted: Float[np.ndarray, "sample label"]
    hits: Float[np.ndarray, "sample label"]

    @classmethod
    def of(cls, gold: Float[np.ndarray, "sample label"], predicted: Sequence[str], labels: Sequence[str]) -> _Counted:
        shown = _indicators(predicted, labels)
        return cls(shown, shown * gold)


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Mean over classes of F1.

    Args:
        gold: the right class of each example.
        predicted: the answer to each example; any text.

    Raises:
        ValueError: if there are no examples, or lengths differ.

    >>> macro_f1(["yes", "yes", "no", "no"], ["yes", "yes", "yes", "no"])
    0.733...
    """
    _check(gold, [predicted])
    labels = _classes(gold, [predicted])
    right = _indicators(gold, labels)
    ones = np.ones((1, len(gold)))
    return float(_scores(ones @ right, *_sums(ones, _Counted.of(right, predicted, labels)))[0])


def macro_f1_contrast(
    gold: Sequence[str],
    baseline: Sequence[str],
    treated: Sequence[Sequence[str]],
    *,
    n_bootstrap: int = 2000,
    n_permutations: int = 1999,
    seed: int = 0,
    confidence: float = 0.95,
) -> F1Contrast:
    """How much a treatment changes macro-F1.

    Args:
        gold: the right class of each example.
        baseline: the answers without the treatment.
        treated: the answers with it, one list per draw of the treatment (several seeds of a placebo); draws are
            averaged, and an example is resampled with all of them.
        n_bootstrap: number of replicates of the intervals.
        n_permutations: number of random swaps of the test.
        seed: seed of both; contrasts of the same examples with the same seed share their replicates.
        confidence: confidence level of the intervals.

    Raises:
        ValueError: if there are no examples or no draw, lengths differ, or the confidence is outside (0, 1).
    """
    check_share("confidence", confidence)
    _check(gold, [baseline, *treated])
    if not treated:
        raise ValueError("treated is empty; give the answers of one draw or more")
    labels, n = _classes(gold, [baseline, *treated]), len(gold)
    right = _indicators(gold, labels)
    before, after = _Counted.of(right, baseline, labels), [_Counted.of(right, one, labels) for one in treated]
    generator = np.random.default_rng(seed)
    drawn: Weights = generator.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(float)
    weights = np.concatenate([np.ones((1, n)), drawn])
    golds = weights @ right
    base = _scores(golds, *_sums(weights, before))
    with_it = np.mean([_scores(golds, *_sums(weights, one)) for one in after], axis=0)
    kept: Weights = generator.integers(0, 2, size=(n_permutations, n)).astype(float)
    null = np.mean([_exchanged(right, before, one, kept) for one in after], axis=0)
    gain = with_it - base
    hits = int((np.abs(null) >= abs(gain[0]) - 1e-12).sum())
    return F1Contrast(
        _estimate(with_it, n, confidence),
        float(base[0]),
        _estimate(gain, n, confidence),
        (1 + hits) / (1 + n_permutations),
        gain[1:],
    )


def _exchanged(
    right: Float[np.ndarray, "sample label"], before: _Counted, after: _Counted, kept: Weights
) -> Float[np.ndarray, " replicate"]:
    """The gain after swapping the two predictions of all examples that are not in ``kept``."""
    golds = np.broadcast_to(right.sum(axis=0), (len(kept), right.shape[1]))
    one, two = (_sums(kept, side) for side in (after, before))
    other, another = (_sums(1 - kept, side) for side in (after, before))
    with_it = _scores(golds, one[0] + another[0], one[1] + another[1])
    return with_it - _scores(golds, two[0] + other[0], two[1] + other[1])


def _sums(weights: Weights, one: _Counted) -> tuple[np.ndarray, np.ndarray]:
    return weights @ one.predicted, weights @ one.hits


def _scores(
    golds: Float[np.ndarray, "replicate label"],
    predicted: Float[np.ndarray, "replicate label"],
    hits: Float[np.ndarray, "replicate label"],
) -> Float[np.ndarray, " replicate"]:
    """Macro-F1 of each replicate over the classes that occur in it."""
    total = golds + predicted
    found = np.where(total > 0, 2 * hits / np.where(total > 0, total, 1), 0.0)
    scores: Float[np.ndarray, " replicate"] = found.sum(axis=1) / (total > 0).sum(axis=1)
    return scores


def _estimate(values: Float[np.ndarray, " replicate"], n: int, confidence: float) -> Estimate:
    """The first value with the percentiles of the others; the interval is NaN if they do not differ."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    if not high > low:
        low = high = np.nan
    return Estimate(float(values[0]), float(low), float(high), n, n)


def _classes(gold: Sequence[str], answers: Sequence[Sequence[str]]) -> list[str]:
    """Gold classes and all answers that name a class; an empty answer does not."""
    return sorted({*gold, *(text for one in answers for text in one if text)})


def _indicators(texts: Sequence[str], labels: Sequence[str]) -> Float[np.ndarray, "sample label"]:
    return np.array([[float(text == label) for label in labels] for text in texts])


def _check(gold: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
    if not gold or any(len(one) != len(gold) for one in answers):
        sizes = ", ".join(str(len(one)) for one in answers)
        raise ValueError(f"answers must be as many as gold classes, and at least one; got {sizes} for {len(gold)}")
