"""Strength of variants that differ in kind, each chosen on the source's own validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..evaluation import evaluate
from ..interventions import Steering
from ..placebos import placebo_seed as placebo_seed
from ..tasks import zero_shot_prompts
from .bench import Bench

if TYPE_CHECKING:
    import pandas as pd

Edit = Callable[[float, int], Steering]
"""A variant at a strength, for a number of prompts."""


def best_strengths(bench: Bench, source: str, edits: Mapping[str, Edit], *, name: str) -> dict[str, float]:
    """The strength at which each variant's greedy answers match most often on the source's validation split.

    Ties go to the higher gold log-probability. Tried are the run's strengths, and a half and a quarter of the lowest:
    steering at every token, or at several layers, may need less.

    Args:
        bench: gives model, prompts and strengths.
        source: whose validation split is used.
        edits: the variants.
        name: of the table that is kept in the run directory.
    """
    frame = bench.directory.frame(f"settings/{name}/{source}", lambda: _tried(bench, source, edits))
    chosen = frame[frame["chosen"]]
    return dict(zip(chosen["variant"], chosen["strength"].astype(float), strict=True))


def _tried(bench: Bench, source: str, edits: Mapping[str, Edit]) -> pd.DataFrame:
    import pandas as pd

    config, task = bench.config, bench.tasks[source]
    prompts = zero_shot_prompts(task, task.validation[: config.validation])
    lowest = min(config.strengths)
    strengths = sorted({lowest / 4, lowest / 2, *config.strengths})
    cells = [(variant, strength) for variant in edits for strength in strengths]
    steerings = [edits[variant](strength, len(prompts)) for variant, strength in cells]
    found = evaluate(bench.model, prompts, steerings, chat=config.chat, progress=bench.progress)
    means = found.groupby("variant")[["exact_match", "gold_logprob"]].mean()
    frame = pd.DataFrame(cells, columns=["variant", "strength"]).assign(
        source=source,
        exact_match=means["exact_match"].to_numpy()[1:],
        gold_logprob=means["gold_logprob"].to_numpy()[1:],
    )
    ranked = frame.sort_values(["exact_match", "gold_logprob"], ascending=False, kind="stable")
    return frame.assign(chosen=frame.index.isin(ranked.drop_duplicates("variant").index))
