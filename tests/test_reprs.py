"""What a user holds says what it is in one line, and shows itself in a notebook."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from cast_lens.engine import Sweep, score, sweep
from cast_lens.interventions import Intervention, PromptVectors
from cast_lens.methods import Setting
from cast_lens.models import fingerprint
from cast_lens.selection import select
from cast_lens.tasks import Example, zero_shot_prompts
from cast_lens.vectors import DifferenceVectors, Provenance, SteeringVector
from tests.small_tasks import label_task
from tests.tiny import tiny_model

MODEL = tiny_model("llama")
WIDTH = int(MODEL.cfg.d_model)
ORIGIN = Provenance("folder/tiny-llama", fingerprint(MODEL), "mood <b>")
NOISE = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
VECTOR = SteeringVector(NOISE, (0, 1, 2, 3), ORIGIN)
PROMPTS = zero_shot_prompts(label_task(), label_task().test[:3])


@pytest.fixture(scope="module")
def grid() -> Sweep:
    placebo = SteeringVector(NOISE.flip(1), (0, 1, 2, 3), ORIGIN)
    return sweep(MODEL, PROMPTS, {"mood": VECTOR, "placebo": placebo}, layers=(1, 2), strengths=(0.0, 50.0))


def test_each_is_one_line(grid: Sweep) -> None:
    side = NOISE[None].repeat(5, 1, 1)
    told = {
        repr(VECTOR): f"SteeringVector('mood <b>', 4 layers × {WIDTH}, tiny-llama)",
        repr(DifferenceVectors(side, 0 * side, (0, 1, 2, 3), tuple("abcde"), ORIGIN)): (
            f"DifferenceVectors('mood <b>', 5 samples × 4 layers × {WIDTH}, tiny-llama)"
        ),
        repr(VECTOR.intervention(2, strength=1.5)): (
            f"Intervention('mood <b>', layer 2, strength 1.5, add at last, {WIDTH} wide)"
        ),
        repr(Intervention(NOISE[0], 1, position="all")): (
            f"Intervention(layer 1, strength 1, add at all, {WIDTH} wide)"
        ),
        repr(PromptVectors(side, (0, 1, 2, 3), 0.5, name="atv")): (
            f"PromptVectors('atv', 5 prompts × 4 layers × {WIDTH}, strength 0.5, last)"
        ),
        repr(grid): "Sweep(mood, placebo: 2 layers × 2 strengths, 3 prompts)",
        repr(grid.scores): "Scores(3 prompts × 9 variants: unsteered, mood, placebo)",
        repr(score(MODEL, PROMPTS, keep_logits=True)): "Scores(3 prompts × 1 variants: unsteered, logits kept)",
        repr(label_task("mood")): "Task('mood', classification, train/validation/test 14/4/5, test)",
        repr(select(NOISE.numpy(), 2, method="random", seed=1)): "Selection('random', 2 samples: ",
    }
    for found, expected in told.items():
        assert found.startswith(expected), found
        assert "\n" not in found
        assert len(found) < 120


def test_a_sweep_draws_its_grids(grid: Sweep) -> None:
    shown = grid._repr_html_()
    captions = re.findall(r"<caption>(.*?)</caption>", shown)
    assert captions == ["mood", "placebo"]
    cells = grid.to_frame().query("kind == 'mood'").set_index(["strength", "layer"])["first_match"]
    numbers = re.findall(r"<td[^>]*>(\d+)</td>", shown)
    assert [int(one) for one in numbers[:4]] == [
        round(100 * cells[strength, layer]) for strength in (0.0, 50.0) for layer in (1, 2)
    ]
    assert "unsteered" in shown


def test_a_vector_shows_its_norms_and_markup_is_escaped() -> None:
    shown = VECTOR._repr_html_()
    assert "mood &lt;b&gt;" in shown
    assert f"{float(NOISE[2].norm()):.3g}" in shown


def test_a_task_shows_three_examples_as_text() -> None:
    task = label_task("mood")
    odd = replace(task, train=(Example("a", "<script>x", "good"), *task.train))
    shown = odd._repr_html_()
    assert shown.count("<tr>") == 4
    assert "&lt;script&gt;x" in shown
    assert task.train[1].input in shown
    assert task.train[2].input not in shown


def test_a_setting_names_its_layers_where_there_are_several() -> None:
    assert repr(Setting(3, 1.5)) == "Setting(layer=3, strength=1.5, operator='add', position='last')"
    assert repr(Setting(3, 1.5, layers=(3, 4))).endswith("position='last', layers=(3, 4))")
