"""Adaptive task vectors against everything else that the same data and as many parameters can buy.

Trained on all tasks of the configuration (``seen``), on all but one (``task held out``), on all but one family
(``family held out``); tested on the targets. Every method is trained on the same examples, in the same batches, with
the same early stop; LoRA and prefix-tuning get the number of parameters of the adaptive task vector of low rank. CAST
adds the target's own vector where the target is seen, and vectors of tasks that were not held out where it is not.

Latency is measured and changes with the machine; everything else repeats exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...methods import Condition, evaluate_conditions, few_shot, retrieved_few_shot, steered
from ...methods.prompting import CANDIDATES
from ...placebos import placebo_seed, random_direction
from ..atv_vectors import ANOTHER, RANDOM
from ..bench import Bench, fits, test_examples
from ..cells import Cell
from ..legacy import Experiment, Tasks
from ..outcomes import BASELINE, contrast_table, pooled_table, side_by_side
from ..settings import ExperimentConfig
from ..trained_methods import (
    ADAPTERS,
    ATV_FULL,
    TRAINED,
    answer_plainly,
    asked,
    cost_row,
    fit,
    held_out,
    holdouts,
    trained_methods,
)
from .atv_reading import CAST, CAST_PLACEBO, FAMILY, FOLDS, RETRIEVED, SEEN, TASK, draw, few, read

if TYPE_CHECKING:
    import pandas as pd


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings of every task's vector first; then prompting and CAST a target, then one cell a training.

    Raises:
        ValueError: with a chat template, which training does not know; see ``trained_methods`` and ``holdouts``.
    """
    if config.chat:
        raise ValueError("chat=true: adaptive task vectors are trained without a chat template; leave it off")
    if len(tasks) < 2:
        raise ValueError(
            "atv compares seen with unseen tasks and needs two tasks or more; add sources or targets"
        )
    methods = trained_methods(config)
    cells = [Cell("setting", source=name, variant="cast", prepares=True) for name in tasks]
    cells += [Cell(kind, target) for target in config.targets for kind in ("prompted", "cast")]
    for method in methods:
        cells += [Cell("trained", variant=method, number=n) for n in reversed(config.atv_examples)]
    cells += [
        Cell("trained", source=away, variant=method, number=config.atv_holdout_examples)
        for away in holdouts(config, tasks)
        for method in methods
    ]
    # Adapters train many times longer, so they come last.
    return sorted(cells, key=lambda cell: cell.variant in ADAPTERS)


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of examples (``part`` is ``outcome``), and what a query costs (``cost``)."""
    if cell.kind == "trained":
        return trained_rows(bench, cell)
    conditions = (
        prompted(bench, cell.target) if cell.kind == "prompted" else steered_by_cast(bench, cell.target)
    )
    found = evaluate_conditions(bench.model, conditions, progress=bench.progress).drop(columns=["text"])
    frame = found.assign(part="outcome", examples=0, held_out="")
    if cell.target != bench.config.targets[0]:
        return frame
    chosen = [one for one in conditions if one.method != CAST_PLACEBO and one.source in ("", cell.target)]
    return _with(frame, [_costs(bench, one) for one in chosen])


def prompted(bench: Bench, target: str) -> list[Condition]:
    """Zero-shot, demonstrations of the target, and those most like the query, where they fit the context."""
    config, task = bench.config, bench.tasks[target]
    examples = test_examples(config, task)
    made = few_shot(task, examples, shots=config.shots, seed=config.seed)
    similar = retrieved_few_shot(
        task, task, examples, shots=config.shots, embed=bench.embed, candidates=CANDIDATES, seed=config.seed
    )
    named = [
        Condition(few(config), made.prompts, seed=config.seed),
        Condition(RETRIEVED, similar.prompts, seed=config.seed),
    ]
    return [bench.base(target), *(one for one in named if fits(bench, one.prompts))]


def steered_by_cast(bench: Bench, target: str) -> list[Condition]:
    """The mean difference vector of every task on the target, and a random direction of each one's norm."""
    base, found = bench.base(target), []
    for source in bench.tasks:
        vector, setting = bench.vector(source), bench.setting(source)
        noise = random_direction(vector, seed=placebo_seed(source, bench.config.seed, 0))
        found += [
            steered(one, base.prompts, setting, source=source, method=method)
            for method, one in ((CAST, vector), (CAST_PLACEBO, noise))
        ]
    return found


