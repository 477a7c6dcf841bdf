"""What ``zero-shot-sensitivity`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..stability import cosine_lines

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "How far do vectors turn when the zero-shot prompt is worded differently?"
DEFAULT = "default"
SIDES = ("zero-shot side", "both sides")
PLACEBO = "placebo: random direction"


def named(name: str, side: str = "") -> str:
    """The method of a vector: wording, and the side of the difference that is worded so."""
    return f"{name}, {side}" if side else f"{name} vector"


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods, versus, geometry = frames["methods"], frames["versus"], frames["geometry"]
    answer = [turning(geometry, side) for side in SIDES]
    if len(methods):
        answer += [
            fixed(methods, versus),
            against_default(versus),
            placebo(versus),
            varied(methods),
            levels(methods),
        ]
    return Reading(
        tuple(part for part in answer if part),
        "Vectors of the same samples under other wordings, with the default vector: their directions, beside how far "
        "another draw of as many samples would turn it; and what they do to targets at the default vector's norm, "
        "layer and strength, once under the default prompts, once under the wording itself, each against zero-shot "
        "under the same prompts. P-values are corrected after Holm over the table of comparisons.",
        wording.LIMITS
        + " A handful of wordings is no sample of all that people would write. Layer and strength were "
        "chosen for the default wording, so a loss elsewhere may be a matter of the setting. At one norm nothing is "
        "said on how wordings change a vector's length; the table of cosines has it.",
    )


def turning(geometry: pd.DataFrame, side: str) -> str:
    """How far vectors turn at the setting's layer, beside sampling."""
    if geometry.empty:
        return ""
    rows = geometry[geometry["at_setting"].astype(bool) & (geometry["side"] == side)]
    if rows.empty:
        return ""
    told = "; ".join(
        f"{name} {part['cosine'].mean():.3f} ({part['cosine'].min():.3f} to {part['cosine'].max():.3f})"
        for name, part in rows.groupby("wording", sort=False)
    )
    beyond = int((rows["cosine"] < rows["sampling"]).sum())
    where = "only the zero-shot side" if side == SIDES[0] else "both sides"
    return (
        f"With {where} worded otherwise the vector's cosine to the default one, at its layer, mean and range over "
        f"{rows['source'].nunique()} sources: {told}. Another draw of samples, with the same demonstrations, would "
        f"give about {rows['sampling'].mean():.3f}: {beyond} of {len(rows)} vectors turn further than that."
    )


def _fixed(frame: pd.DataFrame, metric: str = "exact_match") -> pd.DataFrame:
    return frame[(frame["prompt"] == DEFAULT) & (frame["metric"] == metric)]


def fixed(methods: pd.DataFrame, versus: pd.DataFrame) -> str:
    """Gains of all vectors under the default prompts."""
    rows = _fixed(methods)
    own = rows[rows["method"] == named(DEFAULT)]
    rest = rows[~rows["method"].isin([named(DEFAULT), PLACEBO])]
    if own.empty or rest.empty:
        return ""
    first, low, high = own.iloc[0], rest.loc[rest["gain"].idxmin()], rest.loc[rest["gain"].idxmax()]
    return (
        f"Under the default prompts the default vector changes exact match by {wording.points(first['gain'])} points "
        f"{wording.interval(first['gain_low'], first['gain_high'])} (n = {first['n']}); those of other wordings from "
        f"{wording.points(low['gain'])} ({low['method']}) to {wording.points(high['gain'])} ({high['method']})."
    )


