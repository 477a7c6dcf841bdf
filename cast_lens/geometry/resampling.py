"""Input checks, Gram matrices and the bootstrap by weights, shared by all measures of geometry.

The mean over a resample with counts ``c`` is ``(c / n) @ D``, so every inner product of resampled means follows from
the Gram matrix ``D D'`` of a layer. Replicates are never computed in d_model dimensions, so memory is replicates ×
samples and the cost does not depend on the model's width.

Resampling adds noise to a mean: its squared length grows by about ``trace(covariance) / n``. In hundreds of dimensions
this pulls every replicate's cosine towards 0, often below the estimate itself. ``unbiased_squared_norm`` therefore
estimates the squared length of a resampled mean without this bias, and replicates centre on the estimate.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ..vectors import DifferenceVectors

TINY = 1e-14
"""A squared length below this share of the samples' own is rounding: float32, 6e-8, squared."""


def check_comparable(differences: Sequence[DifferenceVectors], *, at_least: int = 1) -> None:
    """Refuse difference vectors that cannot be compared.

    Raises:
        ValueError: for too few tasks, duplicate task names, different models, widths or layers, or a task
            with fewer than two samples.
    """
    if isinstance(differences, DifferenceVectors):
        raise ValueError("differences must be a sequence with one DifferenceVectors per task; wrap a single one: [x]")
    if len(differences) < at_least:
        raise ValueError(f"differences holds {len(differences)} tasks, but {at_least} or more are needed here")
    names = [one.task for one in differences]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"differences holds task {twice} more than once; rename one in its provenance, or merge them")
    first = differences[0]
    for one in differences:
        _check_against(first, one)


def _check_against(first: DifferenceVectors, one: DifferenceVectors) -> None:
    if one.provenance.fingerprint != first.provenance.fingerprint:
        raise ValueError(
            f"differences of {first.task!r} and {one.task!r} come from different models "
            f"({first.provenance.model}, {one.provenance.model}); capture both with one model"
        )
    if one.layers != first.layers or one.few_shot.shape[2] != first.few_shot.shape[2]:
        raise ValueError(
            f"differences of {first.task!r} and {one.task!r} differ in layers or width: {first.layers} and "
            f"{one.layers}, d_model {first.few_shot.shape[2]} and {one.few_shot.shape[2]}; capture both alike"
        )
    if len(one) < 2:
        raise ValueError(f"differences of {one.task!r} hold {len(one)} sample; at least 2 are needed to vary")


def check_bootstrap(n_bootstrap: int, confidence: float) -> None:
    """Refuse a bootstrap that has no interval.

    Raises:
        ValueError: for fewer than 2 replicates or a confidence outside (0, 1).
    """
    if n_bootstrap < 2:
        raise ValueError(f"n_bootstrap={n_bootstrap} must be 2 or more; 1000 gives a stable 95 % interval")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1; 0.95 is usual")


def local_generator(one: DifferenceVectors, seed: int, purpose: str) -> np.random.Generator:
    """A generator seeded by the task's name, so that a pair's interval does not depend on other tasks."""
    return np.random.default_rng([seed, zlib.crc32(f"{purpose}/{one.task}".encode())])


def resample_counts(one: DifferenceVectors, n_bootstrap: int, seed: int) -> Int[np.ndarray, "replicate sample"]:
    """How often each sample is drawn in each bootstrap replicate; every row sums to the number of samples."""
    n = len(one)
    return local_generator(one, seed, "bootstrap").multinomial(n, np.full(n, 1 / n), size=n_bootstrap)


def centred(values: Float[np.ndarray, "sample d_model"]) -> Float[np.ndarray, "sample d_model"]:
    """Values minus their mean over samples."""
    return values - values.mean(axis=0)


def difference_gram(differences: Sequence[DifferenceVectors], layer: int) -> Float[np.ndarray, "total total"]:
    """Inner products of all difference vectors of all tasks at one layer, task after task, in float64."""
    stacked = np.concatenate([one.at(layer).double().numpy() for one in differences])
    return stacked @ stacked.T


