"""Students fitted to random LoRA and prefix teachers: how much of the distance each form leaves.

A small transformer of random weights is frozen. A teacher is that model with a random LoRA or prefix, scaled to be
one nat per token away. Students learn the teacher's next-token distributions; the KL that remains on other sequences
shows how far their form can go. Each student is fitted at the teacher's rank and at the teacher's number of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cast_lens.stats import t_interval

from .adapters import FORMS, matched_rank
from .fitting import Effort, distributions, divergence, draw_sequences, fit_student, random_teacher
from .transformer import Shape, Unmodified, random_transformer

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
# Nats per token between teacher and frozen model. Sixteen prefix tokens with values of zero are at 0.55 already, as
# they draw attention off the others.
DISTANCE = 1.0
# Sequences to learn from, to be judged on, and to scale the teacher on.
TRAIN, HELD_OUT, SCALED_ON = 4096, 512, 512
# Seeds derived for each seed of the study: model, teacher, students, sequences to learn from and held out.
STREAMS = 5
# A fit whose loss still falls by more than this share between its last two tenths is called unfinished.
FALLING = 0.05


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One teacher: its seed, its rank, its kind (one of ``TEACHERS``)."""

    seed: int
    rank: int
    teacher: str


def plan(ranks: tuple[int, ...], seeds: int) -> list[Cell]:
    """One cell per seed, rank and teacher; a whole seed before the next."""
    return [Cell(seed, rank, teacher) for seed in range(seeds) for rank in ranks for teacher in TEACHERS]


def compute(cell: Cell, *, steps: int, seed: int = 0) -> pd.DataFrame:
    """One row per student and match.

    Args:
        cell: which teacher.
        steps: of every fit.
        seed: of the whole study.

    Returns:
        ``teacher, rank, student, match, seed, student_rank, parameters, teacher_parameters``; ``kl`` and
        ``baseline_kl`` (the unmodified model's) in nats per token on held-out sequences, ``left`` their ratio; and how
        the fit went: ``train_kl, change, rate`` (see ``Fit``).
    """
    shape = Shape()
    streams = np.random.SeedSequence([seed, cell.seed]).generate_state(STREAMS).tolist()
    model = random_transformer(shape, seed=streams[0])
    train = draw_sequences(model, TRAIN, seed=streams[3])
    held_out = draw_sequences(model, HELD_OUT, seed=streams[4])
    teacher = random_teacher(
        cell.teacher, model, cell.rank, sequences=train.part(0, SCALED_ON), kl=DISTANCE, seed=streams[1]
    )
    targets, wanted = (distributions(model, teacher, sequences) for sequences in (train, held_out))
    baseline = divergence(wanted, distributions(model, Unmodified(), held_out))
    rows, fits, effort = [], {}, Effort(steps=steps)
    for form, match, rank in students(shape, cell.rank, teacher.parameters):
        if (form, rank) not in fits:
            fits[form, rank] = fit_student(form, rank, model, train, targets, effort=effort, seed=streams[2])
        fit = fits[form, rank]
        kl = divergence(wanted, distributions(model, fit.student, held_out))
        row: dict[str, Any] = {"teacher": cell.teacher, "rank": cell.rank, "student": form, "match": match}
        row |= {"seed": cell.seed, "student_rank": rank, "parameters": fit.student.parameters}
        row |= {"teacher_parameters": teacher.parameters, "kl": kl, "baseline_kl": baseline}
        row |= {"left": kl / baseline, "train_kl": fit.train_kl, "change": fit.change, "rate": fit.rate}
        rows.append(row)
    return pd.DataFrame(rows)


def students(shape: Shape, rank: int, budget: int) -> list[tuple[str, str, int]]:
    """Form, match and rank of all students of a teacher; a form without a rank appears once."""
    found = []
    for form in FORMS:
        equal = matched_rank(form, shape, budget)
        if equal is None:
            found.append((form, FIXED, 0))
        else:
            found += [(form, "rank", rank), (form, "parameters", equal)]
    return found


def pooled(rows: pd.DataFrame) -> pd.DataFrame:
    """``left`` over seeds by teacher, rank, student and match.

    Shares are averaged as logarithms, with Student's 95 % interval over the ``n`` seeds.
    """
    found, by = [], ["teacher", "rank", "student", "match"]
    for key, part in rows.groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        row |= {"student_rank": part["student_rank"].iloc[0], "parameters": part["parameters"].iloc[0]}
        row |= {"n": len(part), **_geometric("left", part["left"])}
        found.append({**row, "least": part["left"].min(), "most": part["left"].max()})
    return pd.DataFrame(found)


def ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Each student's KL as a multiple of what a student of the teacher's own kind and rank leaves.

    Geometric means over ranks within a seed, then over seeds with Student's interval. ``verdict`` says whether the
    interval lies above or below 1: ``more``, ``less``, ``not told apart``, or ``one seed`` without an interval.
    """
    key, by = ["teacher", "rank", "seed"], ["teacher", "student", "match"]
    own = rows[(rows["student"] == rows["teacher"]) & (rows["match"] == "rank")].set_index(key)["kl"]
    logs = np.log(rows["kl"].to_numpy()) - np.log(own.loc[list(rows[key].itertuples(index=False))].to_numpy())
    found = []
    for names, part in rows.assign(log=logs).groupby(by, sort=False):
        means = np.exp(part.groupby("seed")["log"].mean())
        row: dict[str, Any] = dict(zip(by, names, strict=True))
        row |= {"n": len(means), "ranks": part["rank"].nunique(), **_geometric("ratio", means)}
        found.append({**row, "verdict": _verdict(row["ratio_low"], row["ratio_high"])})
    return pd.DataFrame(found)


def unfinished(rows: pd.DataFrame) -> tuple[int, int]:
    """How many fits were still falling at their end, and how many there were; a fit that serves twice counts once."""
    fits = rows.drop_duplicates(["teacher", "rank", "seed", "student", "student_rank"])
    return int((fits["change"] > FALLING).sum()), len(fits)


def _verdict(low: float, high: float) -> str:
    if np.isnan(low):
        return "one seed"
    if low > 1:
        return "more"
    return "less" if high < 1 else "not told apart"


def _geometric(name: str, values: pd.Series) -> dict[str, float]:
    """Geometric mean with Student's interval on the logarithms."""
    one = t_interval(np.log(values))
    return {
        name: float(np.exp(one.value)),
        f"{name}_low": float(np.exp(one.low)),
        f"{name}_high": float(np.exp(one.high)),
    }
