"""How many demonstrations should the few-shot side of the difference have?

The same queries behind 1, 2, 4, … demonstrations of one draw, each longer list holding the shorter ones. Geometry: how
far the vector turns from that of the longest list, beside how far it would turn if other queries had been drawn; how
long it grows; how well its samples agree. Downstream: each vector at the layer of the run's own vector, its strength
chosen on the source's validation split, because longer lists may give longer vectors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ...extraction import Extraction, difference_vectors, draw_samples
from ...geometry import cohesion
from ...interventions import Steering
from ...methods import Condition, evaluate_conditions, steered
from ...placebos import random_direction
from ...tasks import Task, few_shot_prompts
from ...vectors import DifferenceVectors, SteeringVector
from ..bench import Bench, fits
from ..cells import Cell
from ..contrasts import BASELINE, contrast_table, pooled_table
from ..paired import once, side_by_side
from ..protocol import Experiment, Tasks, settings_first
from ..settings import ExperimentConfig
from ..tuning import best_strengths, placebo_seed
from ..turning import mean_cosines, sampling_cosines
from .shots_reading import PLACEBO, QUESTION, draw, named, parsed, read

if TYPE_CHECKING:
    import pandas as pd


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings, vectors and strengths first; then geometry, one cell a source, and one cell a pair.

    Raises:
        ValueError: a source whose train split holds too few examples for any of ``few_shots`` beside the samples.
    """
    for source in config.sources:
        if not enough(config, tasks[source]):
            raise ValueError(
                f"few_shots={list(config.few_shots)}: the train split of {source!r} holds "
                f"{len(tasks[source].train)} examples, too few beside samples={config.samples}; ask for fewer samples"
            )
    cells = settings_first(config)
    cells += [Cell("vectors", source=source, prepares=True) for source in config.sources]
    cells += [Cell("geometry", source=source) for source in config.sources]
    return cells + [
        Cell("steered", target, source)
        for target in config.targets
        for source in config.sources
        if source != target
    ]


def enough(config: ExperimentConfig, task: Task) -> list[int]:
    """Numbers of demonstrations that the train split has, beside the samples."""
    found = []
    for shots in config.few_shots:
        try:
            draw_samples(task, Extraction(config.samples, shots, seed=config.seed))
        except ValueError:
            break
        found.append(shots)
    return found


def numbers(bench: Bench, source: str) -> list[int]:
    """Numbers of demonstrations that the train split has and the context holds."""
    config, task = bench.config, bench.tasks[source]
    assert isinstance(config, ExperimentConfig)
    possible = enough(config, task)
    queries = draw_samples(task, replace(bench.extraction(), shots=possible[-1]))
    pool = bench.extraction().split
    return [
        k
        for k in possible
        if fits(bench, few_shot_prompts(task, queries, shots=k, seed=config.seed, pool=pool))
    ]


def vectors(bench: Bench, source: str, shots: int, *, most: int) -> DifferenceVectors:
    """Difference vectors behind so many demonstrations, of queries that are in none of the lists; kept on disk."""
    path = bench.directory.path / "vectors" / f"shots-{shots}-of-{most}.{source}.safetensors"
    if path.is_file():
        return DifferenceVectors.load(path)
    task, how = bench.tasks[source], replace(bench.extraction(), shots=shots)
    queries = draw_samples(task, replace(how, shots=most))
    found = difference_vectors(bench.model, task, how, examples=queries, progress=bench.progress)
    found.save(path)
    return found


def all_vectors(bench: Bench, source: str) -> dict[int, DifferenceVectors]:
    """By number of demonstrations."""
    possible = numbers(bench, source)
    return {k: vectors(bench, source, k, most=possible[-1]) for k in possible}


