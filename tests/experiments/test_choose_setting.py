"""Cells are ranked by what they measure; one without finite numbers is never chosen."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.experiments.choose_setting import best_first

NAN, INF = float("nan"), float("inf")
MEASURES = ["exact_match", "gold_logprob"]


def cells(*rows: tuple[float, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=MEASURES)
    return frame.assign(strength=[float(place) for place in range(len(frame))])


def test_the_first_measure_decides_and_the_second_breaks_ties() -> None:
    assert best_first(cells((0.5, -3.0), (0.75, -9.0), (0.75, -4.0)), MEASURES).index.tolist() == [2, 1, 0]


@pytest.mark.parametrize("broken", [(NAN, -1.0), (1.0, NAN), (1.0, -INF), (1.0, INF)])
def test_a_cell_that_overflows_is_never_chosen(broken: tuple[float, float]) -> None:
    assert best_first(cells(broken, (0.0, -50.0)), MEASURES).index.tolist() == [1]
    with pytest.raises(ValueError, match=r"strengths=\[0.0\].*give smaller strengths"):
        best_first(cells(broken), MEASURES)


def test_a_measure_that_no_cell_has_decides_nothing() -> None:
    frame = pd.DataFrame({"first_match": [NAN, NAN], "gold_logprob": [-3.0, -2.0], "strength": 1.0})
    assert best_first(frame, ["first_match", "gold_logprob"]).index.tolist() == [1, 0]