def blocks(differences: Sequence[DifferenceVectors]) -> list[slice]:
    """Rows of each task in the stacked matrix of ``difference_gram``."""
    ends = np.cumsum([len(one) for one in differences])
    return [slice(int(end) - len(one), int(end)) for end, one in zip(ends, differences, strict=True)]


def weighted_inner(
    gram: Float[np.ndarray, "total total"], weights: Sequence[Float[np.ndarray, "replicate _"]]
) -> Float[np.ndarray, "task task replicate"]:
    """Inner products between the tasks' weighted sums, replicate by replicate: ``w_a @ G_ab @ w_b``."""
    starts = np.cumsum([0] + [weight.shape[1] for weight in weights])[:-1]
    joined = np.concatenate(weights, axis=1)
    inner = np.empty((len(weights), len(weights), joined.shape[0]))
    for task, (start, weight) in enumerate(zip(starts, weights, strict=True)):
        products = weight @ gram[start : start + weight.shape[1], start:]
        products *= joined[:, start:]
        sums = np.add.reduceat(products, starts[task:] - start, axis=1).T
        inner[task, task:], inner[task:, task] = sums, sums
    return inner


def unbiased_squared_norm(
    squared_sum: Float[np.ndarray, "*stack"],
    sum_of_squares: Float[np.ndarray, "*stack"],
    n: int | Int[np.ndarray, "*stack"],
) -> Float[np.ndarray, "*stack"]:
    """Unbiased estimate of the squared length of a mean: the mean inner product of two different draws.

    Args:
        squared_sum: squared length of the sum of the draws.
        sum_of_squares: sum of the squared lengths of the draws.
        n: number of draws, 2 or more.
    """
    return (squared_sum - sum_of_squares) / (n * (n - 1.0))


def bounded_cosine(
    inner: Float[np.ndarray, "*stack"], squared_norms: Float[np.ndarray, "*stack"]
) -> Float[np.ndarray, "*stack"]:
    """Inner product over the root of a product of squared lengths, kept in [-1, 1].

    An unbiased squared length can be 0 or negative if the mean is lost in noise. The cosine is then completely
    uncertain, and is set to the bound with the sign of the inner product.
    """
    lengths = np.sqrt(np.maximum(squared_norms, np.finfo(np.float64).tiny))
    return np.clip(inner / lengths, -1.0, 1.0)


def band(
    replicates: Float[np.ndarray, "*stack replicate"], confidence: float
) -> tuple[Float[np.ndarray, "*stack"], Float[np.ndarray, "*stack"]]:
    """Central quantiles over the last axis, of the replicates that are defined; NaN if none is."""
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    undefined = np.isnan(replicates)
    if not undefined.any():
        low, high = np.quantile(replicates, levels, axis=-1)
    else:
        empty = undefined.all(axis=-1, keepdims=True)
        low, high = np.nanquantile(np.where(empty, 0.0, replicates), levels, axis=-1)
        low, high = (np.where(empty[..., 0], np.nan, bound) for bound in (low, high))
    return np.asarray(low), np.asarray(high)


def check_mean_norms(
    differences: Sequence[DifferenceVectors], gram: Float[np.ndarray, "total total"], layer: int
) -> None:
    """Refuse a task whose mean difference has no direction.

    Raises:
        ValueError: when the mean difference of a task is zero at this layer.
    """
    for one, rows in zip(differences, blocks(differences), strict=True):
        own = gram[rows, rows]
        if own.mean() <= TINY * own.diagonal().mean():
            raise ValueError(
                f"the mean difference of {one.task!r} at layer {layer} is zero, so it has no direction; "
                "are its few-shot and zero-shot prompts the same?"
            )


def check_sample_norms(
    differences: Sequence[DifferenceVectors], gram: Float[np.ndarray, "total total"], layer: int
) -> None:
    """Refuse a sample whose difference has no direction.

    Raises:
        ValueError: when the difference of a sample is zero at this layer.
    """
    for one, rows in zip(differences, blocks(differences), strict=True):
        squares = gram.diagonal()[rows]
        if not squares.all():
            sample = one.sample_ids[int(np.argmin(squares))]
            raise ValueError(
                f"the difference of sample {sample!r} of {one.task!r} is zero at layer {layer}, so it has no "
                "direction; are its few-shot and zero-shot prompts the same?"
            )