def trained_rows(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Train one method once; its outcomes on the targets that the cell is about."""
    config = bench.config
    assert isinstance(config, ExperimentConfig)
    largest = not cell.source and cell.number == config.atv_examples[-1]
    folder = bench.directory.path / "experiments" / "atv" / "training" / cell.key
    made = fit(bench, cell, folder, variants=largest and cell.variant == ATV_FULL)
    found = made.outcomes(asked(config, cell.source, bench.tasks))
    frame = found.drop(columns=["text"], errors="ignore").assign(
        part="outcome", examples=cell.number, held_out=cell.source
    )
    if not largest:
        return frame
    prompts = bench.base(config.targets[0]).prompts[: config.queries]
    return _with(frame, [cost_row(bench, cell.variant, prompts, made.answer, made.about)])


def _costs(bench: Bench, one: Condition) -> dict[str, Any]:
    """The plain route of steering: a query at a time, through hooks."""
    config = bench.config
    assert isinstance(config, ExperimentConfig)
    prompts, edits = one.prompts[: config.queries], [one.intervention] if one.intervention else []
    about = {"parameters": 0, "setting": ""}
    return cost_row(bench, one.method, prompts, lambda prompt: answer_plainly(bench, prompt, edits), about)


def _with(frame: pd.DataFrame, rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat([frame, pd.DataFrame(rows)], ignore_index=True)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a fold, target, method and metric. ``methods``: over targets. ``against``: ATV and each other.

    ``curve``: by examples a task. ``variants``: other strengths, averaged vectors, placebos. ``costs``: of a query.
    """
    import pandas as pd

    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    outcomes = rows[rows["part"] == "outcome"].copy()
    outcomes = outcomes.astype({"seed": int, "examples": int})
    result, methods, against = [], [], []
    for fold in FOLDS:
        part = folded(outcomes, fold, config, tasks)
        if part.empty:
            continue
        main = part[~part["method"].map(is_variant)]
        result.append(contrast_table(main, tested=is_finding, **options).assign(fold=fold))
        methods.append(pooled_table(main, **options).assign(fold=fold))
        others = [name for name in dict.fromkeys(main["method"]) if name != ATV_FULL]
        pairs = [(ATV_FULL, other) for other in others]
        against.append(side_by_side(main, pairs, **options).assign(fold=fold))
    every = outcomes[(outcomes["held_out"] == "") & (outcomes["method"].isin([*TRAINED, BASELINE]))]
    seen = folded(outcomes, SEEN, config, tasks)
    beside = [ATV_FULL, ANOTHER, RANDOM, BASELINE]
    changed = seen[seen["method"].map(is_variant) | seen["method"].isin(beside)]
    return {
        "result": pd.concat(result, ignore_index=True),
        "methods": pd.concat(methods, ignore_index=True),
        "against": pd.concat(against, ignore_index=True),
        "curve": pooled_table(every, by=("method", "examples"), **options),
        "variants": pooled_table(changed, **options),
        "costs": _cost_table(rows),
    }


def folded(outcomes: pd.DataFrame, fold: str, config: ExperimentConfig, tasks: Tasks) -> pd.DataFrame:
    """The rows that belong to a fold: prompting on its targets, CAST as far as its tasks may be used, trainings."""
    import pandas as pd

    own = outcomes["method"].isin([CAST, CAST_PLACEBO])
    trained = outcomes["examples"] > 0
    if fold == SEEN:
        fitted = (outcomes["held_out"] == "") & (outcomes["examples"] == config.atv_examples[-1])
    else:
        fitted = outcomes["held_out"].str.startswith({TASK: "task:", FAMILY: "family:"}[fold])
    targets = set(outcomes.loc[fitted, "target"])
    away = {name: held_out(_holdout(fold, name, tasks), tasks) for name in targets}
    usable = [
        source == target if fold == SEEN else source not in away.get(target, ())
        for target, source in zip(outcomes["target"], outcomes["source"], strict=True)
    ]
    kept = fitted | (own & pd.Series(usable, index=outcomes.index)) | ~(own | trained)
    return outcomes[kept & outcomes["target"].isin(targets)].reset_index(drop=True)


def _holdout(fold: str, target: str, tasks: Tasks) -> str:
    return {SEEN: "", TASK: f"task:{target}", FAMILY: f"family:{tasks[target].family}"}[fold]


def is_variant(method: str) -> bool:
    """Other strengths and averages of one ATV, which are no methods of their own."""
    return method.startswith((f"{ATV_FULL} ×", f"{ATV_FULL} averaged", "placebo: another task"))


def is_finding(method: str) -> bool:
    """What is tested against zero-shot as a finding."""
    return method in TRAINED or method == CAST


def _cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a method: parameters, steps, seconds of training and of a query, tokens of a query."""
    columns = ["method", "parameters", "setting", "steps", "validation", "train_seconds", "queries", "tokens"]
    part = rows[rows["part"] == "cost"]
    found = part.reindex(columns=[*columns, "seconds"]).reset_index(drop=True)
    return found.assign(
        query_ms=1000 * found["seconds"].astype(float),
        parameters=found["parameters"].astype(int),
        queries=found["queries"].astype(int),
    ).drop(columns="seconds")


EXPERIMENT = Experiment(
    "atv",
    "Does a vector written for each query beat a constant one, demonstrations and adapters?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("methods", "against", "costs"),
    heading="Adaptive task vectors",
)
