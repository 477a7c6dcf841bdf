"""Does choosing the source samples beat a random subset of the same size?

Every way to choose samples, at every budget, against random subsets of that size. All vectors of a source stand at the
layer and strength of the vector of all its samples, so that subsets differ in nothing else. Samples are compared by
their zero-shot residuals at the middle layer, as in a run. Beside what a subset does to a target: how near its mean
lies to the mean of all samples, how much that mean moves under resampling, and how much it depends on the pool, by
choosing anew in random halves of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from ...methods import Condition, Setting, evaluate_conditions, steered
from ...placebos import random_direction
from ...selection import METHODS, Selection, select, space_from_residuals
from ...vectors import DifferenceVectors
from ..bench import NEED_CONFIDENCE, Bench
from ..cells import Cell
from ..legacy import Experiment, Tasks
from ..settings import ExperimentConfig
from ..stability import mean_cosines, resampled_cosine
from .selection_reading import QUESTION, draw, read
from .selection_tables import ALL, PLACEBO, RANDOM, named, summarise

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 200


@dataclass(frozen=True, slots=True)
class Subset:
    """Samples that one method chose: its name, how many, the seed, and which rows."""

    selection: str
    budget: int
    seed: int
    indices: tuple[int, ...]


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then what the subsets are, one cell a source, and what they do, one a pair.

    Raises:
        ValueError: a selection that needs more than difference vectors, none beside ``random``, or no budget below
            the number of samples.
    """
    checked(config)
    sources = config.sources
    cells = [Cell("setting", source=source, variant=reference(config), prepares=True) for source in sources]
    cells += [Cell(kind, source=source) for source in sources for kind in ("subsets", "map")]
    return cells + [
        Cell("transfer", target, source)
        for target in config.targets
        for source in sources
        if source != target
    ]


def checked(config: ExperimentConfig) -> None:
    """Refuse selections and budgets with which nothing can be compared."""
    usable = [name for name in METHODS if name not in (*NEED_CONFIDENCE, ALL)]
    unknown = [name for name in config.selections if name not in usable]
    if unknown:
        raise ValueError(f"selections={unknown} cannot be compared here; choose from {', '.join(usable)}")
    if not rivals(config):
        raise ValueError("selections holds nothing beside 'random'; add one of " + ", ".join(usable))
    if not budgets(config):
        raise ValueError(
            f"budgets={list(config.budgets)} has none below samples={config.samples}, so there is nothing to choose"
        )


def rivals(config: ExperimentConfig) -> list[str]:
    """The selections that are compared with random subsets."""
    return [name for name in config.selections if name != RANDOM]


def budgets(config: ExperimentConfig) -> list[int]:
    """Budgets that leave something out."""
    return [budget for budget in config.budgets if budget < config.samples]


