"""What ``cross-lingual`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig
from ..stability import cosine_lines

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Does a vector taken in one language help in another?"
OUT = "to other languages"
BACK = "from other languages"
OWN = "own language"
RANDOM = "placebo: random direction"
SHUFFLED = "placebo: shuffled labels"


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods, versus, result = frames["methods"], frames["versus"], frames["result"]
    answer: list[str] = []
    for way in (OUT, BACK):
        name = f"cast, {way}"
        answer += [verdict(versus, way), wording.pooled(methods, name)]
        answer += [wording.pooled(methods, name, metric="choice_correct"), beside(versus, way)]
        answer += [wording.significant(result, name)]
    answer += [foreign(methods), nearness(frames["geometry"])]
    return Reading(
        tuple(part for part in answer if part),
        f"A task's vector of one language on the same {config.test} test queries as zero-shot in another, with "
        "instruction, cues and labels of the target's language; beside it a random direction and the vector of "
        "shuffled demonstrations, of the same norm, layer and strength, the target language's own vector, and "
        "demonstrations in the prompt. Layer and strength were chosen on the validation split of the vector's own "
        "language. P-values of the comparisons are corrected after Holm.",
        wording.LIMITS
        + " Source and target are translations of one task by the same rules, in languages of one "
        "script and much shared vocabulary unless the configuration says otherwise; nothing follows for distant "
        "languages. Labels that look alike in two languages (positive, positiv) make transfer of form easy."
        f" {wording.detectable(methods, f'cast, {OUT}')}",
    )


def _row(versus: pd.DataFrame, way: str, against: str, metric: str = "exact_match") -> pd.Series | None:
    rows = versus[(versus["method"] == f"cast, {way}") & (versus["against"] == against)]
    rows = rows[rows["metric"] == metric]
    return None if rows.empty else rows.iloc[0]


def verdict(versus: pd.DataFrame, way: str) -> str:
    """Whether a transferred vector exceeds each of its placebos, in each metric."""
    parts = []
    for metric in wording.metrics(versus):
        told = [
            f"{wording.verdict(row, 'exceeds', 'falls below', 'cannot be told from')} {name} "
            f"({wording.points(row['difference'])} points "
            f"{wording.interval(row['low'], row['high'])}, adjusted p = {row['p_adjusted']:.2g})"
            for name, rival in (("a random direction", RANDOM), ("the vector of shuffled labels", SHUFFLED))
            if (row := _row(versus, way, f"{rival}, {way}", metric)) is not None
        ]
        if told:
            parts.append(f"{wording.NAMES[metric]} {' and '.join(told)}")
    head = "A vector taken to other languages" if way == OUT else "A vector brought back from other languages"
    return f"{head}: {'; '.join(parts)}." if parts else ""


def beside(versus: pd.DataFrame, way: str) -> str:
    """A transferred vector beside the target language's own, and beside demonstrations."""
    parts = []
    for against, name in (
        (f"cast, {OWN}", "the target language's own vector"),
        (f"few-shot, {way}", "demonstrations"),
    ):
        row = _row(versus, way, against)
        if row is not None:
            parts.append(
                f"against {name} {wording.points(row['difference'])} points "
                f"{wording.interval(row['low'], row['high'])} (adjusted p = {row['p_adjusted']:.2g})"
            )
    return f"Exact match under cast {way}, {'; '.join(parts)}." if parts else ""


def foreign(methods: pd.DataFrame) -> str:
    """How often answers are labels of another language."""
    rows = methods.drop_duplicates("method").set_index("method")["foreign"]
    told = [
        f"{way} {100 * rows[f'cast, {way}']:.1f} %"
        for way in (OUT, BACK, OWN)
        if f"cast, {way}" in rows.index
    ]
    if not told:
        return ""
    base = 100 * methods["baseline_foreign"].iloc[0]
    return (
        f"Answers that are a label of another language than the target's: {', '.join(told)} under cast, {base:.1f} % "
        "under zero-shot."
    )


def nearness(geometry: pd.DataFrame) -> str:
    """How parallel the vectors of two languages are."""
    if geometry.empty:
        return ""
    rows = geometry[geometry["at_setting"].astype(bool)]
    listed = "; ".join(f"{row.base} {row.language} {row.cosine:.2f}" for row in rows.itertuples())
    return (
        f"Cosine to the home language's vector at its layer: {listed}. Another draw of as many samples of the home "
        f"language, with the same demonstrations, would give about {rows['sampling'].mean():.2f}."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """The forest of methods, the matrix of languages, and cosines by layer."""
    from ... import plots

    methods, result, geometry = frames["methods"], frames["result"], frames["geometry"]
    found = [
        Drawing(
            "methods",
            "Out, back and at home",
            "Mean gain over zero-shot over all pairs, with 95 % intervals over queries. Grey: placebos.",
            "Forest plot of the gain of vectors and demonstrations within and across languages.",
            plots.plot_methods(methods),
            methods,
        ),
        Drawing(
            "matrix",
            "What one language's vector does in another",
            "Change against zero-shot in percentage points. Bold: the interval excludes zero.",
            "Heat maps of gain by target and source language.",
            plots.plot_transfer_matrix(result, metrics=wording.metrics(result), method="cast"),
            result,
        ),
    ]
    if len(geometry):
        frame = cosine_lines(geometry, geometry["base"] + ", " + geometry["language"], samples=config.samples)
        found.append(
            Drawing(
                "cosines",
                "How parallel vectors of two languages are",
                "Cosine to the vector of the home language, layer by layer. Dotted: what another draw of samples of "
                "the home language would give, mean and range over tasks. Vectors are means of n samples.",
                "Lines of cosine by layer, one for each task and language, with the noise of sampling.",
                plots.plot_scaling(
                    frame, x_title="layer", y_title="cosine to the home language", share=False
                ),
                frame,
            )
        )
    return found
