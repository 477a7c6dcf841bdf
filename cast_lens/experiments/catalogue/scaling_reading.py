"""What ``scaling`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..outcomes import gain_lines
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Do more source samples help, where more demonstrations stop helping?"
CAST = "cast"
IN_TASK = "few-shot"
CROSS = "cross-task few-shot"
PLACEBO = "placebo: random direction"
WHAT = {
    CAST: "source samples (cast)",
    IN_TASK: "demonstrations of the target in the prompt",
    CROSS: "demonstrations of the source in the prompt",
}


def named(curve: str, number: int) -> str:
    """The method of one point of a curve."""
    return f"{curve}, {number}"


def parsed(method: str) -> tuple[str, int]:
    """Curve and number; number 0 for methods that belong to no curve."""
    curve, _, number = method.rpartition(", ")
    return (curve, int(number)) if curve in WHAT else (method, 0)


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    curves, growth = frames["curves"], frames["growth"]
    answer = [
        last_doubling(growth, curve, metric)
        for metric in ("exact_match", "choice_correct")
        for curve in WHAT
        if metric in set(growth["metric"])
    ]
    answer += [claim(growth), *(ends(growth, curve) for curve in WHAT), context(curves, frames["left_out"])]
    return Reading(
        tuple(part for part in answer if part),
        "Means of random subsets of source samples, at the layer and strength of the vector of all samples; prompts "
        "with demonstrations of the target or of the source; all on the same test queries, over all pairs. The last "
        "doubling compares a curve's largest number with the largest one that is at most half of it, paired by query; "
        "p-values are corrected after Holm over all steps of all curves.",
        wording.LIMITS
        + " A change that cannot be told from none is no proof of a plateau: the interval says how large a "
        "change it leaves open. Layer and strength were chosen for the mean of all samples, which may favour large "
        f"subsets. A pool of {config.samples} samples says nothing on thousands.",
    )


def _last(growth: pd.DataFrame, curve: str, metric: str) -> pd.Series | None:
    rows = growth[growth["last"].astype(bool) & (growth["curve"] == curve) & (growth["metric"] == metric)]
    return None if rows.empty else rows.iloc[0]


def trend(row: pd.Series) -> str:
    """Whether a curve's end rises, falls, or cannot be told from level, by its corrected test."""
    return wording.verdict(row, "still rises", "falls", "cannot be told from level")


def last_doubling(growth: pd.DataFrame, curve: str, metric: str) -> str:
    """How a curve ends."""
    row = _last(growth, curve, metric)
    if row is None:
        return ""
    return (
        f"{WHAT[curve].capitalize()}: from {row['number_from']} to {row['number_to']} {wording.NAMES[metric]} changes "
        f"by {wording.points(row['difference'])} points {wording.interval(row['low'], row['high'])} "
        f"({wording.points(row['per_doubling'])} a doubling, n = {row['n']}, adjusted p = {row['p_adjusted']:.2g}): "
        f"the curve {trend(row)}."
    )


def claim(growth: pd.DataFrame) -> str:
    """The plateau claim: steering grows where demonstrations do not."""
    rows = {curve: _last(growth, curve, "exact_match") for curve in WHAT}
    steered = rows[CAST]
    prompted = {curve: row for curve, row in rows.items() if curve != CAST and row is not None}
    if steered is None or not prompted:
        return ""
    rises = trend(steered) == "still rises"
    stopped = [curve for curve, row in prompted.items() if trend(row) != "still rises"]
    if rises and len(stopped) == len(prompted):
        text = "This agrees with the claim that steering goes on growing where demonstrations no longer do"
    elif rises:
        text = "Steering still grows, and so does prompting with demonstrations: no plateau of the latter was reached"
    else:
        text = (
            "The claim that steering goes on growing with more samples is not supported here: its last doubling is "
            f"{wording.points(steered['difference'])} points"
        )
    return f"{text} (exact match; corrected p < 0.05 counts as growth)."


def ends(growth: pd.DataFrame, curve: str) -> str:
    """The end of the steering curve against the end of another, or against the placebo."""
    other = PLACEBO if curve == CAST else curve
    rows = growth[(growth["metric"] == "exact_match") & ~growth["same_curve"].astype(bool)]
    rows = rows[[against == other or parsed(against)[0] == other for against in rows["against"]]]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    name = "a random direction" if curve == CAST else f"{row['number_from']} {WHAT[curve]}"
    return (
        f"Steering with {row['number_to']} samples against {name}: {wording.points(row['difference'])} points "
        f"{wording.interval(row['low'], row['high'])} in exact match (adjusted p = {row['p_adjusted']:.2g})."
    )


def context(curves: pd.DataFrame, left_out: pd.DataFrame) -> str:
    """Whether the context was filled."""
    used, limit = int(curves["tokens"].max()), int(curves["context"].max())
    if used == 0 and left_out.empty:
        return ""
    if len(left_out):
        names = ", ".join(dict.fromkeys(left_out["method"]))
        return (
            f"The context of {limit} tokens was filled: left out on some targets for want of room: {names}."
        )
    return (
        f"The longest prompt takes {used} of {limit} tokens: the context was not filled, so what still more "
        "demonstrations would do is open."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gain by number, one line a curve."""
    from ... import plots

    curves = frames["curves"]
    found = []
    for metric in wording.metrics(curves):
        part = curves[curves["metric"] == metric]
        if not part["number"].any():
            continue
        rows = with_placebo(part)
        frame = gain_lines(rows, rows["number"], rows["curve"])
        name = wording.NAMES[metric]
        found.append(
            Drawing(
                f"scaling_{metric}",
                f"{name.capitalize()} by number of samples or demonstrations",
                f"Gain in {name} over zero-shot over all pairs, with 95 % intervals over queries. Dotted: random "
                "directions of the norm of the mean of all samples, whatever the number.",
                f"Lines of the gain in {name} by number, for steering, in-task and cross-task demonstrations, and a "
                "level one for random directions.",
                plots.plot_scaling(
                    frame,
                    x_title="samples or demonstrations",
                    y_title="gain, percentage points",
                    share=False,
                ),
                frame,
            )
        )
    return found


def with_placebo(part: pd.DataFrame) -> pd.DataFrame:
    """The curves of one metric, and the placebo as a level line from the first number to the last."""
    import pandas as pd

    rows, placebo = part[part["number"] > 0], part[part["method"] == PLACEBO]
    ends = sorted({rows["number"].min(), rows["number"].max()})
    return pd.concat([rows, *(placebo.assign(number=end) for end in ends)], ignore_index=True)
