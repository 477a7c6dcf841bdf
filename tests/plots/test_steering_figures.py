"""Sweeps, transfer, gains and their split: exact frame in, then traces, axes and ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.plots import plot_gain, plot_split, plot_sweep, plot_transfer_matrix
from cast_lens.plots.style import method_style
from tests.plots import synthetic


def heat(figure: object) -> list:
    return [trace for trace in figure.data if trace.type == "heatmap"]  # type: ignore[attr-defined]


def test_sweep_lays_layers_on_x_and_marks_the_chosen_cell() -> None:
    frame = synthetic.sweep()
    figure = plot_sweep(frame, source="science")
    vector, placebo = heat(figure)
    assert list(vector.x) == list(synthetic.LAYERS)
    assert list(vector.y) == ["0.5", "1", "2", "4"]
    cell = frame[(frame["source"] == "science") & (frame["kind"] == "vector")].set_index(["strength", "layer"])
    assert vector.z[2][9] == pytest.approx(cell.loc[(2.0, 18), "first_match"], abs=5e-5)  # 4 digits
    ring, none = figure.data[2:]
    assert (set(ring.x), set(ring.y)) == ({18}, {"2"})
    assert len(none.x) == 0, "a placebo is never chosen"
    assert [note.text for note in figure.layout.annotations] == ["vector", "placebo: random direction"]
    assert figure.layout.xaxis2.title.text == "layer"
    assert figure.layout.yaxis.title.text == figure.layout.yaxis2.title.text == "strength"
    assert placebo.yaxis == "y2"


def test_sweep_metric_menu_changes_values_and_scale() -> None:
    frame = synthetic.sweep(("science",))
    figure = plot_sweep(frame)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == [
        "first token right",
        "label-restricted accuracy",
        "first token admissible",
        "log-probability of the gold answer",
    ]
    data, layout, traces = menu.buttons[3].args
    assert list(traces) == [0, 1]
    assert np.shape(data["z"]) == (2, 4, 15)
    cells = frame.query("kind != 'unsteered'")
    assert layout["coloraxis"]["cmin"] == pytest.approx(cells["gold_logprob"].min())
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.coloraxis.colorbar.tickformat == ".0%"
    shown = plot_sweep(synthetic.sweep(), source="science", metric="choice_correct")
    assert shown.layout.updatemenus[0].active == 1
    assert np.unique(heat(shown)[0].z).tolist() == [0.5]


def test_sweep_hover_tells_n_interval_unsteered_and_changes() -> None:
    frame = synthetic.sweep(("science",)).assign(changed=np.nan, n_changed=np.nan)
    frame = frame.astype({"changed": object})
    frame.loc[frame["chosen"], ["changed", "n_changed"]] = (
        "one (gold: A): B → <A>, now right\ntwo (gold: B): B → C",
        9,
    )
    vector = heat(plot_sweep(frame))[0]
    assert "n = %{customdata[0]}" in vector.hovertemplate
    assert "first token right %{customdata[1]:.0%} [%{customdata[2]:.0%}, %{customdata[3]:.0%}], unsteered 20 %" in (
        vector.hovertemplate
    )
    low, value, high = vector.customdata[2][9][2], vector.customdata[2][9][1], vector.customdata[2][9][3]
    assert low < value <= high
    assert vector.text[2][9] == (
        f"<br>exact match {100 * value:.0f} %<br><b>9 of 24 answers change</b>"
        "<br>one (gold: A): B → &lt;A&gt;, now right<br>two (gold: B): B → C"
    )
    assert vector.text[0][0] == ""


def test_sweep_of_all_sources_names_them() -> None:
    figure = plot_sweep(synthetic.sweep())
    assert len(heat(figure)) == 4
    assert figure.layout.annotations[2].text == "science: vector"


def test_sweep_of_nothing_but_zeros_still_has_a_scale() -> None:
    figure = plot_sweep(synthetic.sweep(("science",)).assign(first_match=0.0))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_sweep_leaves_cells_that_were_not_run_blank() -> None:
    frame = synthetic.sweep(("science",)).query("not (kind == 'vector' and layer == 0 and strength == 0.5)")
    vector = heat(plot_sweep(frame))[0]
    assert vector.z[0][0] is None or np.isnan(vector.z[0][0])
    assert vector.text[0][0] == ""


def test_transfer_matrix_is_centred_and_bold_where_sure() -> None:
    figure = plot_transfer_matrix(synthetic.transfer())
    (gains,) = heat(figure)
    assert list(gains.y) == ["finance-sentiment", "geography", "present-past"], "by family"
    assert list(gains.x) == ["review-sentiment", "science"]
    assert gains.z[0] == pytest.approx([35, -4])
    assert gains.text[0] == ["+35", "−4"], "no corrected p-value is below 0.05"
    tested = synthetic.transfer().assign(p_adjusted=lambda rows: np.where(rows["gain"] < 0, 0.04, 0.05))
    (sure,) = heat(plot_transfer_matrix(tested))
    assert sure.text[0] == ["+35", "<b>−4</b>"], "the corrected p-value decides, not the interval"
    (untested,) = heat(plot_transfer_matrix(synthetic.transfer().drop(columns="p_adjusted")))
    assert untested.text[0] == ["<b>+35</b>", "−4"], "without tests the interval decides"
    scale = figure.layout.coloraxis
    assert (scale.cmin, scale.cmid, scale.cmax) == (pytest.approx(-35), 0, pytest.approx(35))
    assert figure.layout.xaxis.title.text == "source of the vector"
    assert "adjusted p = 0.08" in gains.customdata[0][0]


def test_figures_that_are_compared_can_have_one_colour_scale() -> None:
    scale = plot_transfer_matrix(synthetic.transfer(), reach=100).layout.coloraxis
    assert (scale.cmin, scale.cmax) == (-100, 100)
    with pytest.raises(ValueError, match="reach=0 must be above 0"):
        plot_transfer_matrix(synthetic.transfer(), reach=0)


def test_transfer_matrix_panels_share_a_scale_and_can_be_stacked() -> None:
    figure = plot_transfer_matrix(synthetic.transfer(), metrics=synthetic.METRICS)
    exact, valid, choice = heat(figure)
    assert exact.coloraxis == valid.coloraxis == choice.coloraxis == "coloraxis"
    assert figure.layout.coloraxis.cmax == pytest.approx(85)
    assert valid.text[2] == ["", ""], "free answers have no label validity"
    narrow = figure.layout.meta["narrow"]
    spans = [narrow[f"yaxis{number}.domain"] for number in ("", "2", "3")]
    assert spans[0][1] > spans[0][0] > spans[1][1] > spans[1][0] > spans[2][1] > spans[2][0] >= -1e-9
    assert narrow["xaxis3.title.text"] == "source of the vector"


@pytest.mark.parametrize(("sources", "size"), [(2, 13), (18, 13), (19, 9), (36, 9), (37, None)])
def test_transfer_matrix_prints_numbers_only_where_they_fit(sources: int, size: int | None) -> None:
    one = synthetic.transfer().query("metric == 'exact_match' and source == 'science'")
    frame = pd.concat([one.assign(source=f"task {number}") for number in range(sources)])
    (gains,) = heat(plot_transfer_matrix(frame))
    assert (gains.textfont.size, gains.texttemplate) == (size, "%{text}" if size else None)
    assert gains.text[0][0], "the hover text has it in any case"


def test_gain_shows_every_condition_with_its_interval() -> None:
    frame = synthetic.transfer()
    figure = plot_gain(frame)
    assert [trace.name for trace in figure.data] == [
        "few-shot",
        "cross-task few-shot",
        "cast",
        "placebo: random direction",
        "placebo: shuffled labels",
    ]
    steered = figure.data[2]
    np.testing.assert_allclose(steered.x, [35, -4, 35, 35, 35, 35])
    np.testing.assert_allclose(steered.error_x.array, 12)
    np.testing.assert_allclose(steered.error_x.arrayminus, 12)
    assert steered.marker.color == method_style("cast").colour
    assert figure.layout.xaxis.title.text == "percentage points"
    assert list(figure.layout.yaxis.ticktext[:3]) == ["<b>finance-sentiment</b>", "← review-sentiment", "← science"]


def test_gain_gives_every_condition_a_height_of_its_own() -> None:
    heights = [height for trace in plot_gain(synthetic.transfer()).data for height in trace.y]
    assert len(set(heights)) == len(heights) == 3 + 6 * 4
    bottom, top = plot_gain(synthetic.transfer()).layout.yaxis.range
    assert top < min(heights)
    assert max(heights) < bottom


def test_split_stacks_to_the_total() -> None:
    frame = synthetic.split(choice=-0.05)
    figure = plot_split(frame)
    form, choice = (trace for trace in figure.data if trace.type == "bar")
    total = figure.data[-1]
    np.testing.assert_allclose(np.add(form.x, choice.x), total.x)
    np.testing.assert_allclose(choice.x, -5)
    assert figure.layout.barmode == "relative"
    assert len(form.x) == 4, "steered rows only"
    assert figure.layout.yaxis.ticktext[0] == "finance-sentiment<br>← review-sentiment"
    assert all(trace.error_x.array is not None for trace in figure.data if trace.type == "scatter")


def test_a_sources_own_vector_belongs_to_steered() -> None:
    own = synthetic.split().query("method == 'cast'").assign(method="cast (own vector)")
    both = pd.concat([synthetic.split(), own])
    assert len(plot_split(both).data[0].x) == 8
    assert len(plot_split(both, method="cast (own vector)").data[0].x) == 4
