"""The figure of students and teachers: exact frame in, then traces, axes, the unmodified model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from studies.expressivity.figure import plot_students


def made_up(low: float = 0.05) -> pd.DataFrame:
    rows = [
        (teacher, rank, student, left, low, 0.4, 10 * rank)
        for teacher in ("LoRA", "prefix")
        for student, left in (("additive", 0.3), ("affine", 0.1))
        for rank in (4, 1)
    ]
    return pd.DataFrame(rows, columns=["teacher", "rank", "student", "left", "left_low", "left_high", "parameters"])


def test_one_panel_per_teacher_and_one_line_per_student() -> None:
    figure = plot_students(made_up())
    lines = [trace for trace in figure.data if trace.name]
    assert [(line.name, line.yaxis, line.showlegend) for line in lines] == [
        ("additive", "y", True),
        ("affine", "y", True),
        ("additive", "y2", False),
        ("affine", "y2", False),
    ]
    assert list(lines[0].x) == [1, 4]
    assert list(lines[1].y) == [0.1, 0.1]
    assert lines[0].line.color == lines[2].line.color != lines[1].line.color
    assert figure.layout.yaxis.type == figure.layout.xaxis2.type == "log"
    assert list(figure.layout.xaxis2.ticktext) == ["1", "4"]
    assert figure.layout.xaxis2.title.text == "rank of the teacher"
    assert [note.text for note in figure.layout.annotations] == ["teacher: random LoRA", "teacher: random prefix"]


def test_the_unmodified_model_is_a_dashed_line_in_every_panel() -> None:
    shapes = plot_students(made_up()).layout.shapes
    assert [(shape.y0, shape.y1, shape.line.dash) for shape in shapes] == [(1, 1, "dash")] * 2


def test_students_without_an_interval_keep_their_line() -> None:
    figure = plot_students(made_up(np.nan))
    assert all(len(trace.x) == 0 for trace in figure.data if not trace.name)
    assert all(len(trace.x) == 2 for trace in figure.data if trace.name)
