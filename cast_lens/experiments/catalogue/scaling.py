"""Do more source samples help, where more demonstrations stop helping?

Three curves on the same test queries: the contrastive mean of 1, 2, 4, … source samples (random subsets, ``repeats``
draws each, all at the layer and strength of the vector of all samples); demonstrations of the target itself in the
prompt; demonstrations of the source in the prompt. Demonstrations end where the context or the train split does, and
the table says which numbers were left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...engine.tokens import longest_prompt
from ...methods import Condition, cross_task_few_shot, evaluate_conditions, few_shot, steered
from ...placebos import placebo_seed, random_direction, random_subsets
from ..bench import ANSWER_ROOM, Bench, test_examples
from ..cells import Cell
from ..legacy import Experiment, Tasks
from ..outcomes import contrast_table, once, pooled_table, side_by_side
from ..settings import ExperimentConfig
from .scaling_reading import CAST, CROSS, IN_TASK, PLACEBO, QUESTION, draw, named, parsed, read
from .selection import reference

if TYPE_CHECKING:
    import pandas as pd

# In-task demonstrations are drawn so many times at most.
DRAWS = 3


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then vectors, one cell a pair, and demonstrations, one cell a number and draw."""
    cells = [
        Cell("setting", source=source, variant=reference(config), prepares=True) for source in config.sources
    ]
    for target in config.targets:
        sources = [source for source in config.sources if source != target]
        cells += [Cell("steered", target, source) for source in sources]
        for k in config.few_shots:
            if k < len(tasks[target].train):
                cells += [Cell("in-task", target, number=k, variant=str(d)) for d in range(draws(config))]
            cells += [Cell("cross-task", target, s, number=k) for s in sources if k < len(tasks[s].train)]
    return cells


