"""Scaling curves: points and last doublings, planted growth and plateaus, the end of the context."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.bench import Bench
from cast_lens.experiments.catalogue.scaling import sizes
from tests.experiments.old_small import (
    SMALL,
    bench_of,
    computed,
    find,
    joined,
    outcomes,
    planned,
    right,
    rows_of,
    small_config,
    words,
)

NAME = "scaling"
RUN = find(NAME)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    # 512 tokens of context: a few hundred demonstrations of some twenty tokens do not fit.
    config = small_config(tmp_path_factory.mktemp("tiny"), few_shots=(1, 2, 40))
    return bench_of(NAME, config, tmp_path_factory.mktemp("out"))


def made_up(steered: tuple[int, int, int], shown: tuple[int, int]) -> pd.DataFrame:
    """Right answers of 60 with 1, 4 and 10 samples, and with 1 and 2 demonstrations."""
    frames = [
        outcomes("zero-shot", right(10, of=60)),
        outcomes("placebo: random direction", right(10, of=60)),
    ]
    for n, count in zip((1, 4, 10), steered, strict=True):
        frames.append(outcomes(f"cast, {n}", right(count, of=60)))
    for k, count in zip((1, 2), shown, strict=True):
        frames.append(outcomes(f"few-shot, {k}", right(count, of=60), source=""))
    return joined(frames, part="steered", tokens=100, context=512)


def read(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], str]:
    frames = RUN.summarise(rows, SMALL, {})
    return frames, words(RUN.read(frames, SMALL))


def test_the_plan_ends_where_the_train_split_does() -> None:
    _, cells = planned(NAME, replace(SMALL, few_shots=(1, 16, 500), repeats=7))
    numbers = {cell.number for cell in cells if cell.kind != "steered" and not cell.prepares}
    assert numbers == {1, 16}
    draws = [cell.variant for cell in cells if cell.kind == "in-task" and cell.number == 16]
    assert draws == ["0", "1"]
    assert sizes(SMALL) == [1, 2, 3, 6]


def test_the_last_doubling_is_the_largest_number_against_the_largest_half() -> None:
    frames, _ = read(made_up((10, 20, 40), (30, 30)))
    last = frames["growth"].query("last and metric == 'exact_match'").set_index("curve")
    assert (last.loc["cast", "number_from"], last.loc["cast", "number_to"]) == (4, 10)
    assert last.loc["cast", "difference"] == pytest.approx(20 / 60)
    assert last.loc["cast", "per_doubling"] == pytest.approx(20 / 60 / np.log2(2.5))
    assert last.loc["few-shot", "difference"] == 0.0


def test_growth_against_a_plateau_agrees_with_the_claim() -> None:
    frames, text = read(made_up((10, 20, 40), (30, 30)))
    assert "This agrees with the claim" in text
    assert "the curve still rises" in text
    assert "the context was not filled" in text
    ends = frames["growth"].query("metric == 'exact_match' and not same_curve").set_index("against")
    assert ends.loc["few-shot, 2", "difference"] == pytest.approx(10 / 60)
    assert ends.loc["placebo: random direction", "difference"] == pytest.approx(30 / 60)


def test_no_growth_is_not_called_growth() -> None:
    _, text = read(made_up((20, 20, 20), (10, 30)))
    assert "is not supported here: its last doubling is +0.0 points" in text
    assert "cannot be told from level" in text


def test_a_falling_curve_is_said_to_fall() -> None:
    _, text = read(made_up((50, 50, 20), (30, 30)))
    assert "the curve falls" in text
    assert "is not supported here" in text


def test_cells_repeat_themselves_and_what_does_not_fit_is_named(bench: Bench) -> None:
    _, cells = planned(NAME, bench.config)  # type: ignore[arg-type]
    rows = rows_of(NAME, bench, cells)
    for kind in ("steered", "in-task", "cross-task"):
        cell = next(cell for cell in cells if cell.kind == kind)
        pd.testing.assert_frame_equal(computed(NAME, bench, cell), computed(NAME, bench, cell))
    steered = rows[rows["part"] == "steered"]
    draws = steered.groupby("method")["seed"].nunique()
    assert draws[["cast, 1", "cast, 2", "cast, 3", "cast, 6"]].tolist() == [2, 2, 2, 1]
    frames = RUN.summarise(rows, SMALL, {})
    assert set(frames["left_out"]["method"]) == {"few-shot, 40", "cross-task few-shot, 40"}
    assert "left out on some targets for want of room" in words(RUN.read(frames, SMALL))
    assert "scaling_exact_match" in {drawing.name for drawing in RUN.draw(frames, SMALL)}


def test_figures_show_the_placebo_from_end_to_end() -> None:
    frames = RUN.summarise(made_up((20, 20, 20), (15, 25)), SMALL, {})
    (drawing,) = [one for one in RUN.draw(frames, SMALL) if one.name == "scaling_exact_match"]
    (level,) = [trace for trace in drawing.figure.data if (trace.name or "").startswith("placebo")]
    assert (list(level.x), list(level.y), level.line.dash) == ([1, 10], [0.0, 0.0], "dot")
    placebo = drawing.frame[drawing.frame["method"].str.startswith("placebo")]
    assert (placebo["n"] == 60).all()
