"""Where and how strongly to steer: decided on the source's own validation split.

The sweep looks at every layer and strength through the first greedy token, which one pass gives. The best cells then
write their answers in full, and the one with the most exact matches is chosen: a strength at which the model repeats
its answer for ever has a perfect first token and is of no use. Ties go to the higher gold log-probability. A cell whose
logits are not finite for every example has no answers and is never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..engine import Progress, quiet, sweep
from ..engine.sweep import DEFAULT_STRENGTHS
from ..evaluation import changed_answers, evaluate
from ..interventions import Operator, Position, Steering
from ..methods import Setting
from ..models.lens import HookedTransformer
from ..tasks import Prompt, zero_shot_prompts
from ..vectors import SteeringVector

if TYPE_CHECKING:
    from .workspace import Workspace

FINALISTS = 12
"""Cells of a sweep whose answers are written in full before one is chosen."""

Editing = Callable[[float, int], Steering]
"""A variant at a strength, for a number of prompts."""


def sweep_source(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    directions: Mapping[str, SteeringVector],
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = DEFAULT_STRENGTHS,
    operator: Operator = "add",
    position: Position = "last",
    finalists: int = FINALISTS,
    chat: bool = False,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Sweep the source's validation prompts; the chosen cell is marked.

    Args:
        model: the model.
        prompts: zero-shot prompts of the source's validation split.
        directions: ``vector`` is chosen from; further entries (placebos) are swept beside it.
        layers, strengths, operator, position, chat: see ``engine.sweep``.
        finalists: cells whose greedy answers are compared.
        progress: wraps the batches.

    Returns:
        one row per cell: ``kind`` (entry of ``directions``, or ``unsteered``), ``layer, strength, n``, means of
        ``first_match, first_valid, choice_correct, gold_logprob, gold_margin`` with Wilson intervals of the shares;
        ``exact_match, valid`` of greedy answers for the finalists (NaN elsewhere); ``n_changed, changed`` (finalists:
        answers that are not the unsteered ones, and a few of them; see ``changed_answers``); ``chosen``.

    Raises:
        ValueError: when no cell has finite logits for every example.
    """
    found = sweep(
        model,
        prompts,
        directions,
        layers=layers,
        strengths=strengths,
        operator=operator,
        position=position,
        chat=chat,
        progress=progress,
    ).to_frame()
    frame = found.drop(columns=["source", "operator", "position"])
    cells = frame[frame["kind"] == "vector"]
    # Means leave examples out whose logits overflow; a cell with one is never chosen.
    cells = cells.assign(gold_logprob=cells["gold_logprob"].where(cells["overflowed"] == 0))
    best = best_first(cells, ["first_match", "gold_logprob"]).head(finalists)
    edits = [
        directions["vector"].intervention(int(row.layer), strength=row.strength, operator=operator, position=position)
        for row in best.itertuples()
    ]
    answers = evaluate(model, prompts, edits, chat=chat, progress=progress)
    return _chosen(frame, best, answers)


def _chosen(frame: pd.DataFrame, best: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The cells of a sweep with the answers of the best ones, and the chosen one among them."""
    means = _means(answers, ["exact_match", "valid"])
    for name in ("exact_match", "valid"):
        frame.loc[best.index, name] = means[name].to_numpy()[1:]
        frame.loc[frame["kind"] == "unsteered", name] = means[name].iloc[0]
    told = changed_answers(answers)
    frame["n_changed"] = pd.Series(told["n_changed"].to_numpy(float), index=best.index)
    frame["changed"] = pd.Series(told["changed"].to_numpy(), index=best.index).reindex(frame.index, fill_value="")
    ranked = best_first(frame.loc[best.index], ["exact_match", "gold_logprob"])
    frame["chosen"] = frame.index == ranked.index[0]
    return frame


def best_first(cells: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Cells from the best to the worst; those without a finite gold log-probability or exact match are left out.

    Args:
        cells: ``layer`` or ``variant``, ``strength`` and the measures.
        measures: in the order in which they decide; one that no cell has decides nothing.

    Raises:
        ValueError: when no cell is left.
    """
    needed = [name for name in ("exact_match", "gold_logprob") if name in measures]
    finite = np.isfinite(cells[needed].to_numpy(float)).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"strengths={sorted(set(cells['strength']))}: the logits are not finite at any of them, so no setting can "
            "be chosen; give smaller strengths, or dtype float32"
        )
    return cells[finite].sort_values(list(measures), ascending=False, kind="stable")


