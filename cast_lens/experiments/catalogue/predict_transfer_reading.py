"""What ``predict-transfer`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("exact_match", "choice_correct")
NEEDS = {
    "parallelism": "labelled demonstrations of source and target",
    "residual similarity": "unlabelled target queries",
    "cohesion": "the source alone",
    "separability": "the source alone",
    "selection spread": "the source alone",
    "nearness to in-context learning": "unlabelled target queries, source demonstrations",
    "approach to in-context learning": "unlabelled target queries, source demonstrations",
    "task embedding": "unlabelled target queries",
}
"""What each predictor reads; none reads a gold answer of a test query."""
WITHOUT_LABELS = tuple(name for name in NEEDS if name != "parallelism")
TOGETHER = "together, without target labels"
SURE = 0.05


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    predictors, result = frames["predictors"], frames["result"]
    answer = [sentence for metric in METRICS for sentence in _sentences(predictors, result, metric)]
    return Reading(
        tuple(answer),
        "Numbers known beforehand, against the change that the source's vector at its own setting made on "
        f"{config.test} test queries of every other task. For each target, the way to read a number (its direction and "
        "a threshold) was learned on the pairs without that task. The baseline calls every pair by the sign that most "
        "pairs have, known in hindsight; an AUROC of 0.5 is a coin.",
        "The pairs are few and share their tasks, so intervals are wide, and an AUROC that lies within them of 0.5 is "
        "not shown to differ from a coin; their targets are redrawn, the reading is not learned anew. The sign of a "
        "small gain is partly chance, which no predictor can foretell. Parallelism reads labelled target "
        "demonstrations, though none of the test answers; the queries that the others read are drawn evenly from the "
        "target's classes, without being shown with their labels. Numbers that know the source alone cannot tell its "
        "targets apart. Several predictors were tried, and the best of them is named after the fact. "
        + wording.LIMITS,
    )


def _sentences(predictors: pd.DataFrame, result: pd.DataFrame, metric: str) -> list[str]:
    rows = predictors[predictors["metric"] == metric] if len(predictors) else predictors
    if rows.empty:
        return []
    pairs = result[result["metric"] == metric]
    lost = int((pairs["gain"] < 0).sum())
    opening = (
        f"{wording.NAMES[metric].capitalize()}: {lost} of {len(pairs)} pairs lose, by "
        f"{wording.points(pairs['gain'].min())} points at the worst; the mean change is "
        f"{wording.points(pairs['gain'].mean())} points."
    )
    return [opening, _signs(rows, lost, len(pairs)), _ranks(rows)]


def _signs(rows: pd.DataFrame, lost: int, pairs: int) -> str:
    """How well signs are foretold."""
    known = rows.dropna(subset=["auroc"])
    if known.empty:
        return f"With {lost} of {pairs} pairs losing there are not both kinds, so no sign can be foretold."
    best = known.loc[known["auroc"].idxmax()]
    sure = known.dropna(subset=["auroc_low"])
    above = (
        f"the interval lies above 0.5 for {int((sure['auroc_low'] > 0.5).sum())} of {len(sure)} predictors, which is "
        "not corrected for their number"
        if len(sure)
        else "with so few losing or so few other targets there is no interval, and nothing is shown"
    )
    better = int((known["accuracy"] > known["always"]).sum())
    return (
        f"The highest AUROC on held-out targets is that of {best['predictor']}: {best['auroc']:.2f}{_ends(best)} (it "
        f"needs {best['needs']}); {above}. {better} of {len(known)} name the sign more often than the baseline's "
        f"{100 * known['always'].iloc[0]:.0f} %; the best names {100 * known['accuracy'].max():.0f} %."
    )


def _ends(row: pd.Series) -> str:
    known = row["auroc_low"] == row["auroc_low"]
    return f" [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}]" if known else ""


def _ranks(rows: pd.DataFrame) -> str:
    known = rows.dropna(subset=["correlation", "p_adjusted"])
    if known.empty:
        return "No rank correlation is defined: predictors or gains do not differ."
    strongest = known.loc[known["correlation"].abs().idxmax()]
    sure = known[known["p_adjusted"] < SURE]
    value = f"{strongest['correlation']:+.2f}".replace("-", "−")
    names = f" ({', '.join(sure['predictor'])})" if len(sure) else ""
    return (
        f"Rank correlation with the size of the gain: strongest for {strongest['predictor']}, {value}, Holm p = "
        f"{strongest['p_adjusted']:.3f}; {len(sure)} of {len(known)} stand after correction for "
        f"{int(known['n_tests'].max())} tests{names}."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Gain against the predictor that ranks pairs best, for each metric."""
    from ... import plots

    predictors, result = frames["predictors"], frames["result"]
    found = []
    for metric in METRICS:
        rows = predictors[predictors["metric"] == metric] if len(predictors) else predictors
        rows = rows.dropna(subset=["auroc"]) if len(rows) else rows
        if rows.empty:
            continue
        lines = _as_gains(rows, metric)
        figure = plots.plot_methods(lines, metrics=(metric,), sort=False)
        figure.update_layout(title_text=f"AUROC for the sign of the change in {wording.NAMES[metric]}")
        figure.update_xaxes(title_text="AUROC less 0.5, times 100")
        found.append(
            Drawing(
                f"auroc-{metric}",
                f"Foretelling the sign: {wording.NAMES[metric]}",
                "AUROC of each predictor on held-out targets, less the 0.5 of a coin, with 95 % intervals over "
                f"targets; {len(result[result['metric'] == metric])} pairs.",
                f"Forest plot of the AUROC of each predictor for the sign of the change in {wording.NAMES[metric]}.",
                figure,
                lines,
            )
        )
    return found


def _as_gains(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows as ``plot_methods`` takes them: the line of a coin at 0."""
    return rows.assign(
        method=rows["predictor"],
        metric=metric,
        gain=rows["auroc"] - 0.5,
        gain_low=rows["auroc_low"] - 0.5,
        gain_high=rows["auroc_high"] - 0.5,
        n=rows["pairs"],
    )
