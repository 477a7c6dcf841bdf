"""What ``atv`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..atv_vectors import ANOTHER, AVERAGED, FACTORS, ONE_FOR_ALL
from ..config import RunConfig
from ..legacy import Drawing, Frames, Reading
from ..outcomes import gain_lines
from ..settings import ExperimentConfig
from ..trained_methods import ATV_FULL, ATV_LOW, LORA, PREFIX, STATIC

if TYPE_CHECKING:
    import pandas as pd

SEEN, TASK, FAMILY = "seen", "task held out", "family held out"
FOLDS = (SEEN, TASK, FAMILY)
WHERE = {
    SEEN: "On tasks seen in training",
    TASK: "On tasks held out of training",
    FAMILY: "On tasks whose whole family was held out",
}
CAST = "cast"
CAST_PLACEBO = "placebo: random direction (cast)"
RETRIEVED = "retrieved few-shot, own task"
ZERO = "zero-shot"


def few(config: RunConfig) -> str:
    """The method of demonstrations of the target."""
    return f"few-shot, k={config.shots}"


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    against, methods = frames["against"], frames["methods"]
    answer = [
        comparison(against, fold, other, metric)
        for fold in FOLDS
        for other in (ZERO, CAST)
        for metric in ("choice_correct", "exact_match")
    ]
    answer += [field(against, fold) for fold in FOLDS]
    answer += [conditioned(frames["variants"]), strengths(frames["variants"]), curve(frames["curve"])]
    answer += [placebo(methods, fold) for fold in FOLDS] + [costs(frames["costs"])]
    return Reading(
        tuple(part for part in answer if part),
        f"All methods on the same {config.test} test queries a target. What is trained saw the same examples "
        f"(at most {config.atv_examples[-1]} a task, {config.atv_holdout_examples} where something is held out, in the "
        "task's own template), in the same batches, with the same early stop on the same validation examples; LoRA and "
        "prefix-tuning have the parameters of the adaptive task vector of low rank. CAST adds the target's own mean "
        "difference vector where the target is seen, and else those of the tasks that were not held out; layer and "
        "strength come from each source's own validation split. Demonstrations are the target's own throughout: on "
        "held-out tasks they use labels that the others do not.",
        wording.LIMITS
        + " One training a method and fold: intervals do not cover another seed of training. Each method has one "
        "learning rate, chosen by validation loss on a small training of a few tasks; on other material another may "
        "be better, and adapters are known to depend on theirs. Latency compares two runtimes: adapters answer "
        "through transformers, everything else through hooks of TransformerLens, and the search of retrieved "
        "demonstrations is not in it.",
    )


def _row(frame: pd.DataFrame, **wanted: object) -> pd.Series | None:
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return None if frame.empty else frame.iloc[0]


def comparison(against: pd.DataFrame, fold: str, other: str, metric: str) -> str:
    """ATV against one other method; the verdict is that of the corrected test."""
    row = _row(against, fold=fold, against=other, metric=metric)
    if row is None:
        return ""
    verdict = wording.verdict(row, "above", "below", "not told from")
    return (
        f"{WHERE[fold]}, {wording.NAMES[metric]} of ATV is {100 * row['value']:.1f} %, {verdict} {other}'s "
        f"{100 * row['against_value']:.1f} %: {wording.points(row['difference'])} points "
        f"{wording.interval(row['low'], row['high'])} (n = {row['n']}, adjusted p = {row['p_adjusted']:.2g})."
    )


def field(against: pd.DataFrame, fold: str) -> str:
    """ATV against everything else that was trained or shown, in label-restricted accuracy."""
    rows = against[(against["fold"] == fold) & (against["metric"] == "choice_correct")]
    rows = rows[~rows["against"].isin([ZERO, CAST]) & ~rows["against"].str.startswith("placebo")]
    if rows.empty:
        return ""
    parts = [
        f"{row['against']} {wording.points(row['difference'])} {wording.interval(row['low'], row['high'])}"
        for row in rows.to_dict("records")
    ]
    return f"{WHERE[fold]}, label-restricted accuracy of ATV less that of: {'; '.join(parts)}."


def conditioned(variants: pd.DataFrame) -> str:
    """Whether reading the query matters."""
    parts = []
    for metric in wording.metrics(variants):
        found = {
            name: _row(variants, method=name, metric=metric)
            for name in (ATV_FULL, AVERAGED, ONE_FOR_ALL, ANOTHER)
        }
        told = [
            f"{_short(name)} {wording.points(row['gain'])} {wording.interval(row['gain_low'], row['gain_high'])}"
            for name, row in found.items()
            if row is not None
        ]
        if len(told) > 1:
            parts.append(f"{wording.NAMES[metric]}: {', '.join(told)}")
    if not parts:
        return ""
    return f"Gain over zero-shot with the query's own vectors, and without them, in {'; in '.join(parts)}."


def _short(name: str) -> str:
    return {
        ATV_FULL: "own vectors",
        AVERAGED: "the task's mean",
        ONE_FOR_ALL: "the mean of all tasks",
        ANOTHER: "another query's of the same task",
    }[name]


def strengths(variants: pd.DataFrame) -> str:
    """The strength that was trained against others."""
    metric = wording.metrics(variants)[0] if len(variants) else ""
    names = [f"{ATV_FULL} × {factor:g}" for factor in FACTORS]
    names.insert(sum(factor < 1 for factor in FACTORS), ATV_FULL)
    rows = [_row(variants, method=name, metric=metric) for name in names]
    told = [
        f"{wording.points(row['gain'])} at {name.removeprefix(ATV_FULL).removeprefix(' × ') or '1'}"
        for name, row in zip(names, rows, strict=True)
        if row is not None
    ]
    if len(told) < 2:
        return ""
    return f"Gain in {wording.NAMES[metric]} by the factor on the strength of training: {', '.join(told)} points."


def curve(frame: pd.DataFrame) -> str:
    """Fewest against most examples."""
    parts = []
    for metric in wording.metrics(frame):
        rows = frame[(frame["method"] == ATV_FULL) & (frame["metric"] == metric)].sort_values("examples")
        if len(rows) > 1:
            told = [f"{wording.points(row['gain'])} at {row['examples']}" for row in rows.to_dict("records")]
            parts.append(f"{wording.NAMES[metric]} {', '.join(told)}")
    return f"Gain of ATV by training examples a task: {'; '.join(parts)}." if parts else ""


def placebo(methods: pd.DataFrame, fold: str) -> str:
    """The strongest placebo of a fold."""
    rows = methods[(methods["fold"] == fold) & (methods["metric"] == "exact_match")]
    rows = rows[rows["method"].str.startswith("placebo")]
    if rows.empty:
        return ""
    best = rows.loc[rows["gain"].idxmax()]
    return (
        f"{WHERE[fold]}, the strongest placebo ({best['method'].removeprefix('placebo: ')}) gains "
        f"{wording.points(best['gain'])} points {wording.interval(best['gain_low'], best['gain_high'])} in exact match."
    )


def costs(frame: pd.DataFrame) -> str:
    """Parameters and training time of what was trained."""
    rows = frame[frame["method"].isin([ATV_FULL, ATV_LOW, STATIC, LORA, PREFIX])]
    parts = [
        f"{row['method']} {row['parameters']:,} parameters"
        + (f", {row['train_seconds']:.0f} s" if row["train_seconds"] == row["train_seconds"] else "")
        + f", {row['query_ms']:.0f} ms a query"
        for row in rows.to_dict("records")
    ]
    return f"Trained on seen tasks: {'; '.join(parts)}." if parts else ""


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """A forest a fold, the learning curve, the variants."""
    from ... import plots

    found = []
    for fold in FOLDS:
        rows = frames["methods"][frames["methods"]["fold"] == fold]
        if rows.empty:
            continue
        found.append(
            Drawing(
                f"methods_{fold.replace(' ', '_')}",
                f"{WHERE[fold].removeprefix('On ').capitalize()}",
                "Mean gain over zero-shot over the targets, with 95 % intervals over queries. Grey: placebos.",
                f"Forest plot of the mean gain of each method: {fold}.",
                plots.plot_methods(rows),
                rows,
            )
        )
    if frames["curve"]["examples"].gt(0).any():
        found.append(_curve(frames["curve"]))
    if len(frames["variants"]):
        found.append(
            Drawing(
                "variants",
                "The same vectors, at other strengths and without the query",
                "Gain over zero-shot of one trained ATV whose vectors are scaled, averaged or exchanged; seen tasks.",
                "Forest plot of the gain of each variant of the adaptive task vector.",
                plots.plot_methods(frames["variants"], sort=False),
                frames["variants"],
            )
        )
    return found


def _curve(curve: pd.DataFrame) -> Drawing:
    from ...plots import plot_scaling

    metric = "choice_correct" if (curve["metric"] == "choice_correct").any() else "exact_match"
    rows = curve[(curve["metric"] == metric) & (curve["examples"] > 0)]
    frame = gain_lines(rows, rows["examples"], rows["method"])
    name = wording.NAMES[metric]
    return Drawing(
        "curve",
        "Learning curve",
        f"Gain in {name} over zero-shot on seen tasks by training examples a task, with 95 % intervals over queries.",
        f"Lines of the gain in {name} by training examples a task, one a method.",
        plot_scaling(
            frame, x_title="training examples a task", y_title="gain, percentage points", share=False
        ),
        frame,
    )
