"""Parts of the method are removed or replaced one at a time, and each variant is compared with a placebo of its own.

The reference is the contrastive mean as the run computes it. The variants change:

- contrast: the few-shot mean with nothing subtracted, as long as it is, with layer and strength of its own; and the
  few-shot and the zero-shot mean with the reference's norms, so that only directions differ;
- samples: chosen, random (``repeats`` draws) and all, at the reference's layer and strength;
- layers: 3 and 5 neighbouring ones around the reference's, the strength divided among them;
- position and operator: the other ones.

Variants without a setting of their own keep the reference's layer, and their strength is chosen on the source's
validation split from the run's strengths and two lower ones, so that they have no fewer options than the reference had.
Each placebo is a random direction with the variant's norms, applied in the same way at the same layer and strength.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from ... import plots
from ...interventions import Operator, Position, PromptVectors, Steering
from ...methods import Condition, Setting
from ...placebos import matched
from ...selection import select, space_from_residuals
from ...vectors import SteeringVector
from .. import sentences
from ..cells import Cell
from ..choose_setting import best_strengths
from ..config import RunConfig
from ..outcomes import BASELINE, as_gains, contrast_table, once, pooled_table, side_by_side
from ..protocol import (
    Experiment,
    Findings,
    Frames,
    ReportFigure,
    Rows,
    Tasks,
    at_least_one,
    different_pairs,
    settings_first,
)
from ..workspace import Workspace

CAST = "cast"
RAW = "few-shot mean"
SIDES = ("few-shot mean", "zero-shot mean")
POSITIONS: tuple[Position, ...] = ("last", "prompt_last", "all")
OPERATORS: tuple[Operator, ...] = ("add", "norm_preserving_add")
WINDOWS = (3, 5)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to make and to add a vector.

    Attributes:
        name: in frames.
        group: what it varies.
        vector: what is added.
        layer, layers: where, and over how many neighbouring layers.
        operator, position: see ``Intervention``.
        strength: factor; None until it is chosen.
        seed: seed of the draw behind it.
    """

    name: str
    group: str
    vector: SteeringVector
    layer: int
    operator: Operator
    position: Position
    strength: float | None = None
    layers: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Ablation(Experiment):
    """Which parts of the method matter?

    Attributes:
        repeats: how many times the samples are drawn at random.
    """

    name = "ablation"
    title = "Ablation"
    compared = (
        "Every variant is compared with the contrastive mean as the run computes it (cast), and with a random "
        "direction of the variant's own norm, layer, strength, position and operator, on the same test queries over "
        "all pairs. The few-shot mean has its own layer and strength from the source's validation split; chosen, "
        "random and all samples are added at the setting of cast; the other variants keep its layer and choose their "
        "strength there, with two more strengths to choose from. P-values are Holm-adjusted over the table of "
        "comparisons."
    )
    limits = (
        f"{sentences.LIMITS} The variants change one part at a time, so interactions between changes are not seen. "
        "The unscaled few-shot mean has the norm of a residual, many times that of cast, and may fail for that "
        "reason alone; at the norm of cast only its direction is judged. A strength chosen on few validation queries "
        "is itself uncertain, so a variant may do better at another strength."
    )
    shown = ("versus", "methods")

    repeats: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "repeats")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Two random choices of samples."""
        return {"repeats": 2}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings and strengths first; then one cell per pair of different tasks.

        Raises:
            ValueError: when no source differs from a target.
        """
        cells = settings_first(config, (CAST, RAW))
        cells += [Cell("strengths", source=source, prepares=True) for source in config.sources]
        return cells + [Cell("steered", target, source) for target, source in different_pairs(config)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of every variant and placebo on a target; or the strengths of a source's variants."""
        variants = settled(workspace, cell.source, self.repeats)
        if cell.kind == "strengths":
            chosen = strengths(workspace, cell.source, self.repeats)
            return pd.DataFrame(chosen.items(), columns=["variant", "strength"])
        config, base = workspace.config, workspace.base(cell.target)
        conditions: list[Condition] = [base]
        for variant in variants:
            named = partial(Condition, prompts=base.prompts, source=cell.source)
            edit = steering(variant, variant.vector, variant.strength or 0.0, len(base.prompts))
            conditions.append(named(variant.name, intervention=edit, seed=variant.seed))
            if variant.seed > config.seed:
                continue
            for number, noise in workspace.placebos(cell.source, variant.vector):
                edit = steering(variant, noise, variant.strength or 0.0, len(base.prompts))
                conditions.append(named(placebo_of(variant.name), intervention=edit, seed=number))
        groups = {variant.name: variant.group for variant in variants}
        groups |= {placebo_of(name): group for name, group in groups.items()}
        found = workspace.outcomes(conditions)
        return found.assign(group=found["method"].map(groups).fillna(""))

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What each part changes.

        Returns:
            ``result``: one row per pair, variant and metric; ``methods``: over all pairs; ``versus``: every variant
            against ``cast`` and against its own placebo, over all pairs.
        """
        found = once(rows.get("steered", pd.DataFrame()))
        names = [name for name in dict.fromkeys(found["method"]) if name != BASELINE] if len(found) else []
        real = [name for name in names if not name.startswith("placebo")]
        comparisons = [(name, CAST) for name in real if name != CAST]
        comparisons += [(name, placebo_of(name)) for name in real]
        if {"chosen samples", "random samples"} <= set(real):
            comparisons.append(("chosen samples", "random samples"))
        groups = dict(zip(found["method"], found["group"], strict=True)) if len(found) else {}
        tables = {
            "result": contrast_table(found, tested=lambda name: name in real, **config.resampling),
            "methods": pooled_table(found, **config.resampling),
            "versus": side_by_side(found, comparisons, seed=config.seed),
        }
        return {
            key: frame.assign(group=[groups.get(name, "") for name in frame["method"]]) for key, frame in tables.items()
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """What the whole method does, and how many variants differ from it."""
        versus = frames["versus"]
        rows = versus[(versus["metric"] == "exact_match") & (versus["against"] == CAST)]
        told = [
            sentences.gain(frames["methods"], CAST),
            sentences.tally(rows, "variants, against cast in exact match,"),
        ]
        return Findings(sentences.headline(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gains of all variants over zero-shot, and differences to the reference."""
        methods, versus = frames["methods"], frames["versus"]
        if len(methods):
            yield ReportFigure(
                "variants",
                "Every variant and its placebo",
                "Mean gain over zero-shot over all pairs, with 95 % intervals over queries. Grey: each variant's "
                "placebo.",
                "Forest plot of the gain of each variant and placebo in exact match, validity and label-restricted "
                "accuracy.",
                plots.plot_methods(methods, sort=False),
                methods,
            )
        against = versus[versus["against"] == CAST]
        if len(against):
            renamed = as_gains(against)
            yield ReportFigure(
                "against_cast",
                "Every variant against the contrastive mean",
                f"Difference from {CAST} on the same queries over all pairs, with 95 % intervals.",
                "Forest plot of the difference between each variant and the contrastive mean.",
                plots.plot_methods(renamed, baseline=CAST, sort=False),
                renamed,
            )


EXPERIMENT = Ablation


def placebo_of(variant: str) -> str:
    """The name of a variant's placebo."""
    return f"placebo: {variant}"


def steering(variant: Variant, vector: SteeringVector, strength: float, prompts: int) -> Steering:
    """A variant's edit with any vector."""
    if variant.layers == 1:
        return vector.intervention(
            variant.layer, strength=strength, operator=variant.operator, position=variant.position
        )
    window = neighbours(vector.layers, variant.layer, variant.layers)
    rows = [vector.layers.index(layer) for layer in window]
    stacked = vector.directions[rows][None].expand(prompts, -1, -1)
    about = vector.provenance
    return PromptVectors(stacked, window, strength / len(window), variant.position, about.task, about.fingerprint)


def neighbours(layers: tuple[int, ...], middle: int, count: int) -> tuple[int, ...]:
    """Neighbouring layers around one, moved inwards at either end; all of them when there are fewer."""
    count = min(count, len(layers))
    start = layers.index(middle) - count // 2
    start = max(0, min(start, len(layers) - count))
    return layers[start : start + count]


def variants(workspace: Workspace, source: str, repeats: int) -> Iterator[Variant]:
    """The reference first; strengths still open where the variant has no setting of its own."""
    setting, vector = workspace.setting(source), workspace.vector(source)
    here = partial(Variant, layer=setting.layer, operator=setting.operator, position=setting.position)
    yield here(CAST, "reference", vector, strength=setting.strength)
    own = workspace.setting(source, RAW)
    raw = workspace.vector(source, RAW)
    yield Variant(RAW, "contrast", raw, own.layer, own.operator, own.position, own.strength)
    for side in SIDES:
        yield here(f"{side}, norm of cast", "contrast", matched(workspace.vector(source, side), like=vector))
    yield from samples(workspace, source, setting, repeats)
    if setting.operator == "add":
        for count in WINDOWS:
            yield here(f"{count} layers", "layers", vector, layers=count)
    for position in POSITIONS:
        if position != setting.position:
            yield Variant(f"position {position}", "position", vector, setting.layer, setting.operator, position)
    for operator in OPERATORS:
        if operator != setting.operator:
            yield Variant(operator, "operator", vector, setting.layer, operator, setting.position)


def samples(workspace: Workspace, source: str, setting: Setting, repeats: int) -> Iterator[Variant]:
    """Chosen, random and all samples, except the set that the reference uses."""
    config, found = workspace.config, workspace.differences(source)
    make = partial(
        Variant,
        group="samples",
        layer=setting.layer,
        operator=setting.operator,
        position=setting.position,
        strength=setting.strength,
    )
    budget = config.budget or max(1, len(found) // 2)
    middle = found.layers[len(found.layers) // 2]
    space = space_from_residuals(found, middle)

    def chosen(method: str, seed: int) -> SteeringVector:
        made = select(space, budget, method=method, seed=seed, differences=found.at(middle).numpy())
        return found.mean(made.indices.tolist())

    if config.select == "all":
        yield make("chosen samples", vector=chosen("cast", config.seed))
    else:
        yield make("all samples", vector=found.mean())
    for seed in range(config.seed, config.seed + repeats):
        yield make("random samples", vector=chosen("random", seed), seed=seed)


def strengths(workspace: Workspace, source: str, repeats: int) -> dict[str, float]:
    """Chosen strengths of the variants that have none of their own."""
    still_open = [variant for variant in variants(workspace, source, repeats) if variant.strength is None]
    edits = {variant.name: partial(steering, variant, variant.vector) for variant in still_open}
    return best_strengths(workspace, source, edits, name="ablation")


def settled(workspace: Workspace, source: str, repeats: int) -> list[Variant]:
    """All variants with their strengths."""
    chosen = strengths(workspace, source, repeats)
    return [
        replace(variant, strength=chosen.get(variant.name, variant.strength))
        for variant in variants(workspace, source, repeats)
    ]
