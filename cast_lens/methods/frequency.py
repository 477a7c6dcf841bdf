"""FAST: the low frequencies of a difference vector always, the high ones as far as tasks are alike.

The follow-up of CAST by the same group ("Fourier Activation Steering Transfer", OpenReview HFZhYvKM8V) takes a Fourier
transform of the difference vector along the hidden dimension, adds its low part always and its high part weighted by
the similarity of source and target, above a threshold. **Its equations are not public; these are ours**:

    V = rfft(v);   low = irfft(V with frequencies of index >= cutoff set to 0);   high = v - low
    v' = low + s * [s >= threshold] * high,   s = cosine of the tasks' mean zero-shot residuals, at each layer

The order of a residual stream's coordinates means nothing to the model: neighbouring coordinates are not alike, so "low
frequency" is a random projection onto ``2 cutoff - 1`` dimensions. The placebo therefore shows whether frequencies
matter: the same split after a fixed permutation of the coordinates (``permuted``). A gain of FAST over it would show
that the order carries information; a gain over CAST alone shows a shorter vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors import DifferenceVectors, SteeringVector

# Frequencies kept of d_model / 2 + 1, and the similarity from which on the rest is added: ours.
CUTOFF_SHARE, THRESHOLD = 0.25, 0.5


def split_frequencies(
    directions: Float[Tensor, "*row d_model"], cutoff: int
) -> tuple[Float[Tensor, "*row d_model"], Float[Tensor, "*row d_model"]]:
    """Low and high part, which add up to the directions.

    Args:
        directions: of any number of rows.
        cutoff: frequencies from this index on are high; 0 leaves nothing low.

    Raises:
        ValueError: a cutoff beyond the number of frequencies.
    """
    width = directions.shape[-1]
    if not 0 <= cutoff <= width // 2 + 1:
        raise ValueError(f"cutoff={cutoff} must be from 0 to {width // 2 + 1}, the frequencies of {width} coordinates")
    spectrum = torch.fft.rfft(directions.double(), dim=-1)
    spectrum[..., cutoff:] = 0
    low = torch.fft.irfft(spectrum, n=width, dim=-1)
    return low.to(directions.dtype), (directions.double() - low).to(directions.dtype)


def task_similarity(source: DifferenceVectors, target: Float[Tensor, "query layer d_model"]) -> dict[int, float]:
    """Cosine of the two tasks' mean zero-shot residuals, at each layer of the source's vectors.

    Args:
        source: gives zero-shot residuals of the source's samples.
        target: zero-shot residuals of the target's queries, without labels, at the same layers (``capture``).
    """
    ours, theirs = source.zero_shot.double().mean(dim=0), target.double().mean(dim=0)
    cosines = torch.cosine_similarity(ours, theirs, dim=-1)
    return dict(zip(source.layers, cosines.tolist(), strict=True))


def fast_vector(
    vector: SteeringVector,
    similarity: Mapping[int, float],
    *,
    cutoff: int | None = None,
    threshold: float = THRESHOLD,
    permuted: int | None = None,
) -> SteeringVector:
    """A vector with its high frequencies weighted by the similarity of the tasks.

    Args:
        vector: the difference vector of the source.
        similarity: similarity of source and target at each layer; see ``task_similarity``.
        cutoff: see ``split_frequencies``; a quarter of the frequencies when None.
        threshold: below it nothing high is added.
        permuted: seed of a permutation of the coordinates under which frequencies are taken: the placebo.

    Raises:
        ValueError: a layer without a similarity.
    """
    missing = [layer for layer in vector.layers if layer not in similarity]
    if missing:
        raise ValueError(f"similarity lacks layer {missing[0]}; give one number per layer of the vector")
    width = vector.directions.shape[1]
    kept = round(CUTOFF_SHARE * (width // 2 + 1)) if cutoff is None else cutoff
    order = torch.arange(width)
    if permuted is not None:
        order = torch.randperm(width, generator=torch.Generator().manual_seed(permuted))
    low, high = split_frequencies(vector.directions[:, order], kept)
    weights = torch.tensor([similarity[layer] for layer in vector.layers])
    mixed = low + (weights * (weights >= threshold))[:, None] * high
    back = torch.empty_like(mixed)
    back[:, order] = mixed
    about = vector.provenance
    note = f"{about.note}; FAST (ours): {kept} low frequencies, threshold {threshold:g}"
    note += "" if permuted is None else f", placebo: permuted coordinates, seed {permuted}"
    return SteeringVector(back, vector.layers, replace(about, note=note))
