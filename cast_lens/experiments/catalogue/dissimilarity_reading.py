"""What ``dissimilarity`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..distances import DISTANCES
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..transfer_matrix import CAST, RANDOM

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("exact_match", "choice_correct")
PROMPTED = "cross-task few-shot"
# Methods, and what their gains are called in columns.
OUTCOMES = {CAST: "steered", PROMPTED: "prompted", RANDOM: "placebo"}


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    answer = [
        *(_overall(frames["overall"], metric) for metric in METRICS),
        *(_order(frames["correlations"], metric) for metric in METRICS),
        *(_failing(frames["failing"], metric) for metric in METRICS),
    ]
    return Reading(
        tuple(part for part in answer if part),
        f"Steering with a source's vector (at the source's own setting) and {config.shots} demonstrations of the same "
        f"source in the prompt, on the same {config.test} test queries of each target; random directions of equal norm "
        "at the same place. Permutations rename whole targets and sources: pairs that share one are not independent.",
        "There are few tasks, so only strong order can show, and the distances go together with each other and with "
        "what was wrong zero-shot. Where prompting fails was decided on every second query and measured on the others, "
        "so that no query counts twice; a pair can thus stand on both sides. The parallelism of two tasks reads "
        "labelled demonstrations of the target. " + wording.LIMITS,
    )


def _overall(overall: pd.DataFrame, metric: str) -> str:
    rows = overall[overall["metric"] == metric].set_index("against")
    if PROMPTED not in rows.index:
        return ""
    one = rows.loc[PROMPTED]
    placebo = (
        f" Over a random direction steering gains {wording.points(rows.loc[RANDOM]['difference'])} points "
        f"{wording.interval(rows.loc[RANDOM]['low'], rows.loc[RANDOM]['high'])}."
        if RANDOM in rows.index
        else ""
    )
    return (
        f"{wording.NAMES[metric].capitalize()} of steering less that of prompting with the same source, over all "
        f"pairs: {wording.points(one['difference'])} points {wording.interval(one['low'], one['high'])} "
        f"({100 * one['value']:.1f} % against {100 * one['against_value']:.1f} %, n = {one['n']}).{placebo}"
    )


def _order(correlations: pd.DataFrame, metric: str) -> str:
    """Whether the difference grows with distance."""
    rows = correlations[(correlations["metric"] == metric) & (correlations["outcome"] == "difference")]
    known = rows.dropna(subset=["correlation"])
    if known.empty:
        return ""
    parts = [
        f"{row.distance} {row.correlation:+.2f} (Holm p = {row.p_adjusted:.3f})".replace(
            "-0.", "−0."
        ).replace("-1.", "−1.")
        for row in known.itertuples()
    ]
    sure = known[known["p_adjusted"] < 0.05]
    return (
        f"Rank correlation of distance with that difference in {wording.NAMES[metric]}, over "
        f"{known['pairs'].max()} pairs: {', '.join(parts)}; {len(sure)} of {len(known)} stand after correction for "
        f"{int(known['n_tests'].max())} tests."
    )


def _failing(failing: pd.DataFrame, metric: str) -> str:
    """What steering gains where prompting does not."""
    if failing.empty:
        return ""
    rows = failing[(failing["metric"] == metric) & failing["prompting_fails"].astype(bool)].set_index(
        "method"
    )
    if not set(OUTCOMES) <= set(rows.index):
        return ""
    gains = {name: _span(rows.loc[method]) for method, name in OUTCOMES.items()}
    return (
        f"Where prompting with a source does not beat zero-shot in {wording.NAMES[metric]} "
        f"({rows.loc[CAST]['pairs']} pairs, judged on other queries): steering {gains['steered']} points, prompting "
        f"{gains['prompted']}, a random direction {gains['placebo']} (n = {rows.loc[CAST]['n']})."
    )


def _span(row: pd.Series) -> str:
    return f"{wording.points(row['gain'])} {wording.interval(row['gain_low'], row['gain_high'])}"


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gain by distance, for steering, prompting and placebo."""
    from ... import plots

    groups, found = frames["groups"], []
    for name in DISTANCES:
        rows = (
            groups[(groups["distance"] == name) & (groups["metric"] == "exact_match")]
            if len(groups)
            else groups
        )
        if rows.empty:
            continue
        lines = rows.assign(y=rows["gain"], low=rows["gain_low"], high=rows["gain_high"])
        found.append(
            Drawing(
                f"distance-{name.replace(' ', '-')}",
                f"Gain by distance: {name}",
                "Mean gain in exact match over zero-shot in groups of pairs from near to far, with 95 % intervals over "
                "examples; each point stands at the mean distance of its group.",
                f"Gain of steering, prompting and random directions by {name} distance.",
                plots.plot_scaling(lines, x_title=f"{name} distance", y_title="gain in exact match"),
                lines,
            )
        )
    return found
