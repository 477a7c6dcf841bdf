"""Do more source samples help, where more demonstrations stop helping?

Three curves on the same test queries: the contrastive mean of 1, 2, 4, … source samples (random subsets, ``repeats``
draws each, all at the layer and strength of the vector of all samples); demonstrations of the target itself in the
prompt; and demonstrations of the source in the prompt. The number of demonstrations is limited by the context and by
the train split; a table lists the numbers that were left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ... import plots
from ...engine.tokens import longest_prompt
from ...methods import Condition, cross_task_condition, few_shot_condition, steered
from ...placebos import placebo_seed, random_subsets
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import contrast_table, gain_lines, once, pooled_table, side_by_side
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, increasing, joined
from ..workspace import ANSWER_ROOM, Workspace, test_examples

# Largest number of draws of in-task demonstrations.
DRAWS = 3
CAST = "cast"
IN_TASK = "few-shot"
CROSS = "cross-task few-shot"
PLACEBO = "placebo: random direction"
WHAT = {CAST: "source samples", IN_TASK: "demonstrations of the target", CROSS: "demonstrations of the source"}


@dataclass(frozen=True, slots=True)
class Scaling(Experiment):
    """Do more source samples help, where more demonstrations stop helping?

    Attributes:
        budgets: how many samples are averaged, besides 1, 2 and all of them; numbers that are not below ``samples`` are
            left out.
        few_shots: how many demonstrations a prompt has, one or more numbers; prompts that do not fit the context are
            left out and named.
        repeats: how many random subsets of each size are drawn.
    """

    name = "scaling"
    title = "Scaling"
    compared = (
        "Three ways to use more data are compared on the same test queries, over all pairs: means of random subsets "
        "of source samples, at the layer and strength of the vector of all samples; demonstrations of the target in "
        "the prompt; and demonstrations of the source in the prompt. The last doubling compares a curve's largest "
        "number with the largest one that is at most half of it, paired by query. P-values are Holm-adjusted over "
        "all steps of all curves."
    )
    limits = (
        f"{sentences.LIMITS} A change that is not shown does not prove a plateau; its interval says how large a "
        "change is still possible. Layer and strength were chosen for the mean of all samples, which may favour "
        "large subsets. A pool of tens of samples says nothing about thousands."
    )
    shown = ("growth", "curves", "left_out")

    budgets: tuple[int, ...] = (4, 8, 16, 32, 64)
    few_shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    repeats: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "repeats")
        increasing(self, "budgets", "few_shots")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Few and small subsets, short lists."""
        return {"budgets": (4, 8), "few_shots": (1, 2, 4), "repeats": 2}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then vectors, one cell per pair, and demonstrations, one cell per number and draw."""
        whole = reference(config)
        cells = [Cell("setting", source=source, variant=whole, prepares=True) for source in config.sources]
        for target in config.targets:
            sources = [source for source in config.sources if source != target]
            cells += [Cell("steered", target, source) for source in sources]
            for k in self.few_shots:
                if k < len(tasks[target].train):
                    cells += [Cell("in-task", target, number=k, variant=str(d)) for d in range(draws(self.repeats))]
                cells += [Cell("cross-task", target, s, number=k) for s in sources if k < len(tasks[s].train)]
        return cells

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of one cell; a prompt that does not fit the context gives one row with its length."""
        context = int(workspace.model.cfg.n_ctx)
        if cell.kind == "steered":
            return workspace.outcomes(self.steered(workspace, cell)).assign(tokens=0, context=context)
        condition = prompted(workspace, cell)
        tokens = longest_prompt(workspace.model, condition.prompts, chat=workspace.config.chat) + ANSWER_ROOM
        if tokens > context:
            named = {"method": condition.method, "source": condition.source, "target": cell.target}
            return pd.DataFrame([{**named, "tokens": tokens, "context": context}])
        return workspace.outcomes([condition]).assign(tokens=tokens, context=context)

    def steered(self, workspace: Workspace, cell: Cell) -> list[Condition]:
        """Zero-shot, means of increasing numbers of samples, and random directions with the norm of the mean of all."""
        config, source = workspace.config, cell.source
        base, found = workspace.base(cell.target), workspace.differences(source)
        setting = workspace.setting(source, reference(config))
        made = [base]

        def add(vector: Any, method: str, seed: int = 0) -> None:
            made.append(steered(vector, base.prompts, setting, source=source, method=method, seed=seed))

        for size in sizes(config, self.budgets):
            if size == len(found):
                add(found.mean(), named(CAST, size))
                continue
            seed = placebo_seed(source, config.seed, size)
            subsets = random_subsets(found, size, count=self.repeats, seed=seed)
            for number, vector in enumerate(subsets.values()):
                add(vector, named(CAST, size), number)
        for number, noise in workspace.placebos(source, found.mean()):
            add(noise, PLACEBO, number)
        return made

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What more samples and more demonstrations change.

        Returns:
            ``result``: one row per pair, number and metric; ``curves``: over all pairs; ``growth``: from number to
            number, with ``number_from, number_to, per_doubling`` and ``last`` (the last doubling of its curve: the
            largest number against the largest that is at most half of it); ``left_out``: demonstrations beyond the
            context.
        """
        found = joined(rows, "steered", "in-task", "cross-task")
        about = ["method", "target", "source", "tokens", "context"]
        gone = found["tokens"] > found["context"] if len(found) else pd.Series(dtype=bool)
        left_out = found.loc[gone, about] if len(found) else pd.DataFrame(columns=about)
        found = once(found[~gone].reset_index(drop=True)) if len(found) else found
        curves = split(pooled_table(found, **config.resampling))
        if len(curves):
            used = found.groupby("method")["tokens"].max()
            curves = curves.assign(tokens=curves["method"].map(used), context=int(found["context"].max()))
        return {
            "result": split(contrast_table(found, tested=lambda name: parsed(str(name))[1] > 0, **config.resampling)),
            "curves": curves,
            "growth": growth(found, config.seed),
            "left_out": left_out.reset_index(drop=True),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """How each curve ends: its last doubling, in exact match."""
        rows = frames["growth"]
        last = rows[rows["last"].astype(bool) & (rows["metric"] == "exact_match")]
        told = [
            f"from {row['number_from']} to {row['number_to']} {WHAT[row['curve']]} by {sentences.change(row)}"
            for row in last.to_dict("records")
        ]
        names = list(dict.fromkeys(frames["left_out"]["method"]))
        gone = f"Left out on some targets because the context was full: {', '.join(names)}."
        headline = f"Exact match changes {sentences.listed(told)}." if told else sentences.NOTHING
        return Findings(headline, (gone,) if names else ())

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain by number, one line per curve."""
        curves = frames["curves"]
        for metric in sentences.metrics(curves):
            part = curves[curves["metric"] == metric]
            if not part["number"].any():
                continue
            rows, name = with_placebo(part), sentences.NAMES[metric]
            frame = gain_lines(rows, rows["number"], rows["curve"])
            yield ReportFigure(
                f"scaling_{metric}",
                f"{name.capitalize()} by number of samples or demonstrations",
                f"Gain in {name} over zero-shot over all pairs, with 95 % intervals over queries. Dotted: random "
                "directions with the norm of the mean of all samples, for any number.",
                f"Lines of the gain in {name} by number, for steering, in-task and cross-task demonstrations, and a "
                "level one for random directions.",
                plots.plot_scaling(
                    frame, x_title="samples or demonstrations", y_title="gain, percentage points", share=False
                ),
                frame,
            )


