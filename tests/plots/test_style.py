"""Colours hold for every reader, on both backgrounds, and mean the same in every figure."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest

from cast_lens.plots import plot_cohesion, plot_entropy, plot_projection, task_style, themed
from cast_lens.plots.style import (
    BACKGROUND,
    NEUTRAL,
    PALETTE,
    TEXT,
    method_order,
    method_style,
    method_styles,
    never_blank,
    translucent,
)
from tests.plots import synthetic

# Simulation of full dichromacy, linear RGB: Machado, Oliveira and Fernandes 2009, table 1.
DICHROMACY = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# In OKLab a difference of 0.02 is just noticed; three times that is told apart at a glance.
LEAST_DISTANCE = 0.06


def linear(colour: str) -> np.ndarray:
    value = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    axes = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return axes @ np.cbrt(cones @ rgb.clip(0, 1))


def contrast(one: str, other: str) -> float:
    lights = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05 for colour in (one, other))
    return lights[1] / lights[0]


@pytest.mark.parametrize("sight", DICHROMACY)
def test_palette_colours_stay_apart(sight: str) -> None:
    seen = [oklab(DICHROMACY[sight] @ linear(colour)) for colour in PALETTE]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > LEAST_DISTANCE


def test_the_check_itself_can_fail() -> None:
    """Red and green of one lightness are what it is there to refuse."""
    red, green = (oklab(DICHROMACY["deuteranopia"] @ linear(colour)) for colour in ("#b04a4a", "#757530"))
    assert np.linalg.norm(red - green) < LEAST_DISTANCE


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_lines_and_text_stand_out_from_the_background(theme: str) -> None:
    # WCAG 2.2: 3:1 for graphics, 4.5:1 for text.
    assert all(contrast(colour, BACKGROUND[theme]) >= 3 for colour in (*PALETTE, NEUTRAL))
    assert contrast(TEXT[theme], BACKGROUND[theme]) >= 4.5


def test_a_task_has_one_colour_in_every_figure() -> None:
    figures = [
        plot_projection(synthetic.projection()),
        plot_cohesion(synthetic.cohesion()),
        plot_entropy(synthetic.entropy()),
    ]
    for task in synthetic.TASKS:
        colours = {trace.line.color for one in figures for trace in one.data if trace.name == task}
        assert colours == {task_style(task).colour}


def test_tasks_of_a_default_run_have_ten_different_colours() -> None:
    names = [
        "review-sentiment", "headline-topic", "science", "present-past", "finance-sentiment", "question-type",
        "geography", "everyday-sense", "yes-no-facts", "singular-plural",
    ]  # fmt: skip
    assert len({task_style(name).colour for name in names}) == len(names)


def test_another_language_keeps_the_colour_and_changes_the_mark() -> None:
    english, german = task_style("headline-topic"), task_style("headline-topic.de")
    assert english.colour == german.colour
    assert english.symbol != german.symbol
    assert english.dash != german.dash


def test_an_unknown_task_has_a_stable_style_of_its_own() -> None:
    assert task_style("my-task") == task_style("my-task")
    assert len({task_style(f"task {number}") for number in range(1000)}) == 50, "10 colours, 5 marks"


def test_placebos_are_grey_and_hollow_and_come_last() -> None:
    names = ["placebo: made up", "cast", "placebo: random direction", "few-shot"]
    assert all(method_style(name).colour == NEUTRAL for name in names if name.startswith("placebo"))
    assert all(method_style(name).symbol.endswith("-open") for name in names if name.startswith("placebo"))
    assert sorted(names, key=method_order) == ["few-shot", "cast", "placebo: random direction", "placebo: made up"]


def test_prompting_comes_before_vectors_and_numbers_are_sorted_by_size() -> None:
    names = ["zero-shot", "cross-task few-shot", "batched", "few-shot, k=2", "few-shot, k=16", "retrieved few-shot"]
    steering = ["cast", "few-shot mean", "few-shot mean, norm of cast", "task vector"]
    placebos = ["placebo: random direction", "placebo: random-text few-shot"]
    assert sorted([*placebos, *steering, *names][::-1], key=method_order) == [*names, *steering, *placebos]


def test_methods_of_one_figure_have_different_colours() -> None:
    names = ["cast", "few-shot", "atv", "pca", "lora", "prefix-tuning", "static atv", "atv low-rank"]
    colours = [style.colour for style in method_styles(names).values()]
    assert len(set(colours)) == len(names)
    assert method_styles(["cast"])["cast"] == method_style("cast")
    tasks = method_styles(["ag_news", "boolq", "placebo: random direction (boolq)"])
    assert tasks["boolq"].colour == task_style("boolq").colour != tasks["ag_news"].colour
    assert tasks["placebo: random direction (boolq)"].colour == NEUTRAL
    # More names than colours: none is left without one.
    assert len(method_styles([f"method {number}" for number in range(30)])) == 30


def test_themed_changes_a_copy() -> None:
    light = plot_cohesion(synthetic.cohesion())
    dark = themed(light, "dark")
    assert light.layout.template.layout.paper_bgcolor == BACKGROUND["light"]
    assert dark.layout.template.layout.paper_bgcolor == BACKGROUND["dark"]
    assert dark.data == light.data
    # Under a run-time type checker the annotation speaks first.
    with pytest.raises((ValueError, TypeError), match=r"(?s)light.*dark"):
        themed(light, "blue")  # type: ignore[arg-type]


def test_templates_are_registered_without_becoming_the_default() -> None:
    assert {"cast_lens", "cast_lens_dark"} <= set(plotly.io.templates)
    assert plotly.io.templates.default != "cast_lens"
    dark = go.Figure().update_layout(template="cast_lens_dark").layout.template.layout
    assert dark.paper_bgcolor == BACKGROUND["dark"]


def test_translucent() -> None:
    assert translucent("#1e69b4", 0.15) == "rgba(30,105,180,0.15)"


def test_a_figure_is_never_blank_without_a_word() -> None:
    before = plotly.io.renderers.default
    try:
        plotly.io.renderers.default = "plotly_mimetype"
        never_blank()
        assert plotly.io.renderers.default == "plotly_mimetype+cast_lens_words"
        shown = plot_entropy(synthetic.entropy())._repr_mimebundle_()
        assert "application/vnd.plotly.v1+json" in shown
        assert "pip install plotly" in shown["text/html"]
        plotly.io.renderers.default = "png"
        never_blank()
        assert plotly.io.renderers.default == "png"
    finally:
        plotly.io.renderers.default = before
