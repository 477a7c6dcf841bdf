"""Figures of written vectors: exact frame in, then traces, axes, ranges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.plots import plot_atv_against, plot_atv_cloud, plot_atv_cosines, plot_atv_norms


def test_cosines_within_each_task_and_between_tasks() -> None:
    rows = [(0, "a", "a", "within", 0.9), (0, "b", "b", "within", 0.8), (0, "a", "b", "between", 0.1)]
    rows += [(1, "a", "a", "within", 0.7), (1, "b", "b", "within", 0.6), (1, "a", "b", "between", -0.3)]
    frame = pd.DataFrame(rows, columns=["layer", "task_a", "task_b", "kind", "cosine"])
    frame["centred_cosine"] = frame["cosine"] / 2
    figure = plot_atv_cosines(frame)
    assert [trace.name for trace in figure.data if trace.name] == ["between tasks", "a", "b"]
    assert list(figure.data[1].y) == [0.05, -0.15]
    assert list(figure.data[2].y) == [0.45, 0.35]
    assert list(plot_atv_cosines(frame, centred=False).data[2].y) == [0.9, 0.7]
    assert tuple(figure.layout.yaxis.range) == (-1.02, 1.02)


def test_norms_have_a_median_and_a_band() -> None:
    frame = pd.DataFrame({"layer": 3, "task": "a", "norm": np.arange(11.0)})
    figure = plot_atv_norms(frame)
    assert list(figure.data[1].y) == [5.0]
    assert list(figure.data[0].y) == pytest.approx([9.0, 1.0])
    assert figure.layout.yaxis.rangemode == "tozero"


def test_constant_vectors_of_the_own_and_of_other_tasks() -> None:
    rows = [(0, "a", "a", True, 0.5), (0, "b", "b", True, 0.7), (0, "a", "b", False, 0.2)]
    figure = plot_atv_against(pd.DataFrame(rows, columns=["layer", "task", "source", "same", "cosine"]))
    assert [trace.name for trace in figure.data if trace.name] == ["own task's", "other tasks'"]
    assert list(figure.data[1].y) == [0.6]
    assert list(figure.data[3].y) == [0.2]


@pytest.mark.parametrize("explained", [0.4, float("nan")])
def test_clouds_are_coloured_by_task(explained: float) -> None:
    frame = pd.DataFrame(
        {"task": ["a", "a", "b"], "sample_id": ["0", "1", "2"], "layer": 2, "x": [0.0, 1, 2], "y": [3.0, 4, 5]}
    ).assign(explained_x=explained, explained_y=explained)
    figure = plot_atv_cloud(frame)
    assert [(trace.name, len(trace.x)) for trace in figure.data] == [("a", 2), ("b", 1)]
    assert figure.data[0].marker.color != figure.data[1].marker.color
    expected = "UMAP 1" if np.isnan(explained) else "principal component 1 (40 % of variance)"
    assert figure.layout.xaxis.title.text == expected
    with pytest.raises(ValueError, match="layer=3"):
        plot_atv_cloud(frame, layer=3)


@pytest.mark.parametrize("plot", [plot_atv_against, plot_atv_cloud, plot_atv_cosines, plot_atv_norms])
def test_frames_that_lack_something_are_refused(plot: object) -> None:
    assert callable(plot)
    with pytest.raises(ValueError, match="lacks"):
        plot(pd.DataFrame({"layer": [1]}))
