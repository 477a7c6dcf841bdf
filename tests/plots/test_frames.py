"""Frames that do not fit are refused by name; numbers are written the same everywhere."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens import plots
from cast_lens.plots.layout import hover_text, metric_text, percent, points, points_interval
from tests.plots import synthetic

TOKENS = pd.DataFrame({"token": ["a"], "delta": [1.0]})
NEEDED = {
    "plot_alignment": "task, other, layer, cosine, low, high",
    "plot_cohesion": "task, layer, pairwise_cosine, low, high",
    "plot_cosine_matrix": "layer, task_a, task_b, cosine",
    "plot_costs": "method, gflops",
    "plot_entropy": "task, layer, condition, entropy",
    "plot_gain": "target, source, method, metric, gain, gain_low, gain_high",
    "plot_loss": "step, loss",
    "plot_methods": "method, metric, gain, gain_low, gain_high, n",
    "plot_parallelism": "layer, task_a, task_b, cosine, low, high",
    "plot_pareto": "method, gain, side_effect",
    "plot_placebos": "method, value",
    "plot_projection": "task, sample_id, condition, layer, x, y",
    "plot_scaling": "x, y, method, low, high",
    "plot_selection": "x, y, influence, rank, chosen",
    "plot_split": "target, source, method, total, total_low, total_high, format, format_low",
    "plot_steerability": "sample, strength, score, anti_steerable",
    "plot_sweep": "source, kind, layer, strength, n",
    "plot_token_effects": "token, delta",
    "plot_transfer_matrix": "target, source, method, metric, gain, gain_low, gain_high",
    "plot_headroom": "model, target, source, headroom, gain, gain_low, gain_high, n",
    "plot_risk_coverage": "predictor, coverage, gain, harm, steered, gate",
    "plot_rules": "rule, method, gain, gain_low, gain_high, harmed_share, pairs, steered",
    "plot_atv_against": "layer, task, source, same, cosine",
    "plot_atv_cloud": "task, sample_id, layer, x, y",
    "plot_atv_cosines": "layer, task_a, task_b, kind, centred_cosine",
    "plot_atv_norms": "layer, task, norm",
}


def test_every_figure_is_checked_here() -> None:
    assert set(NEEDED) == {name for name in plots.__all__ if name.startswith("plot_")}


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_column_is_named(name: str) -> None:
    first, *rest = NEEDED[name].split(", ")
    frame = pd.DataFrame({column: [0] for column in [*rest, "something"]})
    with pytest.raises(ValueError, match=f"{name} needs the columns {NEEDED[name]}.*the frame lacks {first}"):
        getattr(plots, name)(frame)


@pytest.mark.parametrize("name", NEEDED)
def test_an_empty_frame_is_refused(name: str) -> None:
    columns = NEEDED[name].split(", ")
    if name == "plot_split":
        columns += ["format_high", "choice", "choice_low", "choice_high"]
    with pytest.raises(ValueError, match=f"{name} got a frame without rows"):
        getattr(plots, name)(pd.DataFrame(columns=columns))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.plot_projection(synthetic.projection(), layer=3), "layer=3 is not in the frame; it has 4, 12"),
        (lambda: plots.plot_projection(synthetic.projection(), method="tsne"), "method='tsne' is not in the frame"),
        (lambda: plots.plot_cosine_matrix(synthetic.cosines(), layer=1), "layer=1 is not in the frame; it has 0, 8"),
        (lambda: plots.plot_sweep(synthetic.sweep(), source="x"), "source='x' is not in the frame; it has review"),
        (lambda: plots.plot_sweep(synthetic.sweep(), metric="valid"), "metric='valid' is not in the frame"),
        (lambda: plots.plot_gain(synthetic.transfer(), metric="bleu"), "metric='bleu' is not in the frame"),
        (lambda: plots.plot_transfer_matrix(synthetic.transfer(), method="atv"), "method='atv' is not in the frame"),
        (lambda: plots.plot_split(synthetic.split(), method="atv"), "method='atv' is not in the frame"),
        (lambda: plots.plot_token_effects(TOKENS, top=0), "top=0 must be 1 or more"),
    ],
)  # fmt: skip
def test_an_option_that_the_frame_lacks_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.414), "41 %"),
        (percent(np.nan), "–"),
        (points(0.126), "+13"),
        (points(-0.126), "−13"),
        (points(-0.004), "0"),
        (points(np.nan), "–"),
        (points_interval(-0.1, 0.2), "[−10, +20]"),
        (points_interval(0.1, np.inf), ""),
        (metric_text("exact_match", 0.5), "50 %"),
        (metric_text("gold_logprob", -1.234), "-1.23"),
        (metric_text("gold_logprob", np.nan), "–"),
    ],
)
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_hover_text_is_cut_wrapped_and_escaped() -> None:
    assert hover_text("a <b>bold</b>\n claim") == "a &lt;b&gt;bold&lt;/b&gt; claim"
    lines = hover_text("word " * 100, width=20, limit=60).split("<br>")
    assert max(map(len, lines)) <= 20
    assert lines[-1].endswith("…")
    assert sum(map(len, lines)) <= 60
