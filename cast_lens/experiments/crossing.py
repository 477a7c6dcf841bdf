"""Every source's vector and its placebos on one task: what several experiments read, computed once a directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..methods import VECTOR_METHODS, Condition, evaluate_conditions, steered
from .bench import Bench
from .contrasts import BASELINE
from .controls import RANDOM, random_placebo
from .protocol import Tasks
from .settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

CAST = "cast"


def steerable(config: ExperimentConfig, tasks: Tasks) -> list[str]:
    """Targets, and sources that have a test split to be steered on."""
    names = dict.fromkeys((*config.targets, *config.sources))
    return [name for name in names if tasks[name].test]


def crossed_outcomes(bench: Bench, target: str) -> pd.DataFrame:
    """Zero-shot, and each source's contrastive mean and random directions at the source's own setting.

    Returns:
        rows of ``evaluate_conditions``, and ``own`` (source and target are one task). A source's vector on itself is
        no transfer and is called ``cast (own vector)``.
    """
    return bench.directory.frame(f"crossed/{target}".replace(":", ""), lambda: _outcomes(bench, target))


def _outcomes(bench: Bench, target: str) -> pd.DataFrame:
    config, base = bench.config, bench.base(target)
    conditions: list[Condition] = [base]
    for source in config.sources:
        setting, vector = bench.setting(source), bench.vector(source)
        conditions.append(VECTOR_METHODS[CAST].condition(vector, base.prompts, setting, source=source))
        for draw in range(config.placebos):
            noise = random_placebo(bench, source, draw=draw)
            conditions.append(steered(noise, base.prompts, setting, source=source, method=RANDOM, seed=draw))
    found = evaluate_conditions(bench.model, conditions, chat=config.chat, progress=bench.progress)
    return found.drop(columns="text").assign(own=found["source"] == target)


def changes_of(outcomes: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """Change of an outcome against zero-shot, one row an example and source; draws of a placebo averaged."""
    zero = outcomes[outcomes["method"] == BASELINE].drop_duplicates(["target", "sample"])
    known = zero.dropna(subset=[metric]).set_index(["target", "sample"])[metric]
    rows = outcomes[outcomes["method"] == method].dropna(subset=[metric])
    means = rows.groupby(["target", "source", "sample"], sort=False)[metric].mean().reset_index()
    before = known.loc[list(zip(means["target"], means["sample"], strict=True))].to_numpy(float)
    return means.assign(change=means[metric].to_numpy(float) - before)
