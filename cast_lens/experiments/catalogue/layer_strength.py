"""The full layer × strength grid of every source on every target, and what strength costs on plain text.

A grid cell is judged by the first greedy token and by the label-restricted choice, which one pass gives for all cells;
full answers are not generated. The best cell of a target is chosen with the target's labels and is called ``oracle``
wherever it appears. It is compared with the cell that the source's own validation split chose, and with the gain that
remains when the best cell is chosen on one half of the examples and measured on the other.

Costs on plain text are measured at some of the layers (``TEXT_LAYERS`` evenly spaced ones and the chosen one), and also
at strengths beyond the swept ones (``BEYOND`` times the largest), where vectors break the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from statsmodels.stats.proportion import proportion_confint

from ... import plots
from ...effects import NEUTRAL_TEXTS, effect_table, text_effects
from ...stats import difference_interval, mcnemar_p_values
from ...vectors import SteeringVector
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import holm, over_queries, with_verdicts
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, settings_first
from ..transfer_matrix import RANDOM
from ..workspace import Workspace

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
        seed: seed of the halvings.
        halvings: number of halvings.

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
    """How much of the grid is nearly as good as its best cell.

    Args:
        cells: ``layer, strength`` of each cell.
        gain: mean gain of each cell.

    Returns:
        ``near_share`` (of the cells, with at least ``NEAR`` of the best gain), ``near_layers, near_strengths``
        (lowest to highest among them, in words), ``losing_share`` (of the cells, below the unsteered model). Without
        any gain there is no optimum: the values are NaN and empty.
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
) -> dict[str, Float[np.ndarray, " cell"]]:
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
    """The chosen cell, the oracle, its width, and the gain that remains on the other half.

    Args:
        cells: ``layer, strength, chosen, gold_logprob`` of each cell; one is chosen.
        gains: outcome of each example minus its unsteered outcome.
        seed: seed of the halvings.

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
    kept = {"sample": np.arange(gains.shape[1]), CHOSEN: gains[chosen], ORACLE: gains[best], HALVES: held_out}
    return row, kept


TEXT_LAYERS = 8
BEYOND = (2.0, 4.0)
VECTOR = "cast"
KINDS = (VECTOR, RANDOM)
METRICS = {
    "first_match": "first token right",
    "choice_correct": "label-restricted accuracy",
    "first_valid": "first token admissible",
}
# Metrics whose optimum is reported; an admissible first token alone is not a goal.
AIMS = ("first_match", "choice_correct")
# A perplexity this many times the unsteered one counts as broken.
BROKEN = 2.0


@dataclass(frozen=True, slots=True)
class LayerStrength(Experiment):
    """Where and how strongly does a vector work, and where does it break the model?

    Attributes:
        texts: how many neutral texts are used to measure what strength costs, counted from the first of the built-in
            list.
    """

    name = "layer-strength"
    title = "Layer and strength"
    compared = (
        "All cells of the grid and the unsteered model answered the same test queries of each target. The placebo is "
        "one random direction per source, with the vector's norm at each layer, over the same grid. On plain text, "
        "both read the same texts."
    )
    limits = (
        "The first token and the label-restricted choice replace full answers, which are not generated at every "
        "cell. What is called oracle was chosen with target labels and is not a result of transfer; its value on the "
        "other half is what choosing on half of the examples would give. Intervals are over test queries of these "
        "tasks, with one draw of demonstrations and one placebo direction per source; those on the other half do not "
        "cover another way of halving. The plain texts are short and in English."
    )
    shown = ("pooled", "pairs", "broken")

    texts: int = 24

    def __post_init__(self) -> None:
        at_least_one(self, "texts")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Four texts."""
        return {"texts": 4}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one grid per target, and the texts of each source."""
        grids = [Cell("grid", target) for target in config.targets]
        texts = [Cell("text", source=source) for source in config.sources]
        return [*settings_first(config), *grids, *texts]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Rows of a target's grids, or of a source's texts."""
        if cell.kind == "text":
            return text_rows(workspace, cell.source, self.texts)
        return grid_rows(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """Where vectors work and where they break.

        Returns:
            ``result``: one row per grid cell; ``pairs``: the optimum of each pair; ``pooled``: over pairs of different
            tasks; ``collapse``: plain text; ``broken``: the first strength that breaks the model.
        """
        grid, text = rows.get("grid", pd.DataFrame()), rows.get("text", pd.DataFrame())
        found = {
            "result": cells_of(grid) if len(grid) else pd.DataFrame(columns=["target", "kind"]),
            "pairs": pd.DataFrame(columns=["kind", "metric", "own", "verdict", "n_tests"]),
            "pooled": pd.DataFrame(columns=["kind", "metric", "at"]),
            "collapse": collapse_of(text, config) if len(text) else pd.DataFrame(),
        }
        if len(grid):
            found["pairs"], examples = pairs_of(grid, config)
            found["pooled"] = pooled_of(examples, config) if len(examples) else found["pooled"]
        return {**found, "broken": broken(found["collapse"])}

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The chosen cell beside the oracle and the random direction, in the first token."""
        told = []
        for kind, who in ((VECTOR, "a vector"), (RANDOM, "a random direction")):
            own, half = (sentences.row_of(frames["pooled"], AIMS[0], kind=kind, at=at) for at in (CHOSEN, HALVES))
            if own is not None and half is not None:
                told.append(
                    f"{who} changes the share of right first tokens by {sentences.change(own, 'gain')} at the cell "
                    f"chosen on the source, and by {sentences.change(half, 'gain')} at the best cell of the target, "
                    "chosen on one half of its queries and measured on the other"
                )
        pairs = frames["pairs"]
        told.append(sentences.tally(pairs[pairs["metric"] == AIMS[0]], "pairs at the chosen cell"))
        return Findings(sentences.headline(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """One grid per target, and the cost of strength."""
        result, collapse = frames["result"], frames["collapse"]
        for target in dict.fromkeys(result["target"]):
            part = result[result["target"] == target]
            yield ReportFigure(
                f"grid-{target}",
                f"Layer and strength on {target}",
                "Each source's vector over the grid (top), and a random direction of its norm (bottom). The ring "
                "marks the setting that the source's own validation split chose; brighter cells elsewhere are known "
                "only from target labels.",
                f"Heat maps over layer and strength for every source on {target}.",
                plots.plot_sweep(part).update_layout(title_text=f"Layer and strength on {target}"),
                part,
            )
        if len(collapse):
            lines = cost_lines(collapse)
            figure = plots.plot_scaling(lines, x_title="strength", y_title="perplexity ratio", share=False)
            used = sorted(lines["x"].unique())
            figure.update_xaxes(type="log", tickvals=used, ticktext=[f"{value:g}" for value in used])
            figure.update_yaxes(type="log", exponentformat="power")
            yield ReportFigure(
                "collapse",
                "What strength costs on plain text",
                "Perplexity on neutral text relative to the unsteered model, at each source's chosen layer, with 95 "
                "% intervals over texts; both axes are logarithmic.",
                "Lines of the perplexity ratio by strength, a vector and a random direction per source.",
                figure,
                lines,
            )


EXPERIMENT = LayerStrength


def both(workspace: Workspace, source: str) -> dict[str, SteeringVector]:
    """The vector of a source and its placebo."""
    return {VECTOR: workspace.vector(source), RANDOM: workspace.random_direction(source)}


def grid_rows(workspace: Workspace, target: str) -> pd.DataFrame:
    """One row per grid cell; outcomes of its examples as digits, in the examples' order."""
    config = workspace.config
    named = [(source, kind, v) for source in config.sources for kind, v in both(workspace, source).items()]
    directions = {str(index): vector for index, (_, _, vector) in enumerate(named)}
    found = workspace.grid(workspace.base(target).prompts, directions).examples()
    settings = {source: workspace.setting(source) for source in config.sources}
    rows = []
    for (name, layer, strength), part in found.groupby(["name", "layer", "strength"], sort=False):
        source, kind = named[int(name)][:2] if layer >= 0 else ("", "unsteered")
        setting = settings.get(source)
        row = {"target": target, "source": source, "kind": kind, "layer": layer}
        row |= {"strength": strength, "n": len(part)}
        row |= {metric: packed(part[metric]) for metric in METRICS}
        row |= {name: part[name].astype(float).mean() for name in ("gold_logprob", "gold_margin")}
        row["chosen"] = bool(setting and (setting.layer, setting.strength) == (layer, strength))
        rows.append(row)
    return pd.DataFrame(rows)


def text_rows(workspace: Workspace, source: str, texts: int) -> pd.DataFrame:
    """One row per text and cell; see ``effects.text_effects``."""
    config, setting = workspace.config, workspace.setting(source)
    made = both(workspace, source)
    layers = text_layers(config.layers or made[VECTOR].layers, setting.layer)
    strengths = (*config.strengths, *(factor * max(config.strengths) for factor in BEYOND))
    cells = [(kind, layer, float(s)) for kind in KINDS for layer in layers for s in dict.fromkeys(strengths)]
    edits = [
        made[kind].intervention(layer, strength=s, operator=config.operator, position=config.position)
        for kind, layer, s in cells
    ]
    found = text_effects(workspace.model, edits, NEUTRAL_TEXTS[:texts])
    kinds = ["unsteered", *(kind for kind, *_ in cells)]
    return found.drop(columns=["text", "name"]).assign(
        source=source,
        text=found["text"].map({text: index for index, text in enumerate(NEUTRAL_TEXTS)}),
        kind=[kinds[variant] for variant in found["variant"]],
        chosen=(found["layer"] == setting.layer) & (found["strength"] == setting.strength),
    )


def text_layers(layers: tuple[int, ...], chosen: int) -> list[int]:
    """A few evenly spaced layers, first and last among them, and the chosen one."""
    places = np.linspace(0, len(layers) - 1, min(TEXT_LAYERS, len(layers))).round().astype(int)
    return sorted({chosen, *(int(layers[place]) for place in places)})


def cells_of(grid: pd.DataFrame) -> pd.DataFrame:
    """Means with Wilson intervals, and what changed against the unsteered model on the same examples."""
    columns = ["target", "source", "kind", "layer", "strength", "n", "chosen", "gold_logprob", "gold_margin"]
    frames = []
    for _, part in grid.groupby("target", sort=False):
        frame = part[columns].reset_index(drop=True)
        frame["n"], frame["layer"] = frame["n"].astype(int), frame["layer"].astype(int)
        for metric in METRICS:
            if not (part[metric] == "").any():
                base = part.loc[part["kind"] == "unsteered", metric]
                frame = frame.assign(**changes(metric, unpacked(part[metric]), unpacked(base)[0]))
        frames.append(frame)
    joined = pd.concat(frames, ignore_index=True)
    best = [is_oracle(part) for _, part in joined.groupby(["target", "source", "kind"], sort=False)]
    return joined.assign(oracle=pd.concat(best), chosen=joined["chosen"].astype(bool))


def is_oracle(part: pd.DataFrame) -> pd.Series:
    """Marks the cell with the most right first tokens; never the unsteered row."""
    ranked = part.sort_values(["first_match", "gold_logprob"], ascending=False, kind="stable")
    return pd.Series((part.index == ranked.index[0]) & (part["kind"] != "unsteered"), index=part.index)


def pairs_of(grid: pd.DataFrame, config: RunConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per pair, kind and metric, and the gains of its examples."""
    rows, examples = [], []
    for target, whole in grid.groupby("target", sort=False):
        zero = whole[whole["kind"] == "unsteered"]
        for (source, kind), cells in whole[whole["layer"] >= 0].groupby(["source", "kind"], sort=False):
            for metric in AIMS:
                if (cells[metric] == "").any():
                    continue
                base = unpacked(zero[metric])[0].astype(float)
                gains = unpacked(cells[metric]).astype(float) - base
                key = {"target": target, "source": source, "kind": kind, "metric": metric}
                row, kept = optimum(cells, gains, seed=config.seed)
                rows.append({**key, "own": source == target, "unsteered": base.mean(), **row})
                examples.append(pd.DataFrame(kept).assign(**key, own=source == target))
    frame = pd.DataFrame(rows)
    wanted = frame["p_value"].where((frame["kind"] == VECTOR) & ~frame["own"])
    tested = holm(frame.assign(p_value=wanted)).assign(p_value=frame["p_value"])
    return with_verdicts(tested, of="gain"), pd.concat(examples, ignore_index=True)


def pooled_of(examples: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Mean gains over the pairs of different tasks; examples are resampled with everything done to them."""
    rows = []
    for (kind, metric), part in examples[~examples["own"]].groupby(["kind", "metric"], sort=False):
        for at in (CHOSEN, ORACLE, HALVES):
            found = over_queries(part, at, **config.resampling)
            # The oracle's examples chose its cells: an interval over them would be too good.
            unknown = dict.fromkeys(("gain_low", "gain_high"), np.nan) if at == ORACLE else {}
            rows.append({"kind": kind, "metric": metric, "at": at, **found, **unknown})
    return pd.DataFrame(rows)


def collapse_of(text: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Perplexity over the unsteered one's, and KL, of each source's vector and placebo at each cell."""
    frames = []
    for source, part in text.groupby("source", sort=False):
        found = effect_table(part.assign(name=part["kind"]), **config.resampling)
        marks = part.groupby("variant")["chosen"].first().astype(bool)
        found = found.rename(columns={"name": "kind"}).drop(columns=["operator", "position"])
        found = found.assign(chosen=found["variant"].map(marks), source=source).drop(columns="variant")
        frames.append(found[found["kind"] != "unsteered"])
    joined = pd.concat(frames, ignore_index=True)
    return joined[["source", *joined.columns.drop("source")]].astype({"layer": int})


def cost_lines(collapse: pd.DataFrame) -> pd.DataFrame:
    """Rows at each source's chosen layer, as ``plot_scaling`` takes them."""
    layer = collapse[collapse["chosen"]].groupby("source")["layer"].first()
    rows = collapse[collapse["layer"] == collapse["source"].map(layer)]
    names = rows["source"].where(rows["kind"] == VECTOR, RANDOM + " (" + rows["source"] + ")")
    return rows.assign(
        x=rows["strength"], y=rows["ratio"], low=rows["ratio_low"], high=rows["ratio_high"], method=names
    )


def broken(collapse: pd.DataFrame) -> pd.DataFrame:
    """What the chosen setting costs on plain text, and from which strength the model breaks at the chosen layer.

    Returns:
        ``source, kind, layer, strength`` (chosen), ``ratio, ratio_low, ratio_high, kl`` (there), ``breaks_at`` (lowest
        strength whose perplexity is ``BROKEN`` times the unsteered one or more; NaN for none).
    """
    columns = ["source", "kind", "layer", "strength", "ratio", "ratio_low", "ratio_high", "kl"]
    if collapse.empty:
        return pd.DataFrame(columns=[*columns, "breaks_at"])
    lines = cost_lines(collapse)
    rows = []
    for (source, kind), part in lines.groupby(["source", "kind"], sort=False):
        at = part[part["chosen"]]
        over = part.loc[part["ratio"] >= BROKEN, "strength"]
        if len(at):
            row = dict(zip(columns, [source, kind, *at.iloc[0][columns[2:]]], strict=True))
            rows.append({**row, "breaks_at": float(over.min()) if len(over) else np.nan})
    return pd.DataFrame(rows, columns=[*columns, "breaks_at"])
