"""Every source × every target × every method: the paper's main table, with its placebos.

Layer and strength of each vector method are chosen on the source's own validation split; placebos use the setting of
``cast``. All conditions of a target answer the same test queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ... import plots
from ...extraction import token_length
from ...methods import FIELD_METHODS, PROMPT_METHODS, VECTOR_METHODS, AnyCondition, Condition, few_shot_condition
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..field_methods import check_methods, chosen, named_conditions, preparing_cells
from ..outcomes import contrast_table, draws_table, pooled_table, split_rows
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, increasing, joined
from ..transfer_matrix import is_finding, with_families
from ..workspace import Workspace, fits, test_examples

# Prompting methods that read the queries and nothing else.
NEVER_DRAWN = ("batched",)


@dataclass(frozen=True, slots=True)
class CrossDomain(Experiment):
    """Which method helps which target, from which source?

    Attributes:
        methods: the methods to compare, keys of ``methods.STEERING_METHODS``; if empty, all that compute one vector per
            layer without training.
        prompting: the prompting methods to compare, keys of ``methods.PROMPT_METHODS``; all if empty.
        draws: how often samples, demonstrations and placebos are drawn; each draw gets vectors, layers and strengths of
            its own, on the same queries. With two or more draws there are intervals over draws as well as over queries.
        few_shots: how many demonstrations of the target a few-shot prompt has, one or more numbers; prompts that do not
            fit the context are left out and named.
        retrieved: how many demonstrations are retrieved per query; arXiv 2405.10548 uses one.
    """

    name = "cross-domain"
    title = "Cross-domain transfer"
    compared = (
        "All conditions answered the same test queries of a target. Layer and strength of every vector method were "
        "chosen on the source's own validation split. Placebos use the setting of the contrastive mean and have its "
        "norm."
    )
    limits = (
        f"{sentences.LIMITS} With several draws, the table of draws has intervals over draws; neither kind of "
        "interval covers other tasks. The column detectable is the gain that a single pair would need to be found "
        "with 80 % power."
    )
    shown = ("methods", "draws", "result", "split")

    methods: tuple[str, ...] = ()
    prompting: tuple[str, ...] = ()
    draws: int = 1
    few_shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    retrieved: int = 1

    def __post_init__(self) -> None:
        check_methods("methods", self.methods)
        unknown = [one for one in self.prompting if one not in PROMPT_METHODS]
        if unknown:
            raise ValueError(f"prompting={unknown} are unknown; choose from {', '.join(PROMPT_METHODS)}")
        at_least_one(self, "draws", "retrieved")
        increasing(self, "few_shots")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """A few methods of each kind."""
        placebos = ("placebo: random direction", "placebo: shuffled labels")
        return {
            "methods": ("cast", "few-shot mean", "pca", *placebos),
            "prompting": ("cross-task few-shot", "batched"),
            "few_shots": (1, 2, 4),
        }

    def vector_methods(self, config: RunConfig) -> list[str]:
        """The vector methods to compare; the unselected mean is dropped if nothing is selected."""
        same = config.select == "all" and not self.methods
        return [name for name in self.methods or VECTOR_METHODS if not (same and name == "cast: all samples")]

    def prompt_methods(self) -> list[str]:
        """The prompting methods besides demonstrations of the target."""
        every = [name for name in PROMPT_METHODS if name not in ("zero-shot", "few-shot")]
        return list(self.prompting or every)

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then for each draw and target the vectors, the demonstrations and the other prompts."""
        names = list(dict.fromkeys(("cast", *self.vector_methods(config))))
        cells = preparing_cells(config, names, draws=self.draws)
        for draw in range(self.draws):
            for target in config.targets:
                cells.append(Cell("steered", target, draw=draw))
                cells += [Cell("few-shot", target, number=k, draw=draw) for k in self.few_shots]
                for method in self.prompt_methods():
                    if draw and method in NEVER_DRAWN:
                        continue
                    sources = config.sources if PROMPT_METHODS[method].needs_source else ("",)
                    cells += [
                        Cell("prompting", target, source, method, draw=draw) for source in sources if source != target
                    ]
        return cells

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of one cell, one row per example and condition."""
        conditions: list[AnyCondition]
        if cell.kind == "fit":
            return chosen(workspace, cell.source, FIELD_METHODS[cell.variant])
        if cell.kind == "steered":
            base = workspace.base(cell.target)
            conditions = [*named_conditions(workspace, base, self.vector_methods(workspace.config))]
            # Zero-shot is the same in every draw.
            conditions = conditions if cell.draw else [base, *conditions]
        elif cell.kind == "few-shot":
            conditions = [*few_shot_conditions(workspace, cell.target, cell.number)]
        else:
            conditions = [self.prompting_condition(workspace, cell)]
        if not conditions:
            return pd.DataFrame()
        return workspace.outcomes(conditions).assign(draw=cell.draw)

    def prompting_condition(self, workspace: Workspace, cell: Cell) -> AnyCondition:
        """One prompting method with one source."""
        config, target = workspace.config, workspace.tasks[cell.target]
        return PROMPT_METHODS[cell.variant](
            workspace.tasks.get(cell.source, target),
            target,
            test_examples(config, target),
            shots=self.retrieved if cell.variant.startswith("retrieved") else config.shots,
            seed=config.seed,
            embed=workspace.embed,
            length=token_length(workspace.model),
        )

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What each method did.

        Returns:
            ``result``: one row per pair, method and metric; ``methods``: over all pairs; ``split``: format and choice,
            of the first draw; ``draws``, with several of them: over all pairs, with intervals over draws.
        """
        outcomes = joined(rows)
        first = outcomes[outcomes["draw"] == 0] if len(outcomes) else outcomes
        return {
            "result": with_families(contrast_table(outcomes, tested=is_finding, **config.resampling), tasks),
            "methods": pooled_table(outcomes, **config.resampling),
            "split": split_rows(first, wanted=lambda name: is_finding(name) or name.startswith("placebo")),
            **({"draws": draws_table(outcomes)} if self.draws > 1 else {}),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The mean gain of the contrastive mean; numbers of demonstrations that did not fit."""
        methods = frames["methods"]
        missing = [str(k) for k in self.few_shots if not (methods["method"] == f"few-shot, k={k}").any()]
        told = "in-task demonstrations: more than the context or the train split holds."
        return Findings(
            sentences.transfer(methods, frames["result"]),
            (f"Not run: {sentences.listed(missing)} {told}",) if missing else (),
        )

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The matrix, the forest of all conditions, the split."""
        result, methods, split = frames["result"], frames["methods"], frames["split"]
        steered = result[result["method"].astype(str).str.startswith("cast")]
        if len(steered):
            yield ReportFigure(
                "matrix",
                "What one task's vector does to another task",
                "Change from zero-shot in percentage points for the contrastive mean. Bold: the interval excludes "
                "zero.",
                "Heat maps of gain by target and source for exact match, validity and label-restricted accuracy.",
                plots.plot_transfer_matrix(result, metrics=sentences.metrics(steered), method="cast"),
                steered,
            )
        if len(methods):
            yield ReportFigure(
                "methods",
                "All methods, over all pairs",
                "Mean gain over zero-shot over all pairs of different tasks, with 95 % intervals over examples. Grey: "
                "placebos.",
                "Forest plot of the mean gain of each method in exact match and label-restricted accuracy.",
                plots.plot_methods(methods),
                methods,
            )
        if "draws" in frames and len(frames["draws"]):
            yield ReportFigure(
                "draws",
                "All methods, over draws of samples and demonstrations",
                "Mean gain over zero-shot over all pairs, averaged over draws. The 95 % intervals (Student's) are "
                "over draws, each with its own samples, demonstrations, layer and strength. Grey: placebos.",
                "Forest plot of the mean gain of each method, intervals over draws.",
                plots.plot_methods(frames["draws"]),
                frames["draws"],
            )
        if split["method"].astype(str).str.startswith("cast").any():
            yield ReportFigure(
                "split",
                "Format and choice",
                "Gain in exact match of the contrastive mean, split into format (more admissible answers) and choice.",
                "Stacked bars of the format and the choice part of each gain.",
                plots.plot_split(split, method="cast"),
                split,
            )


EXPERIMENT = CrossDomain


def few_shot_conditions(workspace: Workspace, target: str, shots: int) -> list[Condition]:
    """Demonstrations of the target itself, if it has that many and they fit the context; otherwise nothing."""
    config, task = workspace.config, workspace.tasks[target]
    if shots > len(task.train):
        return []
    made = few_shot_condition(task, test_examples(config, task), shots=shots, seed=config.seed)
    named = Condition(f"few-shot, k={shots}", made.prompts, seed=made.seed)
    return [named] if fits(workspace, named.prompts) else []
