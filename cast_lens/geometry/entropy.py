"""Matrix entropy: over how many directions the activations of a layer spread.

The figure of arXiv 2507.13236 compares it between prompts with and without demonstrations; the definition
follows the public code of the same group's GLoRE (github txy77/GLoRE, analysis_entropy.py): no centring, no
row normalisation. So a few very long activations, or a large common offset, lower it: it does not
measure knowledge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors import DifferenceVectors
from .resampling import check_comparable

NEGLIGIBLE = 1e-12
"""Eigenvalues below this share of the trace are rounding. The source drops those below 1e-10 in absolute
terms; a share makes the entropy independent of the unit, and moves it by less than 1e-8 for activations of
ordinary length."""


def matrix_entropy(activations: Float[Tensor, "sample d_model"], order: float = 1.0) -> float:
    """Entropy, in nats, of the normalised spectrum of ``K = Z Z'`` for activations ``Z``.

    With ``p_i`` the eigenvalues of K over its trace: order 1 is ``-sum p_i ln p_i``; any other order a is
    ``ln(sum p_i ** a) / (1 - a)``; order 0 is the log of the rank, order infinity ``-ln max p_i``. It is
    between 0 (all activations on one line through the origin) and ``ln min(sample, d_model)`` (orthogonal,
    equally long ones).

    Args:
        activations: [sample, d_model], finite, not all zero.
        order: 0 or more.

    Raises:
        ValueError: on activations that are empty, not finite or all zero, or a negative order.
    """
    if not order >= 0:
        raise ValueError(f"order={order} must be 0 or more; 1 is the usual (von Neumann) entropy")
    if activations.ndim != 2 or activations.numel() == 0 or not bool(torch.isfinite(activations).all()):
        raise ValueError(f"activations must be a finite matrix [sample, d_model], got {tuple(activations.shape)}")
    values = activations.double().numpy()
    # Both sides have the same non-zero eigenvalues.
    gram = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    if gram.trace() == 0:
        raise ValueError("activations are all zero, so their spectrum cannot be normalised; check the capture")
    shares = np.linalg.eigvalsh(gram) / gram.trace()
    shares = shares[shares > NEGLIGIBLE]
    # Dropping rounding leaves a sum within 1e-9 of 1; a negative zero is not worth showing.
    return max(0.0, _renyi(shares, order))


def _renyi(shares: Float[np.ndarray, " share"], order: float) -> float:
    if order == 1:
        return float(-(shares * np.log(shares)).sum())
    if np.isinf(order):
        return float(-np.log(shares.max()))
    return float(np.log((shares**order).sum()) / (1 - order))


def entropy_by_layer(differences: Sequence[DifferenceVectors], *, order: float = 1.0) -> pd.DataFrame:
    """Matrix entropy of the zero-shot and of the few-shot activations of each task, layer by layer.

    Returns:
        ``task, layer, condition`` (``zero-shot`` or ``few-shot``), ``entropy`` in nats, ``n``. Entropies of
        different n are not comparable: the bound is ``ln n`` while n is below d_model.

    Raises:
        ValueError: on different models or layers, duplicate names, fewer than two samples, or a
            negative order.
    """
    check_comparable(differences)
    rows = []
    for one in differences:
        for condition, stack in (("zero-shot", one.zero_shot), ("few-shot", one.few_shot)):
            for row, layer in enumerate(one.layers):
                rows.append((one.task, layer, condition, matrix_entropy(stack[:, row], order), len(one)))
    return pd.DataFrame(rows, columns=["task", "layer", "condition", "entropy", "n"])
