"""Does a vector taken in one language help in another?

Each source task in its own language (English by default) steers the same task in the other languages, and back.
Instruction, cues and labels are always those of the target's language. Beside each transferred vector stand the
target language's own vector, demonstrations of the source's language in the prompt, and two placebos. Parallel items
keep their id and their split in every language, so that no vector is taken from a translation of what it is tested on;
that is checked before any work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...methods import Condition, cross_task_few_shot, evaluate_conditions, few_shot
from ...placebos import matched, placebo_seed, random_direction
from ...tasks import Task, normalise_answer
from ..bench import Bench, fits, test_examples
from ..cells import Cell
from ..languages import Family, check_parallel, families, split_name
from ..legacy import Experiment, Tasks
from ..outcomes import BASELINE, contrast_table, once, pooled_table, side_by_side
from ..settings import ExperimentConfig
from ..stability import mean_cosines, sampling_cosines
from .cross_lingual_reading import BACK, OUT, OWN, QUESTION, RANDOM, SHUFFLED, draw, read

if TYPE_CHECKING:
    import pandas as pd


def tasks_of(config: ExperimentConfig) -> list[str]:
    """Every source task in every language."""
    return [name for family in families(config) for name in family.names.values()]


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings of every language first; then geometry, vectors, and demonstrations.

    Raises:
        ValueError: see ``families`` and ``check_parallel``; a language without validation or test examples.
    """
    cells: list[Cell] = []
    for family in families(config):
        for name in family.names.values():
            if not (tasks[name].validation and tasks[name].test):
                raise ValueError(
                    f"{name!r} needs a validation and a test split to be source and target; it lacks one"
                )
        check_parallel(family, dict(tasks))
        names = family.names.values()
        cells += [Cell("setting", source=name, variant="cast", prepares=True) for name in names]
        cells.append(Cell("geometry", source=family.base))
        cells += [Cell("steered", name, family.base) for name in names]
        cells += [
            Cell("prompted", target, source)
            for target in names
            for source in (target, *senders(family, target))
        ]
    return cells


def senders(family: Family, target: str) -> list[str]:
    """Tasks whose vectors go to a target: the home language's, or on the way back those of all others."""
    home = family.names[family.home]
    return [family.names[language] for language in family.others] if target == home else [home]


def direction(family: Family, target: str, source: str) -> str:
    """Which way a vector goes."""
    if source == target:
        return OWN
    return BACK if target == family.names[family.home] else OUT


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell; ``part`` says whether they are geometry or outcomes."""
    config = bench.config
    assert isinstance(config, ExperimentConfig)
    if cell.kind == "geometry":
        return geometry_rows(bench, _family(config, cell.source))
    if cell.kind == "steered":
        family = _family(config, cell.source)
        conditions = steered_conditions(bench, family, cell.target)
    else:
        family = _family(config, split_name(cell.target)[0])
        conditions = prompted_conditions(bench, family, cell.target, cell.source)
    if not conditions:
        import pandas as pd

        return pd.DataFrame()
    found = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    foreign = foreign_labels([bench.tasks[name] for name in family.names.values()], bench.tasks[cell.target])
    return found.drop(columns=["text"]).assign(
        part="outcomes",
        base=family.base,
        foreign=[float(normalise_answer(text) in foreign) for text in found["answer"]],
    )


def _family(config: ExperimentConfig, base: str) -> Family:
    return next(family for family in families(config) if family.base == base)


def foreign_labels(tasks: Sequence[Task], target: Task) -> set[str]:
    """Labels of the other languages that are none of the target's."""
    own = {normalise_answer(label) for label in target.labels}
    return {normalise_answer(label) for task in tasks for label in task.labels} - own


