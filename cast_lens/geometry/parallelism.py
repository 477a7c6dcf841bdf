"""Are the difference vectors of different tasks parallel? This measures the claim of arXiv 2507.13236, section 3.2.

A high cosine means that two tasks' mean differences point the same way. It does not mean that adding one task's vector
helps on the other task; that needs a steering experiment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import beta

from ..vectors import DifferenceVectors
from .resampling import (
    TINY,
    band,
    blocks,
    bounded_cosine,
    centred,
    check_bootstrap,
    check_comparable,
    check_mean_norms,
    difference_gram,
    local_generator,
    resample_counts,
    unbiased_squared_norm,
    weighted_inner,
)


def parallelism(
    differences: Sequence[DifferenceVectors], *, n_bootstrap: int = 1000, seed: int = 0, confidence: float = 0.95
) -> pd.DataFrame:
    """How parallel the mean differences of each pair of tasks are, layer by layer.

    Columns of the frame, one row per layer and unordered pair of tasks (no task with itself), sorted by layer:

    - ``task_a, task_b, layer, n_a, n_b``;
    - ``cosine``: between the two sample means, the vectors that one would steer with;
    - ``low, high``: its bootstrap percentile interval; samples of each task are redrawn independently, and the noise
      that redrawing itself adds is removed (see ``resampling``);
    - ``ceiling``: noise ceiling, the cosine that two tasks with the same population mean would show on average at these
      n, since means of few, scattered samples cannot be parallel. NaN if a mean is lost in noise;
    - ``corrected``: ``cosine / ceiling``, an estimate of the cosine between the population means; it may
      exceed 1 a little. ``low / ceiling`` and ``high / ceiling`` are its interval;
    - ``null_pairs_mean, null_pairs_low, null_pairs_high``: null of *no change of prompt*. In each draw, the zero-shot
      activations of each task are paired at random (``n // 2`` disjoint pairs), ``h_zero[i] - h_zero[j]`` is averaged
      over the pairs, and the cosine between the two tasks' averages is computed; mean and central band over
      ``n_bootstrap`` draws. The band is wide if the activations of all tasks vary along a few common axes. NaN if a
      task's zero-shot activations do not vary;
    - ``null_random_low, null_random_high``: null of *random directions*: the central band of the cosine of a
      uniformly random direction of any given norm with a fixed one in d_model dimensions, exact from
      ``(1 + cosine) / 2 ~ Beta((d_model - 1) / 2, (d_model - 1) / 2)``.

    Args:
        differences: one per task, two or more, from one model at the same layers.
        n_bootstrap: bootstrap replicates, and draws of the pair null.
        seed: seed of the replicates and draws. A pair's numbers do not depend on which other tasks are given.
        confidence: confidence level of every interval and band.

    Raises:
        ValueError: for fewer than two tasks, different models or layers, duplicate names, fewer than two
            samples, or a mean difference that is zero.

    >>> frame = parallelism([differences, other], n_bootstrap=20)
    >>> list(frame["layer"])                                    # one row per pair of tasks and layer
    [0, 1, 2, 3]
    """
    check_comparable(differences, at_least=2)
    check_bootstrap(n_bootstrap, confidence)
    counts = [resample_counts(one, n_bootstrap, seed) for one in differences]
    pairings = [_pair_weights(one, n_bootstrap, seed) for one in differences]
    low, high = random_cosine_band(differences[0].few_shot.shape[2], confidence=confidence)
    frames = []
    for layer in differences[0].layers:
        columns = {
            **_pair_columns(differences, layer),
            **_cosine_columns(differences, layer, counts, confidence),
            **_null_columns(differences, layer, pairings, confidence),
            "null_random_low": low,
            "null_random_high": high,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def random_cosine_band(d_model: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Central band of the cosine between a fixed and a uniformly random direction.

    Raises:
        ValueError: when d_model is below 2, where directions do not vary continuously.
    """
    if d_model < 2:
        raise ValueError(f"d_model={d_model} must be 2 or more for random directions to form a band")
    high = 2 * float(beta.ppf((1 + confidence) / 2, (d_model - 1) / 2, (d_model - 1) / 2)) - 1
    return -high, high


def cosine_matrix(differences: Sequence[DifferenceVectors], layer: int, *, clustered: bool = False) -> pd.DataFrame:
    """The square of cosines between mean differences at one layer, for a heat map.

    Args:
        differences: one per task.
        layer: block index.
        clustered: put similar tasks next to each other (average linkage on ``1 - cosine``, best leaf order)
            instead of keeping the given order.

    Returns:
        ``task_a, task_b, layer, cosine``: every ordered pair, diagonal included, rows in the order of the
        axes.

    Raises:
        ValueError: see ``parallelism``; if the layer was not captured.
    """
    check_comparable(differences)
    cosine = _mean_cosines(differences, layer)
    order = _leaf_order(cosine) if clustered and len(differences) > 2 else np.arange(len(differences))
    rows, columns = np.repeat(order, len(order)), np.tile(order, len(order))
    names = np.array([one.task for one in differences], dtype=object)
    values = {"task_a": names[rows], "task_b": names[columns], "layer": layer, "cosine": cosine[rows, columns]}
    return pd.DataFrame(values)


def _leaf_order(cosine: Float[np.ndarray, "task task"]) -> Int[np.ndarray, " task"]:
    distances = squareform(np.clip(1 - cosine, 0, None), checks=False)
    return leaves_list(linkage(distances, method="average", optimal_ordering=True)).astype(np.int64)


def _mean_cosines(differences: Sequence[DifferenceVectors], layer: int) -> Float[np.ndarray, "task task"]:
    gram = difference_gram(differences, layer)
    check_mean_norms(differences, gram, layer)
    return _cosine_of(_mean_inner(differences, gram))


def _mean_inner(
    differences: Sequence[DifferenceVectors], gram: Float[np.ndarray, "total total"]
) -> Float[np.ndarray, "task task"]:
    return weighted_inner(gram, [np.full((1, len(one)), 1 / len(one)) for one in differences])[..., 0]


def _cosine_of(inner: Float[np.ndarray, "task task"]) -> Float[np.ndarray, "task task"]:
    lengths = np.sqrt(inner.diagonal())
    cosine = np.clip(inner / np.outer(lengths, lengths), -1.0, 1.0)
    np.fill_diagonal(cosine, 1.0)
    return cosine


def _pairs(differences: Sequence[DifferenceVectors]) -> tuple[Int[np.ndarray, " pair"], Int[np.ndarray, " pair"]]:
    return np.triu_indices(len(differences), k=1)


def _pair_columns(differences: Sequence[DifferenceVectors], layer: int) -> dict[str, object]:
    left, right = _pairs(differences)
    return {
        "task_a": [differences[index].task for index in left],
        "task_b": [differences[index].task for index in right],
        "layer": layer,
        "n_a": [len(differences[index]) for index in left],
        "n_b": [len(differences[index]) for index in right],
    }


def _cosine_columns(
    differences: Sequence[DifferenceVectors],
    layer: int,
    counts: Sequence[Int[np.ndarray, "replicate _"]],
    confidence: float,
) -> dict[str, Float[np.ndarray, " pair"]]:
    gram = difference_gram(differences, layer)
    check_mean_norms(differences, gram, layer)
    left, right = _pairs(differences)
    inner = _mean_inner(differences, gram)
    cosine = _cosine_of(inner)[left, right]
    sizes = np.array([len(one) for one in differences])
    squares = [gram.diagonal()[rows] for rows in blocks(differences)]
    true_norms = unbiased_squared_norm(
        inner.diagonal() * sizes**2, np.array([square.sum() for square in squares]), sizes
    )
    shares = np.where(true_norms > 0, true_norms, np.nan) / inner.diagonal()
    ceiling = np.sqrt(shares[left] * shares[right])
    low, high = band(_replicate_cosines(gram, squares, counts), confidence)
    columns = {"cosine": cosine, "low": low, "high": high, "ceiling": ceiling}
    return {**columns, "corrected": cosine / ceiling}


def _replicate_cosines(
    gram: Float[np.ndarray, "total total"],
    squares: Sequence[Float[np.ndarray, " _"]],
    counts: Sequence[Int[np.ndarray, "replicate _"]],
) -> Float[np.ndarray, "pair replicate"]:
    inner = weighted_inner(gram, [count / count.shape[1] for count in counts])
    norms = np.stack(
        [
            unbiased_squared_norm(inner[task, task] * square.size**2, count @ square, square.size)
            for task, (square, count) in enumerate(zip(squares, counts, strict=True))
        ]
    )
    left, right = np.triu_indices(len(counts), k=1)
    return bounded_cosine(inner[left, right], norms.clip(min=0)[left] * norms.clip(min=0)[right])


def _pair_weights(one: DifferenceVectors, n_draws: int, seed: int) -> Float[np.ndarray, "replicate sample"]:
    """Signs of ``n // 2`` disjoint random pairs per draw, over their number: one of each pair counts +, the
    other -."""
    pairs = len(one) // 2
    signs = np.zeros((n_draws, len(one)))
    signs[:, :pairs], signs[:, pairs : 2 * pairs] = 1 / pairs, -1 / pairs
    return local_generator(one, seed, "pairs").permuted(signs, axis=1)


def _null_columns(
    differences: Sequence[DifferenceVectors],
    layer: int,
    pairings: Sequence[Float[np.ndarray, "replicate _"]],
    confidence: float,
) -> dict[str, Float[np.ndarray, " pair"]]:
    row = differences[0].layers.index(layer)
    raw = [one.zero_shot[:, row].double().numpy() for one in differences]
    # The weights of a draw sum to zero, so centring changes no product; it keeps large common offsets out of
    # them.
    stacked = np.concatenate([centred(activations) for activations in raw])
    inner = weighted_inner(stacked @ stacked.T, pairings)
    floors = np.array([TINY * np.square(activations).sum(axis=1).mean() for activations in raw])
    norms = np.einsum("ttr->tr", inner)
    norms = np.where(norms > floors[:, None], norms, np.nan)
    left, right = _pairs(differences)
    cosines = np.clip(inner[left, right] / np.sqrt(norms[left] * norms[right]), -1.0, 1.0)
    low, high = band(cosines, confidence)
    drawn = np.isfinite(cosines).sum(axis=-1)
    mean = np.nansum(cosines, axis=-1) / np.where(drawn > 0, drawn, np.nan)
    return {"null_pairs_mean": mean, "null_pairs_low": low, "null_pairs_high": high}
