"""Parts of the method taken away or exchanged one at a time, each variant beside a placebo of its own.

The reference is the contrastive mean as the run makes it. What is varied:

- contrast: the few-shot mean with nothing subtracted, as long as it is, with layer and strength of its own; and the
  few-shot and the zero-shot mean with the reference's norms, so that only directions differ;
- samples: chosen, random (``repeats`` draws) and all, at the reference's layer and strength;
- layers: 3 and 5 neighbouring ones around the reference's, the strength divided among them;
- position and operator: the other ones.

Variants without a setting of their own keep the reference's layer and have their strength chosen on the source's
validation split, from the run's strengths and two lower ones: no fewer chances than the reference had. Each placebo is
a random direction with the variant's norms, in the variant's way, at its layer and strength.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ...interventions import Operator, Position, PromptVectors, Steering
from ...methods import Condition, Setting, evaluate_conditions
from ...placebos import matched, placebo_seed, random_direction
from ...selection import select, space_from_residuals
from ...vectors import SteeringVector
from ..bench import Bench
from ..cells import Cell
from ..choose_setting import best_strengths
from ..legacy import Experiment, Tasks, settings_first
from ..outcomes import BASELINE, contrast_table, once, pooled_table, side_by_side
from ..settings import ExperimentConfig
from .ablation_reading import CAST, QUESTION, draw, placebo_of, read

if TYPE_CHECKING:
    import pandas as pd

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
        seed: of the draw behind it.
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


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings and strengths first; then one cell a pair of different tasks."""
    cells = settings_first(config, ("cast", RAW))
    cells += [Cell("strengths", source=source, prepares=True) for source in config.sources]
    return cells + [
        Cell("steered", target, source)
        for target in config.targets
        for source in config.sources
        if source != target
    ]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of every variant and placebo on a target; or the strengths of a source's variants."""
    import pandas as pd

    if cell.kind == "strengths":
        chosen = strengths(bench, cell.source)
        return pd.DataFrame(chosen.items(), columns=["variant", "strength"])
    config, base = bench.config, bench.base(cell.target)
    conditions: list[Condition] = [base]
    for variant in settled(bench, cell.source):
        named = partial(Condition, prompts=base.prompts, source=cell.source)
        edit = steering(variant, variant.vector, variant.strength or 0.0, len(base.prompts))
        conditions.append(named(variant.name, intervention=edit, seed=variant.seed))
        if variant.seed > config.seed:
            continue
        for number in range(config.placebos):
            noise = random_direction(variant.vector, seed=placebo_seed(cell.source, config.seed, number))
            edit = steering(variant, noise, variant.strength or 0.0, len(base.prompts))
            conditions.append(named(placebo_of(variant.name), intervention=edit, seed=number))
    found = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    groups = {variant.name: variant.group for variant in variants(bench, cell.source)}
    groups |= {placebo_of(name): group for name, group in groups.items()}
    return found.drop(columns=["text"]).assign(group=found["method"].map(groups).fillna(""))


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
    return PromptVectors(
        stacked, window, strength / len(window), variant.position, about.task, about.fingerprint
    )


def neighbours(layers: tuple[int, ...], middle: int, count: int) -> tuple[int, ...]:
    """Neighbouring layers around one, moved inwards at either end; all of them when there are fewer."""
    count = min(count, len(layers))
    start = layers.index(middle) - count // 2
    start = max(0, min(start, len(layers) - count))
    return layers[start : start + count]


def variants(bench: Bench, source: str) -> Iterator[Variant]:
    """The reference first; strengths still open where the variant has no setting of its own."""
    setting, vector = bench.setting(source), bench.vector(source)
    here = partial(Variant, layer=setting.layer, operator=setting.operator, position=setting.position)
    yield here(CAST, "reference", vector, strength=setting.strength)
    own = bench.setting(source, RAW)
    raw = bench.vector(source, RAW)
    yield Variant(RAW, "contrast", raw, own.layer, own.operator, own.position, own.strength)
    for side in SIDES:
        yield here(f"{side}, norm of cast", "contrast", matched(bench.vector(source, side), like=vector))
    yield from samples(bench, source, setting)
    if setting.operator == "add":
        for count in WINDOWS:
            yield here(f"{count} layers", "layers", vector, layers=count)
    for position in POSITIONS:
        if position != setting.position:
            yield Variant(
                f"position {position}", "position", vector, setting.layer, setting.operator, position
            )
    for operator in OPERATORS:
        if operator != setting.operator:
            yield Variant(operator, "operator", vector, setting.layer, operator, setting.position)


def samples(bench: Bench, source: str, setting: Setting) -> Iterator[Variant]:
    """Chosen, random and all samples, but for the one that the reference is."""
    config, found = bench.config, bench.differences(source)
    assert isinstance(config, ExperimentConfig)
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
    for seed in range(config.seed, config.seed + config.repeats):
        yield make("random samples", vector=chosen("random", seed), seed=seed)


def strengths(bench: Bench, source: str) -> dict[str, float]:
    """Chosen strengths of the variants that have none of their own."""
    still_open = [variant for variant in variants(bench, source) if variant.strength is None]
    edits = {variant.name: partial(steering, variant, variant.vector) for variant in still_open}
    return best_strengths(bench, source, edits, name="ablation")


def settled(bench: Bench, source: str) -> list[Variant]:
    """All variants with their strengths."""
    chosen = strengths(bench, source)
    return [
        replace(variant, strength=chosen.get(variant.name, variant.strength))
        for variant in variants(bench, source)
    ]


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, variant and metric. ``methods``: over all pairs. ``versus``: against each other.

    ``versus`` holds every variant against ``cast`` and against its own placebo, over all pairs.
    """
    outcomes = once(rows)
    names = [name for name in dict.fromkeys(outcomes["method"]) if name != BASELINE]
    real = [name for name in names if not name.startswith("placebo")]
    comparisons = [(name, CAST) for name in real if name != CAST]
    comparisons += [(name, placebo_of(name)) for name in real]
    if {"chosen samples", "random samples"} <= set(real):
        comparisons.append(("chosen samples", "random samples"))
    groups = dict(zip(outcomes["method"], outcomes["group"], strict=True))
    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    result = contrast_table(outcomes, tested=lambda name: name in real, **options)
    versus = side_by_side(outcomes, comparisons, **options)
    methods = pooled_table(outcomes, **options)
    return {
        "result": result.assign(group=result["method"].map(groups)),
        "methods": methods.assign(group=methods["method"].map(groups)),
        "versus": versus.assign(group=versus["method"].map(groups)),
    }


EXPERIMENT = Experiment(
    "ablation", QUESTION, plan, compute, summarise, read, draw, tables=("versus", "methods")
)
