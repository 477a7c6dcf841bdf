"""Methods of the field in a run: fitted to a source, set on its validation split, applied to a target with a placebo.

``STEERING_METHODS`` is the registry of all methods, and an experiment may name any of them: ``preparing_cells`` fits
what is named, ``named_conditions`` steers a target with it. Vector methods take layer and strength from a sweep of the
source's validation split, and placebos those of ``cast``; other methods choose among their own settings there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..evaluation import evaluate
from ..interventions import Steering
from ..methods import FIELD_METHODS, STEERING_METHODS, VECTOR_METHODS, Condition
from ..methods.field import FieldMethod, Fitted, at_setting, edits, placebo_of, read_fitted
from ..methods.fitted import FittedMethod
from ..placebos import placebo_seed
from ..tasks import zero_shot_prompts
from ..vectors import SteeringVector
from .cells import Cell
from .choose_setting import best_first
from .config import RunConfig
from .protocol import settings_first
from .transfer_matrix import vector_conditions
from .workspace import Workspace


def check_methods(option: str, names: Sequence[str]) -> None:
    """Refuse names of no method.

    Raises:
        ValueError: with the option, and those that there are.
    """
    unknown = [name for name in names if name not in STEERING_METHODS]
    if unknown:
        raise ValueError(f"{option}={unknown} are unknown; choose from {', '.join(STEERING_METHODS)}")


def preparing_cells(config: RunConfig, names: Sequence[str], *, draws: int = 1) -> list[Cell]:
    """Cells that fit the named methods to every source and choose their settings."""
    vectors = [name for name in names if name in VECTOR_METHODS and not VECTOR_METHODS[name].placebo]
    cells = settings_first(config, vectors, draws=draws) if vectors else []
    others = [name for name in names if name not in VECTOR_METHODS]
    return cells + [
        Cell("fit", source=source, variant=name, draw=draw, prepares=True)
        for draw in range(draws)
        for source in config.sources
        for name in others
    ]


def named_conditions(workspace: Workspace, base: Condition, names: Sequence[str]) -> list[Condition]:
    """The named methods of every source on the prompts of a target; those outside ``VECTOR_METHODS`` with placebos."""
    target = base.prompts[0].task
    found = vector_conditions(workspace, base, [name for name in names if name in VECTOR_METHODS])
    for source in workspace.config.sources:
        for name in names:
            if source != target and name not in VECTOR_METHODS:
                found += steered_pair(workspace, source, FIELD_METHODS[name], base)
    return found


def _path(workspace: Workspace, source: str, method: FieldMethod) -> Path:
    name = method.name.replace(" ", "-").replace(",", "")
    return workspace.directory.vectors(f"{name}.{source}")


def load_fitted(workspace: Workspace, source: str, method: FieldMethod) -> Fitted:
    """What a method fitted to a source, from disk; ``chosen`` puts it there."""
    kind = str(chosen(workspace, source, method)["kind"].iloc[0])
    return read_fitted(_path(workspace, source, method), kind)


def chosen(workspace: Workspace, source: str, method: FieldMethod) -> pd.DataFrame:
    """One row: the method's fit on disk, the seconds that it took, and layer and strength from the validation split."""
    name = f"rivals/{method.name}/{source}"
    return workspace.directory.frame(name, lambda: _choose(workspace, source, method))


def _choose(workspace: Workspace, source: str, method: FieldMethod) -> pd.DataFrame:
    workspace.say(f"{method.name}: fit to {source}")
    workspace.differences(source)
    started = time.perf_counter()
    fitted = method.fit(workspace.source(source))
    seconds = time.perf_counter() - started
    fitted.save(_path(workspace, source, method))
    config = workspace.config
    prompts = zero_shot_prompts(workspace.tasks[source], workspace.validation(source))
    strengths = method.strengths or config.strengths
    if isinstance(fitted, SteeringVector):
        vector = fitted if method.adapt is None else method.adapt(workspace.source(source), fitted, prompts)
        swept = workspace.swept(prompts, vector, method)
        best = swept[swept["chosen"]].iloc[0]
        layer, strength = int(best["layer"]), float(best["strength"])
    else:
        layer, strength = choose_edit(
            workspace, prompts, edits(method, fitted, strengths=strengths, layers=config.layers)
        )
    kind = type(fitted).__name__
    return pd.DataFrame([{"kind": kind, "fit_s": seconds, "layer": layer, "strength": strength}])


def choose_edit(
    workspace: Workspace, prompts: Sequence[Any], settings: Sequence[tuple[int, float, Steering]]
) -> tuple[int, float]:
    """Layer and strength of the edit with the most exact matches, ties to the higher gold log-probability."""
    answers = evaluate(
        workspace.model,
        prompts,
        [edit for *_, edit in settings],
        chat=workspace.config.chat,
        progress=workspace.progress,
    )
    measures = ["exact_match", "gold_logprob"]
    means = answers[answers["variant"] > 0].groupby("variant")[measures].agg(lambda values: values.mean(skipna=False))
    means = means.assign(strength=[settings[variant - 1][1] for variant in means.index])
    layer, strength, _ = settings[int(best_first(means, measures).index[0]) - 1]
    return layer, strength


def setting_of(workspace: Workspace, method: FieldMethod, fitted: Fitted, row: pd.Series) -> Steering:
    """The edit at the chosen layer and strength."""
    if isinstance(fitted, FittedMethod):
        return at_setting(fitted, int(row["layer"]), float(row["strength"]))
    config = workspace.config
    return fitted.intervention(
        int(row["layer"]),
        strength=float(row["strength"]),
        operator=method.operator or config.operator,
        position=method.position or config.position,
    )


def steered_pair(workspace: Workspace, source: str, method: FieldMethod, base: Condition) -> list[Condition]:
    """A method on a target's queries, and its placebo at the same setting."""
    row, fitted = chosen(workspace, source, method).iloc[0], load_fitted(workspace, source, method)
    if method.adapt is not None:
        assert isinstance(fitted, SteeringVector)
        fitted = method.adapt(workspace.source(source), fitted, base.prompts)
    seed = placebo_seed(source, method.name, workspace.config.seed)
    made = [(method.name, fitted), (method.placebo_name, placebo_of(fitted, seed=seed))]
    return [
        Condition(name, base.prompts, source=source, intervention=setting_of(workspace, method, one, row))
        for name, one in made
    ]
