"""What ``steerability`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM

if TYPE_CHECKING:
    import pandas as pd

STRENGTHS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
KINDS = (CAST, RANDOM)
# Lines of one figure; more of them hide each other.
LINES = 120


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    pooled, result = frames["pooled"], frames["result"]
    answer = [_slopes(pooled, own=False), _slopes(pooled, own=True), _against(result), _shapes(pooled)]
    return Reading(
        tuple(part for part in answer if part),
        f"Slopes of the gold log-odds over {len(STRENGTHS)} strengths from {signed(STRENGTHS[0])} to "
        f"{signed(STRENGTHS[-1])}, for {config.test} test queries a target, at the layer that the source's own "
        "validation split chose; a random direction of equal norm at the same layer and strengths.",
        "A slope says how the odds follow the dose, not whether the answer becomes right. The line is fitted to "
        "strengths of both signs, and a curve may be bent; the strength that steers best may lie beyond them. About "
        "half of the examples go against a direction that does nothing in particular, so a share near 50 % is no sign "
        "of harm. Intervals are over test queries of these tasks, with one random direction a source.",
    )


def signed(value: float) -> str:
    """A number with its sign, two decimals."""
    return f"{value:+.2f}".replace("-", "−")


def _span(row: pd.Series, name: str) -> str:
    return f"{signed(row[name])} [{signed(row[f'{name}_low'])}, {signed(row[f'{name}_high'])}]"


def _share(row: pd.Series, name: str = "anti_steerable") -> str:
    return f"{100 * row[name]:.0f} % [{100 * row[f'{name}_low']:.0f}, {100 * row[f'{name}_high']:.0f}]"


def _both(pooled: pd.DataFrame, *, own: bool) -> tuple[pd.Series, pd.Series] | None:
    rows = pooled[pooled["own"].astype(bool) == own].set_index("kind")
    return (rows.loc[CAST], rows.loc[RANDOM]) if set(KINDS) <= set(rows.index) else None


def _slopes(pooled: pd.DataFrame, *, own: bool) -> str:
    found = _both(pooled, own=own)
    if found is None:
        return ""
    cast, noise = found
    where = "On the sources' own test queries" if own else "On other tasks"
    return (
        f"{where} one unit of strength changes the log-odds of the gold answer by {_span(cast, 'slope')} nats "
        f"({cast['pairs']} pairs, n = {cast['n']}), and {_share(cast)} of the examples go the wrong way; under a "
        f"random direction {_span(noise, 'slope')} nats and {_share(noise)}."
    )


def _against(result: pd.DataFrame) -> str:
    """How many pairs stand after correction, against the placebo on the same examples."""
    rows = result[(result["kind"] == CAST) & ~result["own"].astype(bool)].dropna(subset=["p_adjusted"])
    if rows.empty:
        return ""
    sure = rows[rows["p_adjusted"] < 0.05]
    up = int((sure["over_placebo"] > 0).sum())
    most = int((rows["anti_steerable"] > 0.5).sum())
    return (
        f"Against the random direction on the same examples, {up} of {len(rows)} pairs have a larger slope and "
        f"{len(sure) - up} a smaller one after Holm's correction over {int(rows['n_tests'].max())} tests (p < 0.05). "
        f"In {most} of {len(rows)} pairs more than half of the examples go the wrong way."
    )


def _shapes(pooled: pd.DataFrame) -> str:
    """Whether a line is a fair picture."""
    found = _both(pooled, own=False)
    if found is None or "spearman" not in found[0] or found[0]["spearman"] != found[0]["spearman"]:
        return ""
    cast, noise = found
    return (
        f"How well a line fits: rank correlation with the strength {_span(cast, 'spearman')} on average over examples "
        f"(random direction {_span(noise, 'spearman')}), distance from the line {cast['residual']:.2f} nats "
        f"(random direction {noise['residual']:.2f})."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """The mean curves, and single examples of each source."""
    from ... import plots

    dose, examples = frames["dose"], frames["examples"]
    found = []
    if len(dose):
        found.append(
            Drawing(
                "dose",
                "Mean response to the dose on other tasks",
                "Change of the log-odds of the gold answer against the unsteered model, over all pairs of different "
                "tasks, with 95 % intervals over examples.",
                "Mean change of the gold log-odds by strength, for the vectors and for random directions.",
                plots.plot_scaling(
                    dose, x_title="strength", y_title="change of the gold log-odds, nats", share=False
                ),
                dose,
            )
        )
    for source, part in examples[(examples["kind"] == CAST) & ~examples["own"]].groupby("source", sort=False):
        lines = _some(part)
        found.append(
            Drawing(
                f"examples-{source}",
                f"Single examples under {source}",
                f"One line an example of another task, at most {LINES} in all, the first ones of every target. Red "
                "lines fall as the strength grows.",
                f"Lines of the gold log-odds by strength for single examples under the vector of {source}.",
                plots.plot_steerability(lines),
                lines,
            )
        )
    return found


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """The first examples of every target, so many that the figure stays readable; named with their target."""
    each = max(1, LINES // rows["target"].nunique())
    order = rows.drop_duplicates(["target", "sample"]).groupby("target", sort=False).cumcount()
    first = rows.loc[order.index[order < each], ["target", "sample"]]
    kept = rows.merge(first, on=["target", "sample"])
    return kept.assign(task=kept["target"], sample=kept["target"] + ": " + kept["sample"])
