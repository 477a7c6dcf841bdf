"""How each example answers to the dose (arXiv 2407.12404): a line through its gold log-odds over seven strengths.

The strengths are those of the paper, -1.5 to 1.5 times the vector, at the layer that the source's own validation split
chose; strength 0 is the unsteered model. The score is the log-odds of the gold answer: against the other admissible
answers where there are any, against everything else for free answers. Beside each vector stands a random direction of
its norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...engine import Scores, score
from ...interventions import Intervention
from ...stats import (
    adjust_p_values,
    mean_interval,
    paired_difference,
    paired_permutation_test,
    steerability,
    steerability_summary,
)
from ..bench import Bench
from ..cells import Cell
from ..legacy import Experiment, Tasks, settings_first
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM, steerable
from .steerability_reading import STRENGTHS, draw, read

if TYPE_CHECKING:
    import pandas as pd

PERMUTATIONS = 1999
MEASURES = ("slope", "residual", "spearman", "anti_steerable")


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings first; then one cell a task, with the doses of all sources."""
    return [*settings_first(config), *(Cell("dose", target) for target in steerable(config, tasks))]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """One row an example, source, direction and strength."""
    import pandas as pd

    config = bench.config
    named: list[tuple[str, str, int, float, int]] = []
    edits: list[Intervention] = []
    for source in config.sources:
        layer = bench.setting(source).layer
        for kind, vector in ((CAST, bench.vector(source)), (RANDOM, bench.random_direction(source))):
            for strength in STRENGTHS:
                # The unsteered model is variant 0 and stands for strength 0 of every direction.
                named.append((source, kind, layer, strength, len(edits) + 1 if strength else 0))
                if strength:
                    edits.append(
                        vector.intervention(
                            layer, strength=strength, operator=config.operator, position=config.position
                        )
                    )
    prompts = bench.base(cell.target).prompts
    found = score(bench.model, prompts, edits, chat=config.chat, progress=bench.progress)
    odds = gold_log_odds(found)
    columns = ["source", "kind", "layer", "strength"]
    frames = [
        pd.DataFrame({"sample": [prompt.sample_id for prompt in prompts], "score": odds[variant]}).assign(
            **dict(zip(columns, what, strict=True))
        )
        for *what, variant in named
    ]
    joined = pd.concat(frames, ignore_index=True)
    return joined.assign(target=cell.target, own=joined["source"] == cell.target)


def gold_log_odds(scores: Scores) -> Float[np.ndarray, "variant sample"]:
    """Log-odds of the gold answer, in nats.

    Against the sum of the other admissible answers; with no other, against everything else the model could write.

    Raises:
        ValueError: a prompt without gold answer.
    """
    columns = []
    for prompt, logprobs in zip(scores.prompts, scores.answer_logprobs, strict=True):
        if prompt.gold < 0:
            raise ValueError(f"{prompt.name} has no gold answer to take the odds of; give prompts with one")
        columns.append(_odds(logprobs.double(), prompt.gold))
    return np.stack(columns, axis=1)


def _odds(logprobs: Float[Tensor, "variant choice"], gold: int) -> Float[np.ndarray, " variant"]:
    others = [index for index in range(logprobs.shape[1]) if index != gold]
    known = logprobs[:, gold]
    if others:
        return (known - logprobs[:, others].logsumexp(dim=1)).numpy()
    # A probability that rounds to 1 would have infinite odds.
    rest = (-known.clamp(max=-1e-12).expm1()).log()
    return (known - rest).numpy()


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair and direction. ``pooled``: over pairs. ``dose``: mean curves. ``examples``: lines."""
    rows = rows.assign(own=rows["own"].astype(bool))
    lines = _lines(rows)
    return {
        "result": _result(lines, config),
        "pooled": _pooled(lines, config),
        "dose": _dose(rows, config),
        "examples": rows.merge(
            lines[["target", "source", "kind", "sample", "anti_steerable"]],
            on=["target", "source", "kind", "sample"],
        ),
    }


def _lines(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an example and direction: slope, residual, rank correlation."""
    import pandas as pd

    frames = []
    for key, part in rows.groupby(["target", "source", "kind", "own"], sort=False):
        grid = part.pivot(index="sample", columns="strength", values="score").loc[
            list(dict.fromkeys(part["sample"]))
        ]
        found = steerability(grid.to_numpy(), grid.columns.to_numpy(dtype=float))
        named = dict(zip(("target", "source", "kind", "own"), key, strict=True))
        frames.append(found.assign(sample=list(grid.index), layer=int(part["layer"].iloc[0]), **named))
    return pd.concat(frames, ignore_index=True)