def draws(config: ExperimentConfig) -> int:
    """Draws of in-task demonstrations: a third of the subsets' number, for each costs a pass over long prompts."""
    return max(1, min(DRAWS, config.repeats // 3))


def sizes(config: ExperimentConfig) -> list[int]:
    """Numbers of source samples: 1, 2, the budgets, all."""
    return sorted({n for n in (1, 2, *config.budgets) if n < config.samples} | {config.samples})


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of one cell."""
    if cell.kind == "steered":
        return _outcomes(bench, steered_conditions(bench, cell.target, cell.source)).assign(
            part="steered", tokens=0, context=int(bench.model.cfg.n_ctx)
        )
    condition = prompted(bench, cell)
    tokens = longest_prompt(bench.model, condition.prompts, chat=bench.config.chat) + ANSWER_ROOM
    context = int(bench.model.cfg.n_ctx)
    if tokens > context:
        return _left_out(condition, tokens, context)
    return _outcomes(bench, [condition]).assign(part="prompted", tokens=tokens, context=context)


def _outcomes(bench: Bench, conditions: list[Condition]) -> pd.DataFrame:
    config = bench.config
    found = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    return found.drop(columns=["text"])


def _left_out(condition: Condition, tokens: int, context: int) -> pd.DataFrame:
    import pandas as pd

    row: dict[str, Any] = {"part": "left out", "method": condition.method, "source": condition.source}
    row |= {"target": condition.prompts[0].task, "tokens": tokens, "context": context}
    return pd.DataFrame([row])


def steered_conditions(bench: Bench, target: str, source: str) -> list[Condition]:
    """Zero-shot, means of more and more samples, and a random direction of the norm of the mean of all."""
    config = bench.config
    assert isinstance(config, ExperimentConfig)
    base, found, setting = (
        bench.base(target),
        bench.differences(source),
        bench.setting(source, reference(config)),
    )
    whole, conditions = found.mean(), [base]
    for size in sizes(config):
        method = named(CAST, size)
        if size == len(found):
            conditions.append(steered(whole, base.prompts, setting, source=source, method=method))
            continue
        seed = placebo_seed(source, config.seed, size)
        subsets = random_subsets(found, size, count=config.repeats, seed=seed)
        for number, vector in enumerate(subsets.values()):
            conditions.append(
                steered(vector, base.prompts, setting, source=source, method=method, seed=number)
            )
    for number in range(config.placebos):
        noise = random_direction(whole, seed=placebo_seed(source, config.seed, number))
        conditions.append(steered(noise, base.prompts, setting, source=source, method=PLACEBO, seed=number))
    return conditions


def prompted(bench: Bench, cell: Cell) -> Condition:
    """Demonstrations of the target, or of the source, in front of the queries."""
    config, target = bench.config, bench.tasks[cell.target]
    examples = test_examples(config, target)
    if cell.kind == "in-task":
        seed = config.seed + int(cell.variant)
        made = few_shot(target, examples, shots=cell.number, seed=seed)
        return Condition(named(IN_TASK, cell.number), made.prompts, seed=seed)
    made = cross_task_few_shot(
        bench.tasks[cell.source], target, examples, shots=cell.number, seed=config.seed
    )
    return Condition(named(CROSS, cell.number), made.prompts, source=cell.source, seed=config.seed)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, number and metric. ``curves``: over all pairs. ``growth``: from number to number.

    ``growth`` has ``number_from, number_to, per_doubling`` and ``last`` (the last doubling of its curve: the largest
    number against the largest that is at most half of it). ``left_out``: demonstrations beyond the context.
    """
    gone = rows["part"] == "left out"
    outcomes = once(rows[~gone].reset_index(drop=True))
    outcomes = outcomes.assign(seed=outcomes["seed"].astype(int))
    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    names = list(dict.fromkeys(outcomes["method"]))
    result = contrast_table(outcomes, tested=lambda name: parsed(name)[1] > 0, **options)
    curves = pooled_table(outcomes, **options)
    used = outcomes.groupby("method")["tokens"].max()
    return {
        "result": _split(result),
        "curves": _split(curves).assign(
            tokens=curves["method"].map(used), context=int(rows["context"].max())
        ),
        "growth": growth(outcomes, names, options),
        "left_out": rows.loc[gone, ["method", "target", "source", "tokens", "context"]].reset_index(
            drop=True
        ),
    }


def growth(outcomes: pd.DataFrame, names: list[str], options: dict[str, Any]) -> pd.DataFrame:
    """Every step of every curve and its last doubling, and the ends of the curves against each other."""
    import numpy as np

    ends, last, comparisons = [], set(), []
    for curve in (CAST, IN_TASK, CROSS):
        numbers = sorted(number for name, number in map(parsed, names) if name == curve)
        half = [number for number in numbers if 2 * number <= numbers[-1]]
        pairs = list(zip(numbers[1:], numbers, strict=False))
        if half:
            last.add((named(curve, numbers[-1]), named(curve, half[-1])))
            pairs = list(dict.fromkeys([*pairs, (numbers[-1], half[-1])]))
        comparisons += [(named(curve, this), named(curve, that)) for this, that in pairs]
        ends += [named(curve, numbers[-1])] if numbers else []
    against = (
        [(ends[0], other) for other in (*ends[1:], PLACEBO)] if ends and ends[0].startswith(CAST) else []
    )
    frame = _split(side_by_side(outcomes, [*comparisons, *against], **options))
    before = [parsed(name)[1] for name in frame["against"]]
    same = [parsed(a)[0] == parsed(b)[0] for a, b in zip(frame["method"], frame["against"], strict=True)]
    doublings = np.log2(frame["number"] / np.where(same, before, np.nan))
    keys = list(zip(frame["method"], frame["against"], strict=True))
    return frame.rename(columns={"number": "number_to"}).assign(
        number_from=before,
        same_curve=same,
        per_doubling=frame["difference"] / doublings,
        last=[key in last for key in keys],
    )


def _split(frame: pd.DataFrame) -> pd.DataFrame:
    parts = [parsed(name) for name in frame["method"]]
    return frame.assign(curve=[name for name, _ in parts], number=[number for _, number in parts])


EXPERIMENT = Experiment(
    "scaling", QUESTION, plan, compute, summarise, read, draw, tables=("growth", "curves")
)