def against_default(versus: pd.DataFrame) -> str:
    """Which vectors differ from the default one downstream."""
    rows = versus[(versus["prompt"] == DEFAULT) & (versus["against"] == named(DEFAULT))]
    if rows.empty:
        return ""
    tests, sure = int(versus["n_tests"].max()), rows[rows["p_adjusted"] < 0.05]
    if sure.empty:
        top = rows.loc[rows["difference"].abs().idxmax()]
        return (
            f"None of {rows['method'].nunique()} differs from it in any metric after Holm's correction over {tests} "
            f"tests; the largest difference is {wording.points(top['difference'])} points "
            f"{wording.interval(top['low'], top['high'])} in {wording.NAMES[top['metric']]} ({top['method']})."
        )
    told = "; ".join(
        f"{row['method']} {wording.points(row['difference'])} points {wording.interval(row['low'], row['high'])} in "
        f"{wording.NAMES[row['metric']]}"
        for row in sure.to_dict("records")
    )
    return f"These differ from it after Holm's correction over {tests} tests: {told}."


def placebo(versus: pd.DataFrame) -> str:
    """How many vectors exceed a random direction."""
    rows = _fixed(versus)
    rows = rows[rows["against"] == PLACEBO]
    if rows.empty:
        return ""
    up = int(((rows["p_adjusted"] < 0.05) & (rows["difference"] > 0)).sum())
    return (
        f"{up} of {len(rows)} vectors, the default one included, exceed a random direction of the same norm in exact "
        f"match there (corrected p < 0.05; mean difference {wording.points(rows['difference'].mean())} points)."
    )


def varied(methods: pd.DataFrame) -> str:
    """Gains when the target's own prompts are worded otherwise."""
    rows = methods[(methods["prompt"] != DEFAULT) & (methods["metric"] == "exact_match")]
    parts = []
    for prompt, part in rows.groupby("prompt", sort=False):
        own = [
            f"{kind} {wording.points(one['gain'].iloc[0])} "
            f"{wording.interval(one['gain_low'].iloc[0], one['gain_high'].iloc[0])}"
            for kind, method in (
                ("default vector", named(DEFAULT)),
                ("its own", named(str(prompt), SIDES[1])),
            )
            if len(one := part[part["method"] == method])
        ]
        if own:
            parts.append(f"{prompt}: {', '.join(own)}")
    if not parts:
        return ""
    told = "; ".join(parts)
    return f"With the target's prompts worded otherwise, points of exact match over zero-shot there: {told}."


def levels(methods: pd.DataFrame) -> str:
    """How much the wording alone moves zero-shot."""
    rows = methods[methods["metric"] == "exact_match"].drop_duplicates("prompt")
    if len(rows) < 2:
        return ""
    low, high = rows.loc[rows["baseline"].idxmin()], rows.loc[rows["baseline"].idxmax()]
    return (
        f"Wording alone moves zero-shot between {100 * low['baseline']:.1f} % ({low['prompt']}) and "
        f"{100 * high['baseline']:.1f} % ({high['prompt']})."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Cosine by layer, and gains under the default prompts."""
    from ... import plots

    methods, geometry = frames["methods"], frames["geometry"]
    found = [_by_layer(geometry, side, config) for side in SIDES] if len(geometry) else []
    rows = methods[methods["prompt"] == DEFAULT] if len(methods) else methods
    if len(rows):
        found.append(
            Drawing(
                "vectors",
                "Vectors of other wordings on the default prompts",
                "Mean gain over zero-shot over all pairs at one norm, layer and strength, with 95 % intervals over "
                "queries.",
                "Forest plot of the gain under the default vector, those of other wordings, and a placebo.",
                plots.plot_methods(rows, sort=False),
                rows,
            )
        )
    return found


def _by_layer(geometry: pd.DataFrame, side: str, config: ExperimentConfig) -> Drawing:
    from ... import plots

    rows = geometry[geometry["side"] == side]
    frame = cosine_lines(rows, rows["wording"], samples=config.samples)
    return Drawing(
        f"turning_{side.replace(' ', '_').replace('-', '_')}",
        f"How far the vector turns: {side}",
        "Cosine to the default vector, mean and range over sources. Dotted: what another draw of samples would give. "
        "Vectors are means of n samples.",
        f"Lines of cosine by layer, one for each wording of the {side}, with the noise of sampling.",
        plots.plot_scaling(frame, x_title="layer", y_title="cosine to the default vector", share=False),
        frame,
    )
