"""Costs on plain text: the unsteered row costs nothing, and the rest is what plain hooks give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cast_lens.effects import divergence, effect_table, text_effects, token_effects
from cast_lens.interventions import Intervention
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import steer

from .tiny import tiny_model

TEXTS = ("a warm and funny film about a dull place", "the capital of France is far from the largest planet")


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def edits(model: HookedTransformer) -> list[Intervention]:
    noise = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return [Intervention(noise[0], 1, 0.0, name="nothing"), Intervention(noise[1], 2, 3.0, name="push")]


def test_text_effects_are_those_of_plain_hooks(model: HookedTransformer, edits: list[Intervention]) -> None:
    frame = text_effects(model, edits, TEXTS).set_index(["variant", "text"])
    for text in TEXTS:
        tokens = torch.tensor(model.tokenizer.encode(text))[None]  # type: ignore[union-attr]
        middle = tokens.shape[1] // 2
        with torch.no_grad():
            plain = model(tokens).log_softmax(dim=-1)[0]
            with steer(model, edits[1], prompt_length=middle):
                pushed = model(tokens).log_softmax(dim=-1)[0]
        nll = -pushed[middle - 1 : -1].gather(1, tokens[0, middle:, None]).mean()
        kl = (plain[middle - 1].exp() * (plain[middle - 1] - pushed[middle - 1])).sum()
        # Two routes through float32.
        assert frame.loc[(2, text), "nll"] == pytest.approx(float(nll), rel=1e-4)
        assert frame.loc[(2, text), "kl"] == pytest.approx(float(kl), rel=1e-3, abs=1e-5)
        assert frame.loc[(2, text), "tokens"] == tokens.shape[1] - middle


def test_no_change_costs_nothing(model: HookedTransformer, edits: list[Intervention]) -> None:
    table = effect_table(text_effects(model, edits, TEXTS)).set_index("name")
    assert table.loc["unsteered", ["ratio", "ratio_low", "ratio_high", "kl"]].tolist() == [1, 1, 1, 0]
    assert table.loc["nothing", "ratio"] == pytest.approx(1, abs=1e-5)
    assert table.loc["push", "kl"] > 0
    assert table["n"].tolist() == [2, 2, 2]


def test_memory_changes_no_number(model: HookedTransformer, edits: list[Intervention]) -> None:
    one, other = (text_effects(model, edits, TEXTS, kept_mb=mb) for mb in (100.0, 1e-9))
    np.testing.assert_allclose(one[["nll", "kl"]], other[["nll", "kl"]], rtol=1e-4, atol=1e-6)


def test_short_texts_and_frames_without_a_baseline_are_refused(model: HookedTransformer) -> None:
    with pytest.raises(ValueError, match="4 or more are needed"):
        text_effects(model, [], ["a"])
    frame = text_effects(model, [], TEXTS)
    with pytest.raises(ValueError, match="lacks variant 0"):
        effect_table(frame[frame["variant"] > 0])


def test_divergence_by_hand() -> None:
    logits = torch.tensor([[[0.5, 0.5]], [[0.9, 0.1]]]).log()
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    torch.testing.assert_close(divergence(logits)[:, 0], torch.tensor([0.0, expected], dtype=torch.float64))


def test_token_effects_are_a_change_of_distribution(model: HookedTransformer, edits: list[Intervention]) -> None:
    frame = token_effects(model, TEXTS, edits[1])
    assert len(frame) == model.cfg.d_vocab_out
    assert frame["before"].sum() == pytest.approx(1, abs=1e-5)
    assert frame["delta"].sum() == pytest.approx(0, abs=1e-5)
    assert frame["delta"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(frame["after"] - frame["before"], frame["delta"], atol=1e-12)
    assert "placebo 1" not in frame


def test_placebos_of_token_effects_are_what_each_does_alone(
    model: HookedTransformer, edits: list[Intervention]
) -> None:
    nothing, push = edits
    frame = token_effects(model, TEXTS, nothing, placebos=[push, nothing])
    alone = token_effects(model, TEXTS, push)
    # One pass with three variants against one with two: float32 sums in another order.
    for column, expected in (("placebo 1", alone["delta"]), ("placebo 2", frame["delta"])):
        np.testing.assert_allclose(np.sort(frame[column]), np.sort(expected), atol=1e-7)
    assert frame["placebo 1"].abs().sum() > 100 * frame["delta"].abs().sum()