def strengths(bench: Bench, source: str, means: dict[int, SteeringVector]) -> dict[int, float]:
    """The strength of each vector at the layer of the run's own."""
    setting = bench.setting(source)

    def edit(vector: SteeringVector, strength: float, prompts: int) -> Steering:
        return vector.intervention(
            setting.layer, strength=strength, operator=setting.operator, position=setting.position
        )

    edits = {named(k): partial(edit, vector) for k, vector in means.items()}
    return {parsed(name): s for name, s in best_strengths(bench, source, edits, name="shots").items()}


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell; ``part`` says whether they are geometry or outcomes."""
    import pandas as pd

    made = all_vectors(bench, cell.source)
    means = {k: one.mean() for k, one in made.items()}
    if cell.kind == "vectors":
        return pd.DataFrame(strengths(bench, cell.source, means).items(), columns=["shots", "strength"])
    if cell.kind == "geometry":
        return geometry_rows(bench, cell.source, made)
    config, base = bench.config, bench.base(cell.target)
    chosen, setting = strengths(bench, cell.source, means), bench.setting(cell.source)
    conditions: list[Condition] = [base]
    for k, vector in means.items():
        place = replace(setting, strength=chosen[k])
        conditions.append(steered(vector, base.prompts, place, source=cell.source, method=named(k)))
        for number in range(config.placebos):
            noise = random_direction(vector, seed=placebo_seed(cell.source, config.seed, number))
            conditions.append(
                steered(
                    noise, base.prompts, place, source=cell.source, method=PLACEBO + named(k), seed=number
                )
            )
    found = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    return found.drop(columns=["text"]).assign(part="steered")


def geometry_rows(bench: Bench, source: str, made: dict[int, DifferenceVectors]) -> pd.DataFrame:
    """One row a number of demonstrations and layer."""
    import pandas as pd

    config, most = bench.config, max(made)
    last = made[most].mean().directions
    sampling = sampling_cosines(made[most], seed=config.seed)
    frames, before = [], None
    for k, one in made.items():
        mean = one.mean().directions
        agree = cohesion([one], n_bootstrap=config.bootstrap, seed=config.seed)
        frames.append(
            agree[["layer", "pairwise_cosine", "low", "high", "separability", "n"]].assign(
                part="geometry",
                source=source,
                shots=k,
                most=most,
                cosine=mean_cosines(mean, last),
                step_cosine=float("nan") if before is None else mean_cosines(mean, before),
                sampling=sampling,
                norm=mean.double().norm(dim=-1).numpy(),
                residual_norm=one.zero_shot.double().norm(dim=-1).mean(dim=0).numpy(),
                at_setting=torch.tensor(one.layers).eq(bench.setting(source).layer).numpy(),
            )
        )
        before = mean
    return pd.concat(frames, ignore_index=True)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, number of demonstrations and metric. ``methods``: over all pairs.

    ``steps``: each number against the one before and against its placebo. ``geometry``: a row a source, number and
    layer.
    """
    import pandas as pd

    parts = {
        part: rows[rows["part"] == part].drop(columns="part").dropna(axis=1, how="all")
        for part in ("steered", "geometry")
    }
    geometry = parts["geometry"].reset_index(drop=True)
    if len(geometry):
        # Rows of other parts lack these columns, which makes their numbers floats.
        geometry = geometry.astype({"shots": int, "most": int, "layer": int, "at_setting": bool})
    empty = pd.DataFrame()
    if parts["steered"].empty:
        return {"result": empty, "methods": empty, "steps": empty, "geometry": geometry}
    outcomes = once(parts["steered"].reset_index(drop=True))
    real = [name for name in dict.fromkeys(outcomes["method"]) if name.startswith("cast")]
    order = sorted(real, key=parsed)
    comparisons = [*zip(order[1:], order, strict=False), *((name, PLACEBO + name) for name in order)]
    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    tables = {
        "result": contrast_table(outcomes, tested=lambda name: name in real, **options),
        "methods": pooled_table(outcomes, **options),
        "steps": side_by_side(outcomes[outcomes["method"] != BASELINE], comparisons, **options),
    }
    return {
        **{key: frame.assign(shots=frame["method"].map(parsed)) for key, frame in tables.items()},
        "geometry": geometry,
    }


EXPERIMENT = Experiment(
    "shots",
    QUESTION,
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("steps", "methods"),
    heading="Demonstrations behind a vector",
)
