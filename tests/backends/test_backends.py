"""Every backend gives what the engine gives: residuals, scores, answers, under every intervention that it can do."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from cast_lens.backends import EasySteerBackend, EngineBackend, HookBackend, VllmLensBackend, evaluate_on
from cast_lens.interventions import OPERATORS, POSITIONS, Intervention, PromptVectors
from cast_lens.models import load_model
from cast_lens.tasks import Prompt
from tests.backends.fakes import EASYSTEER, VLLM_LENS, EasySteerLLM, VllmLensLLM
from tests.tiny import tiny_hf_model, tiny_tokenizer

PROMPTS = [
    Prompt((), "Review: a warm and funny film. Sentiment:", "positive", ("positive", "negative"), "mood", "a"),
    Prompt((), "Review: a dull, lifeless mess. Sentiment:", "negative", ("positive", "negative"), "mood", "b"),
    Prompt((), "The capital of France is", "Paris", ("Paris", "cold", "two three"), "world", "c"),
]
ENGINE = EngineBackend(load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer()))


def _made(**how: Any) -> Intervention:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(2))
    return Intervention(direction, **{"layer": 1, "strength": 1.0, **how})


@cache
def _expected(layer: int | None, operator: Any, position: Any) -> tuple[list[torch.Tensor], list[str]]:
    """Scores and answers of the engine; without a layer, unsteered."""
    if layer is None and (operator, position) != ("add", "last"):
        return _expected(None, "add", "last")
    one = None if layer is None else _made(operator=operator, position=position, layer=layer)
    return list(ENGINE.score(PROMPTS, one)), ENGINE.answer(PROMPTS, one, max_new_tokens=3)


@pytest.fixture(params=["hooks", "easysteer", "vllm-lens"])
def backend(request: pytest.FixtureRequest) -> Any:
    made: dict[str, Any] = {
        "hooks": lambda: HookBackend(ENGINE.model),
        "easysteer": lambda: EasySteerBackend(EasySteerLLM(), api=EASYSTEER, context=256),
        "vllm-lens": lambda: VllmLensBackend(VllmLensLLM(), api=VLLM_LENS, context=256),
    }
    return made[request.param]()


def test_residuals(backend: Any) -> None:
    expected = ENGINE.capture(PROMPTS, [0, 2])
    torch.testing.assert_close(backend.capture(PROMPTS, [0, 2]), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_scores_and_answers(backend: Any, operator: Any, position: Any) -> None:
    steering = _made(operator=operator, position=position)
    if backend.name == "vllm-lens" and operator in ("ablate", "replace"):
        with pytest.raises(ValueError, match="cannot express"):
            backend.score(PROMPTS, steering)
        return
    # One after the other on one engine: keys kept for the first must not show in the second.
    for layer in (None, 1, None, 2):
        one = None if layer is None else _made(operator=operator, position=position, layer=layer)
        scores, answers = _expected(layer, operator, position)
        for expected, found in zip(scores, backend.score(PROMPTS, one), strict=True):
            torch.testing.assert_close(found.cpu(), expected.cpu(), atol=1e-3, rtol=1e-3)
        assert backend.answer(PROMPTS, one, max_new_tokens=3) == answers


def test_several_layers(backend: Any) -> None:
    steering = PromptVectors(torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(0)), (1, 3), 0.5)
    for expected, found in zip(ENGINE.score(PROMPTS, steering), backend.score(PROMPTS, steering), strict=True):
        torch.testing.assert_close(found.cpu(), expected.cpu(), atol=1e-3, rtol=1e-3)


def test_what_an_engine_cannot_do_is_refused() -> None:
    served = EasySteerBackend(EasySteerLLM(), api=EASYSTEER)
    with pytest.raises(ValueError, match="easysteer cannot express"):
        served.score(PROMPTS, _made(operator="replace", strength=0.5))
    for kind in (EasySteerBackend, VllmLensBackend):
        with pytest.raises(ValueError, match="is not installed"):
            kind(EasySteerLLM())


def test_an_evaluation_has_one_row_per_condition_and_prompt(backend: Any) -> None:
    steering = {"cast": _made(strength=4.0), "placebo": _made(strength=-4.0)}
    columns = ["condition", "sample", "choice", "choice_correct"]
    found, expected = evaluate_on(backend, PROMPTS, steering), evaluate_on(ENGINE, PROMPTS, steering)
    assert found[columns].equals(expected[columns])
    assert list(found["condition"].unique()) == ["zero-shot", "cast", "placebo"]
    assert set(found["backend"]) == {backend.name}
    with pytest.raises(ValueError, match="gold answer"):
        evaluate_on(backend, [Prompt((), "x", "y", ("z",), "t", "d")])
