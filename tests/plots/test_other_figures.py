"""Scaling, steerability, side effects, selection, tokens, training: exact frame in, then traces, axes, ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.plots import plot_loss, plot_pareto, plot_scaling, plot_selection, plot_steerability, plot_token_effects
from cast_lens.plots.style import NEUTRAL


def test_scaling_sorts_by_x_and_draws_the_interval() -> None:
    frame = pd.DataFrame(
        {"x": [8, 1, 8, 1], "y": [0.4, 0.2, 0.3, 0.3], "method": ["cast"] * 2 + ["few-shot"] * 2}
    ).assign(low=0.1, high=0.5)
    figure = plot_scaling(frame, x_title="demonstrations")
    assert [trace.name for trace in figure.data if trace.name] == ["few-shot", "cast"]
    assert list(figure.data[3].x) == [1, 8]
    assert list(figure.data[3].y) == [0.2, 0.4]
    assert list(figure.data[2].y) == [0.5, 0.5, 0.1, 0.1]
    assert figure.layout.xaxis.title.text == "demonstrations"
    assert figure.layout.yaxis.tickformat == ".0%"
    assert plot_scaling(frame, share=False).layout.yaxis.tickformat == ""


def test_scaling_leaves_unknown_intervals_out() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "y": 0.2, "method": "cast", "low": [0.1, np.nan, 0.1], "high": 0.3})
    assert list(plot_scaling(frame).data[0].x) == [1, 3, 3, 1]


def test_steerability_parts_those_that_go_against() -> None:
    frame = pd.DataFrame(
        [
            {"sample": sample, "strength": strength, "score": slope * strength, "anti_steerable": slope < 0}
            for sample, slope in (("a", 1.0), ("b", 2.0), ("c", -1.0))
            for strength in (-1.0, 0.0, 1.0)
        ]
    )
    follows, against = plot_steerability(frame).data
    assert (follows.name, against.name) == ("follows: 2", "goes against (anti-steerable): 1")
    assert list(against.y) == [1.0, 0.0, -1.0, None]
    assert list(follows.text) == ["a"] * 4 + ["b"] * 4
    assert plot_steerability(frame).layout.xaxis.title.text == "strength"


def test_pareto_joins_the_points_that_none_beats() -> None:
    frame = pd.DataFrame(
        {
            "method": ["cast", "cast", "few-shot", "placebo: random direction"],
            "gain": [0.1, 0.3, 0.2, 0.0],
            "side_effect": [0.0, 0.2, 0.3, 0.1],
            "gain_low": 0.0,
            "gain_high": 0.4,
        }
    )
    figure = plot_pareto(frame)
    assert list(figure.data[0].x) == [0, 20]
    assert figure.data[0].mode == "lines+markers", "a front of one point is seen too"
    assert list(figure.data[0].y) == [10, 30]
    steered = next(trace for trace in figure.data if trace.name == "cast")
    np.testing.assert_allclose(steered.error_y.array, [30, 10])
    assert steered.error_x.array is None
    assert figure.layout.yaxis.title.text == "gain, percentage points"


def test_pareto_of_equal_points_keeps_one() -> None:
    frame = pd.DataFrame({"method": "cast", "gain": [0.1, 0.1], "side_effect": [0.1, 0.1]})
    assert len(plot_pareto(frame).data[0].x) == 1


def test_selection_numbers_the_chosen_in_order() -> None:
    frame = pd.DataFrame(
        {"x": [0, 1, 2], "y": 0, "influence": [1.0, 4.0, 2.0], "rank": [1, 0, -1], "chosen": [True, True, False]}
    ).assign(text=["one", "<two>", "three"])
    others, chosen = plot_selection(frame).data
    assert list(chosen.text) == ["2", "1"]
    assert list(chosen.marker.size) == [1.0, 4.0]
    assert chosen.marker.sizeref == others.marker.sizeref > 0, "one scale for both"
    assert list(chosen.customdata) == ["one", "&lt;two&gt;"]
    assert len(others.x) == 1
    assert list(chosen.textposition) == ["bottom center", "top center"]
    shares = frame.assign(explained_x=0.41, explained_y=0.2)
    assert plot_selection(shares).layout.xaxis.title.text == "principal component 1 (41 % of variance)"
    assert plot_selection(frame).layout.yaxis.title.text is None


def test_token_effects_show_what_moves_most() -> None:
    frame = pd.DataFrame({"token": [" a", "\n", "b", "<c>", "d"], "delta": [0.3, -0.2, 0.01, -0.05, 0.0]}).assign(
        before=0.1, after=0.4
    )
    gains, losses = plot_token_effects(frame, top=1).data
    assert list(gains.y) == ["␣a"]
    assert list(gains.x) == [30]
    assert list(losses.y) == ["⏎"]
    assert "customdata[1]:.1%" in gains.hovertemplate
    _, more = plot_token_effects(frame, top=2).data
    assert list(more.y) == ["‹c›", "⏎"]
    assert plot_token_effects(frame).layout.xaxis.title.text == "change, percentage points"


def test_token_effects_show_what_placebos_do_to_the_same_tokens() -> None:
    frame = pd.DataFrame({"token": ["a", "b", "c"], "delta": [0.3, -0.2, 0.01]})
    frame = frame.assign(**{"placebo 1": [0.1, -0.05, 0.5], "placebo 2": [0.0, 0.02, 0.4]})
    *bars, marks = plot_token_effects(frame, top=1).data
    assert [bar.name for bar in bars] == ["gains", "loses"]
    assert (marks.name, marks.marker.symbol, marks.marker.color) == ("2 placebos", "circle-open", NEUTRAL)
    assert list(marks.y) == ["a", "b", "a", "b"], "only at the tokens that are drawn"
    np.testing.assert_allclose(marks.x, [10, -5, 0, 2])
    assert list(marks.customdata) == ["placebo 1", "placebo 1", "placebo 2", "placebo 2"]
    assert plot_token_effects(frame.drop(columns="placebo 2")).data[-1].name == "placebo"


@pytest.mark.parametrize("split", [True, False])
def test_loss_has_a_line_a_split_and_marks_the_kept_step(split: bool) -> None:
    frame = pd.DataFrame({"step": [2, 1, 1, 2], "loss": [1.0, 2.0, 2.5, 1.5], "best": [False, False, False, True]})
    if split:
        frame["split"] = ["train", "train", "validation", "validation"]
    figure = plot_loss(frame)
    assert [trace.name for trace in figure.data] == (["train", "validation"] if split else ["train"]) + ["kept"]
    assert list(figure.data[-1].x) == [2]
    if split:
        assert list(figure.data[0].y) == [2.0, 1.0]
    assert figure.layout.xaxis.title.text == "step"
