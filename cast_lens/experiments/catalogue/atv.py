"""Adaptive task vectors compared with other methods that use the same data and number of parameters.

The vectors are trained on all tasks of the configuration (``seen``), on all but one (``task held out``), or on all but
one family (``family held out``), and tested on the targets. Every method is trained on the same examples, in the same
batches, with the same early stopping; LoRA and prefix-tuning get the number of parameters of the low-rank adaptive task
vector. CAST adds the target's own vector where the target is seen, and vectors of tasks that were not held out where it
is not.

Latency is measured and depends on the machine; everything else is exactly reproducible.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ... import plots
from ...methods import Condition, few_shot_condition, retrieved_condition, steered
from ...methods.prompting import CANDIDATES
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, gain_lines, pooled_table, side_by_side
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, increasing, joined
from ..trained_methods import (
    ADAPTERS,
    ANOTHER,
    ATV_FULL,
    RANDOM,
    TRAINED,
    answer_plainly,
    asked,
    cost_row,
    fit,
    held_out,
    holdouts,
    trained_methods,
)
from ..workspace import Workspace, fits, test_examples

SEEN, TASK, FAMILY = "seen", "task held out", "family held out"
FOLDS = (SEEN, TASK, FAMILY)
WHERE = {
    SEEN: "On tasks seen in training",
    TASK: "On tasks held out of training",
    FAMILY: "On tasks whose whole family was held out",
}
CAST = "cast"
CAST_PLACEBO = "placebo: random direction (cast)"
RETRIEVED = "retrieved few-shot, own task"


@dataclass(frozen=True, slots=True)
class AdaptiveTaskVectors(Experiment):
    """Does a vector that is generated for each query beat a constant one, demonstrations and adapters?

    Attributes:
        atv_examples: numbers of training examples per task; the largest is used for the comparison, the others for the
            learning curve.
        atv_holdout_examples: the number of training examples per task when a task is held out; smaller, because every
            held-out task requires new training of every method.
        atv_epochs: the maximum number of epochs for every trained method.
        atv_batch: prompts per training step.
        atv_rank: the rank of the adaptive task vector whose number of parameters the adapters are matched to.
        atv_methods: which methods are trained, keys of ``experiments.trained_methods.TRAINED``; all that are installed
            if empty.
        atv_holdouts: what is held out of training, as ``task:NAME`` or ``family:NAME``; if empty, every target and
            every family with several tasks.
        queries: how many queries are timed.
    """

    name = "atv"
    title = "Adaptive task vectors"
    compared = (
        "All methods answered the same test queries of each target. Trained methods saw the same examples, in the "
        "task's own template and in the same batches, with the same early stopping on the same validation examples; "
        "LoRA and prefix-tuning have as many parameters as the low-rank adaptive task vector. CAST adds the target's "
        "own mean difference vector where the target is seen, and otherwise those of the tasks that were not held "
        "out; layer and strength come from each source's own validation split. Demonstrations are always the "
        "target's own: on held-out tasks they use labels that the other methods do not."
    )
    limits = (
        f"{sentences.LIMITS} Each method is trained once per fold: intervals do not cover another training seed. Each "
        "method has one learning rate, chosen by validation loss on a small training run with a few tasks; on other "
        "data another may be better, and adapters are known to be sensitive to theirs. Latency compares two "
        "runtimes: adapters answer through transformers, everything else through hooks of TransformerLens; the "
        "search for retrieved demonstrations is not included."
    )
    shown = ("against", "methods", "variants", "costs")

    atv_examples: tuple[int, ...] = (8, 24, 90)
    atv_holdout_examples: int = 24
    atv_epochs: int = 15
    atv_batch: int = 8
    atv_rank: int = 16
    atv_methods: tuple[str, ...] = ()
    atv_holdouts: tuple[str, ...] = ()
    queries: int = 16

    def __post_init__(self) -> None:
        at_least_one(self, "atv_holdout_examples", "atv_epochs", "atv_batch", "atv_rank", "queries")
        increasing(self, "atv_examples")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Few examples and epochs, no adapters (which train for minutes), one hold-out."""
        return {
            "atv_examples": (8,),
            "atv_holdout_examples": 8,
            "atv_epochs": 2,
            "atv_methods": ("atv", "static atv"),
            "atv_holdouts": (f"task:{config.targets[0]}",),
            "queries": 2,
        }

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings of every task's vector first; then prompting and CAST per target, then one cell per training.

        Raises:
            ValueError: with a chat template, which training does not support; see ``trained_methods``, ``holdouts``.
        """
        if config.chat:
            raise ValueError("chat=true: adaptive task vectors are trained without a chat template; leave it out")
        if len(tasks) < 2:
            raise ValueError("atv compares seen with unseen tasks and needs two tasks or more; add sources or targets")
        methods = trained_methods(self)
        cells = [Cell("setting", source=name, variant="cast", prepares=True) for name in tasks]
        cells += [Cell(kind, target) for target in config.targets for kind in ("prompted", "cast")]
        for method in methods:
            cells += [Cell("trained", variant=method, number=n) for n in reversed(self.atv_examples)]
        cells += [
            Cell("trained", source=away, variant=method, number=self.atv_holdout_examples)
            for away in holdouts(self, config, tasks)
            for method in methods
        ]
        # Adapters train many times longer, so they come last.
        return sorted(cells, key=lambda cell: cell.variant in ADAPTERS)

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of examples (``part`` is ``outcome``), and costs per query (``cost``)."""
        if cell.kind == "trained":
            return self.trained_rows(workspace, cell)
        conditions = (
            prompted(workspace, cell.target) if cell.kind == "prompted" else steered_by_cast(workspace, cell.target)
        )
        frame = workspace.outcomes(conditions).assign(part="outcome", examples=0, held_out="")
        if cell.target != workspace.config.targets[0]:
            return frame
        chosen = [one for one in conditions if one.method != CAST_PLACEBO and one.source in ("", cell.target)]
        costs = [condition_cost(workspace, one, self.queries) for one in chosen]
        return pd.concat([frame, pd.DataFrame(costs).assign(part="cost")], ignore_index=True)

    def trained_rows(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Train one method once, and return its outcomes on the cell's targets and its cost."""
        config = workspace.config
        largest = not cell.source and cell.number == self.atv_examples[-1]
        folder = workspace.directory.path / "experiments" / "atv" / "training" / cell.key
        made = fit(workspace, self, cell, folder, variants=largest and cell.variant == ATV_FULL)
        found = made.outcomes(asked(config, cell.source, workspace.tasks))
        frame = found.drop(columns=["text"], errors="ignore").assign(
            part="outcome", examples=cell.number, held_out=cell.source
        )
        if not largest:
            return frame
        prompts = workspace.base(config.targets[0]).prompts[: self.queries]
        cost = cost_row(workspace, cell.variant, prompts, made.answer, made.about)
        return pd.concat([frame, pd.DataFrame([cost]).assign(part="cost")], ignore_index=True)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What training buys.

        Returns:
            ``result``: one row per fold, target, method and metric; ``methods``: over targets; ``against``: ATV
            against every other method; ``curve``: by examples per task; ``variants``: other strengths, averaged
            vectors, placebos; ``costs``: of a query.
        """
        found = joined(rows, "prompted", "cast", "trained")
        found = (
            found
            if len(found)
            else pd.DataFrame(columns=["part", "seed", "examples", "method", "held_out", "target", "source"])
        )
        outcomes = found[found["part"] == "outcome"].astype({"seed": int, "examples": int})
        folds = {fold: folded(outcomes, fold, self.atv_examples[-1], tasks) for fold in FOLDS}
        main = {fold: part[~part["method"].map(is_variant).astype(bool)] for fold, part in folds.items()}

        def by_fold(table: Any, **how: Any) -> pd.DataFrame:
            made = [table(part, **how).assign(fold=fold) for fold, part in main.items() if len(part)]
            return pd.concat(made, ignore_index=True) if made else table(pd.DataFrame(), **how).assign(fold="")

        every = outcomes[(outcomes["held_out"] == "") & outcomes["method"].isin([*TRAINED, BASELINE])]
        seen, beside = folds[SEEN], [ATV_FULL, ANOTHER, RANDOM, BASELINE]
        changed = seen[seen["method"].map(is_variant).astype(bool) | seen["method"].isin(beside)]
        others = [name for name in dict.fromkeys(outcomes["method"]) if name != ATV_FULL]
        return {
            "result": by_fold(contrast_table, tested=is_finding, **config.resampling),
            "methods": by_fold(pooled_table, **config.resampling),
            "against": by_fold(side_by_side, comparisons=[(ATV_FULL, other) for other in others], seed=config.seed),
            "curve": pooled_table(every, by=("method", "examples"), **config.resampling),
            "variants": pooled_table(changed, **config.resampling),
            "costs": cost_table(found[found["part"] == "cost"]),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """ATV against zero-shot and CAST in each fold, in label-restricted accuracy where there are labels."""
        against = frames["against"]
        told = []
        for fold in FOLDS:
            for metric in ("choice_correct", "exact_match"):
                rows = [sentences.row_of(against, metric, fold=fold, against=other) for other in (BASELINE, CAST)]
                known = [f"{sentences.change(row)} over {row['against']}" for row in rows if row is not None]
                if known:
                    told.append(f"{WHERE[fold].lower()} ATV gains {' and '.join(known)} in {sentences.NAMES[metric]}")
                    break
        return Findings(sentences.headline(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """One forest per fold, the learning curve, the variants."""
        for fold in FOLDS:
            rows = frames["methods"][frames["methods"]["fold"] == fold]
            if len(rows):
                yield ReportFigure(
                    f"methods_{fold.replace(' ', '_')}",
                    f"{WHERE[fold].removeprefix('On ').capitalize()}",
                    "Mean gain over zero-shot over the targets, with 95 % intervals over queries. Grey: placebos.",
                    f"Forest plot of the mean gain of each method: {fold}.",
                    plots.plot_methods(rows),
                    rows,
                )
        curve = frames["curve"]
        if len(curve) and curve["examples"].gt(0).any():
            yield curve_figure(curve)
        if len(frames["variants"]):
            yield ReportFigure(
                "variants",
                "The same vectors, at other strengths and without the query",
                "Gain over zero-shot of one trained ATV whose vectors are scaled, averaged or exchanged; seen tasks.",
                "Forest plot of the gain of each variant of the adaptive task vector.",
                plots.plot_methods(frames["variants"], sort=False),
                frames["variants"],
            )


EXPERIMENT = AdaptiveTaskVectors


def prompted(workspace: Workspace, target: str) -> list[Condition]:
    """Zero-shot, demonstrations of the target, and those most similar to the query, if they fit the context."""
    config, task = workspace.config, workspace.tasks[target]
    examples = test_examples(config, task)
    made = few_shot_condition(task, examples, shots=config.shots, seed=config.seed)
    similar = retrieved_condition(
        task, task, examples, shots=config.shots, embed=workspace.embed, candidates=CANDIDATES, seed=config.seed
    )
    named = [
        Condition(f"few-shot, k={config.shots}", made.prompts, seed=config.seed),
        Condition(RETRIEVED, similar.prompts, seed=config.seed),
    ]
    return [workspace.base(target), *(one for one in named if fits(workspace, one.prompts))]


def steered_by_cast(workspace: Workspace, target: str) -> list[Condition]:
    """The mean difference vector of every task on the target, and a random direction of each one's norm."""
    base, found = workspace.base(target), []
    for source in workspace.tasks:
        vector, setting = workspace.vector(source), workspace.setting(source)
        noise = workspace.random_direction(source)
        found += [
            steered(one, base.prompts, setting, source=source, method=method)
            for method, one in ((CAST, vector), (CAST_PLACEBO, noise))
        ]
    return found


def condition_cost(workspace: Workspace, one: Condition, queries: int) -> dict[str, Any]:
    """Cost of the plain route of steering: one query at a time, through hooks."""
    prompts, edits = one.prompts[:queries], [one.intervention] if one.intervention else []
    about = {"parameters": 0, "setting": ""}
    return cost_row(workspace, one.method, prompts, lambda prompt: answer_plainly(workspace, prompt, edits), about)


def folded(outcomes: pd.DataFrame, fold: str, most: int, tasks: Tasks) -> pd.DataFrame:
    """The rows of a fold: prompting on its targets, CAST with the tasks that it may use, and trained methods."""
    own = outcomes["method"].isin([CAST, CAST_PLACEBO])
    trained = outcomes["examples"] > 0
    if fold == SEEN:
        fitted = (outcomes["held_out"] == "") & (outcomes["examples"] == most)
    else:
        fitted = outcomes["held_out"].astype(str).str.startswith({TASK: "task:", FAMILY: "family:"}[fold])
    targets = set(outcomes.loc[fitted, "target"])
    away = {name: held_out(holdout_of(fold, name, tasks), tasks) for name in targets}
    usable = [
        source == target if fold == SEEN else source not in away.get(target, ())
        for target, source in zip(outcomes["target"], outcomes["source"], strict=True)
    ]
    kept = fitted | (own & pd.Series(usable, index=outcomes.index, dtype=bool)) | ~(own | trained)
    return outcomes[kept & outcomes["target"].isin(targets)].reset_index(drop=True)


def holdout_of(fold: str, target: str, tasks: Tasks) -> str:
    """The task or family that a fold holds out for a target."""
    return {SEEN: "", TASK: f"task:{target}", FAMILY: f"family:{tasks[target].family}"}[fold]


def is_variant(method: str) -> bool:
    """Whether a method is another strength or average of one ATV, and so not a separate method."""
    return method.startswith((f"{ATV_FULL} ×", f"{ATV_FULL} averaged", "placebo: another task"))


def is_finding(method: str) -> bool:
    """Whether a method is tested against zero-shot as a finding."""
    return method in TRAINED or method == CAST


def cost_table(part: pd.DataFrame) -> pd.DataFrame:
    """One row per method: parameters, steps, seconds of training, and seconds and tokens per query."""
    columns = ["method", "parameters", "setting", "steps", "validation", "train_seconds", "queries", "tokens"]
    found = part.reindex(columns=[*columns, "seconds"]).reset_index(drop=True)
    return found.assign(
        query_ms=1000 * found["seconds"].astype(float),
        parameters=found["parameters"].astype(int),
        queries=found["queries"].astype(int),
    ).drop(columns="seconds")


def curve_figure(curve: pd.DataFrame) -> ReportFigure:
    """Gain by training examples per task."""
    metric = "choice_correct" if (curve["metric"] == "choice_correct").any() else "exact_match"
    rows = curve[(curve["metric"] == metric) & (curve["examples"] > 0)]
    frame = gain_lines(rows, rows["examples"], rows["method"])
    name = sentences.NAMES[metric]
    return ReportFigure(
        "curve",
        "Learning curve",
        f"Gain in {name} over zero-shot on seen tasks by training examples per task, with 95 % intervals over queries.",
        f"Lines of the gain in {name} by training examples per task, one per method.",
        plots.plot_scaling(frame, x_title="training examples per task", y_title="gain, percentage points", share=False),
        frame,
    )
