"""Parallelism, cosines, projections, entropy: exact frame in, then traces, axes and ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.plots import (
    plot_alignment,
    plot_cohesion,
    plot_cosine_matrix,
    plot_entropy,
    plot_parallelism,
    plot_projection,
    task_style,
)
from tests.plots import synthetic


def lines(figure: object) -> list:
    return [trace for trace in figure.data if trace.fill is None]  # type: ignore[attr-defined]


def test_parallelism_draws_a_line_and_a_band_a_pair_in_two_panels() -> None:
    figure = plot_parallelism(synthetic.parallelism())
    assert len(lines(figure)) == 10, "pairs of five tasks"
    assert len(figure.data) == 2 * 10 + 2 * 2, "a band per pair, and two nulls per panel"
    assert [note.text for note in figure.layout.annotations] == [
        "Two tasks of one family",
        "Two tasks of different families",
    ]
    low, high = figure.layout.yaxis.range
    assert figure.layout.yaxis2.range == (low, high)
    assert high == 1
    assert -1 <= low <= synthetic.parallelism()["low"].min()
    assert figure.layout.yaxis.title.text == "cosine"
    assert figure.layout.xaxis2.title.text == "layer"


def test_parallelism_draws_the_numbers_of_the_frame() -> None:
    frame = synthetic.parallelism()
    figure = plot_parallelism(frame.sample(frac=1, random_state=0))
    rows = frame[(frame["task_a"] == "science") & (frame["task_b"] == "geography")]
    (line,) = [trace for trace in lines(figure) if trace.hovertemplate.startswith("science – geography<br>")]
    np.testing.assert_array_equal(line.x, rows["layer"])
    np.testing.assert_array_equal(line.y, rows["cosine"])
    assert line.yaxis == "y", "one family: the upper panel"
    band = figure.data[list(figure.data).index(line) - 1]
    np.testing.assert_array_equal(band.y, [*rows["high"], *rows["low"][::-1]])


def test_parallelism_names_few_pairs_and_groups_many() -> None:
    few = plot_parallelism(synthetic.parallelism(synthetic.TASKS[:4]))
    assert {trace.name for trace in lines(few)} >= {"science – geography", "review-sentiment – science"}
    assert len({trace.line.color for trace in lines(few)}) == 6
    many = plot_parallelism(synthetic.parallelism())
    shown = [trace.name for trace in many.data if trace.showlegend]
    assert shown == list(dict.fromkeys(shown)), "no entry twice"
    assert {"within classification", "two families", "null: random directions"} <= set(shown)


def test_parallelism_without_families_or_nulls_is_one_panel() -> None:
    frame = synthetic.parallelism(synthetic.TASKS[:3])
    bare = frame[["layer", "task_a", "task_b", "cosine", "low", "high"]]
    figure = plot_parallelism(bare)
    assert len(figure.data) == 2 * 3
    assert "yaxis2" not in figure.layout.to_plotly_json()


def test_parallelism_slider_moves_a_line_through_both_panels() -> None:
    figure = plot_parallelism(synthetic.parallelism(), layer=8)
    (mark,), (slider,) = figure.layout.shapes, figure.layout.sliders
    assert (mark.x0, mark.x1, mark.y0, mark.y1, mark.yref) == (8, 8, 0, 1, "paper")
    assert slider.steps[slider.active].label == "8"
    _, layout, _ = slider.steps[-1].args
    assert layout == {"shapes[0].x0": 28, "shapes[0].x1": 28}
    with pytest.raises(ValueError, match="layer=3 is not in the frame"):
        plot_parallelism(synthetic.parallelism(), layer=3)


def test_cosine_matrix_mirrors_pairs_and_moves_with_the_slider() -> None:
    frame = synthetic.cosines()
    figure = plot_cosine_matrix(frame, layer=8)
    (heat,) = figure.data
    assert list(heat.x) == list(heat.y) == list(synthetic.TASKS)
    np.testing.assert_array_equal(np.diag(heat.z), 1)
    np.testing.assert_array_equal(heat.z, np.transpose(heat.z))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmid, figure.layout.coloraxis.cmax) == (-1, 0, 1)
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == ["0", "8", "16", "24"]
    assert slider.active == 1
    data, layout, traces = slider.steps[3].args
    expected = frame[(frame["layer"] == 24) & (frame["task_a"] == "science") & (frame["task_b"] == "present-past")]
    assert data["z"][0][2][4] == pytest.approx(expected["cosine"].item(), abs=5e-4)  # rounded to 3 digits
    assert (layout, list(traces)) == ({}, [0])


def test_cosine_matrix_leaves_unknown_pairs_blank() -> None:
    frame = synthetic.cosines().query("layer == 8 and not (task_a == 'science' and task_b == 'geography')")
    (heat,) = plot_cosine_matrix(frame).data
    assert np.isnan(heat.z[2][3])
    assert plot_cosine_matrix(frame).layout.sliders == (), "one layer needs no slider"


def test_projection_draws_one_arrow_a_sample_and_one_a_task() -> None:
    frame = synthetic.projection(n=3)
    figure = plot_projection(frame, layer=4)
    assert [trace.name for trace in figure.data] == [*synthetic.TASKS, *synthetic.TASKS]
    rows = frame[(frame["layer"] == 4) & (frame["task"] == "science") & (frame["sample_id"] == "science-1")]
    zero, few = rows["x"].round(4)
    samples, mean = (trace for trace in figure.data if trace.name == "science")
    assert list(samples.x[4:8]) == [zero, zero, few, None], "plotly draws no first point of an arrow"
    assert list(samples.marker.size[4:8]) == [0, 5, 8, 0]
    assert samples.text[6].startswith("few-shot<br>Sample 1 of &lt;b&gt;science")
    centres = frame[(frame["layer"] == 4) & (frame["task"] == "science")].groupby("condition")["x"].mean()
    expected = [centres["zero-shot"], centres["zero-shot"], centres["few-shot"]]
    np.testing.assert_allclose(mean.x, expected, atol=5e-5)  # 4 digits
    assert samples.line.color == mean.line.color == task_style("science").colour


def test_projection_slider_moves_every_trace_and_names_the_variance() -> None:
    frame = synthetic.projection(n=3)
    frame.loc[frame["layer"] == 20, "explained_x"] = 0.33
    figure = plot_projection(frame)
    assert figure.layout.xaxis.title.text == "principal component 1 (41 % of variance)"
    data, layout, traces = figure.layout.sliders[0].steps[2].args
    assert list(traces) == list(range(10))
    assert len(data["x"]) == len(data["y"]) == 10
    first = frame[(frame["layer"] == 20) & (frame["sample_id"] == "review-sentiment-0")]
    assert data["y"][0][1:3] == list(first["y"].round(4))
    assert layout["xaxis.title.text"] == "principal component 1 (33 % of variance)"


def test_umap_has_no_arrows_and_says_so() -> None:
    figure = plot_projection(pd.concat([synthetic.projection(3), synthetic.umap(3)]), method="umap")
    assert len(figure.data) == len(synthetic.TASKS)
    assert "no directions" in figure.layout.title.text
    assert figure.layout.title.text.endswith(", layer 12"), "one layer has no slider to say which"
    assert {trace.mode for trace in figure.data} == {"markers"}
    assert list(figure.data[0].marker.symbol[1:3]) == ["circle-open", "circle"]
    assert figure.layout.yaxis.scaleanchor is None
    assert plot_projection(synthetic.projection(3)).layout.yaxis.scaleanchor == "x"


def test_entropy_draws_both_conditions_from_zero() -> None:
    figure = plot_entropy(synthetic.entropy())
    assert len(figure.data) == 2 * 5 + 2, "and two legend entries for the dashes"
    assert figure.layout.yaxis.title.text == "matrix entropy (nats)"
    assert figure.layout.xaxis.title.text == "layer"
    assert figure.layout.yaxis.rangemode == "tozero"
    assert {trace.line.dash for trace in figure.data} == {"solid", "dot"}


def test_cohesion_and_alignment_have_intervals_and_fixed_ranges() -> None:
    cohesion = plot_cohesion(synthetic.cohesion())
    assert len(cohesion.data) == 2 * 5
    alignment = plot_alignment(synthetic.alignment())
    assert len(alignment.data) == 25 + 5 + 2, "ordered pairs, a band for each own mean, two legend entries"
    for figure in (cohesion, alignment):
        low, high = figure.layout.yaxis.range
        assert high == 1
        assert (
            -1 <= low <= min(np.min(trace.y) for trace in figure.data if trace.y is not None and trace.y[0] is not None)
        )
    assert [trace.name for trace in alignment.data if trace.showlegend is True] == list(synthetic.TASKS)
