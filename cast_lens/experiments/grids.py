"""What a layer × strength grid says of its best cell, and how much of that is luck.

The best of many cells is chosen on the examples that then praise it. ``held_out_gains`` therefore chooses on one half
of the examples and measures on the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from statsmodels.stats.proportion import proportion_confint

from ..stats import difference_interval, mcnemar_p_values

# A cell counts to the optimum's neighbourhood from this share of the best gain on.
NEAR = 0.8
CHOSEN, ORACLE, HALVES = "chosen on the source", "oracle", "oracle on the other half"
# Random halvings; each holds every example out once.
HALVINGS = 50
# Means of the same outcomes in another order differ by rounding.
TIES = 1e-9


def packed(outcomes: pd.Series) -> str:
    """Outcomes of 0 and 1 as a text of that many digits; empty where an example has none."""
    values = outcomes.to_numpy(dtype=np.float64)
    return "" if np.isnan(values).any() else "".join("1" if value else "0" for value in values)


def unpacked(rows: pd.Series) -> Bool[np.ndarray, "cell sample"]:
    """The outcomes that ``packed`` wrote, one row per text of equal length."""
    return np.stack([np.frombuffer(text.encode(), dtype=np.uint8) == ord("1") for text in rows])


def held_out_gains(
    gains: Float[np.ndarray, "cell sample"], *, seed: int, halvings: int = HALVINGS
) -> Float[np.ndarray, " sample"]:
    """The gain of each example at the cell that is best on a half without it, averaged over random halvings.

    Its mean estimates, without the winner's curse, what choosing the best cell on ``n // 2`` examples brings. Equally
    good cells are averaged.

    Args:
        gains: outcome at each cell minus the unsteered outcome.
        seed: of the halvings.
        halvings: how many.

    Raises:
        ValueError: fewer than two examples.
    """
    n = gains.shape[1]
    if n < 2:
        raise ValueError(f"gains of {n} examples have no halves; give two or more")
    generator, total = np.random.default_rng(seed), np.zeros(n)
    for _ in range(halvings):
        first = generator.permutation(n) < n // 2
        for picking in (first, ~first):
            score = gains[:, picking].mean(axis=1)
            best = score >= np.nanmax(score) - TIES
            total[~picking] += gains[best][:, ~picking].mean(axis=0)
    return total / halvings


def best_cell(gains: Float[np.ndarray, "cell sample"], tie_break: Float[np.ndarray, " cell"]) -> int:
    """The cell of the largest mean gain; equal ones by the higher ``tie_break``."""
    means = gains.mean(axis=1)
    # A cell with an unknown outcome (its logits overflowed) is never the best.
    tied = np.flatnonzero(means >= np.nanmax(means) - TIES)
    return int(tied[np.argmax(tie_break[tied])])


def width(cells: pd.DataFrame, gain: Float[np.ndarray, " cell"]) -> dict[str, Any]:
    """How much of the grid is about as good as its best cell.

    Args:
        cells: ``layer, strength`` of each cell.
        gain: mean gain of each cell.

    Returns:
        ``near_share`` (of the cells, with at least ``NEAR`` of the best gain), ``near_layers, near_strengths``
        (lowest to highest among them, in words), ``losing_share`` (of the cells, below the unsteered model). Without
        a gain anywhere there is no optimum: NaN and empty.
    """
    best = float(gain.max())
    found: dict[str, Any] = {"losing_share": float((gain < -TIES).mean())}
    if best <= TIES:
        return {"near_share": float("nan"), "near_layers": "", "near_strengths": "", **found}
    near = cells[gain >= NEAR * best - TIES]
    layers, strengths = near["layer"], near["strength"]
    return {
        "near_share": len(near) / len(cells),
        "near_layers": f"{layers.min():.0f} to {layers.max():.0f}",
        "near_strengths": f"{strengths.min():g} to {strengths.max():g}",
        **found,
    }


def changes(
    metric: str, outcomes: Bool[np.ndarray, "cell sample"], base: Bool[np.ndarray, " sample"]
) -> dict[str, np.ndarray]:
    """Means of cells with Wilson intervals, and what changed against the unsteered outcomes: columns by name."""
    gained, lost = (outcomes & ~base).sum(axis=1), (~outcomes & base).sum(axis=1)
    low, high = proportion_confint(outcomes.sum(axis=1), outcomes.shape[1], method="wilson")
    return {
        metric: outcomes.mean(axis=1),
        f"{metric}_low": np.asarray(low),
        f"{metric}_high": np.asarray(high),
        f"{metric}_gained": gained,
        f"{metric}_lost": lost,
        f"{metric}_p": mcnemar_p_values(gained, lost),
    }


def optimum(
    cells: pd.DataFrame, gains: Float[np.ndarray, "cell sample"], *, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The chosen cell, the oracle, its width, and what is left of it on the other half.

    Args:
        cells: ``layer, strength, chosen, gold_logprob`` of each cell; one is chosen.
        gains: outcome of each example minus its unsteered outcome.
        seed: of the halvings.

    Returns:
        a row of numbers, and the gains of each example at the three places.
    """
    where = cells[["layer", "strength"]].astype(float).reset_index(drop=True)
    chosen = int(np.flatnonzero(cells["chosen"].astype(bool))[0])
    best = best_cell(gains, cells["gold_logprob"].to_numpy(float))
    held_out = held_out_gains(gains, seed=seed)
    own = difference_interval(gains[chosen])
    halves = difference_interval(held_out)
    gained, lost = int((gains[chosen] > 0).sum()), int((gains[chosen] < 0).sum())
    row = {
        "n": gains.shape[1],
        "cells": len(gains),
        "chosen_layer": int(where["layer"][chosen]),
        "chosen_strength": where["strength"][chosen],
        "gain": own.value,
        "gain_low": own.low,
        "gain_high": own.high,
        "p_value": float(mcnemar_p_values(np.array([gained]), np.array([lost]))[0]),
        "oracle_layer": int(where["layer"][best]),
        "oracle_strength": where["strength"][best],
        "oracle_gain": float(gains[best].mean()),
        "halves_gain": halves.value,
        "halves_low": halves.low,
        "halves_high": halves.high,
        "luck": float(gains[best].mean()) - halves.value,
        **width(where, gains.mean(axis=1)),
    }
    kept = {
        "example": np.arange(gains.shape[1]),
        CHOSEN: gains[chosen],
        ORACLE: gains[best],
        HALVES: held_out,
    }
    return row, kept
