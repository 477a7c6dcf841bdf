"""Source tasks × target tasks: the conditions under which every source's vector meets a target, and their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ..methods import VECTOR_METHODS, Condition, evaluate_conditions, steered
from ..tasks import Task
from .config import RunConfig
from .outcomes import BASELINE
from .workspace import Workspace

RANDOM = "placebo: random direction"
CAST = "cast"


def steerable(config: RunConfig, tasks: Mapping[str, Task]) -> list[str]:
    """Targets, and sources that have a test split to be steered on."""
    names = dict.fromkeys((*config.targets, *config.sources))
    return [name for name in names if tasks[name].test]


def different_steerable(config: RunConfig, tasks: Mapping[str, Task]) -> list[str]:
    """What ``steerable`` gives, where a source meets another task.

    Raises:
        ValueError: when no pair of different tasks can be steered.
    """
    names = steerable(config, tasks)
    if not any(source != name for name in names for source in config.sources):
        raise ValueError(
            f"sources={list(config.sources)} and targets={list(config.targets)} hold no pair of different tasks, "
            "which this experiment needs; give another source or target"
        )
    return names


def crossed_outcomes(workspace: Workspace, target: str) -> pd.DataFrame:
    """Zero-shot, and each source's contrastive mean and random directions at the source's own setting.

    Returns:
        rows of ``evaluate_conditions``, and ``own`` (source and target are one task). A source's vector on itself is
        no transfer and is called ``cast (own vector)``.
    """
    return workspace.directory.frame(f"crossed/{target}".replace(":", ""), lambda: _outcomes(workspace, target))


def _outcomes(workspace: Workspace, target: str) -> pd.DataFrame:
    config, base = workspace.config, workspace.base(target)
    conditions: list[Condition] = [base]
    for source in config.sources:
        setting, vector = workspace.setting(source), workspace.vector(source)
        conditions.append(VECTOR_METHODS[CAST].condition(vector, base.prompts, setting, source=source))
        for draw in range(config.placebos):
            noise = workspace.random_direction(source, number=draw)
            conditions.append(steered(noise, base.prompts, setting, source=source, method=RANDOM, seed=draw))
    found = evaluate_conditions(workspace.model, conditions, chat=config.chat, progress=workspace.progress)
    return found.drop(columns="text").assign(own=found["source"] == target)


def changes_of(outcomes: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """Change of an outcome against zero-shot, one row per example and source; draws of a placebo averaged."""
    zero = outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])
    known = zero.dropna(subset=[metric]).set_index(["target", "sample"])[metric]
    rows = outcomes[outcomes["method"] == method].dropna(subset=[metric])
    means = rows.groupby(["target", "source", "sample"], sort=False)[metric].mean().reset_index()
    asked = pd.MultiIndex.from_arrays([means["target"], means["sample"]])
    before = known.reindex(asked).to_numpy(float)
    return means.assign(change=means[metric].to_numpy(float) - before).dropna(subset=["change"])


def vector_conditions(workspace: Workspace, base: Condition, methods: Sequence[str]) -> list[Condition]:
    """Every source's vectors and placebos on the prompts of a target.

    Args:
        workspace: gives vectors and settings.
        base: zero-shot on the target.
        methods: keys of ``VECTOR_METHODS``; placebos are applied at the setting of ``cast``. Only the random direction
            has a distribution worth several draws.
    """
    config, conditions = workspace.config, []
    for source in config.sources:
        for name in methods:
            method = VECTOR_METHODS[name]
            setting = workspace.setting(source, CAST if method.placebo else name)
            for number in range(config.placebos if name == RANDOM else 1):
                vector = method.fit(workspace.source(source, number=number))
                conditions.append(method.condition(vector, base.prompts, setting, source=source, seed=number))
    return conditions


def is_finding(method: str) -> bool:
    """Methods whose gains a reader may take for findings: vectors that are not placebos."""
    return method.removesuffix(" (own vector)") in VECTOR_METHODS and not method.startswith("placebo")


def with_families(result: pd.DataFrame, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """A table of pairs with ``target_family`` and ``source_family``."""
    families = {name: task.family for name, task in tasks.items()}
    return result.assign(
        target_family=[families.get(name, "") for name in result["target"]],
        source_family=[families.get(name, "") for name in result["source"]],
    )
