"""Expressivity: no language model is loaded, planted rows are told as they are, cells repeat."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments import ExperimentConfig, protocol, run_experiment, runner
from cast_lens.experiments.catalogue import expressivity
from cast_lens.experiments.catalogue.expressivity import EXPERIMENT, students
from cast_lens.experiments.cells import Cell
from cast_lens.methods.theory import Shape, parameter_count
from cast_lens.report import write_report
from tests.experiments.small import words

CONFIG = ExperimentConfig(ranks=(1, 4), fits=2, fit_steps=20)


@pytest.fixture
def few_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRAIN", "HELD_OUT", "SCALED_ON"):
        monkeypatch.setattr(expressivity, name, 64)


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


def test_a_cell_a_seed_teacher_and_rank() -> None:
    cells = EXPERIMENT.plan(CONFIG, {})
    assert len(cells) == 2 * 2 * 2
    assert [cell.number for cell in cells] == [0] * 4 + [1] * 4
    assert {(cell.kind, cell.variant) for cell in cells} == {
        (kind, rank) for kind in ("lora", "prefix") for rank in "14"
    }


def test_students_stand_at_the_teachers_rank_and_size() -> None:
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


def test_a_run_loads_neither_model_nor_tasks_and_repeats(
    few_sequences: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(*args: object, **options: object) -> None:
        raise AssertionError("nothing is loaded for an experiment that stands alone")

    monkeypatch.setattr(protocol, "load_tasks", refused)
    monkeypatch.setattr(runner.Bench, "loaded", refused)
    config = ExperimentConfig(ranks=(1,), fits=1, fit_steps=20, threads=1)
    found = run_experiment("expressivity", config, tmp_path / "run")
    assert set(found["teacher"]) == {"lora", "prefix"}
    # A teacher is scaled on other sequences than it is measured on.
    assert found["baseline_kl"].between(0.8, 1.2).all()
    np.testing.assert_allclose(found["left"], found["kl"] / found["baseline_kl"])
    own = found[(found["student"] == found["teacher"]) & (found["match"] == "parameters")]
    assert (own["parameters"] == own["teacher_parameters"]).all()
    rows = pd.read_parquet(tmp_path / "run" / "experiments" / "expressivity" / "rows.parquet")
    again = expressivity.alone(config, Cell("prefix", variant="1"))
    pd.testing.assert_frame_equal(rows[rows["teacher"] == "prefix"].reset_index(drop=True), again)
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "Theorem 1, LoRA teachers" in page


def test_planted_shares_and_ratios_are_found() -> None:
    frames = EXPERIMENT.summarise(made_up(EVEN), CONFIG, {})
    pooled = frames["pooled"].set_index(["teacher", "rank", "student", "match"])
    affine = pooled.loc[("lora", 4, "affine", "rank")]
    assert affine["left"] == pytest.approx(0.4 * 1.01)
    assert affine["left_low"] < affine["least"] < affine["most"] < affine["left_high"]
    assert affine["n"] == 3
    ratios = frames["ratios"].set_index(["teacher", "student", "match"])["ratio"]
    assert ratios["lora", "affine", "rank"] == pytest.approx(4.0)
    assert ratios["prefix", "affine", "rank"] == pytest.approx(2.0)
    assert ratios["prefix", "prefix", "rank"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("left", "told"),
    [
        (EVEN, ("affine 40 %, 40 %", "leaves 4 [4, 4] times LoRA's KL at equal rank (more than LoRA)")),
        ({**EVEN, "affine": 0.05}, ("leaves 0.5 [0.5, 0.5] times LoRA's KL at equal rank (less than LoRA)",)),
        ({**EVEN, "affine": 0.1}, ("leaves 1 [1, 1] times LoRA's KL at equal rank (not told apart from LoRA)",)),
        ({**EVEN, "additive": 0.01}, ("a static vector leaves 0.1 [0.1, 0.1] times what LoRA does (less than",)),
        ({**EVEN, "affine": 0.02}, ("affine 0.1 [0.1, 0.1] at equal rank (less than the prefix)",)),
    ],
)  # fmt: skip
def test_sentences_fit_what_came_out(left: dict[str, float], told: tuple[str, ...]) -> None:
    rows = made_up(left)
    # Seeds that move all students alike leave ratios without spread, and rounding on either side of 1.
    wobble = rows["seed"].map({0: 1.0, 1: 1.001, 2: 0.999}).where(rows["student"] == "affine", 1.0)
    rows["kl"] *= wobble
    frames = EXPERIMENT.summarise(rows, CONFIG, {})
    text = words(EXPERIMENT.read(frames, CONFIG))
    for part in told:
        assert part in text


def test_unfinished_fits_are_counted_once_each() -> None:
    rows = made_up(EVEN, change=0.2, seeds=1)
    text = words(EXPERIMENT.read(EXPERIMENT.summarise(rows, CONFIG, {}), CONFIG))
    fits = len(rows.drop_duplicates(["teacher", "rank", "student", "student_rank"]))
    assert fits < len(rows)
    assert f"In {fits} of {fits} fits" in text
    assert "one seed has no interval" in text


def test_figures_have_a_panel_a_teacher_and_a_line_a_student() -> None:
    frames = EXPERIMENT.summarise(made_up(EVEN), CONFIG, {})
    drawings = EXPERIMENT.draw(frames, CONFIG)
    assert [one.name for one in drawings] == ["left-at-equal-rank", "left-at-equal-parameters"]
    for one in drawings:
        assert len([trace for trace in one.figure.data if trace.name]) == 12
        assert "additive" in set(one.frame["student"])