EXPERIMENT = Scaling


def reference(config: RunConfig) -> str:
    """The vector method that averages every sample."""
    return "cast" if config.select == "all" else "cast: all samples"


def named(curve: str, number: int) -> str:
    """The method of one point of a curve."""
    return f"{curve}, {number}"


def parsed(method: str) -> tuple[str, int]:
    """Curve and number; number 0 for methods that belong to no curve."""
    curve, _, number = method.rpartition(", ")
    return (curve, int(number)) if curve in WHAT else (method, 0)


def draws(repeats: int) -> int:
    """Draws of in-task demonstrations: a third of the number of subsets, since each needs a pass over long prompts."""
    return max(1, min(DRAWS, repeats // 3))


def sizes(config: RunConfig, budgets: tuple[int, ...]) -> list[int]:
    """Numbers of source samples: 1, 2, the budgets, all."""
    return sorted({n for n in (1, 2, *budgets) if n < config.samples} | {config.samples})


def prompted(workspace: Workspace, cell: Cell) -> Condition:
    """Demonstrations of the target, or of the source, in front of the queries."""
    config, target = workspace.config, workspace.tasks[cell.target]
    examples = test_examples(config, target)
    if cell.kind == "in-task":
        seed = config.seed + int(cell.variant)
        made = few_shot_condition(target, examples, shots=cell.number, seed=seed)
        return Condition(named(IN_TASK, cell.number), made.prompts, seed=seed)
    source = workspace.tasks[cell.source]
    made = cross_task_condition(source, target, examples, shots=cell.number, seed=config.seed)
    return Condition(named(CROSS, cell.number), made.prompts, source=cell.source, seed=config.seed)


def growth(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every step of every curve and its last doubling, and the ends of the curves against each other."""
    names = list(dict.fromkeys(found["method"])) if len(found) else []
    ends, last, comparisons = [], set(), []
    for curve in WHAT:
        numbers = sorted(number for name, number in map(parsed, names) if name == curve)
        half = [number for number in numbers if 2 * number <= numbers[-1]]
        pairs = list(zip(numbers[1:], numbers, strict=False))
        if half:
            last.add((named(curve, numbers[-1]), named(curve, half[-1])))
            pairs = list(dict.fromkeys([*pairs, (numbers[-1], half[-1])]))
        comparisons += [(named(curve, this), named(curve, that)) for this, that in pairs]
        ends += [named(curve, numbers[-1])] if numbers else []
    against = [(ends[0], other) for other in (*ends[1:], PLACEBO)] if ends and ends[0].startswith(CAST) else []
    frame = split(side_by_side(found, [*comparisons, *against], seed=seed))
    before = [parsed(name)[1] for name in frame["against"]]
    same = [parsed(a)[0] == parsed(b)[0] for a, b in zip(frame["method"], frame["against"], strict=True)]
    doublings = np.log2(frame["number"].astype(float) / np.where(same, before, np.nan))
    keys = list(zip(frame["method"], frame["against"], strict=True))
    return frame.rename(columns={"number": "number_to"}).assign(
        number_from=before,
        same_curve=same,
        per_doubling=frame["difference"] / doublings,
        last=[key in last for key in keys],
    )


def split(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the curve and the number that its methods name."""
    parts = [parsed(str(name)) for name in frame["method"]]
    return frame.assign(curve=[name for name, _ in parts], number=[number for _, number in parts])


def with_placebo(part: pd.DataFrame) -> pd.DataFrame:
    """The curves of one metric, with the placebo as a horizontal line."""
    rows, placebo = part[part["number"] > 0], part[part["method"] == PLACEBO]
    ends = sorted({rows["number"].min(), rows["number"].max()})
    return pd.concat([rows, *(placebo.assign(number=end) for end in ends)], ignore_index=True)
