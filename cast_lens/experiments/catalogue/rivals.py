"""Every published way to steer, on the same queries, compared with prompting, each with its own placebo.

Each method is fitted to a source; its strength (and layer, if it has one) is chosen on the source's own validation
split; it is then applied to every target's zero-shot queries. The experiment also measures what a method costs: trained
parameters, seconds to fit, seconds per query, perplexity on neutral text, and the share of answers that change.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ... import plots
from ...effects import NEUTRAL_TEXTS, text_effects
from ...evaluation import evaluate
from ...interventions import Steering
from ...methods import Condition, cross_task_condition, few_shot_condition
from ...methods.field import CONTROLS, FIELD_METHODS, FieldMethod
from ...methods.fitted import FittedMethod
from ...methods.library import VectorLibrary
from ...placebos import placebo_seed
from ...stats import mean_interval
from ...tasks import zero_shot_prompts
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..field_methods import chosen, load_fitted, setting_of, steered_pair
from ..outcomes import BASELINE, contrast_table, pooled_table
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, different_pairs
from ..workspace import Workspace, fits, test_examples
from .side_effects import with_changes

LIBRARY = "library"
PROMPTING = ("few-shot", "cross-task few-shot")
# Queries of each task that a library knows.
KEYS = 8


@dataclass(frozen=True, slots=True)
class Rivals(Experiment):
    """Is the mean difference the right vector?

    Attributes:
        rivals: the methods to compare, keys of ``methods.FIELD_METHODS`` and ``library``; all if empty.
        texts: how many neutral texts are used to measure perplexity.
        timed: how many queries are timed.
    """

    name = "rivals"
    title = "Published steering methods compared"
    compared = (
        "Every method was fitted to the source, and its strength and layer were chosen on the source's own "
        "validation split. It then answered the same test queries of each other task as zero-shot did. Each method "
        "is compared with its placebo at the same setting: the same edit without its content."
    )
    limits = (
        "Methods follow their papers and public code, but use this run's prompts, demonstrations and number of "
        "samples, which are fewer than published; trained methods take fewer steps. Seconds depend on the machine "
        f"and differ from run to run. {sentences.LIMITS}"
    )
    shown = ("methods", "costs", "result")

    rivals: tuple[str, ...] = ()
    texts: int = 12
    timed: int = 4

    def __post_init__(self) -> None:
        unknown = [name for name in self.rivals if name not in (*FIELD_METHODS, LIBRARY)]
        if unknown:
            raise ValueError(f"rivals={unknown} are unknown; choose from {', '.join((*FIELD_METHODS, LIBRARY))}")
        at_least_one(self, "texts", "timed")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Three methods, a few texts."""
        return {"rivals": ("cast", "function vector", "state vector"), "texts": 3, "timed": 1}

    def methods(self) -> list[FieldMethod]:
        """The methods that are fitted to a source."""
        return [method for name, method in FIELD_METHODS.items() if not self.rivals or name in self.rivals]

    def has_library(self, config: RunConfig) -> bool:
        """Whether a library is asked for: it needs the contrastive means of two sources or more."""
        return (not self.rivals or LIBRARY in self.rivals) and len(config.sources) > 1

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Fits and settings first; then one cell per target for the answers, and one per source for the costs."""
        different_pairs(config)
        names = [method.name for method in self.methods()]
        if self.has_library(config) and "cast" not in names:
            names.insert(0, "cast")
        fitted = [
            Cell("fit", source=source, variant=name, prepares=True) for source in config.sources for name in names
        ]
        targets = [target for target in config.targets if any(source != target for source in config.sources)]
        costs = [Cell("cost", source=source) for source in config.sources]
        return [*fitted, *(Cell("answers", target) for target in targets), *costs]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """A fit with its setting, the outcomes of a target, or what each method of a source costs."""
        if cell.kind == "fit":
            return chosen(workspace, cell.source, FIELD_METHODS[cell.variant])
        if cell.kind == "answers":
            return self.answers(workspace, cell.target)
        return self.costs(workspace, cell.source)

    def answers(self, workspace: Workspace, target: str) -> pd.DataFrame:
        """Zero-shot, prompting, and every method of every other source with its placebo."""
        config, base = workspace.config, workspace.base(target)
        conditions = [base, *prompting(workspace, target)]
        for source in config.sources:
            if source == target:
                continue
            for method in self.methods():
                conditions += steered_pair(workspace, source, method, base)
        if self.has_library(config):
            conditions += library_pair(workspace, target, base)
        return workspace.outcomes(conditions)

    def costs(self, workspace: Workspace, source: str) -> pd.DataFrame:
        """One row per method: trained numbers, seconds to fit, seconds per query, perplexity on neutral text."""
        prompts = zero_shot_prompts(workspace.tasks[source], workspace.validation(source)[: self.timed])
        plain = min(_seconds(workspace, prompts, None) for _ in range(2))
        rows = [{"method": BASELINE, "query_ms": 1e3 * plain / len(prompts), "ratio": 1.0, "kl": 0.0, "trained": 0}]
        for method in self.methods():
            row = chosen(workspace, source, method).iloc[0]
            fitted = load_fitted(workspace, source, method)
            edit = setting_of(workspace, method, fitted, row)
            effects = text_effects(workspace.model, [edit], NEUTRAL_TEXTS[: self.texts])
            nll = effects.pivot(index="text", columns="variant", values="nll")
            seconds = min(_seconds(workspace, prompts, edit) for _ in range(2))
            rows.append(
                {
                    "method": method.name,
                    "query_ms": 1e3 * seconds / len(prompts),
                    "fit_s": row["fit_s"],
                    "trained": fitted.trained if isinstance(fitted, FittedMethod) else 0,
                    "ratio": float(np.exp((nll[1] - nll[0]).mean())),
                    "kl": float(effects.loc[effects["variant"] == 1, "kl"].mean()),
                    "layer": row["layer"],
                    "strength": row["strength"],
                }
            )
        return pd.DataFrame(rows).assign(source=source)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What each method gains, and what it costs.

        Returns:
            ``result``: one row per pair, method and metric, Holm over all of them; ``methods``: over all pairs, with
            intervals over queries and over tasks; ``costs``: trained numbers, seconds, perplexity ratio and share of
            changed answers; ``trade``: gain against the rise of perplexity, one row per method.
        """
        outcomes, costs = rows.get("answers", pd.DataFrame()), rows.get("cost", pd.DataFrame())
        methods = pooled_table(outcomes, **config.resampling)
        cost = cost_table(costs, outcomes, config)
        return {
            "result": contrast_table(outcomes, tested=is_tested, **config.resampling),
            "methods": methods,
            "costs": cost,
            "trade": trade(methods, cost),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The mean gain of the contrastive mean, of the best rival and of the strongest placebo."""
        methods = frames["methods"]
        rows = methods[(methods["metric"] == "exact_match") & methods["method"].map(is_tested).astype(bool)]
        if rows.empty:
            return Findings(sentences.NOTHING)
        rival = rows[rows["method"] != "cast"]
        parts = [sentences.gain(methods, "cast")]
        if len(rival):
            best = rival.loc[rival["gain"].idxmax()].to_dict()
            parts.append(f"the best other method ({best['method']}) by {sentences.change(best, 'gain')}")
        parts += [sentences.strongest_placebo(methods), sentences.tally(_exact(frames["result"]))]
        return Findings("; ".join(part for part in parts if part) + ".")

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain against side effect, one mark per method; all methods with intervals."""
        methods, rows = frames["methods"], frames["trade"]
        for metric, title in (("exact_match", "Exact match"), ("choice_correct", "Label-restricted accuracy")):
            part = rows[rows["metric"] == metric] if len(rows) else rows
            if len(part):
                yield ReportFigure(
                    f"trade-{metric}",
                    f"{title}: what each method gains, and what it costs",
                    "Up: mean gain over zero-shot on other tasks, with 95 % intervals over queries. Right: perplexity "
                    "on neutral text over the unsteered one, geometric mean over sources. Each method at the setting "
                    "that its source chose.",
                    f"Scatter of the gain in {title.lower()} against the rise of perplexity, one mark per method.",
                    plots.plot_pareto(part, x_title="perplexity on neutral text over the unsteered one", ratios=True),
                    part,
                )
        if len(methods):
            yield ReportFigure(
                "methods",
                "All methods, over all pairs",
                "Mean gain over zero-shot over all pairs of different tasks, with 95 % intervals over queries. Grey: "
                "placebos, each at the setting of its method.",
                "Forest plot of the mean gain of each method.",
                plots.plot_methods(methods),
                methods,
            )


EXPERIMENT = Rivals


def is_tested(method: str) -> bool:
    """Methods whose gains count as findings: neither placebos nor controls nor prompting."""
    return (method in FIELD_METHODS and method not in CONTROLS) or method == LIBRARY


def _exact(result: pd.DataFrame) -> pd.DataFrame:
    return result[result["metric"] == "exact_match"]


def library_pair(workspace: Workspace, target: str, base: Condition) -> list[Condition]:
    """The contrastive means of all other sources, retrieved per query, and the same vectors assigned to other queries
    as a placebo.
    """
    cast = FIELD_METHODS["cast"]
    names = [name for name in workspace.config.sources if name != target]
    if not names:
        return []
    vectors: dict[str, Any] = {}
    queries: dict[str, Any] = {}
    for name in names:
        row = chosen(workspace, name, cast).iloc[0]
        vector = load_fitted(workspace, name, cast)
        vectors[name] = (vector, int(row["layer"]), float(row["strength"]))
        queries[name] = zero_shot_prompts(workspace.tasks[name], workspace.tasks[name].train[:KEYS])
    library = VectorLibrary.build(workspace.model, vectors, queries, embed=workspace.embed)
    found = library.retrieve(workspace.model, base.prompts, embed=workspace.embed)
    workspace.say(f"library on {target}: {found.left_alone:.0%} of the queries left alone")
    noise = found.placebo(seed=placebo_seed(target, LIBRARY, workspace.config.seed))
    alone = replace(found.intervention(), name=f"left alone {found.left_alone:.3f}")
    return [
        Condition(LIBRARY, base.prompts, source=LIBRARY, intervention=alone),
        Condition(f"placebo: {LIBRARY}", base.prompts, source=LIBRARY, intervention=noise.intervention()),
    ]


def prompting(workspace: Workspace, target: str) -> list[Condition]:
    """In-task demonstrations, and those of every other source, where they fit the context."""
    config, task = workspace.config, workspace.tasks[target]
    examples = test_examples(config, task)
    shots = min(config.shots, len(task.train))
    made = [few_shot_condition(task, examples, shots=shots, seed=config.seed)]
    for source in config.sources:
        if source != target:
            other = workspace.tasks[source]
            made.append(cross_task_condition(other, task, examples, shots=config.shots, seed=config.seed))
    return [condition for condition in made if fits(workspace, condition.prompts)]


def _seconds(workspace: Workspace, prompts: Sequence[Any], edit: Steering | None) -> float:
    started = time.perf_counter()
    evaluate(workspace.model, prompts, () if edit is None else [edit], chat=workspace.config.chat)
    return time.perf_counter() - started


def cost_table(costs: pd.DataFrame, outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """One row per method: means over sources of what ``Rivals.costs`` measured, and the share of changed answers."""
    columns = ["method", "n", "trained", "fit_s", "query_ms", "ratio", "ratio_low", "ratio_high", "kl", "changed"]
    if costs.empty:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in columns})
    changed = with_changes(outcomes).groupby("method")["changed"].mean() if len(outcomes) else pd.Series(dtype=float)
    rows = []
    for method, part in costs.groupby("method", sort=False):
        # Of ratios, the geometric mean: one text that breaks down would be all of an arithmetic one.
        ratio = mean_interval(np.log(part["ratio"]), shares=False, **config.resampling)
        named = {"method": method, "n": len(part), "trained": int(part["trained"].max())}
        means = {
            name: float(part[name].mean()) if name in part else float("nan") for name in ("fit_s", "query_ms", "kl")
        }
        span = dict(
            zip(("ratio", "ratio_low", "ratio_high"), np.exp([ratio.value, ratio.low, ratio.high]), strict=True)
        )
        rows.append({**named, **means, **span, "changed": float(changed.get(method, np.nan))})
    return pd.DataFrame(rows)[columns]


def trade(methods: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Gain and rise of perplexity, one row per method and metric."""
    if methods.empty or costs.empty:
        return pd.DataFrame()
    kept = ["method", "metric", "n", "gain", "gain_low", "gain_high"]
    both = methods[kept].merge(costs[["method", "ratio", "ratio_low", "ratio_high"]], on="method")
    rise = {f"side_effect{end}": both[f"ratio{end}"] - 1 for end in ("", "_low", "_high")}
    return both.assign(**rise, label=both["method"]).drop(columns=["ratio", "ratio_low", "ratio_high"])
