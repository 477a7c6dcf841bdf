"""Can a harmful vector be recognised before any target label is used?

Every pair of different tasks has a gain (the source's vector on the target's test queries, against zero-shot) and some
numbers that are known beforehand. None of them reads a gold answer of a test query; ``NEEDS`` lists what each reads
instead. How well a number predicts the sign of the gain is judged on targets that were not used to calibrate it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ... import plots
from ...engine import score
from ...extraction import draw_samples
from ...geometry import cohesion
from ...methods.source_choice import divergence, embedding_similarity, fisher_embedding, h_score, within_targets
from ...stats import auroc, spearman
from ...tasks import Prompt, cross_task_prompts, zero_shot_prompts
from ...tasks.templates import gold
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import holm
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, settings_first
from ..transfer_matrix import (
    CAST,
    as_matrix,
    changes_of,
    cosine,
    crossed_outcomes,
    different_steerable,
    embedding_distance,
    label_distance,
    matrix_test,
    parallelism_distance,
    residual_cosine,
)
from ..workspace import Workspace, fits

# Least number of targets of each kind for an interval over targets.
LEAST = 3


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Predictions of pairs, each learned on pairs that do not include its target.

    Attributes:
        scores: [pair], the predictor, standardised and with the sign that makes higher values predict larger gains.
        harmful: [pair], whether the pair is predicted to lose.
    """

    scores: Float[np.ndarray, " pair"]
    harmful: Bool[np.ndarray, " pair"]


def leave_one_task_out(pairs: pd.DataFrame, values: Float[np.ndarray, " pair"]) -> HeldOut:
    """Predict the pairs of each target from the pairs in which it is neither target nor source.

    Those pairs determine the sign of the predictor (that of its rank correlation with the gain), its mean and spread,
    and the threshold below which a pair is called harmful.

    Args:
        pairs: ``target, source, gain``.
        values: the predictor of each pair.
    """
    gains = pairs["gain"].to_numpy(float)
    scores, harmful = np.zeros(len(pairs)), np.zeros(len(pairs), bool)
    for held, others in left_out(pairs):
        known, lost = values[others], gains[others] < 0
        sign, spread = np.sign(np.nan_to_num(spearman(known, gains[others]))), known.std()
        scale = sign / spread if spread > 0 else 0.0
        scores[held] = (values[held] - known.mean()) * scale
        threshold = best_threshold((known - known.mean()) * scale, lost)
        harmful[held] = scores[held] < threshold
    return HeldOut(scores, harmful)


def left_out(pairs: pd.DataFrame) -> Iterator[tuple[Bool[np.ndarray, " pair"], Bool[np.ndarray, " pair"]]]:
    """For each target, its pairs, and the pairs in which it is neither target nor source, if there are any."""
    for target in dict.fromkeys(pairs["target"]):
        held = (pairs["target"] == target).to_numpy()
        others = ~held & (pairs["source"] != target).to_numpy()
        if others.any():
            yield held, others


def best_threshold(scores: Float[np.ndarray, " pair"], lost: Bool[np.ndarray, " pair"]) -> float:
    """The threshold below which calling pairs harmful makes the fewest errors; the lowest of equally good ones."""
    places = np.unique(scores)
    between = [-np.inf, *((places[1:] + places[:-1]) / 2), np.inf]
    errors = [int(((scores < place) != lost).sum()) for place in between]
    return float(between[int(np.argmin(errors))])