def reference(config: ExperimentConfig) -> str:
    """The vector method that averages every sample."""
    return "cast" if config.select == ALL else "cast: all samples"


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell; ``part`` says which of the three kinds they are."""
    if cell.kind == "transfer":
        return transfer(bench, cell.target, cell.source)
    return (subset_rows if cell.kind == "subsets" else map_rows)(bench, cell.source)


def experiment_config(bench: Bench) -> ExperimentConfig:
    """The configuration with the fields of experiments."""
    assert isinstance(bench.config, ExperimentConfig)
    return bench.config


def choose(
    found: DifferenceVectors, method: str, budget: int, *, seed: int, rows: Sequence[int] | None = None
) -> Selection:
    """A choice among all samples, or among some rows of them (then indices count within those)."""
    layer = found.layers[len(found.layers) // 2]
    own = list(range(len(found))) if rows is None else list(rows)
    return select(
        space_from_residuals(found, layer)[own],
        budget,
        method=method,
        seed=seed,
        differences=found.at(layer).numpy()[own],
    )


def subsets(config: ExperimentConfig, found: DifferenceVectors) -> list[Subset]:
    """Every choice of the experiment, random ones with every seed."""
    first = config.seed
    made = []
    for budget in budgets(config):
        for method in (*rivals(config), RANDOM):
            draws = config.repeats if method == RANDOM else 1
            for seed in range(first, first + draws):
                indices = choose(found, method, budget, seed=seed).indices.tolist()
                made.append(Subset(method, budget, seed, tuple(indices)))
    return made


def transfer(bench: Bench, target: str, source: str) -> pd.DataFrame:
    """Outcomes on a target under the mean of every subset of a source."""
    config, found, setting = experiment_config(bench), bench.differences(source), _setting(bench, source)
    base = bench.base(target)
    whole = found.mean()
    conditions: list[Condition] = [
        base,
        steered(whole, base.prompts, setting, source=source, method=ALL, seed=config.seed),
    ]
    for draw_number in range(config.placebos):
        seed = zlib.crc32(f"{source} {config.seed} {draw_number}".encode())
        noise = random_direction(whole, seed=seed)
        conditions.append(
            steered(noise, base.prompts, setting, source=source, method=PLACEBO, seed=draw_number)
        )
    for one in subsets(config, found):
        method = named(one.selection, one.budget)
        vector = found.mean(one.indices)
        conditions.append(steered(vector, base.prompts, setting, source=source, method=method, seed=one.seed))
    outcomes = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    return outcomes.drop(columns=["text"]).assign(part="transfer")


def _setting(bench: Bench, source: str) -> Setting:
    return bench.setting(source, reference(experiment_config(bench)))


def subset_rows(bench: Bench, source: str) -> pd.DataFrame:
    """One row a subset: where its mean lies, without running the model on any target."""
    import pandas as pd

    config, found = experiment_config(bench), bench.differences(source)
    layer = _setting(bench, source).layer
    values, full = found.at(layer).double().numpy(), found.mean().at(layer)[None]
    agreement = {
        (method, budget): halves_cosine(config, found, values, method, budget)
        for budget in budgets(config)
        for method in (*rivals(config), RANDOM)
    }
    rows = []
    for one in [*subsets(config, found), Subset(ALL, len(found), config.seed, tuple(range(len(found))))]:
        mean = torch.from_numpy(values[list(one.indices)].mean(axis=0))[None]
        rows.append(
            {
                "part": "subsets",
                "source": source,
                "selection": one.selection,
                "budget": one.budget,
                "seed": one.seed,
                "pool": len(found),
                "layer": layer,
                "cosine": float(mean_cosines(mean, full)[0]),
                "resampled": resampled_cosine(
                    values[list(one.indices)], replicates=RESAMPLES, seed=config.seed
                ),
                "halves": agreement.get((one.selection, one.budget), float("nan")),
            }
        )
    return pd.DataFrame(rows)


def halves_cosine(
    config: ExperimentConfig,
    found: DifferenceVectors,
    values: Float[np.ndarray, "sample d_model"],
    method: str,
    budget: int,
) -> float:
    """Mean cosine between the means that a method chooses in two halves of the pool; NaN when they are too small."""
    n = len(found)
    if budget > n // 2:
        return float("nan")
    cosines = []
    for seed in range(config.seed, config.seed + config.repeats):
        order = np.random.default_rng([seed, n]).permutation(n)
        means = []
        for half in (order[: n // 2], order[n // 2 :]):
            indices = choose(found, method, budget, seed=seed, rows=half.tolist()).indices
            means.append(torch.from_numpy(values[half[indices]].mean(axis=0))[None])
        cosines.append(float(mean_cosines(*means)[0]))
    return float(np.mean(cosines))


def map_rows(bench: Bench, source: str) -> pd.DataFrame:
    """One row a sample: its place in the plane, its influence, and when ``cast`` chose it."""
    import pandas as pd

    config, found = experiment_config(bench), bench.differences(source)
    half = [budget for budget in budgets(config) if budget <= len(found) // 2]
    made = choose(found, "cast", (half or budgets(config)[:1])[-1], seed=config.seed)
    rank = np.full(len(found), -1)
    rank[made.indices] = np.arange(len(made))
    space = space_from_residuals(found, found.layers[len(found.layers) // 2]).astype(np.float64)
    space = space - space.mean(axis=0)
    space /= np.linalg.norm(space, axis=1, keepdims=True).clip(np.finfo(np.float64).tiny)
    left, sizes, axes = np.linalg.svd(space - space.mean(axis=0), full_matrices=False)
    # An axis has no sign of its own; its largest loading is made positive so that a picture repeats itself.
    signs = np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(axis=1)])
    points = left[:, :2] * sizes[:2] * signs
    texts = {example.id: example.input for example in bench.tasks[source].split(bench.extraction().split)}
    return pd.DataFrame(
        {
            "part": "map",
            "source": source,
            "sample_id": found.sample_ids,
            "text": [texts[name] for name in found.sample_ids],
            "x": points[:, 0],
            "y": points[:, 1],
            "influence": made.influence,
            "rank": rank,
            "chosen": rank >= 0,
        }
    )


EXPERIMENT = Experiment(
    "selection", QUESTION, plan, compute, summarise, read, draw, tables=("methods", "geometry")
)
