"""What ``shots`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..contrasts import gain_lines
from ..protocol import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..turning import cosine_lines

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "How many demonstrations should the few-shot side of the difference have?"
PLACEBO = "placebo: "


def named(shots: int) -> str:
    """The method of a vector behind so many demonstrations."""
    return f"cast, k={shots}"


def parsed(method: str) -> int:
    """The number in a name; 0 without one."""
    number = method.rpartition("k=")[2]
    return int(number) if number.isdigit() else 0


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods, steps, geometry = frames["methods"], frames["steps"], frames["geometry"]
    answer = [levels(methods)] if len(methods) else []
    answer += [steps_taken(steps, metric) for metric in wording.metrics(steps)] if len(steps) else []
    answer += [against_placebos(steps)] if len(steps) else []
    answer += [turning(geometry)] if len(geometry) else []
    known = set(geometry["shots"]) if len(geometry) else set(methods["shots"]) - {0}
    gone = sorted(set(config.few_shots) - known)
    left_out = (
        f" Left out, beyond the train split or the context of every source: {', '.join(map(str, gone))}."
        if gone
        else ""
    )
    return Reading(
        tuple(part for part in answer if part),
        "Vectors of the same queries behind lists of demonstrations of different length, each list holding the shorter "
        "ones, at the layer of the run's own vector and each at a strength of its own from the source's validation "
        "split, on the same test queries. Placebos are random directions of each vector's norm at its strength."
        + left_out,
        wording.LIMITS
        + " One list of demonstrations was drawn for each source: that a longer list does better may be "
        "the demonstrations that it adds and not their number. The layer is that of the run's own number of "
        "demonstrations.",
    )


def levels(methods: pd.DataFrame) -> str:
    """The gain at each number."""
    rows = methods[(methods["metric"] == "exact_match") & methods["method"].str.startswith("cast")]
    if rows.empty:
        return ""
    told = "; ".join(
        f"k = {row['shots']}: {wording.points(row['gain'])} points "
        f"{wording.interval(row['gain_low'], row['gain_high'])}"
        for row in rows.sort_values("shots").to_dict("records")
    )
    return (
        f"Exact match over zero-shot ({100 * rows['baseline'].iloc[0]:.1f} %), over {rows['pairs'].max()} pairs and "
        f"{rows['n'].max()} answers: {told}."
    )


def steps_taken(steps: pd.DataFrame, metric: str) -> str:
    """Where a longer list made a difference."""
    rows = steps[(steps["metric"] == metric) & ~steps["against"].str.startswith("placebo")]
    if rows.empty:
        return ""
    tests, name = int(steps["n_tests"].max()), wording.NAMES[metric]
    sure = rows[rows["p_adjusted"] < 0.05]
    if sure.empty:
        top = rows.loc[rows["difference"].abs().idxmax()]
        return (
            f"In {name} no longer list differs from the next shorter one after Holm's correction over {tests} tests; "
            f"the largest step is from {top['against']} to {top['method']}: {wording.points(top['difference'])} points "
            f"{wording.interval(top['low'], top['high'])}."
        )
    told = "; ".join(
        f"from {row['against']} to {row['method']} {wording.points(row['difference'])} points "
        f"{wording.interval(row['low'], row['high'])}"
        for row in sure.to_dict("records")
    )
    return f"In {name} these steps stand after Holm's correction over {tests} tests: {told}."


def against_placebos(steps: pd.DataFrame) -> str:
    """Which vectors exceed a random direction of their norm."""
    rows = steps[(steps["metric"] == "exact_match") & steps["against"].str.startswith("placebo")]
    if rows.empty:
        return ""
    sure = rows[(rows["p_adjusted"] < 0.05) & (rows["difference"] > 0)]
    which = ", ".join(f"k = {shots}" for shots in sure["shots"]) or "none"
    return (
        f"Of {len(rows)} vectors these exceed random directions of their norm in exact match (corrected p < 0.05): "
        f"{which}; the mean difference is {wording.points(rows['difference'].mean())} points."
    )


def turning(geometry: pd.DataFrame) -> str:
    """How far the vectors turn and grow, at the setting's layer."""
    rows = geometry[geometry["at_setting"].astype(bool) & (geometry["shots"] < geometry["most"])]
    if rows.empty:
        return ""
    by = rows.groupby("shots")
    told = "; ".join(
        f"k = {shots}: {part['cosine'].mean():.3f} ({part['cosine'].min():.3f} to {part['cosine'].max():.3f})"
        for shots, part in by
    )
    within = rows["cosine"] >= rows["sampling"]
    longest = geometry[geometry["at_setting"].astype(bool) & (geometry["shots"] == geometry["most"])]
    ratio = rows.groupby("shots")["norm"].mean() / longest["norm"].mean()
    norms = ", ".join(f"{shots}: {value:.2f}" for shots, value in ratio.items())
    draw_noise = rows["sampling"].mean()
    return (
        f"Cosine at the setting's layer to the vector of the longest list, mean and range over "
        f"{rows['source'].nunique()} sources: {told}. Another draw of as many queries, with the same "
        f"demonstrations, would give about {draw_noise:.3f}: {int(within.sum())} of {len(within)} vectors turn no "
        f"further than that. Norms as a share of the longest list's: {norms}."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gain by number of demonstrations; cosine to the longest list by layer."""
    from ... import plots

    methods, geometry = frames["methods"], frames["geometry"]
    found: list[Drawing] = []
    if len(methods):
        rows = methods[(methods["metric"] == "exact_match") & (methods["shots"] > 0)]
        frame = gain_lines(rows, rows["shots"], rows["method"].str.split(",").str[0])
        found.append(
            Drawing(
                "gain",
                "Gain by length of the list",
                "Gain in exact match over zero-shot over all pairs, with 95 % intervals over queries. Dotted: random "
                "directions of the same norms.",
                "Lines of the gain by number of demonstrations, of the vectors and of their placebos.",
                plots.plot_scaling(
                    frame, x_title="demonstrations", y_title="gain, percentage points", share=False
                ),
                frame,
            )
        )
    if len(geometry):
        found.append(_by_layer(geometry, config))
    return found


def _by_layer(geometry: pd.DataFrame, config: ExperimentConfig) -> Drawing:
    import pandas as pd

    from ... import plots

    rows = geometry[geometry["shots"] < geometry["most"]]
    rows = rows if len(rows) else geometry
    names = pd.Series([f"k = {shots}" for shots in rows["shots"]], index=rows.index)
    frame = cosine_lines(rows, names, samples=config.samples)
    return Drawing(
        "turning",
        "How far the vector turns",
        "Cosine to the vector of the longest list, mean and range over sources. Dotted: what another draw of samples "
        "would give. Vectors are means of n samples.",
        "Lines of cosine by layer, one for each number of demonstrations, with the noise of sampling.",
        plots.plot_scaling(frame, x_title="layer", y_title="cosine to the longest list", share=False),
        frame,
    )
