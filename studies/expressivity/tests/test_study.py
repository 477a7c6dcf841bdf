"""The study: its plan, its students, cells that repeat, planted shares and ratios that are found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer import Typer
from typer.testing import CliRunner

from studies.expressivity import study
from studies.expressivity.__main__ import run, summary
from studies.expressivity.adapters import parameter_count
from studies.expressivity.study import Cell, compute, plan, pooled, ratios, students, unfinished
from studies.expressivity.transformer import Shape


def made_up(left: dict[str, float], *, change: float = 0.0, seeds: int = 3) -> pd.DataFrame:
    """Rows in which every student leaves a planted share; seeds differ by 1 %."""
    shape = Shape()
    rows = [
        {
            "teacher": teacher,
            "rank": rank,
            "student": student,
            "match": match,
            "seed": seed,
            "student_rank": own,
            "parameters": parameter_count(student, shape, own),
            "teacher_parameters": parameter_count(teacher, shape, rank),
            "kl": left[student] * 1.01**seed,
            "baseline_kl": 1.0,
            "left": left[student] * 1.01**seed,
            "train_kl": left[student],
            "change": change,
            "rate": 0.01,
        }
        for teacher in ("lora", "prefix")
        for rank in (1, 4)
        for seed in range(seeds)
        for student, match, own in students(shape, rank, parameter_count(teacher, shape, rank))
    ]
    return pd.DataFrame(rows)


EVEN = {"additive": 0.9, "conditioned": 0.8, "affine": 0.4, "lora": 0.1, "lora + bias": 0.1, "prefix": 0.2}


def test_one_cell_per_seed_teacher_and_rank() -> None:
    cells = plan((1, 4), 2)
    assert len(set(cells)) == len(cells) == 2 * 2 * 2
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert {(cell.teacher, cell.rank) for cell in cells} == {
        (kind, rank) for kind in ("lora", "prefix") for rank in (1, 4)
    }


def test_students_have_the_teachers_rank_or_its_size() -> None:
    shape = Shape()
    found = students(shape, 4, parameter_count("lora", shape, 4))
    assert found.count(("additive", "one size", 0)) == 1
    assert {form for form, match, rank in found if match == "rank" and rank == 4} == {
        *("conditioned", "affine", "lora", "lora + bias", "prefix")
    }
    for form, match, rank in found:
        if match == "parameters":
            # Half of what one more rank costs.
            step = parameter_count(form, shape, 2) - parameter_count(form, shape, 1)
            assert abs(parameter_count(form, shape, rank) - parameter_count("lora", shape, 4)) <= step / 2


@pytest.mark.slow
def test_the_command_computes_writes_and_continues(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRAIN", "HELD_OUT", "SCALED_ON"):
        monkeypatch.setattr(study, name, 64)
    # Workers would not see the smaller numbers.
    monkeypatch.setattr("studies.expressivity.__main__.ProcessPoolExecutor", _Here)
    app = Typer()
    app.command()(run)
    asked = ["--ranks", "1", "--seeds", "1", "--steps", "20", "--out", str(tmp_path)]
    first = CliRunner().invoke(app, asked)
    assert first.exit_code == 0, first.output
    found = pd.read_csv(tmp_path / "rows.csv")
    assert set(found["teacher"]) == {"lora", "prefix"}
    # A teacher is scaled on other sequences than it is measured on.
    assert found["baseline_kl"].between(0.8, 1.2).all()
    np.testing.assert_allclose(found["left"], found["kl"] / found["baseline_kl"])
    own = found[(found["student"] == found["teacher"]) & (found["match"] == "parameters")]
    assert (own["parameters"] == own["teacher_parameters"]).all()
    (stored,) = (tmp_path / "cells").glob("*prefix*")
    again = compute(Cell(0, 1, "prefix"), steps=20)
    pd.testing.assert_frame_equal(pd.read_parquet(stored), again)
    assert (tmp_path / "left-at-equal-rank.html").is_file()
    monkeypatch.setattr("studies.expressivity.__main__.compute", None)
    assert CliRunner().invoke(app, asked).exit_code == 0, "a finished study computes nothing"


class _Here:
    """A pool of this process."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def submit(self, job: object, cell: Cell) -> object:
        from concurrent.futures import Future

        done: Future[object] = Future()
        done.set_result(job(cell))  # type: ignore[operator]
        return done


def test_planted_shares_and_ratios_are_found() -> None:
    rows = made_up(EVEN)
    affine = pooled(rows).set_index(["teacher", "rank", "student", "match"]).loc["lora", 4, "affine", "rank"]
    assert affine["left"] == pytest.approx(0.4 * 1.01)
    assert affine["left_low"] < affine["least"] < affine["most"] < affine["left_high"]
    assert affine["n"] == 3
    found = ratios(rows).set_index(["teacher", "student", "match"])["ratio"]
    assert found["lora", "affine", "rank"] == pytest.approx(4.0)
    assert found["prefix", "affine", "rank"] == pytest.approx(2.0)
    assert found["prefix", "prefix", "rank"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("left", "row", "ratio", "verdict"),
    [
        (EVEN, ("lora", "affine", "rank"), 4, "more"),
        ({**EVEN, "affine": 0.05}, ("lora", "affine", "rank"), 0.5, "less"),
        ({**EVEN, "affine": 0.1}, ("lora", "affine", "rank"), 1, "not told apart"),
        ({**EVEN, "additive": 0.01}, ("lora", "additive", "one size"), 0.1, "less"),
        ({**EVEN, "affine": 0.02}, ("prefix", "affine", "rank"), 0.1, "less"),
    ],
)
def test_verdicts_fit_what_came_out(
    left: dict[str, float], row: tuple[str, str, str], ratio: float, verdict: str
) -> None:
    rows = made_up(left)
    # Seeds that move all students alike leave ratios without spread, and rounding on either side of 1.
    wobble = rows["seed"].map({0: 1.0, 1: 1.001, 2: 0.999})
    rows["kl"] *= wobble.where(rows["student"] == row[1], 1.0)
    found = ratios(rows).set_index(["teacher", "student", "match"]).loc[row]
    assert found["ratio"] == pytest.approx(ratio, rel=1e-3)
    assert found["verdict"] == verdict


def test_unfinished_fits_count_once_each_and_one_seed_has_no_interval() -> None:
    rows = made_up(EVEN, change=0.2, seeds=1)
    fits = len(rows.drop_duplicates(["teacher", "rank", "student", "student_rank"]))
    assert fits < len(rows)
    assert unfinished(rows) == (fits, fits)
    assert set(ratios(rows)["verdict"]) == {"one seed"}
    assert f"In {fits} of {fits} fits" in summary(rows)
    assert unfinished(made_up(EVEN)) == (
        0,
        len(made_up(EVEN).drop_duplicates(["teacher", "rank", "seed", "student", "student_rank"])),
    )
