"""BOS exactly once, answers as they follow the prompt, chat templates, and what is refused before work starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cast_lens.engine import answer, capture, score, sweep, tokenise
from cast_lens.engine.layout import TokenPrompt
from cast_lens.interventions import Intervention
from cast_lens.tasks import Prompt
from cast_lens.vectors import Provenance, SteeringVector
from tests.tiny import tiny_model

CHAT = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


def prompt(query: str = "Text: fine\nLabel:", choices: tuple[str, ...] = ("good", "bad")) -> Prompt:
    return Prompt((), query, choices[0] if choices else "gold", choices, "mood", "7")


@pytest.mark.parametrize("bos", [False, True])
def test_bos_stands_once_where_the_tokenizer_wants_it(bos: bool) -> None:
    model = tiny_model("llama", bos=bos)
    assert model.tokenizer is not None
    ids = tokenise(model, [prompt()])[0].tokens
    assert ids.count(model.tokenizer.bos_token_id) == int(bos)
    assert model.tokenizer.decode(list(ids[int(bos) :])) == prompt().text


def test_a_chat_template_that_writes_bos_itself_does_not_get_another() -> None:
    model = tiny_model("llama", bos=True)
    assert model.tokenizer is not None
    model.tokenizer.chat_template = CHAT
    shown = Prompt((("Text: a\nLabel:", "good"),), "Text: b\nLabel:", "bad", ("good", "bad"), "mood", "1")
    ids = tokenise(model, [shown], chat=True)[0].tokens
    assert ids.count(model.tokenizer.bos_token_id) == 1
    text = model.tokenizer.decode(list(ids), skip_special_tokens=True)
    assert text == "[user] Text: a\nLabel:\n[assistant] good\n[user] Text: b\nLabel:\n[assistant] "


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ValueError, match="no chat template"):
        tokenise(tiny_model("llama"), [prompt()], chat=True)


def test_an_answer_is_tokenised_as_it_follows_the_prompt() -> None:
    model = tiny_model("llama")
    assert model.tokenizer is not None
    ready = tokenise(model, [prompt()])[0]
    for choice, ids in zip(("good", "bad"), ready.answers, strict=True):
        assert model.tokenizer.decode(list(ready.tokens + ids)) == f"{prompt().text} {choice}"
    assert ready.gold == 0


def test_free_answers_are_scored_by_their_gold_alone() -> None:
    ready = tokenise(tiny_model("llama"), [prompt(choices=())])[0]
    assert len(ready.answers) == 1
    assert ready.gold == 0


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompts is empty"),
        ([""], "prompt 0 is empty"),
        (["fine", "  "], "prompt 1 is empty"),
        ([TokenPrompt((), name="mood 3")], "mood 3 is empty"),
        ([TokenPrompt((5, 6), ((7,), ()), 0, "mood 3")], "mood 3: answer 1 tokenises to nothing"),
    ],
)
def test_empty_things_are_named(prompts: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenise(tiny_model("llama"), prompts)


def test_a_prompt_beyond_the_context_is_named_with_its_excess() -> None:
    model = tiny_model("llama")
    limit = int(model.cfg.n_ctx)
    long = [TokenPrompt((5,) * 3), TokenPrompt((5,) * (limit + 2), name="mood 9")]
    with pytest.raises(ValueError, match=f"mood 9 needs {limit + 2} tokens .* 2 more than the model's context"):
        capture(model, long)
    fits = TokenPrompt((5,) * limit, name="mood 9")
    tokenise(model, [fits])
    with pytest.raises(ValueError, match="4 more than"):
        answer(model, [fits], max_new_tokens=4)


def test_interventions_that_do_not_fit_are_refused() -> None:
    model = tiny_model("llama")
    width, layers = int(model.cfg.d_model), int(model.cfg.n_layers)
    with pytest.raises(ValueError, match=f"must be increasing block indices from 0 to {layers - 1}"):
        score(model, ["fine"], [Intervention(torch.ones(width), layers)])
    with pytest.raises(ValueError, match=rf"intervention 0 \(v\) has a direction of width {width + 1}"):
        score(model, ["fine"], [Intervention(torch.ones(width + 1), 0, name="v")])
    with pytest.raises(ValueError, match=r"layers=\[2, 1\] must be increasing"):
        capture(model, ["fine"], layers=(2, 1))
    with pytest.raises(ValueError, match=r"memory_mb=0.0 must be a positive number"):
        capture(model, ["fine"], memory_mb=0.0)
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        answer(model, ["fine"], max_new_tokens=0)
    with pytest.raises(ValueError, match="labels_only needs answers of one token"):
        score(model, [TokenPrompt((5, 6), ((7, 8), (9,)), 0)], labels_only=True)


def test_a_vector_of_another_model_is_refused_by_the_sweep() -> None:
    model = tiny_model("llama")
    layers = tuple(range(int(model.cfg.n_layers)))
    stranger = SteeringVector(torch.ones(len(layers), int(model.cfg.d_model)), layers, Provenance("x", "0" * 16, "t"))
    with pytest.raises(ValueError, match="'x'"):
        sweep(model, [prompt()], stranger)
