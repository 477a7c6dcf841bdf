"""Can a harmful vector be told before a target label is used?

Every pair of different tasks has a gain (the source's vector on the target's test queries, against zero-shot) and some
numbers known beforehand. None of them reads a gold answer of a test query; what each reads instead is in ``NEEDS``.
How well a number foretells the sign of the gain is judged on targets that did not help to read it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...engine import score
from ...extraction import draw_samples
from ...geometry import cohesion
from ...tasks import Prompt, cross_task_prompts, zero_shot_prompts
from ..bench import Bench, fits
from ..cells import Cell
from ..distances import cosine, embedding_distance, parallelism_distance, residual_cosine
from ..legacy import Experiment, Tasks, settings_first
from ..matrix_tests import as_matrix, matrix_test
from ..outcomes import holm
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, changes_of, crossed_outcomes, steerable
from ..transfer_prediction import HeldOut, auroc, auroc_interval, leave_one_task_out
from .predict_transfer_reading import METRICS, NEEDS, TOGETHER, WITHOUT_LABELS, draw, read

if TYPE_CHECKING:
    import pandas as pd

# Target queries, unlabelled, on which next-token distributions are compared.
QUERIES = 16


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then a task's outcomes under every source, and what could be known of them before."""
    kinds = ("gain", "predictors")
    return [
        *settings_first(config),
        *(Cell(kind, name) for name in steerable(config, tasks) for kind in kinds),
    ]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Outcomes of one target, or its predictors."""
    if cell.kind == "gain":
        found = crossed_outcomes(bench, cell.target)
        return found[~found["method"].str.startswith("placebo")].assign(part="gain")
    return predictor_rows(bench, cell.target)


def predictor_rows(bench: Bench, target: str) -> pd.DataFrame:
    """One row a source; more of a predictor should mean a larger gain."""
    import pandas as pd

    sources = [source for source in bench.config.sources if source != target]
    distances = next_token_distances(bench, target, sources)
    rows = []
    for source in sources:
        rows.append(
            {
                "target": target,
                "source": source,
                "parallelism": 1 - parallelism_distance(bench, source, target),
                "residual similarity": residual_cosine(bench, source, target),
                **source_alone(bench, source),
                "nearness to in-context learning": -distances[source][1],
                "approach to in-context learning": distances[source][0] - distances[source][1],
                "task embedding": 1 - embedding_distance(bench, source, target),
            }
        )
    return pd.DataFrame(rows, columns=["target", "source", *NEEDS]).assign(part="predictors")


def source_alone(bench: Bench, source: str) -> dict[str, float]:
    """Predictors that know nothing of a target: agreement of the differences, d', spread of the samples."""
    layer, found = bench.setting(source).layer, bench.differences(source)
    row = found.layers.index(layer)
    alone = replace(
        found,
        few_shot=found.few_shot[:, row : row + 1],
        zero_shot=found.zero_shot[:, row : row + 1],
        layers=(layer,),
    )
    measures = cohesion([alone], n_bootstrap=2, seed=bench.config.seed).iloc[0]
    chosen = bench.chosen(source)
    kept = alone.zero_shot[:, 0] if chosen is None else alone.zero_shot[list(chosen), 0]
    return {
        "cohesion": float(measures["mean_cosine"]),
        "separability": float(measures["separability"]),
        "selection spread": spread(kept.double()),
    }


def spread(rows: Float[Tensor, "sample d_model"]) -> float:
    """Mean of 1 less the cosine of two different samples; 0 for a single one."""
    pairs = [
        1 - cosine(rows[left], rows[right])
        for left in range(len(rows))
        for right in range(left + 1, len(rows))
    ]
    return float(np.mean(pairs)) if pairs else 0.0


