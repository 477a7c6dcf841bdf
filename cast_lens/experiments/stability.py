"""How far a vector turns when something about it is changed, compared with how far it turns by sampling alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from ..vectors import DifferenceVectors

# Of the line in a figure of cosines.
SAMPLING = "placebo: another draw of samples"

# Random halvings behind a split-half cosine.
HALVINGS = 50


def mean_cosines(
    left: Float[Tensor, "layer d_model"], right: Float[Tensor, "layer d_model"]
) -> Float[np.ndarray, " layer"]:
    """Cosine of two vectors at each layer; NaN where one of them is zero."""
    a, b = left.double(), right.double()
    lengths = a.norm(dim=-1) * b.norm(dim=-1)
    cosine = (a * b).sum(dim=-1) / lengths
    return torch.where(lengths > 0, cosine, torch.full_like(cosine, float("nan"))).numpy()


def sampling_cosines(
    differences: DifferenceVectors, *, seed: int, halvings: int = HALVINGS
) -> Float[np.ndarray, " layer"]:
    """Cosine to expect, layer by layer, between the means of two disjoint draws of as many samples.

    The cosine between the means of two random halves, averaged over halvings and stepped up to the full number by
    the Spearman-Brown formula ``2 r / (1 + r)``: what another draw of samples would do to the vector. A variant
    whose cosine to the vector is not below this turns it no further than another draw would.

    Args:
        differences: differences of one task.
        seed: seed of the halvings.
        halvings: number of halvings.

    Returns:
        one cosine per layer; NaN for fewer than 4 samples.
    """
    n = len(differences)
    if n < 4:
        return np.full(len(differences.layers), np.nan)
    generator = torch.Generator().manual_seed(seed)
    values, total = differences.values.double(), np.zeros(len(differences.layers))
    for _ in range(halvings):
        order = torch.randperm(n, generator=generator)
        total += mean_cosines(values[order[: n // 2]].mean(dim=0), values[order[n // 2 :]].mean(dim=0))
    half = np.clip(total / halvings, 0.0, 1.0)
    return 2 * half / (1 + half)


def resampled_cosine(differences: Float[np.ndarray, "sample d_model"], *, replicates: int, seed: int) -> float:
    """Mean cosine between the mean of samples and the means of bootstrap resamples of them.

    Resampling only spreads a mean, so the value is below 1 for any samples that differ; compare it between sets of
    the same size.
    """
    n = len(differences)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=replicates)
    gram = differences @ differences.T
    weights = counts / n
    across = weights @ gram.mean(axis=1)
    lengths = np.sqrt(np.maximum(np.einsum("rs,rs->r", weights @ gram, weights), 0.0) * gram.mean())
    return float((across / np.maximum(lengths, np.finfo(np.float64).tiny)).mean())


def turns(geometry: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """How far vectors turn at the layer of the setting, over sources.

    Args:
        geometry: ``source, cosine`` (to the vector that is not changed), ``sampling, at_setting`` and ``by``.
        by: columns that say what was changed.

    Returns:
        ``by, sources, cosine, cosine_low, cosine_high`` (mean and range), ``sampling`` (the cosine that another draw of
        samples would give), ``further, no_further`` (sources whose vector turns further than that, or does not).
    """
    here = geometry[geometry["at_setting"]] if len(geometry) else geometry
    return pd.DataFrame(
        {
            **dict(zip(by, named, strict=True)),
            "sources": len(part),
            "cosine": part["cosine"].mean(),
            "cosine_low": part["cosine"].min(),
            "cosine_high": part["cosine"].max(),
            "sampling": part["sampling"].mean(),
            "further": int((part["cosine"] < part["sampling"]).sum()),
            "no_further": int((part["cosine"] >= part["sampling"]).sum()),
        }
        for named, part in (here.groupby(list(by), sort=False) if len(here) else ())
    )


def cosine_lines(geometry: pd.DataFrame, methods: pd.Series, *, samples: int) -> pd.DataFrame:
    """Cosines by layer for ``plots.plot_scaling``: one line per method, and what sampling alone would do.

    Args:
        geometry: ``layer, cosine, sampling``; several rows of a method and layer are averaged.
        methods: the line of each row.
        samples: behind every vector.

    Returns:
        ``method, x`` (layer), ``y, low, high`` (mean and range), ``n``.
    """
    spread = {"y": ("cosine", "mean"), "low": ("cosine", "min"), "high": ("cosine", "max")}
    lines = geometry.assign(method=methods)
    noise = geometry.assign(method=SAMPLING, cosine=geometry["sampling"])
    both = pd.concat([lines, noise], ignore_index=True)
    found = both.groupby(["method", "layer"], sort=False).agg(**spread).reset_index()
    return found.rename(columns={"layer": "x"}).assign(n=samples)
