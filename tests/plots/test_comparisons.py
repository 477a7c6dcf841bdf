"""An effect among its placebos: exact frame in, then bars, lines and words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.plots import plot_placebos
from cast_lens.plots.style import NEUTRAL
from cast_lens.stats import placebo_test

RANDOM = "placebo: random direction"


def effects(*rows: tuple[str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "value"])


KNOWN = effects(("vector", 0.6), (RANDOM, 0.2), (RANDOM, 0.2), (RANDOM, 0.45), (RANDOM, 0.6))


def test_bars_count_placebos_and_the_effect_is_a_line() -> None:
    figure = plot_placebos(KNOWN, bins=4)
    (bars,) = figure.data
    assert list(bars.y) == [2, 0, 1, 1]
    # Four bars over the range of the values and an eighth of it on either side, 0.15 to 0.65.
    np.testing.assert_allclose(bars.x, [0.2125, 0.3375, 0.4625, 0.5875], atol=1e-12)
    assert (bars.name, bars.marker.color) == (f"{RANDOM}, n = 4", NEUTRAL)
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1, line.name) == (0.6, 0.6, "vector")
    assert [note.text for note in figure.layout.annotations] == ["vector"]
    assert (figure.layout.xaxis.title.text, figure.layout.xaxis.tickformat) == ("exact match", ".0%")
    assert figure.layout.yaxis.title.text == "placebos"


def test_words_say_how_many_placebos_reach_it() -> None:
    # A tie counts against the effect, as in the test beside it.
    assert plot_placebos(KNOWN).layout.title.subtitle.text == f"vector 60 %: reached by 1 of 4 (25 %), {RANDOM}"
    assert placebo_test(0.6, [0.2, 0.2, 0.45, 0.6]).p == 2 / 5
    rounded = effects(("vector", 0.1 + 0.2), (RANDOM, 0.3), (RANDOM, 0.0))
    assert "reached by 1 of 2 (50 %)" in plot_placebos(rounded).layout.title.subtitle.text


def test_every_kind_and_every_effect_has_its_own_words_and_pattern() -> None:
    both = pd.concat([KNOWN, effects(("static", -1.0), ("placebo: shuffled labels", 0.7))])
    figure = plot_placebos(both, x_title="nats", share=False, bins=5)
    told = figure.layout.title.subtitle.text.split("<br>")
    assert told[1] == "vector 0.6: reached by 1 of 1 (100 %), placebo: shuffled labels"
    assert told[2] == f"static -1: reached by 4 of 4 (100 %), {RANDOM}"
    assert len(told) == 4
    assert [bars.marker.pattern.shape for bars in figure.data] == ["", "/"]
    assert [bars.marker.color for bars in figure.data] == [NEUTRAL, NEUTRAL]
    assert sum(bars.y.sum() for bars in figure.data) == 5
    assert figure.layout.barmode == "stack"
    assert figure.layout.xaxis.tickformat == ""


def test_equal_values_make_a_figure_too() -> None:
    assert plot_placebos(effects(("vector", 0.5), (RANDOM, 0.5))).data[0].y.sum() == 1


@pytest.mark.parametrize(
    ("frame", "bins", "message"),
    [
        (KNOWN.iloc[:1], 4, "of 1 rows 0 have"),
        (KNOWN.iloc[1:], 4, "of 4 rows 4 have"),
        (KNOWN, 0, "bins=0"),
        (effects(("vector", np.nan), (RANDOM, 0.1)), 4, "must be finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(frame: pd.DataFrame, bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_placebos(frame, bins=bins)


def test_names_of_neighbours_are_written_at_different_heights() -> None:
    values = [0.5, 0.501, 0.502, *np.linspace(0, 1, 19)]
    names = ["a", "b", "c", *["placebo: random direction"] * 19]
    figure = plot_placebos(pd.DataFrame({"method": names, "value": values}))
    heights = {one.text: one.yshift for one in figure.layout.annotations}
    assert len(set(heights.values())) == 3
    assert (
        figure.layout.margin.t > plot_placebos(pd.DataFrame({"method": names[2:], "value": values[2:]})).layout.margin.t
    )
    assert figure.layout.yaxis.dtick == 1, "placebos are counted in whole numbers"
