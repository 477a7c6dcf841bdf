"""What ``ablation`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Which parts of the method matter: subtraction, selection, layers, positions, norms?"
CAST = "cast"
GROUPS = {
    "contrast": "Subtraction",
    "samples": "Samples",
    "layers": "Layers",
    "position": "Position",
    "operator": "Norm",
}


def placebo_of(variant: str) -> str:
    """The name of a variant's placebo."""
    return f"placebo: {variant}"


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    versus, methods = frames["versus"], frames["methods"]
    answer = [wording.pooled(methods, CAST), against_placebo(versus, CAST)]
    answer += [group_sentence(versus, group) for group in GROUPS]
    answer.append(chosen_against_random(versus))
    answer.append(verdict(versus))
    return Reading(
        tuple(part for part in answer if part),
        f"Every variant with the contrastive mean as the run makes it ({CAST}), and with a random direction of the "
        "variant's own norm, layer, strength, position and operator, on the same test queries over all pairs. The "
        "few-shot mean has layer and strength of its own from the source's validation split; chosen, random and all "
        f"samples stand at those of {CAST}; the others keep its layer and choose their strength there, from "
        "two strengths more than it had. P-values are corrected after Holm over the table of comparisons.",
        wording.LIMITS
        + " Variants are changed one at a time: how two changes act together is not seen. The few-shot "
        f"mean as it is has the length of a residual, many times that of {CAST}, and may fail for that alone: with the "
        f"norm of {CAST} only its direction is judged. A strength chosen on few validation queries is itself "
        "uncertain, so that a variant may do better at another one. " + wording.detectable(methods, CAST),
    )


def _rows(versus: pd.DataFrame, metric: str = "exact_match") -> pd.DataFrame:
    return versus[versus["metric"] == metric]


def against_placebo(versus: pd.DataFrame, variant: str) -> str:
    """A variant minus its own placebo."""
    rows = _rows(versus)
    rows = rows[(rows["method"] == variant) & (rows["against"] == placebo_of(variant))]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return f"{variant} against its placebo: {_difference(row.to_dict())}."


def _difference(row: dict[Any, Any]) -> str:
    return (
        f"{wording.points(row['difference'])} points {wording.interval(row['low'], row['high'])} "
        f"(adjusted p = {row['p_adjusted']:.2g}, n = {row['n']})"
    )


def group_sentence(versus: pd.DataFrame, group: str) -> str:
    """The variants of one group against the reference, and against their placebos."""
    rows = _rows(versus)
    mine = rows[(rows["group"] == group) & (rows["against"] == CAST)]
    parts = []
    for row in mine.to_dict("records"):
        placebo = rows[
            (rows["method"] == row["method"]) & (rows["against"] == placebo_of(str(row["method"])))
        ]
        own = f", {wording.points(placebo['difference'].iloc[0])} against its placebo" if len(placebo) else ""
        parts.append(f"{row['method']} {_difference(row)}{own}")
    return f"{GROUPS[group]}, exact match against {CAST}: {'; '.join(parts)}." if parts else ""


def chosen_against_random(versus: pd.DataFrame) -> str:
    """Whether the choice of samples is more than a draw."""
    rows = _rows(versus)
    rows = rows[(rows["method"] == "chosen samples") & (rows["against"] == "random samples")]
    if rows.empty:
        return ""
    return f"Chosen samples against random ones of the same number: {_difference(rows.iloc[0].to_dict())}."


def verdict(versus: pd.DataFrame) -> str:
    """Which parts matter, by the corrected tests."""
    rows = versus[(versus["against"] == CAST) & versus["metric"].isin(["exact_match", "choice_correct"])]
    if rows.empty:
        return ""
    sure = rows[rows["p_adjusted"] < 0.05]
    tests = int(versus["n_tests"].max())
    if sure.empty:
        return (
            f"No variant differs from {CAST} in exact match or label-restricted accuracy after Holm's correction over "
            f"{tests} tests: this run does not show that any single part matters."
        )
    told = [
        f"{row['method']} is {'worse' if row['difference'] < 0 else 'better'} than {CAST} in "
        f"{wording.NAMES[row['metric']]} by {wording.points(abs(row['difference'])).removeprefix('+')} points"
        for row in sure.to_dict("records")
    ]
    return (
        f"After Holm's correction over {tests} tests (p < 0.05): {'; '.join(told)}; no other variant differs."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gains of all variants over zero-shot, and differences to the reference."""
    from ... import plots

    methods, versus = frames["methods"], frames["versus"]
    found = [
        Drawing(
            "variants",
            "Every variant and its placebo",
            "Mean gain over zero-shot over all pairs, with 95 % intervals over queries. Grey: each variant's placebo.",
            "Forest plot of the gain of each variant and placebo in exact match, validity and label-restricted "
            "accuracy.",
            plots.plot_methods(methods, sort=False),
            methods,
        )
    ]
    against = versus[versus["against"] == CAST]
    if len(against):
        renamed = against.rename(columns={"difference": "gain", "low": "gain_low", "high": "gain_high"})
        found.append(
            Drawing(
                "against_cast",
                "Every variant against the contrastive mean",
                f"Difference to {CAST} on the same queries over all pairs, with 95 % intervals.",
                "Forest plot of the difference between each variant and the contrastive mean.",
                plots.plot_methods(renamed, baseline=CAST, sort=False),
                renamed,
            )
        )
    return found