def _means(answers: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Means by variant; an example without an outcome makes the mean of its variant unknown."""
    return answers.groupby("variant")[measures].agg(lambda values: values.mean(skipna=False))


def swept_placebo(workspace: Workspace, source: str) -> pd.DataFrame:
    """The sweep that chose a source's setting, and the same sweep of a random direction of the vector's norm."""
    config, found = workspace.config, workspace.sweep(source)
    noise = sweep(
        workspace.model,
        zero_shot_prompts(workspace.tasks[source], workspace.validation(source)),
        {"placebo: random direction": workspace.random_direction(source)},
        layers=config.layers or None,
        strengths=config.strengths,
        operator=config.operator,
        position=config.position,
        chat=config.chat,
        progress=workspace.progress,
    ).to_frame()
    rows = noise[noise["kind"] != "unsteered"].drop(columns=["operator", "position"])
    unknown = {"chosen": False, "changed": "", "source": source, "method": "cast"}
    return pd.concat([found, rows.assign(**unknown)], ignore_index=True)[list(found.columns)]


def chosen_setting(frame: pd.DataFrame, *, operator: Operator = "add", position: Position = "last") -> Setting:
    """The setting that ``sweep_source`` marked, with the operator and position that were swept."""
    row = frame[frame["chosen"]].iloc[0]
    return Setting(int(row["layer"]), float(row["strength"]), operator, position)


def best_strengths(workspace: Workspace, source: str, edits: Mapping[str, Editing], *, name: str) -> dict[str, float]:
    """The strength at which each variant's greedy answers match most often on the source's validation split.

    Ties go to the higher gold log-probability. Tried are the run's strengths, and a half and a quarter of the lowest:
    steering at every token, or at several layers, may need less.

    Args:
        workspace: gives model, prompts and strengths.
        source: whose validation split is used.
        edits: the variants.
        name: of the table that is kept in the run directory.
    """
    frame = workspace.directory.frame(f"settings/{name}/{source}", lambda: _tried(workspace, source, edits))
    chosen = frame[frame["chosen"]]
    return dict(zip(chosen["variant"], chosen["strength"].astype(float), strict=True))


def _tried(workspace: Workspace, source: str, edits: Mapping[str, Editing]) -> pd.DataFrame:
    config, task = workspace.config, workspace.tasks[source]
    prompts = zero_shot_prompts(task, workspace.validation(source))
    lowest = min(config.strengths)
    strengths = sorted({lowest / 4, lowest / 2, *config.strengths})
    cells = [(variant, strength) for variant in edits for strength in strengths]
    steerings = [edits[variant](strength, len(prompts)) for variant, strength in cells]
    found = evaluate(workspace.model, prompts, steerings, chat=config.chat, progress=workspace.progress)
    means = _means(found, ["exact_match", "gold_logprob"])
    frame = pd.DataFrame(cells, columns=["variant", "strength"]).assign(
        source=source,
        exact_match=means["exact_match"].to_numpy()[1:],
        gold_logprob=means["gold_logprob"].to_numpy()[1:],
    )
    ranked = pd.concat(
        best_first(part, ["exact_match", "gold_logprob"]) for _, part in frame.groupby("variant", sort=False)
    )
    return frame.assign(chosen=frame.index.isin(ranked.drop_duplicates("variant").index))
