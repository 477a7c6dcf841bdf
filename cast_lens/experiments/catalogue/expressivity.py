"""What an ATV can express (arXiv 2506.03426, theorems 1 and 2): students fitted to random LoRA and prefix teachers.

A small transformer of random weights is frozen. A teacher is that model with a random LoRA or prefix, scaled to be
one nat a token away. Students learn the teacher's next-token distributions; what is left of their KL on other
sequences says how far their form can go. Each stands at the teacher's rank and at the teacher's number of parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...methods.theory import (
    FORMS,
    Effort,
    Shape,
    Unmodified,
    distributions,
    divergence,
    draw_sequences,
    fit_student,
    matched_rank,
    random_teacher,
    random_transformer,
)
from ...stats import t_interval
from ..bench import Bench
from ..cells import Cell
from ..protocol import Experiment, Tasks
from ..settings import ExperimentConfig
from .expressivity_reading import FIXED, TEACHERS, draw, read

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Does an affine task vector match LoRA and contain prefixes, and does the additive one?"
# Nats a token between teacher and frozen model. Sixteen prefix tokens with values of zero are at 0.55 already, as they
# draw attention off the others.
DISTANCE = 1.0
# Sequences to learn from, to be judged on, and to scale the teacher on.
TRAIN, HELD_OUT, SCALED_ON = 4096, 512, 512
# Seeds drawn apart for each seed of the experiment: model, teacher, students, sequences to learn from and held out.
STREAMS = 5


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """One cell a seed, teacher and rank; a whole seed before the next."""
    return [
        Cell(teacher, variant=str(rank), number=seed)
        for seed in range(config.fits)
        for rank in config.ranks
        for teacher in TEACHERS
    ]


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell; the bench's model is not read."""
    assert isinstance(bench.config, ExperimentConfig)
    return alone(bench.config, cell)


def alone(config: ExperimentConfig, cell: Cell) -> pd.DataFrame:
    """One row a student and match."""
    import pandas as pd

    rank, shape = int(cell.variant), Shape()
    streams = np.random.SeedSequence([config.seed, cell.number]).generate_state(STREAMS).tolist()
    model = random_transformer(shape, seed=streams[0])
    train = draw_sequences(model, TRAIN, seed=streams[3])
    held_out = draw_sequences(model, HELD_OUT, seed=streams[4])
    teacher = random_teacher(
        cell.kind, model, rank, sequences=train.part(0, SCALED_ON), kl=DISTANCE, seed=streams[1]
    )
    targets, wanted = (distributions(model, teacher, sequences) for sequences in (train, held_out))
    baseline = divergence(wanted, distributions(model, Unmodified(), held_out))
    rows, fits = [], {}
    for form, match, own_rank in students(shape, rank, teacher.parameters):
        if (form, own_rank) not in fits:
            fits[form, own_rank] = fit_student(
                form,
                own_rank,
                model,
                train,
                targets,
                effort=Effort(steps=config.fit_steps),
                seed=streams[2],
            )
        fit = fits[form, own_rank]
        kl = divergence(wanted, distributions(model, fit.student, held_out))
        row: dict[str, Any] = {"teacher": cell.kind, "rank": rank, "student": form, "match": match}
        row |= {"seed": cell.number, "student_rank": own_rank, "parameters": fit.student.parameters}
        row |= {"teacher_parameters": teacher.parameters, "kl": kl, "baseline_kl": baseline}
        row |= {"left": kl / baseline, "train_kl": fit.train_kl, "change": fit.change, "rate": fit.rate}
        rows.append(row)
    return pd.DataFrame(rows)


def students(shape: Shape, rank: int, budget: int) -> list[tuple[str, str, int]]:
    """Form, match and rank of all students of a teacher; a form without rank stands once."""
    found = []
    for form in FORMS:
        equal = matched_rank(form, shape, budget)
        if equal is None:
            found.append((form, FIXED, 0))
        else:
            found += [(form, "rank", rank), (form, "parameters", equal)]
    return found


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a student and seed. ``pooled``: over seeds. ``ratios``: KL against the teacher's own form.

    Shares and ratios are averaged as logarithms, with Student's interval over seeds.
    """
    return {"result": rows, "pooled": _pooled(rows), "ratios": _ratios(rows)}


def _pooled(rows: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    found = []
    for key, part in rows.groupby(["teacher", "rank", "student", "match"], sort=False):
        row: dict[str, Any] = dict(zip(("teacher", "rank", "student", "match"), key, strict=True))
        row |= {"student_rank": part["student_rank"].iloc[0], "parameters": part["parameters"].iloc[0]}
        row |= {"n": len(part), **_geometric("left", part["left"])}
        found.append({**row, "least": part["left"].min(), "most": part["left"].max()})
    return pd.DataFrame(found)


def _ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Against the student of the teacher's own kind and rank: geometric means over ranks, a seed each."""
    import pandas as pd

    key = ["teacher", "rank", "seed"]
    own = rows[(rows["student"] == rows["teacher"]) & (rows["match"] == "rank")].set_index(key)["kl"]
    logs = np.log(rows["kl"].to_numpy()) - np.log(own.loc[list(rows[key].itertuples(index=False))].to_numpy())
    found = []
    by = ["teacher", "student", "match"]
    for names, part in rows.assign(log=logs).groupby(by, sort=False):
        row: dict[str, Any] = dict(zip(by, names, strict=True))
        means = np.exp(part.groupby("seed")["log"].mean())
        found.append({**row, "n": len(means), "ranks": part["rank"].nunique(), **_geometric("ratio", means)})
    return pd.DataFrame(found)


def _geometric(name: str, values: pd.Series) -> dict[str, float]:
    """Geometric mean with its interval, which is Student's on logarithms."""
    one = t_interval(np.log(values))
    return {
        name: float(np.exp(one.value)),
        f"{name}_low": float(np.exp(one.low)),
        f"{name}_high": float(np.exp(one.high)),
    }


EXPERIMENT = Experiment(
    "expressivity",
    QUESTION,
    plan,
    compute,
    summarise,
    read,
    draw,
    tasks=lambda config: (),
    tables=("ratios", "pooled"),
    alone=alone,
)
