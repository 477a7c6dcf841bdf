"""The effect of a source's vector, at the setting chosen for the source itself, where it was not meant to act.

On other tasks: the change in exact match, validity and label-restricted accuracy, and the share of answers that change
at all. On plain text: perplexity and KL divergence (``effects.text_effects``). Each vector is compared with random
directions of its norm, at its layer and strength.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ... import plots
from ...effects import NEUTRAL_TEXTS, effect_table, text_effects
from ...stats import mean_interval, proportion_interval
from ...tasks import normalise_answer
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, over_queries, pooled_table
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, settings_first
from ..transfer_matrix import CAST, RANDOM, crossed_outcomes, steerable
from ..workspace import Workspace

OWN, ELSEWHERE = "own task", "another task"
PARETO = {"exact_match": "Exact match", "choice_correct": "Label-restricted accuracy"}


@dataclass(frozen=True, slots=True)
class SideEffects(Experiment):
    """What does a vector cost elsewhere?

    Attributes:
        texts: how many neutral texts are used to measure side effects.
    """

    name = "side-effects"
    title = "Side effects"
    compared = (
        "Each source's vector, at the layer and strength that its own validation split chose, is applied to the test "
        "queries of every other task and to plain texts, and compared with the unsteered model on the same ones, and "
        "with random directions of equal norm at the same setting."
    )
    limits = (
        "A cost in exact match can only show where zero-shot had right answers to lose; label-restricted accuracy has "
        "more room. Other tasks here are those of this run, and plain text is a few short English sentences: no harm "
        f"on them does not show that there is none elsewhere. {sentences.LIMITS}"
    )
    shown = ("methods", "changed", "text", "result")

    texts: int = 24

    def __post_init__(self) -> None:
        at_least_one(self, "texts")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """A few texts."""
        return {"texts": 4}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one cell per task that is steered, and one per source on plain text."""
        steered = [Cell("tasks", target) for target in steerable(config, tasks)]
        texts = [Cell("text", source=source) for source in config.sources]
        return [*settings_first(config), *steered, *texts]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes on a task, or effects on plain text."""
        if cell.kind == "tasks":
            return crossed_outcomes(workspace, cell.target)
        return text_rows(workspace, cell.source, texts=self.texts)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What changes elsewhere.

        Returns:
            ``result``: one row per pair, method and metric; ``methods``: over the pairs of different tasks;
            ``changed``: share of answers that change; ``pareto``: gain on the own task against loss on the others;
            ``text``: perplexity and KL divergence on plain text.
        """
        outcomes = rows.get("tasks", pd.DataFrame({"own": pd.Series(dtype=bool)}))
        text = rows.get("text", pd.DataFrame())
        away = outcomes[~outcomes["own"]]
        home = outcomes[outcomes["own"] | (outcomes["method"] == BASELINE)] if len(outcomes) else outcomes
        found = [contrast_table(away, tested=lambda name: name == CAST, **config.resampling).assign(scope=ELSEWHERE)]
        if outcomes["own"].any():
            own = contrast_table(home, tested=lambda name: False, **config.resampling).assign(scope=OWN)
            found.append(own[own["method"] != BASELINE])
        result = pd.concat(found, ignore_index=True)
        if len(result):
            changed = changed_answers(outcomes, config).drop(columns="n")
            result = result.merge(changed, on=["target", "method", "source"], how="left")
        return {
            "result": result,
            "methods": pooled_table(away, **config.resampling),
            "changed": pooled_changes(away, config),
            "pareto": pareto(away, home, config.resampling) if outcomes["own"].any() else pd.DataFrame(),
            "text": text_table(text, config) if len(text) else pd.DataFrame(),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The mean change on other tasks with its placebo and verdicts; perplexity on plain text."""
        away = frames["result"][frames["result"]["scope"] == ELSEWHERE]
        told = []
        if (frames["methods"]["method"] == CAST).any():
            found = sentences.transfer(frames["methods"], away)
            told.append(f"On tasks that the vector was not taken from, {found}")
        if len(frames["text"]):
            ratio = frames["text"].groupby("method")["ratio"].agg(["mean", "min", "max"])
            cast, noise = ratio.loc[CAST], ratio.loc[RANDOM]
            told.append(
                f"On plain text the perplexity is {cast['mean']:.2f} times the unsteered one ({cast['min']:.2f} to "
                f"{cast['max']:.2f} over sources), under random directions {noise['mean']:.2f} times."
            )
        return Findings(" ".join(told) or sentences.NOTHING)

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain against loss, and the matrix of what changes elsewhere."""
        trade = frames["pareto"]
        for metric, title in PARETO.items():
            rows = trade[trade["metric"] == metric] if len(trade) else trade
            if len(rows):
                yield ReportFigure(
                    f"pareto-{metric}",
                    f"{title}: gain on the own task against loss on the others",
                    "Each point is one source's vector, or its random direction, at the source's setting: up is a "
                    "gain on its own test queries, right is a loss on all other tasks. 95 % intervals over queries.",
                    f"Scatter of gain against loss elsewhere in {title.lower()}.",
                    plots.plot_pareto(rows),
                    rows,
                )
        away = frames["result"][frames["result"]["scope"] == ELSEWHERE]
        steered = away[away["method"] == CAST]
        if len(steered):
            yield ReportFigure(
                "matrix",
                "Effect on tasks that the vector was not taken from",
                "Change from zero-shot in percentage points. Bold: the interval excludes zero.",
                "Heat maps of the change by target and source.",
                plots.plot_transfer_matrix(away, metrics=sentences.metrics(steered), method=CAST),
                away,
            )


EXPERIMENT = SideEffects


def text_rows(workspace: Workspace, source: str, *, texts: int) -> pd.DataFrame:
    """Effects on plain text: one row per text and direction."""
    at = workspace.setting(source)
    named = [(CAST, 0, workspace.vector(source))]
    named += [
        (RANDOM, draw, workspace.random_direction(source, number=draw)) for draw in range(workspace.config.placebos)
    ]
    edits = [at.edit(vector) for *_, vector in named]
    found = text_effects(workspace.model, edits, NEUTRAL_TEXTS[:texts])
    what = [(BASELINE, 0), *((method, draw) for method, draw, _ in named)]
    return found.drop(columns="name").assign(
        source=source,
        text=found["text"].map({text: index for index, text in enumerate(NEUTRAL_TEXTS)}),
        method=[what[variant][0] for variant in found["variant"]],
        seed=[what[variant][1] for variant in found["variant"]],
    )


def with_changes(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Steered rows with ``changed``: 1 where the answer, as it is judged, is not zero-shot's.

    Targets whose zero-shot answers are missing are left out.
    """
    read = outcomes.assign(read=outcomes["answer"].map(normalise_answer))
    zero = read[read["method"] == BASELINE].drop_duplicates(["target", "sample"])
    before = zero[["target", "sample", "read"]].rename(columns={"read": "before"})
    steered = read[read["method"] != BASELINE].merge(before, on=["target", "sample"])
    changed = (steered["read"] != steered["before"]).astype(float)
    return steered.assign(changed=changed).drop(columns=["read", "before"])


def changed_answers(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Share of answers that change: one row per pair and method, averaged over draws of a placebo."""
    rows = []
    for key, part in with_changes(outcomes).groupby(["target", "method", "source"], sort=False):
        means = part.groupby("sample", sort=False)["changed"].mean()
        if part["sample"].duplicated().any():
            one = mean_interval(means, **config.resampling)
        else:
            one = proportion_interval(int(means.sum()), len(means))
        rows.append((*key, len(means), one.value, one.low, one.high))
    columns = ["target", "method", "source", "n", "changed", "changed_low", "changed_high"]
    return pd.DataFrame(rows, columns=columns)


def pooled_changes(away: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Share of answers that change over all pairs of different tasks: one row per method."""
    rows = []
    for method, part in with_changes(away).groupby("method", sort=False) if len(away) else ():
        rows.append({"method": method, **over_queries(part, "changed", name="changed", **config.resampling)})
    columns = ["method", "pairs", "n", "changed", "changed_low", "changed_high"]
    return pd.DataFrame(rows, columns=columns)


def pareto(away: pd.DataFrame, home: pd.DataFrame, options: dict[str, Any]) -> pd.DataFrame:
    """Each source's vector and placebo: its gain on its own task, and its loss on the others."""
    gain, loss = (pooled_table(rows, by=("method", "source"), **options) for rows in (home, away))
    gain = gain.assign(method=gain["method"].str.removesuffix(" (own vector)"))
    if loss.empty:
        return pd.DataFrame()
    both = gain.merge(loss, on=["method", "source", "metric"], suffixes=("", "_away"))
    kept = ["method", "source", "metric", "n", "n_away", "pairs_away", "gain", "gain_low", "gain_high"]
    return both[kept].assign(
        side_effect=-both["gain_away"],
        side_effect_low=-both["gain_high_away"],
        side_effect_high=-both["gain_low_away"],
        label=both["source"] + ": " + both["method"],
    )


def text_table(text: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Perplexity and KL divergence of each source's vector and random directions."""
    frames = []
    for source, part in text.groupby("source", sort=False):
        found = effect_table(part.assign(name=part["method"]), **config.resampling)
        seeds = part.groupby("variant")["seed"].first().astype(int)
        found = found.assign(source=source, draw=found["variant"].map(seeds)).rename(columns={"name": "method"})
        frames.append(found[found["method"] != BASELINE])
    joined = pd.concat(frames, ignore_index=True).drop(columns=["variant", "operator", "position"])
    first = ["source", "method", "draw"]
    return joined[[*first, *joined.columns.drop(first)]].astype({"layer": int})