def steered_conditions(bench: Bench, family: Family, target: str) -> list[Condition]:
    """Zero-shot, the target's own vector, those of the other side, and their placebos."""
    config, base = bench.config, bench.base(target)
    conditions: list[Condition] = [base]
    for source in (target, *senders(family, target)):
        setting, vector, way = bench.setting(source), bench.vector(source), direction(family, target, source)
        shuffled = matched(bench.shuffled(source), like=vector)
        tried = [(f"cast, {way}", vector, config.seed), (f"{SHUFFLED}, {way}", shuffled, config.seed)]
        for number in range(config.placebos):
            noise = random_direction(vector, seed=placebo_seed(source, config.seed, number))
            tried.append((f"{RANDOM}, {way}", noise, number))
        place = {"operator": setting.operator, "position": setting.position, "strength": setting.strength}
        for method, made, seed in tried:
            edit = partial(made.intervention, setting.layer, **place)()  # type: ignore[arg-type]
            conditions.append(Condition(method, base.prompts, source=source, intervention=edit, seed=seed))
    return conditions


def prompted_conditions(bench: Bench, family: Family, target: str, source: str) -> list[Condition]:
    """Demonstrations of one language in front of the target's queries, when they fit."""
    config, task = bench.config, bench.tasks[target]
    options = {"shots": config.shots, "seed": config.seed}
    examples = test_examples(config, task)
    if source == target:
        made = few_shot(task, examples, **options)
    else:
        made = cross_task_few_shot(bench.tasks[source], task, examples, **options)
    method = f"few-shot, {direction(family, target, source)}"
    named = Condition(method, made.prompts, source=source, seed=config.seed)
    return [named] if fits(bench, named.prompts) else []


def geometry_rows(bench: Bench, family: Family) -> pd.DataFrame:
    """Cosine of each language's vector to the home language's, beside what another draw of samples would give."""
    import pandas as pd

    home = family.names[family.home]
    here, layer = bench.differences(home), bench.setting(home).layer
    sampling = sampling_cosines(here, seed=bench.config.seed)
    frames = [
        pd.DataFrame(
            {
                "part": "geometry",
                "base": family.base,
                "language": language,
                "layer": here.layers,
                "cosine": mean_cosines(
                    bench.differences(family.names[language]).mean().directions, here.mean().directions
                ),
                "sampling": sampling,
                "at_setting": np.array(here.layers) == layer,
            }
        )
        for language in family.others
    ]
    return pd.concat(frames, ignore_index=True)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a target, method and source. ``methods``: over all pairs. ``versus``: against each other.

    ``methods`` has ``foreign``, the share of answers that are labels of another language. ``geometry``: a row a task,
    language and layer.
    """
    parts = {
        part: rows[rows["part"] == part].drop(columns="part").dropna(axis=1, how="all").reset_index(drop=True)
        for part in ("outcomes", "geometry")
    }
    geometry = parts["geometry"]
    if len(geometry):
        # Rows of the other part lack these columns, which makes their numbers floats.
        geometry = geometry.astype({"layer": int, "at_setting": bool})
    outcomes = once(parts["outcomes"])
    outcomes = outcomes.assign(seed=outcomes["seed"].astype(int))
    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    result = contrast_table(outcomes, tested=lambda name: name.startswith("cast"), **options)
    methods = pooled_table(outcomes, **options)
    comparisons = []
    for way in (OUT, BACK, OWN):
        rivals = (f"{RANDOM}, {way}", f"{SHUFFLED}, {way}", f"few-shot, {way}")
        comparisons += [(f"cast, {way}", rival) for rival in rivals]
        comparisons += [(f"cast, {way}", f"cast, {OWN}")] if way != OWN else []
    own = outcomes["source"] == outcomes["target"]
    # What a language gives itself stands beside whatever comes from elsewhere, so its source is left open.
    opened = outcomes.assign(source=outcomes["source"].where(~own, ""))
    foreign = outcomes.groupby("method")["foreign"].mean()
    return {
        "result": result.assign(
            base=[split_name(name)[0] for name in result["target"]],
            target_language=[split_name(name)[1] for name in result["target"]],
            source_language=[split_name(name)[1] if name else "" for name in result["source"]],
        ),
        "methods": methods.assign(
            foreign=methods["method"].map(foreign), baseline_foreign=float(foreign.get(BASELINE, np.nan))
        ),
        "versus": side_by_side(opened, comparisons, **options),
        "geometry": geometry,
    }


EXPERIMENT = Experiment(
    "cross-lingual",
    QUESTION,
    plan,
    compute,
    summarise,
    read,
    draw,
    tasks=tasks_of,
    tables=("methods", "versus"),
    heading="Cross-lingual transfer",
)
