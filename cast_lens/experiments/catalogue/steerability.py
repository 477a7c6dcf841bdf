"""How each example responds to the strength (arXiv 2407.12404): a line through its gold log-odds at seven strengths.

The strengths are those of the paper, -1.5 to 1.5 times the vector, at the layer that the source's own validation split
chose; strength 0 is the unsteered model. The score is the log-odds of the gold answer: against the other admissible
answers if there are any, and against everything else for free answers. Each vector is compared with a random direction
of its norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from ... import plots
from ...engine import Scores, score
from ...interventions import Intervention
from ...stats import mean_interval, paired_difference, paired_permutation_test, steerability, steerability_summary
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import PERMUTATIONS, holm, query_of, with_verdicts
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, joined, settings_first
from ..transfer_matrix import CAST, RANDOM, steerable
from ..workspace import Workspace

STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
MEASURES = ("slope", "residual", "spearman", "anti_steerable")
PAIR = ("target", "source", "kind", "own")
# Lines of one figure; more of them hide each other.
LINES = 120


@dataclass(frozen=True, slots=True)
class Steerability(Experiment):
    """How does each example respond to the strength?"""

    name = "steerability"
    title = "Steerability"
    compared = (
        "Slopes of the gold log-odds over seven strengths from −1.5 to 1.5 are measured on the test queries of each "
        "target, at the layer that the source's own validation split chose, and compared with a random direction of "
        "equal norm at the same layer and strengths. The column anti steerable is the share of examples that go the "
        "wrong way."
    )
    limits = (
        "A slope says how the odds change with the strength, not whether the answer becomes right. The line is "
        "fitted to strengths of both signs, and a curve may bend; the strength that steers best may be beyond them. "
        "About half of the examples go against an arbitrary direction, so a share near 50 % does not indicate harm. "
        "Intervals are over test queries of these tasks, with one random direction per source."
    )
    shown = ("pooled", "result")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then one cell per task, with the doses of all sources."""
        return [*settings_first(config), *(Cell("dose", target) for target in steerable(config, tasks))]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """One row per example, source, direction and strength."""
        return dose_rows(workspace, cell.target)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """The lines of examples, summarised.

        Returns:
            ``result``: one row per pair and direction; ``pooled``: over pairs; ``dose``: mean curves; ``examples``:
            scores with whether the example goes the wrong way.
        """
        doses = joined(rows)
        lines = example_lines(doses)
        wrong_way = lines[["target", "source", "kind", "sample", "anti_steerable"]]
        return {
            "result": pair_table(lines, config),
            "pooled": pooled_slopes(lines, config),
            "dose": mean_curves(doses, config),
            "examples": doses.merge(wrong_way, on=["target", "source", "kind", "sample"]),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """Mean slopes of vectors and random directions, and how many pairs have a larger slope."""
        pooled = frames["pooled"].set_index(["own", "kind"])
        told = []
        for own, where in ((False, "On other tasks"), (True, "On the sources' own test queries")):
            if (own, CAST) in pooled.index and (own, RANDOM) in pooled.index:
                cast, noise = pooled.loc[(own, CAST)], pooled.loc[(own, RANDOM)]
                told.append(
                    f"{where} one unit of strength changes the log-odds of the gold answer by {slope(cast)} nats "
                    f"(random direction: {slope(noise)}), and {100 * cast['anti_steerable']:.0f} % of the examples go "
                    f"the wrong way (random direction: {100 * noise['anti_steerable']:.0f} %)."
                )
        result = frames["result"]
        tally = sentences.tally(result, "pairs", "a larger slope than under the random direction")
        told += [f"{tally}."] if tally else []
        return Findings(" ".join(told) or sentences.NOTHING)

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The mean curves, and single examples of each source."""
        dose, examples = frames["dose"], frames["examples"]
        if len(dose):
            yield ReportFigure(
                "dose",
                "Mean response to the strength on other tasks",
                "Change of the log-odds of the gold answer from the unsteered model, over all pairs of different "
                "tasks, with 95 % intervals over examples.",
                "Mean change of the gold log-odds by strength, for the vectors and for random directions.",
                plots.plot_scaling(dose, x_title="strength", y_title="change of the gold log-odds, nats", share=False),
                dose,
            )
        away = examples[(examples["kind"] == CAST) & ~examples["own"]]
        for source, part in away.groupby("source", sort=False):
            lines = first_examples(part)
            yield ReportFigure(
                f"examples-{source}",
                f"Single examples under {source}",
                f"One line per example of another task, at most {LINES} in total, the first ones of every target. Red "
                "lines fall as the strength grows.",
                f"Lines of the gold log-odds by strength for single examples under the vector of {source}.",
                plots.plot_steerability(lines),
                lines,
            )


EXPERIMENT = Steerability


def dose_rows(workspace: Workspace, target: str) -> pd.DataFrame:
    """Gold log-odds of a target's test queries under every source, direction and strength."""
    config = workspace.config
    named: list[tuple[str, str, int, float, int]] = []
    edits: list[Intervention] = []
    for source in config.sources:
        layer = workspace.setting(source).layer
        for kind, vector in ((CAST, workspace.vector(source)), (RANDOM, workspace.random_direction(source))):
            for strength in STRENGTHS:
                # The unsteered model is variant 0 and serves as strength 0 of every direction.
                named.append((source, kind, layer, strength, len(edits) + 1 if strength else 0))
                if strength:
                    edits.append(
                        vector.intervention(
                            layer, strength=strength, operator=config.operator, position=config.position
                        )
                    )
    prompts = workspace.base(target).prompts
    found = score(workspace.model, prompts, edits, chat=config.chat, progress=workspace.progress)
    odds = gold_log_odds(found)
    samples = [prompt.sample_id for prompt in prompts]
    frames = [
        pd.DataFrame({"sample": samples, "score": odds[variant]}).assign(
            source=source, kind=kind, layer=layer, strength=strength
        )
        for source, kind, layer, strength, variant in named
    ]
    doses = pd.concat(frames, ignore_index=True)
    return doses.assign(target=target, own=doses["source"] == target)


def gold_log_odds(scores: Scores) -> Float[np.ndarray, "variant sample"]:
    """Log-odds of the gold answer, in nats.

    Against the sum of the other admissible answers; without any, against everything else that the model could generate.

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


def example_lines(doses: pd.DataFrame) -> pd.DataFrame:
    """One row per example and direction: slope, residual, rank correlation."""
    frames = []
    for key, part in doses.groupby(list(PAIR), sort=False):
        grid = part.pivot(index="sample", columns="strength", values="score")
        grid = grid.loc[list(dict.fromkeys(part["sample"]))]
        found = steerability(grid.to_numpy(), grid.columns.to_numpy(dtype=float))
        named = dict(zip(PAIR, key, strict=True))
        frames.append(found.assign(sample=list(grid.index), layer=int(part["layer"].iloc[0]), **named))
    return pd.concat(frames, ignore_index=True)


def pair_table(lines: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """One row per pair and direction; the vector's slopes are compared with its placebo's, example by example."""
    rows = []
    for (target, source), pair in lines.groupby(["target", "source"], sort=False):
        parts = dict(list(pair.groupby("kind", sort=False)))
        for kind, part in parts.items():
            row: dict[str, Any] = {"target": target, "source": source, "kind": kind}
            row |= {"own": part["own"].iloc[0], "layer": part["layer"].iloc[0], "n": len(part)}
            row |= measures(part, config)
            row |= dict.fromkeys(("over_placebo", "over_placebo_low", "over_placebo_high", "p_value"), np.nan)
            if kind == CAST and RANDOM in parts:
                row |= over_placebo(part, parts[RANDOM], config)
            rows.append(row)
    frame = pd.DataFrame(rows)
    tested = holm(frame.assign(p_value=frame["p_value"].where(~frame["own"])))
    return with_verdicts(tested.assign(p_value=frame["p_value"]), of="over_placebo")


def over_placebo(part: pd.DataFrame, noise: pd.DataFrame, config: RunConfig) -> dict[str, float]:
    """The slopes of a pair less those under the random direction."""
    before = noise.set_index("sample")["slope"].loc[part["sample"]]
    more = paired_difference(before, part["slope"], **config.resampling)
    test = paired_permutation_test(before, part["slope"], n_permutations=PERMUTATIONS, seed=config.seed)
    ends = {"over_placebo_low": more.low, "over_placebo_high": more.high}
    return {"over_placebo": more.value, **ends, "p_value": test.p}


def measures(lines: pd.DataFrame, config: RunConfig) -> dict[str, float]:
    """The summary of a pair's lines with intervals; see ``stats.steerability_summary``."""
    row: dict[str, float] = {}
    for one in steerability_summary(lines, **config.resampling).itertuples():
        name = str(one.measure)
        row |= {name: float(one.value), f"{name}_low": float(one.low), f"{name}_high": float(one.high)}
    return row


def pooled_slopes(lines: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Means over pairs; an example is redrawn with all that was done to it."""
    rows = []
    for (own, kind), part in lines.groupby(["own", "kind"], sort=False):
        units = query_of(part)
        row: dict[str, Any] = {"own": own, "kind": kind, "n": len(part)}
        row["pairs"] = len(part[["target", "source"]].drop_duplicates())
        for name in MEASURES:
            known = part[name].astype(float).dropna()
            if len(known):
                one = mean_interval(known, clusters=units.loc[known.index], **config.resampling)
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
        rows.append(row)
    return pd.DataFrame(rows)


def mean_curves(doses: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """Mean change of the log-odds from strength 0, over all pairs of different tasks."""
    key = ["target", "source", "kind", "sample"]
    away = doses[~doses["own"]]
    zero = away[away["strength"] == 0].set_index(key)["score"]
    found = []
    for (kind, strength), part in away.groupby(["kind", "strength"], sort=True):
        before = zero.loc[list(part[key].itertuples(index=False, name=None))].to_numpy()
        change = part["score"].to_numpy() - before
        one = mean_interval(change, shares=False, clusters=query_of(part), **config.resampling)
        found.append((strength, one.value, kind, one.low, one.high, one.n))
    return pd.DataFrame(found, columns=["x", "y", "method", "low", "high", "n"])


def slope(row: pd.Series) -> str:
    """A mean slope with its interval."""
    numbers = (f"{row[name]:+.2f}".replace("-", "−") for name in ("slope", "slope_low", "slope_high"))
    return "{} [{}, {}]".format(*numbers)


def first_examples(rows: pd.DataFrame) -> pd.DataFrame:
    """The first examples of every target, few enough to keep the figure readable; named with their target."""
    each = max(1, LINES // rows["target"].nunique())
    order = rows.drop_duplicates(["target", "sample"]).groupby("target", sort=False).cumcount()
    first = rows.loc[order.index[order < each], ["target", "sample"]]
    kept = rows.merge(first, on=["target", "sample"])
    return kept.assign(task=kept["target"], sample=kept["target"] + ": " + kept["sample"])
