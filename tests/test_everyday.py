"""What one types every day: rooms by name, seeds left out, positions, sampling, streaming, one frame to split."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pandas as pd
import pytest
import torch

import cast_lens as cl
from cast_lens.engine import TokenPrompt, reference, tokenise
from tests.engine.cases import direction
from tests.tiny import tiny_model

MODEL = tiny_model("llama")
TEXTS = ["The opposite of hot is", "Review: a warm and funny film. Sentiment:"]
ROOMS = ("effects", "engine", "geometry", "methods", "placebos", "plots", "selection", "stats", "tasks")


def test_rooms_load_on_access_and_show_in_tab() -> None:
    for room in ROOMS:
        assert room in dir(cl)
        assert getattr(cl, room) is importlib.import_module(f"cast_lens.{room}")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_seed_has_a_default(room: str) -> None:
    module = importlib.import_module(f"cast_lens.{room}")
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    for name in names:
        found = getattr(module, name)
        if inspect.isfunction(found) and "seed" in inspect.signature(found).parameters:
            assert inspect.signature(found).parameters["seed"].default == 0, name


def test_positions_are_those_of_a_whole_pass() -> None:
    found = cl.capture(MODEL, TEXTS, positions=[0, -2, -1], layers=[1, 3])
    assert found.shape == (2, 3, 2, MODEL.cfg.d_model)
    for row, prompt in zip(found, tokenise(MODEL, TEXTS), strict=True):
        _, cache = MODEL.run_with_cache(torch.tensor([prompt.tokens]))
        for place, at in zip((0, -2, -1), row, strict=True):
            whole = torch.stack([cache["resid_post", layer][0, place] for layer in (1, 3)])
            torch.testing.assert_close(at, whole, rtol=1e-4, atol=1e-4)
    last = cl.capture(MODEL, TEXTS, layers=[1, 3])
    torch.testing.assert_close(found[:, -1], last, rtol=1e-5, atol=1e-5)
    assert len(reference.residuals(MODEL, tokenise(MODEL, TEXTS[0])[0].tokens)) == MODEL.cfg.n_layers


@pytest.mark.parametrize("positions", [[], [99], [-99]])
def test_positions_outside_are_refused(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="positions"):
        cl.capture(MODEL, TEXTS[0], positions=positions)


class TestGenerate:
    def _write(self, **options: Any) -> list[str]:
        return cl.generate(MODEL, TEXTS, max_new_tokens=8, stop=None, **options)

    def test_draws_follow_the_seed_and_leave_the_global_one_alone(self) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first = self._write(temperature=1.5, seed=1)
        assert torch.equal(torch.get_rng_state(), before)
        assert first == self._write(temperature=1.5, seed=1)
        assert first != self._write(temperature=1.5, seed=2)

    def test_a_low_temperature_is_greedy(self) -> None:
        assert self._write(temperature=1e-4) == self._write()

    def test_draws_have_the_probabilities_of_the_softmax(self) -> None:
        prompts = [TEXTS[0]] * 400
        drawn = cl.generate(MODEL, prompts, max_new_tokens=1, stop=None, temperature=2.0)
        logits = MODEL(torch.tensor([tokenise(MODEL, TEXTS[0])[0].tokens]))[0, -1].detach().double() / 2
        share, best = logits.softmax(dim=-1).max(dim=-1)
        text = cl.generate(MODEL, TEXTS[0], max_new_tokens=1, stop=None)[0]
        assert MODEL.tokenizer.decode([int(best)]) == text
        hits, p = sum(one == text for one in drawn), float(share)
        assert abs(hits - 400 * p) < 4 * (400 * p * (1 - p)) ** 0.5 + 1

    def test_pieces_add_up_to_the_text(self) -> None:
        pieces: list[str] = []
        (text,) = cl.generate(MODEL, TEXTS[1], max_new_tokens=12, on_text=pieces.append)
        assert "".join(pieces) == text
        with pytest.raises(ValueError, match="one prompt"):
            cl.generate(MODEL, TEXTS, on_text=pieces.append)

    @pytest.mark.parametrize("temperature", [-1.0, float("nan"), float("inf")])
    def test_other_temperatures_are_refused(self, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature"):
            self._write(temperature=temperature)


@pytest.mark.parametrize("prompts", ["a warm film", ["a warm film"], [TokenPrompt((3, 4, 5))]])
def test_what_knows_no_answer_is_not_evaluated(prompts: Any) -> None:
    with pytest.raises(ValueError, match=r"prompt 0 is a (str|TokenPrompt), .* give Prompt objects"):
        cl.evaluate(tiny_model("llama"), prompts)


def test_one_frame_is_split_by_condition() -> None:
    prompts = [cl.Prompt((), TEXTS[i], gold, ("hot", "cold"), "t", str(i)) for i, gold in enumerate(("cold", "hot"))]
    edits = {"a": cl.Intervention(direction(0), 1, 2.0), "b": cl.Intervention(direction(1), 2, 2.0)}
    outcomes = cl.evaluate(MODEL, prompts, edits)
    assert list(dict.fromkeys(outcomes["condition"])) == ["unsteered", "a", "b"]
    split = cl.stats.gain_split(outcomes)
    assert list(split["condition"]) == ["a"] * 3 + ["b"] * 3
    plain, steered = (outcomes[outcomes["condition"] == name] for name in ("unsteered", "b"))
    own = cl.stats.gain_split(plain, steered, on=("sample",))
    pd.testing.assert_frame_equal(split.tail(3).drop(columns="condition").reset_index(drop=True), own)
    with pytest.raises(ValueError, match="one frame"):
        cl.stats.gain_split(outcomes[outcomes["variant"] == 0])


def test_conditions_of_one_name_are_told_apart() -> None:
    vector = direction(0)
    edits = [cl.Intervention(vector, layer, 1.0, name="v") for layer in (1, 2, 2)]
    found = cl.evaluate(MODEL, cl.Prompt((), TEXTS[0], "cold", (), "t", "1"), edits)
    assert list(found["condition"]) == ["unsteered", "v, layer 1, strength 1", "v, layer 2, strength 1 (2)",
                                        "v, layer 2, strength 1 (3)"]  # fmt: skip
