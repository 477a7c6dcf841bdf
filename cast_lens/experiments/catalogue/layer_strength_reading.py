"""What ``layer-strength`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...effects import NEUTRAL_TEXTS
from .. import wording
from ..grids import CHOSEN, HALVES, NEAR, ORACLE
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..transfer_matrix import RANDOM

if TYPE_CHECKING:
    import pandas as pd

VECTOR = "cast"
KINDS = (VECTOR, RANDOM)
METRICS = {
    "first_match": "first token right",
    "choice_correct": "label-restricted accuracy",
    "first_valid": "first token admissible",
}
# Metrics whose optimum is looked for; an admissible first token alone is no aim.
AIMS = ("first_match", "choice_correct")
# A perplexity this many times the unsteered one counts as broken.
BROKEN = 2.0


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    answer = [
        *(_gain(frames["pooled"], metric) for metric in AIMS),
        *(_luck(frames["pooled"], frames["pairs"], metric) for metric in AIMS),
        _width(frames["pairs"]),
        *_costs(frames["collapse"]),
    ]
    return Reading(
        tuple(sentence for sentence in answer if sentence),
        f"Every cell of the grid and the unsteered model answered the same {config.test} test queries of each target. "
        f"The placebo is one random direction a source, of the vector's norm at each layer, over the same grid; on "
        f"plain text both read the same {min(config.texts, len(NEUTRAL_TEXTS))} texts.",
        "The first token and the label-restricted choice stand in for whole answers, which are not written at every "
        "cell. What is called oracle was chosen with target labels and is no result of transfer; its value on the "
        "other half is that of choosing on half of the examples. Intervals are over test queries of these tasks, with "
        "one draw of demonstrations and one placebo direction a source; those on the other half do not cover another "
        "choice of halves. The plain texts are short and in English.",
    )


def _gain(pooled: pd.DataFrame, metric: str) -> str:
    """The chosen cell, with its placebo."""
    own, placebo = (_at(pooled, kind, metric, CHOSEN) for kind in KINDS)
    if own is None or placebo is None:
        return ""
    return (
        f"{METRICS[metric].capitalize()} at the layer and strength chosen on the source's own validation split: "
        f"{_points(own)} points against the unsteered model over {own['pairs']} pairs and {own['n']} answers; the "
        f"random direction there {_points(placebo)}."
    )


def _luck(pooled: pd.DataFrame, pairs: pd.DataFrame, metric: str) -> str:
    """The oracle, what is left of it, and the same of the placebo."""
    best, half = (_at(pooled, VECTOR, metric, at) for at in (ORACLE, HALVES))
    placebo, placebo_half = (_at(pooled, RANDOM, metric, at) for at in (ORACLE, HALVES))
    if best is None or half is None or placebo is None or placebo_half is None:
        return ""
    return (
        f"The oracle, the best of {pairs['cells'].max()} cells on the target itself, shows {_points(best)} points in "
        f"{METRICS[metric]}; chosen on one half of the examples and measured on the other, {_points(half)}: "
        f"{wording.points(best['gain'] - half['gain'])} points of it are the luck of the best. For the random "
        f"direction the same numbers are {_points(placebo)} and {_points(placebo_half)}."
    )


def _width(pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return ""
    rows = pairs[(pairs["kind"] == VECTOR) & (pairs["metric"] == AIMS[0]) & ~pairs["own"].astype(bool)]
    if rows.empty:
        return ""
    known = rows["near_share"].dropna()
    near = (
        f"; there {100 * known.median():.0f} % of the cells (median over pairs) come within {100 * NEAR:.0f} % of the "
        "best gain"
        if len(known)
        else ""
    )
    return (
        f"Width: in {len(known)} of {len(rows)} pairs some cell gains in {METRICS[AIMS[0]]}{near}. Over all pairs "
        f"{100 * rows['losing_share'].mean():.0f} % of the cells lose."
    )


def _costs(collapse: pd.DataFrame) -> list[str]:
    """Plain text under each source's chosen setting, and where it breaks at the chosen layer."""
    sentences = []
    for source in dict.fromkeys(collapse.get("source", ())):
        part = collapse[collapse["source"] == source]
        own, placebo = (part[part["chosen"] & (part["kind"] == kind)].iloc[0] for kind in KINDS)
        column = part[part["layer"] == own["layer"]]
        ends = [_broken(column[column["kind"] == kind]) for kind in KINDS]
        sentences.append(
            f"Plain text under {source} at layer {own['layer']}, strength {own['strength']:g}: perplexity × "
            f"{own['ratio']:.2f} [{own['ratio_low']:.2f}, {own['ratio_high']:.2f}], KL {own['kl']:.2f} nats (n = "
            f"{own['n']} texts); random direction × {placebo['ratio']:.2f}, KL {placebo['kl']:.2f}. Perplexity reaches "
            f"{BROKEN:g} times the unsteered one {ends[0]} (random direction: {ends[1]})."
        )
    return sentences