def auroc_interval(
    pairs: pd.DataFrame, scores: Float[np.ndarray, " pair"], *, n_bootstrap: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the AUROC over resampled targets, each with all its pairs.

    NaN if fewer than ``LEAST`` targets have a pair that loses, or a pair that does not: resampling so few targets would
    give an interval that is too narrow.
    """
    lost = pairs["gain"].to_numpy(float) < 0
    if min(pairs.loc[kind, "target"].nunique() for kind in (lost, ~lost)) < LEAST:
        return float("nan"), float("nan")
    rows = [np.flatnonzero(pairs["target"] == target) for target in dict.fromkeys(pairs["target"])]
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n_bootstrap):
        drawn = np.concatenate([rows[index] for index in generator.integers(0, len(rows), len(rows))])
        found.append(auroc(scores[drawn], lost[drawn]))
    known = np.array(found)[np.isfinite(found)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


# Number of unlabelled target queries on which next-token distributions are compared.
QUERIES = 16
METRICS = ("exact_match", "choice_correct")
NEEDS = {
    "parallelism": "labelled demonstrations of source and target",
    "residual similarity": "unlabelled target queries",
    "cohesion": "the source alone",
    "separability": "the source alone",
    "selection spread": "the source alone",
    "nearness to in-context learning": "unlabelled target queries, source demonstrations",
    "approach to in-context learning": "unlabelled target queries, source demonstrations",
    "task embedding": "unlabelled target queries",
    "label overlap": "admissible answers of source and target",
    "Fisher embedding": "unlabelled target queries, their label words, labelled source queries",
    "H-score": "labelled target queries",
}
"""What each predictor reads; none reads a gold answer of a test query."""
WITHOUT_LABELS = tuple(name for name in NEEDS if name not in ("parallelism", "H-score"))
TOGETHER = "together, without target labels"


@dataclass(frozen=True, slots=True)
class PredictTransfer(Experiment):
    """Can a harmful vector be recognised before any target label is used?"""

    name = "predict-transfer"
    title = "Predicting transfer"
    compared = (
        "Numbers that are known beforehand are compared with the change that the source's vector, at its own "
        "setting, made on the test queries of every other task. For each target, the direction in which a number is "
        "read and its threshold were learned on the pairs without that task. The baseline calls every pair by the "
        "sign that most pairs have, which is only known in hindsight; an AUROC of 0.5 is chance."
    )
    limits = (
        "The pairs are few and share their tasks, so intervals are wide, and an AUROC whose interval includes 0.5 is "
        "not shown to differ from chance; the interval resamples targets without repeating the calibration. The sign "
        "of a small gain is partly chance, which no predictor can know. Parallelism uses labelled target "
        "demonstrations, though none of the test answers; the queries that the other predictors read are drawn "
        "evenly from the target's classes, but without their labels. Predictors that use the source alone cannot "
        "distinguish its targets. Several predictors were tried, and the best of them is named after the fact. A "
        "correlation over all pairs may be one between tasks alone; the column within has the mean rank correlation "
        f"among the sources of one target. {sentences.LIMITS}"
    )
    shown = ("pairs", "predictors")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then a task's outcomes under every source, and its predictors.

        Raises:
            ValueError: when no pair of different tasks can be steered.
        """
        names = different_steerable(config, tasks)
        kinds = ("gain", "predictors")
        return [*settings_first(config), *(Cell(kind, name) for name in names for kind in kinds)]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of one target, or its predictors."""
        if cell.kind == "gain":
            found = crossed_outcomes(workspace, cell.target)
            return found[~found["method"].str.startswith("placebo")]
        return predictor_rows(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """How well gains can be predicted.

        Returns:
            ``result``: one row per pair and metric; ``pairs``: how many there are and lose, per metric;
            ``predictors``: how well each predicts the gain, over all pairs and ``within`` targets (see
            ``methods.within_targets``; ``within_p`` is not corrected).
        """
        found = rows.get("gain", pd.DataFrame())
        found = found[~found["own"].astype(bool)] if len(found) else found
        known = rows.get("predictors", pd.DataFrame(columns=["target", "source", *NEEDS]))
        frames, judged = [pd.DataFrame(columns=["target", "source", "metric", "gain", "n", *NEEDS])], []
        for metric in METRICS if len(found) else ():
            changes = changes_of(found, CAST, metric)
            means = changes.groupby(["target", "source"], sort=False)["change"].agg(gain="mean", n="size")
            pairs = means.reset_index().merge(known, on=["target", "source"]).assign(metric=metric)
            if len(pairs):
                frames.append(pairs)
                judged += [{"metric": metric, **row} for row in judge(pairs, config)]
        result = pd.concat(frames[1:], ignore_index=True)[frames[0].columns] if frames[1:] else frames[0]
        return {
            "result": result,
            "pairs": losing(result),
            "predictors": holm(pd.DataFrame(judged, columns=None if judged else [*JUDGED])),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """How many pairs lose, and the best AUROC on held-out targets."""
        row = sentences.row_of(frames["pairs"])
        if row is None:
            return Findings(sentences.NOTHING)
        told = f"In exact match {row['harmful']} of {row['pairs']} pairs lose"
        rows = frames["predictors"]
        known = rows[rows["metric"] == "exact_match"].dropna(subset=["auroc"])
        if known.empty:
            return Findings(f"{told}: without both kinds of pairs, no sign can be predicted.")
        best = known.loc[known["auroc"].idxmax()]
        span = f" [{best['auroc_low']:.2f}, {best['auroc_high']:.2f}]" if best["auroc_low"] == best["auroc_low"] else ""
        above = int((known["auroc_low"] > 0.5).sum())
        return Findings(
            f"{told}; the highest AUROC on held-out targets is that of {best['predictor']}, {best['auroc']}{span}, "
            f"and the intervals of {above} of {len(known)} predictors are above 0.5 (not corrected for their number)."
        )

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The AUROC of every predictor, for each metric."""
        predictors, result = frames["predictors"], frames["result"]
        for metric in METRICS:
            rows = predictors[predictors["metric"] == metric].dropna(subset=["auroc"])
            if rows.empty:
                continue
            lines, name = as_gains(rows, metric), sentences.NAMES[metric]
            figure = plots.plot_methods(lines, metrics=(metric,), sort=False)
            figure.update_layout(title_text=f"AUROC for the sign of the change in {name}")
            figure.update_xaxes(title_text="(AUROC − 0.5) × 100")
            yield ReportFigure(
                f"auroc-{metric}",
                f"Predicting the sign: {name}",
                "AUROC of each predictor on held-out targets, minus 0.5 (chance), with 95 % intervals over targets; "
                f"{len(result[result['metric'] == metric])} pairs.",
                f"Forest plot of the AUROC of each predictor for the sign of the change in {name}.",
                figure,
                lines,
            )


EXPERIMENT = PredictTransfer
JUDGED = (
    *("metric", "predictor", "needs", "correlation", "p_value", "within", "within_p"),
    *("within_targets", "auroc", "auroc_low", "auroc_high"),
)
"""The first columns of the table of predictors."""


def losing(result: pd.DataFrame) -> pd.DataFrame:
    """How many pairs lose, per metric.

    Returns:
        ``metric, pairs, harmful`` (pairs that lose), ``gain`` (mean), ``gain_least`` (of the pair that loses most).
    """
    found = result.groupby("metric", sort=False)["gain"].agg(
        pairs="size", harmful=lambda gains: int((gains < 0).sum()), gain="mean", gain_least="min"
    )
    return found.reset_index()


def predictor_rows(workspace: Workspace, target: str) -> pd.DataFrame:
    """One row per source; a higher value of a predictor should mean a larger gain."""
    sources = [source for source in workspace.config.sources if source != target]
    distances = next_token_distances(workspace, target, sources)
    rows = []
    for source in sources:
        rows.append(
            {
                "target": target,
                "source": source,
                "parallelism": 1 - parallelism_distance(workspace, source, target),
                "residual similarity": residual_cosine(workspace, source, target),
                **source_alone(workspace, source),
                "nearness to in-context learning": -distances[source][1],
                "approach to in-context learning": distances[source][0] - distances[source][1],
                "task embedding": 1 - embedding_distance(workspace, source, target),
                "label overlap": 1 - label_distance(workspace, source, target),
                "Fisher embedding": fisher_similarity(workspace, source, target),
                "H-score": layer_h_score(workspace, source, target),
            }
        )
    return pd.DataFrame(rows, columns=["target", "source", *NEEDS])


def fisher_similarity(workspace: Workspace, source: str, target: str) -> float:
    """How similar the gradient directions of the source's and the target's losses are under the source's vector.

    The source's queries keep their labels; the target's get the labels that the model predicts. NaN where a target has
    no admissible answers to choose from.
    """
    at, vector, found = workspace.setting(source), workspace.vector(source), []
    for name, labels in ((source, "gold"), (target, "model")):
        task = workspace.tasks[name]
        queries = zero_shot_prompts(task, draw_samples(task, workspace.extraction())[:QUERIES])
        if labels == "model" and not all(query.choices for query in queries):
            return float("nan")
        options: dict[str, Any] = {"layers": (at.layer,), "strength": at.strength, "labels": labels}
        found.append(fisher_embedding(workspace.model, queries, vector, **options, chat=workspace.config.chat))
    return embedding_similarity(*found)


def layer_h_score(workspace: Workspace, source: str, target: str) -> float:
    """How well the target's zero-shot residuals, at the layer of the source's setting, separate its classes.

    Of the target's samples; NaN for free answers.
    """
    task, layer = workspace.tasks[target], workspace.setting(source).layer
    found = workspace.differences(target)
    answers = {example.id: gold(task, example) for example in task.train}
    labels = [answers[sample] for sample in found.sample_ids]
    classes = sorted(set(labels))
    if task.kind == "free" or len(classes) < 2:
        return float("nan")
    rows = found.zero_shot[:, found.layers.index(layer)]
    return h_score(rows, torch.tensor([classes.index(label) for label in labels]))


def source_alone(workspace: Workspace, source: str) -> dict[str, float]:
    """Predictors that use the source alone: agreement of the differences, d', spread of the samples."""
    layer, found = workspace.setting(source).layer, workspace.differences(source)
    row = found.layers.index(layer)
    alone = replace(
        found, few_shot=found.few_shot[:, row : row + 1], zero_shot=found.zero_shot[:, row : row + 1], layers=(layer,)
    )
    measures = cohesion([alone], n_bootstrap=2, seed=workspace.config.seed).iloc[0]
    chosen = workspace.chosen(source)
    kept = alone.zero_shot[:, 0] if chosen is None else alone.zero_shot[list(chosen), 0]
    return {
        "cohesion": float(measures["mean_cosine"]),
        "separability": float(measures["separability"]),
        "selection spread": spread(kept.double()),
    }


def spread(rows: Float[Tensor, "sample d_model"]) -> float:
    """Mean of 1 minus the cosine of two different samples; 0 for a single one."""
    pairs = [1 - cosine(rows[left], rows[right]) for left in range(len(rows)) for right in range(left + 1, len(rows))]
    return float(np.mean(pairs)) if pairs else 0.0


def next_token_distances(workspace: Workspace, target: str, sources: list[str]) -> dict[str, tuple[float, float]]:
    """How far the next-token distribution is from that after the source's demonstrations: unsteered, and steered.

    Mean Jensen-Shannon divergence in nats over unlabelled target queries (after the distance of arXiv 2605.20730, which
    has demonstrations of the target in place of the source's). NaN where the demonstrations do not fit the context.
    """
    config, task = workspace.config, workspace.tasks[target]
    queries = draw_samples(task, workspace.extraction())[:QUERIES]
    edits = [workspace.setting(source).edit(workspace.vector(source)) for source in sources]
    bare = [without_answers(prompt) for prompt in zero_shot_prompts(task, queries)]
    plain = score(workspace.model, bare, edits, chat=config.chat, keep_logits=True, progress=workspace.progress).logits
    assert plain is not None
    found = {}
    for index, source in enumerate(sources):
        made = cross_task_prompts(workspace.tasks[source], task, queries, shots=config.shots, seed=config.seed)
        shown = [without_answers(prompt) for prompt in made]
        if not fits(workspace, shown):
            found[source] = (float("nan"), float("nan"))
            continue
        behind = score(workspace.model, shown, chat=config.chat, keep_logits=True, progress=workspace.progress).logits
        assert behind is not None
        pair = [float(divergence(behind[0], plain[variant], "jensen-shannon").mean()) for variant in (0, index + 1)]
        found[source] = (pair[0], pair[1])
    return found


def without_answers(prompt: Prompt) -> Prompt:
    """The prompt without its gold answer and admissible answers, as an unlabelled query would be."""
    return replace(prompt, gold="", choices=())


def judge(pairs: pd.DataFrame, config: RunConfig) -> list[dict[str, object]]:
    """One row per predictor, and one for all that read no target label together."""
    rows, free = [], []
    for name, needs in NEEDS.items():
        known = pairs.dropna(subset=[name]).reset_index(drop=True)
        if known.empty:
            continue
        values = known[name].to_numpy(float)
        held = leave_one_task_out(known, values)
        test = matrix_test(as_matrix(known, name), as_matrix(known, "gain"), seed=config.seed)
        defined = test.statistic == test.statistic
        stratified = within_targets(known, name, seed=config.seed)
        rows.append(
            {
                "predictor": name,
                "needs": needs,
                "correlation": test.statistic,
                "p_value": test.p if defined else np.nan,
                "within": stratified.value,
                "within_p": stratified.p,
                "within_targets": stratified.targets,
                **scores_of(known, held, config),
            }
        )
        if name in WITHOUT_LABELS and len(known) == len(pairs):
            free.append(held.scores)
    if free:
        held = leave_one_task_out(pairs, np.mean(free, axis=0))
        about = {"predictor": TOGETHER, "needs": "all that reads no target label", "p_value": np.nan}
        about |= {"within": np.nan, "within_p": np.nan, "within_targets": 0}
        # The gains have set the signs of the averaged predictors, so a plain correlation would be circular.
        rows.append({**about, "correlation": np.nan, **scores_of(pairs, held, config)})
    return rows


def scores_of(pairs: pd.DataFrame, held: HeldOut, config: RunConfig) -> dict[str, float]:
    """How well held-out scores separate pairs that lose from those that do not."""
    lost = pairs["gain"].to_numpy(float) < 0
    low, high = auroc_interval(pairs, held.scores, **config.resampling)
    return {
        "auroc": auroc(held.scores, lost),
        "auroc_low": low,
        "auroc_high": high,
        "accuracy": float((held.harmful == lost).mean()),
        "always": float(max(lost.mean(), 1 - lost.mean())),
        "pairs": len(pairs),
        "harmful": int(lost.sum()),
    }


def as_gains(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows in the form that ``plot_methods`` takes, with chance at 0."""
    return rows.assign(
        method=rows["predictor"],
        metric=metric,
        gain=rows["auroc"] - 0.5,
        gain_low=rows["auroc_low"] - 0.5,
        gain_high=rows["auroc_high"] - 0.5,
        n=rows["pairs"],
    )