def next_token_distances(bench: Bench, target: str, sources: list[str]) -> dict[str, tuple[float, float]]:
    """How far the next token is from that behind the source's demonstrations: unsteered, and steered.

    Mean Jensen-Shannon divergence in nats over unlabelled target queries (after the distance of arXiv 2605.20730, which
    has demonstrations of the target in place of the source's). NaN where the demonstrations do not fit the context.
    """
    config, task = bench.config, bench.tasks[target]
    queries = draw_samples(task, bench.extraction())[:QUERIES]
    edits = []
    for source in sources:
        at = bench.setting(source)
        vector = bench.vector(source)
        edits.append(
            vector.intervention(at.layer, strength=at.strength, operator=at.operator, position=at.position)
        )
    bare = [unlabelled(prompt) for prompt in zero_shot_prompts(task, queries)]
    plain = score(
        bench.model, bare, edits, chat=config.chat, keep_logits=True, progress=bench.progress
    ).logits
    assert plain is not None
    found = {}
    for index, source in enumerate(sources):
        made = cross_task_prompts(bench.tasks[source], task, queries, shots=config.shots, seed=config.seed)
        shown = [unlabelled(prompt) for prompt in made]
        if not fits(bench, shown):
            found[source] = (float("nan"), float("nan"))
            continue
        behind = score(bench.model, shown, chat=config.chat, keep_logits=True, progress=bench.progress).logits
        assert behind is not None
        pair = [float(jensen_shannon(behind[0], plain[variant]).mean()) for variant in (0, index + 1)]
        found[source] = (pair[0], pair[1])
    return found


def unlabelled(prompt: Prompt) -> Prompt:
    """The prompt without its gold answer and admissible answers: what may be known of an unlabelled query."""
    return replace(prompt, gold="", choices=())


def jensen_shannon(
    left: Float[Tensor, "sample vocab"], right: Float[Tensor, "sample vocab"]
) -> Float[Tensor, " sample"]:
    """Jensen-Shannon divergence of the distributions of two stacks of logits, in nats, at most log 2."""
    logs = [side.double().log_softmax(dim=-1) for side in (left, right)]
    middle = torch.logaddexp(*logs) - np.log(2)
    halves = [(one.exp() * (one - middle)).sum(dim=-1) for one in logs]
    return (0.5 * (halves[0] + halves[1])).clamp(min=0)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair and metric. ``predictors``: how well each foretells the gain."""
    import pandas as pd

    outcomes = rows[(rows["part"] == "gain") & ~rows["own"].fillna(False).astype(bool)]
    known = rows.loc[rows["part"] == "predictors", ["target", "source", *NEEDS]]
    frames, judged = [], []
    for metric in METRICS:
        changes = changes_of(outcomes, CAST, metric)
        means = changes.groupby(["target", "source"], sort=False)["change"].agg(gain="mean", n="size")
        pairs = means.reset_index().merge(known, on=["target", "source"]).assign(metric=metric)
        frames.append(pairs)
        if len(pairs):
            judged += [{"metric": metric, **row} for row in _judged(pairs, config)]
    result = pd.concat(frames, ignore_index=True)
    first = ["target", "source", "metric", "gain", "n"]
    return {"result": result[[*first, *NEEDS]], "predictors": holm(pd.DataFrame(judged))}


def _judged(pairs: pd.DataFrame, config: ExperimentConfig) -> list[dict[str, object]]:
    """One row a predictor, and one for those together that read no target label."""
    rows, free = [], []
    for name, needs in NEEDS.items():
        known = pairs.dropna(subset=[name]).reset_index(drop=True)
        if known.empty:
            continue
        values = known[name].to_numpy(float)
        held = leave_one_task_out(known, values)
        test = matrix_test(as_matrix(known, name), as_matrix(known, "gain"), seed=config.seed)
        defined = test.statistic == test.statistic
        rows.append(
            {
                "predictor": name,
                "needs": needs,
                "correlation": test.statistic,
                "p_value": test.p if defined else np.nan,
                **_row(known, held, config),
            }
        )
        if name in WITHOUT_LABELS and len(known) == len(pairs):
            free.append(held.scores)
    if free:
        held = leave_one_task_out(pairs, np.mean(free, axis=0))
        about = {"predictor": TOGETHER, "needs": "all that reads no target label", "p_value": np.nan}
        # What is averaged has been turned by the gains, so that a plain correlation would be circular.
        rows.append({**about, "correlation": np.nan, **_row(pairs, held, config)})
    return rows


def _row(pairs: pd.DataFrame, held: HeldOut, config: ExperimentConfig) -> dict[str, float]:
    lost = pairs["gain"].to_numpy(float) < 0
    low, high = auroc_interval(pairs, held.scores, n_bootstrap=config.bootstrap, seed=config.seed)
    return {
        "auroc": auroc(held.scores, lost),
        "auroc_low": low,
        "auroc_high": high,
        "accuracy": float((held.harmful == lost).mean()),
        "always": float(max(lost.mean(), 1 - lost.mean())),
        "pairs": len(pairs),
        "harmful": int(lost.sum()),
    }


EXPERIMENT = Experiment(
    "predict-transfer",
    "Can a harmful vector be told before a target label is used?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("predictors",),
    heading="Predicting transfer",
)