def _broken(column: pd.DataFrame) -> str:
    over = column[column["ratio"] >= BROKEN]
    if over.empty:
        return f"nowhere up to strength {column['strength'].max():g}"
    return f"from strength {over['strength'].min():g}"


def _at(pooled: pd.DataFrame, kind: str, metric: str, at: str) -> pd.Series | None:
    if pooled.empty:
        return None
    rows = pooled[(pooled["kind"] == kind) & (pooled["metric"] == metric) & (pooled["at"] == at)]
    return None if rows.empty else rows.iloc[0]


def _points(row: pd.Series) -> str:
    low, high = row["gain_low"], row["gain_high"]
    if low != low:
        return wording.points(row["gain"])
    if low == high == 0:
        return f"{wording.points(row['gain'])} (no answer changed)"
    return f"{wording.points(row['gain'])} {wording.interval(low, high)}"


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """One grid a target, and the costs of strength."""
    from ... import plots

    result, collapse = frames["result"], frames["collapse"]
    found = []
    for target in dict.fromkeys(result.get("target", ())):
        part = result[result["target"] == target]
        figure = plots.plot_sweep(part).update_layout(title_text=f"Layer and strength on {target}")
        found.append(
            Drawing(
                f"grid-{target}",
                f"Layer and strength on {target}",
                "Each source's vector over the grid, a random direction of its norm below. The ring is what the "
                "source's own validation split chose; brighter cells elsewhere are only known with target labels.",
                f"Heat maps over layer and strength for every source on {target}.",
                figure,
                part,
            )
        )
    if len(collapse):
        lines = _lines(collapse)
        figure = plots.plot_scaling(lines, x_title="strength", y_title="perplexity ratio", share=False)
        used = sorted(lines["x"].unique())
        figure.update_xaxes(type="log", tickvals=used, ticktext=[f"{value:g}" for value in used])
        figure.update_yaxes(type="log", exponentformat="power")
        found.append(
            Drawing(
                "collapse",
                "What strength costs on plain text",
                "Perplexity on neutral text over the unsteered one's, at each source's chosen layer, with 95 % "
                "intervals over texts; both axes are logarithmic.",
                "Lines of the perplexity ratio by strength, a vector and a random direction for each source.",
                figure,
                lines,
            )
        )
    return found


def _lines(collapse: pd.DataFrame) -> pd.DataFrame:
    """Rows at each source's chosen layer, as ``plot_scaling`` takes them."""
    layer = collapse[collapse["chosen"]].groupby("source")["layer"].first()
    rows = collapse[collapse["layer"] == collapse["source"].map(layer)]
    names = rows["source"].where(rows["kind"] == VECTOR, RANDOM + " (" + rows["source"] + ")")
    return rows.assign(
        x=rows["strength"], y=rows["ratio"], low=rows["ratio_low"], high=rows["ratio_high"], method=names
    )
