"""What ``expressivity`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import Drawing, Frames, Reading
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

TEACHERS = ("lora", "prefix")
FIXED = "one size"
NAMES = {
    "additive": "additive",
    "conditioned": "additive, written from the query",
    "affine": "affine",
    "lora": "LoRA",
    "lora + bias": "LoRA and bias",
    "prefix": "prefix",
}
MATCHES = {"rank": "equal rank", "parameters": "equal parameters"}
# A fit that still falls by more than this between its last two tenths is called unfinished.
FALLING = 0.05


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    result, pooled, ratios = frames["result"], frames["pooled"], frames["ratios"]
    answer = [_scale(result)]
    answer += [_levels(pooled, teacher) for teacher in TEACHERS if (pooled["teacher"] == teacher).any()]
    answer += [_affine(ratios), _additive(ratios), _containing(ratios), _finished(result)]
    return Reading(
        tuple(part for part in answer if part),
        "KL of next-token distributions on held-out sequences of random tokens, from a teacher (a frozen small "
        "transformer of random weights with a random LoRA of query and value, or a random prefix) to students fitted "
        f"to it with {config.fit_steps} steps each, as a share of the unmodified model's KL. Students have the "
        "teacher's rank (a prefix's rank is its number of tokens), or the rank whose number of parameters is nearest "
        "to the teacher's; an additive vector has one size. Affine is the ATV of the theorem, h + U D h + v after each "
        "block, where the implemented ATV adds its vector; at LoRA's own placement the affine form is LoRA and bias, "
        "which holds LoRA by construction. All intervals are Student's over seeds, on logarithms.",
        f"A share is what a fit of this length found, an upper bound of what the form can express. Each of the "
        f"{result['seed'].nunique()} seeds draws model, teacher and sequences; with so few an interval is wide, and "
        "seeds of one model size say nothing of larger or trained models. Teachers are random and all at one distance: "
        "what a real adapter learns may be easier or harder to copy. Ranks are pooled within a seed where ratios are "
        "given.",
    )


def share(value: float) -> str:
    """A share of what was there, with two digits."""
    return f"{float(f'{100 * value:.2g}'):g} %"


def times(row: pd.Series) -> str:
    """A ratio with its interval."""
    low, high = row["ratio_low"], row["ratio_high"]
    ends = f" [{low:.2g}, {high:.2g}]" if low == low else ""
    return f"{row['ratio']:.2g}{ends}"


def _scale(result: pd.DataFrame) -> str:
    cells = result.drop_duplicates(["teacher", "rank", "seed"])
    least, most = cells["baseline_kl"].min(), cells["baseline_kl"].max()
    return (
        f"The unmodified model stands {least:.2f} to {most:.2f} nats a token from {len(cells)} teachers "
        f"({cells['rank'].nunique()} ranks, {cells['seed'].nunique()} seeds)."
    )


def _levels(pooled: pd.DataFrame, teacher: str) -> str:
    """What each student leaves at equal rank, lowest to highest rank."""
    rows = pooled[(pooled["teacher"] == teacher) & (pooled["match"] != "parameters")]
    ranks = sorted(set(rows["rank"]))
    told = []
    for student, part in rows.groupby("student", sort=False):
        values = part.set_index("rank")["left"]
        told.append(f"{NAMES[str(student)]} {', '.join(share(values[rank]) for rank in ranks)}")
    return (
        f"Left of a {NAMES[teacher]} teacher at equal rank, for ranks {', '.join(map(str, ranks))}: "
        f"{'; '.join(told)}."
    )


def _row(ratios: pd.DataFrame, teacher: str, student: str, match: str = "rank") -> pd.Series | None:
    matched = ratios["match"].isin((match, FIXED))
    rows = ratios[(ratios["teacher"] == teacher) & (ratios["student"] == student) & matched]
    return None if rows.empty else rows.iloc[0]


def _stands(row: pd.Series, other: str) -> str:
    """Where a ratio's interval lies."""
    if row["ratio_low"] != row["ratio_low"]:
        return "one seed has no interval"
    if row["ratio_low"] > 1:
        return f"more than {other}"
    return f"less than {other}" if row["ratio_high"] < 1 else f"not told apart from {other}"


def _affine(ratios: pd.DataFrame) -> str:
    """Whether the affine form matches LoRA."""
    told = []
    for match, words in MATCHES.items():
        row = _row(ratios, "lora", "affine", match)
        if row is not None:
            told.append(f"{times(row)} times LoRA's KL at {words} ({_stands(row, 'LoRA')})")
    placed = _row(ratios, "lora", "lora + bias")
    if not told or placed is None:
        return ""
    return (
        f"Theorem 1, LoRA teachers: the affine form after each block leaves {' and '.join(told)}; at LoRA's own "
        f"placement it leaves {times(placed)} times as much ({_stands(placed, 'LoRA')})."
    )


def _additive(ratios: pd.DataFrame) -> str:
    """The implemented form."""
    static, written = _row(ratios, "lora", "additive"), _row(ratios, "lora", "conditioned")
    if static is None or written is None:
        return ""
    return (
        f"As implemented, purely additive: a static vector leaves {times(static)} times what LoRA does "
        f"({_stands(static, 'LoRA')}), one written from the query {times(written)} times at equal rank "
        f"({_stands(written, 'LoRA')})."
    )


def _containing(ratios: pd.DataFrame) -> str:
    """Whether any form contains the prefix teacher."""
    told = []
    for student in ("additive", "conditioned", "affine", "lora", "lora + bias"):
        rows = [(words, _row(ratios, "prefix", student, match)) for match, words in MATCHES.items()]
        found = [(words, row) for words, row in rows if row is not None]
        if student == "additive":
            found = [("one size", row) for _, row in found[:1]]
        if found:
            spans = ", ".join(
                f"{times(row)} at {words} ({_stands(row, 'the prefix')})" for words, row in found
            )
            told.append(f"{NAMES[student]} {spans}")
    if not told:
        return ""
    return (
        "Theorem 2, prefix teachers: KL as a multiple of what a prefix student of as many tokens leaves, which is "
        f"itself fitted: {'; '.join(told)}."
    )


def _finished(result: pd.DataFrame) -> str:
    fits = result.drop_duplicates(["teacher", "rank", "seed", "student", "student_rank"])
    falling = fits[fits["change"] > FALLING]
    told = (
        f" ({', '.join(f'{NAMES[str(name)]} {count}' for name, count in falling['student'].value_counts().items())})"
        if len(falling)
        else ""
    )
    return (
        f"In {len(falling)} of {len(fits)} fits the training KL still fell by more than {100 * FALLING:.0f} % from the "
        f"last tenth of the steps but one to the last{told}."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """What is left by rank, at equal rank and at equal parameters."""
    from ... import plots

    found = []
    for match, words in MATCHES.items():
        pooled = frames["pooled"]
        rows = pooled[pooled["match"].isin((match, FIXED))]
        frame = rows.assign(student=rows["student"].map(NAMES), teacher=rows["teacher"].map(NAMES))
        if frame.empty:
            continue
        found.append(
            Drawing(
                f"left-at-equal-{match}",
                f"KL left at {words}",
                f"Held-out KL of students as a share of the unmodified model's (dashed), at {words}. Geometric means "
                f"over {rows['n'].max()} seeds; bands are 95 % intervals (Student). An additive vector has one size.",
                f"Lines of the KL left by rank of the teacher, one a student, at {words}, for each kind of teacher.",
                plots.plot_students(frame),
                frame,
            )
        )
    return found