def _result(lines: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """A row a pair and direction; the vector's slopes are compared with its placebo's, example by example."""
    import pandas as pd

    rows = []
    for (target, source), pair in lines.groupby(["target", "source"], sort=False):
        parts = dict(list(pair.groupby("kind", sort=False)))
        for kind, part in parts.items():
            row: dict[str, Any] = {
                "target": target,
                "source": source,
                "kind": kind,
                "own": part["own"].iloc[0],
            }
            row |= {"layer": part["layer"].iloc[0], "n": len(part), **_measures(part, config)}
            if kind == CAST and RANDOM in parts:
                before = parts[RANDOM].set_index("sample")["slope"].loc[part["sample"]]
                more = paired_difference(
                    before, part["slope"], n_bootstrap=config.bootstrap, seed=config.seed
                )
                test = paired_permutation_test(
                    before, part["slope"], n_permutations=PERMUTATIONS, seed=config.seed
                )
                row |= {"over_placebo": more.value, "over_placebo_low": more.low}
                row |= {"over_placebo_high": more.high, "p_value": test.p}
            rows.append(row)
    frame = pd.DataFrame(rows)
    if "p_value" not in frame:
        frame["p_value"] = np.nan
    adjusted = adjust_p_values(frame.assign(p=frame["p_value"].where(~frame["own"])), column="p")
    return frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])


def _measures(lines: pd.DataFrame, config: ExperimentConfig) -> dict[str, float]:
    found = steerability_summary(lines, n_bootstrap=config.bootstrap, seed=config.seed)
    row: dict[str, float] = {}
    for one in found.itertuples():
        name = str(one.measure)
        row |= {name: float(one.value), f"{name}_low": float(one.low), f"{name}_high": float(one.high)}
    return row


def _pooled(lines: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Means over pairs; an example is redrawn with all that was done to it."""
    import pandas as pd

    rows = []
    for (own, kind), part in lines.groupby(["own", "kind"], sort=False):
        units = part["target"] + "\n" + part["sample"]
        row: dict[str, Any] = {"own": own, "kind": kind, "n": len(part)}
        row["pairs"] = len(part[["target", "source"]].drop_duplicates())
        for name in MEASURES:
            known = part[name].astype(float).dropna()
            if len(known):
                one = mean_interval(
                    known, clusters=units.loc[known.index], n_bootstrap=config.bootstrap, seed=config.seed
                )
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _dose(rows: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """Mean change of the log-odds against strength 0, over all pairs of different tasks."""
    import pandas as pd

    key = ["target", "source", "kind", "sample"]
    away = rows[~rows["own"]]
    zero = away[away["strength"] == 0].set_index(key)["score"]
    found = []
    for (kind, strength), part in away.groupby(["kind", "strength"], sort=True):
        change = (
            part["score"].to_numpy() - zero.loc[list(part[key].itertuples(index=False, name=None))].to_numpy()
        )
        units = part["target"] + "\n" + part["sample"]
        one = mean_interval(change, clusters=units, n_bootstrap=config.bootstrap, seed=config.seed)
        found.append((strength, one.value, kind, one.low, one.high, one.n))
    return pd.DataFrame(found, columns=["x", "y", "method", "low", "high", "n"])


EXPERIMENT = Experiment(
    "steerability",
    "How does each example answer to the dose, and how many answer the wrong way?",
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("pooled", "result"),
)
