"""Rows leave when they stop, and take nothing with them."""

from __future__ import annotations

import pytest

from cast_lens.engine import answer
from cast_lens.engine.decoding import decode
from cast_lens.engine.greedy import stop_rule
from cast_lens.interventions import Intervention
from tests.engine.cases import all_kinds, direction, few_shot_prompts
from tests.tiny import tiny_model


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2"])
def test_stopping_only_cuts(architecture: str) -> None:
    """Rows that end early, at different steps, change nothing for those that go on."""
    model, prompts, items = tiny_model(architecture), few_shot_prompts(()), all_kinds()
    full = decode(model, prompts, items, max_new_tokens=6, stop=lambda written: False)
    cut = decode(model, prompts, items, max_new_tokens=6, stop=lambda written: written[-1] % 3 == 0)
    lengths = set()
    for full_row, cut_row in zip(full, cut, strict=True):
        for everything, kept in zip(full_row, cut_row, strict=True):
            ends = [place for place, token in enumerate(everything) if token % 3 == 0]
            assert kept == everything[: ends[0] + 1 if ends else 6]
            lengths.add(len(kept))
    assert len(lengths) > 3


def test_company_does_not_change_an_answer() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts(())
    items = all_kinds()[:3]
    together = decode(model, prompts, items, max_new_tokens=4, stop=lambda written: written[-1] % 5 == 0)
    for index, prompt in enumerate(prompts):
        alone = decode(model, [prompt], items, max_new_tokens=4, stop=lambda written: written[-1] % 5 == 0)
        assert [row[0] for row in alone] == [row[index] for row in together]


def test_steering_reaches_decoded_tokens_only_where_it_should() -> None:
    """The same edit at ``last`` and at ``prompt_last`` writes the same first token, then parts ways."""
    model, prompts = tiny_model("llama"), few_shot_prompts(())
    items = [
        Intervention(direction(seed, size=20.0), 1, 1.0, "add", position)
        for seed in range(4)
        for position in ("last", "prompt_last")
    ]
    written = decode(model, prompts, items, max_new_tokens=4, stop=lambda written: False)
    pairs = [
        (a, b)
        for last, prompt_last in zip(written[1::2], written[2::2], strict=True)
        for a, b in zip(last, prompt_last, strict=True)
    ]
    assert all(a[0] == b[0] for a, b in pairs)
    assert any(a != b for a, b in pairs)


def test_text_ends_at_a_newline_or_at_the_end_of_text() -> None:
    model = tiny_model("llama")
    tokenizer = model.tokenizer
    assert tokenizer is not None
    newline, word = (tokenizer.encode(text, add_special_tokens=False)[0] for text in ("\n", "fine"))
    assert stop_rule(model, stop_at_newline=True)([word, newline])
    assert not stop_rule(model, stop_at_newline=False)([word, newline])
    assert stop_rule(model, stop_at_newline=False)([tokenizer.eos_token_id])
    texts = answer(model, ["Review: fine\nSentiment:", "The"], [], max_new_tokens=3)
    tokens = decode(model, few_shot_prompts(())[:2], max_new_tokens=3, stop=stop_rule(model, stop_at_newline=True))
    assert len(texts) == len(tokens) == 1
    assert all(isinstance(text, str) for text in texts[0])


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_an_answer_whose_end_does_not_matter_is_cut(architecture: str) -> None:
    """Each prompt is asked for itself, on the fast and on the plain route, and a cut answer begins like the whole."""
    model, texts, items = tiny_model(architecture), ["Review: fine\nSentiment:", "The", "A"], all_kinds()[:4]
    whole = answer(model, texts, items, max_new_tokens=5)
    cut = answer(model, texts, items, max_new_tokens=5, is_open=lambda index, text: index != 1 and len(text) < 8)
    for row, shorter in zip(whole, cut, strict=True):
        for index, (everything, begun) in enumerate(zip(row, shorter, strict=True)):
            assert everything is not None
            assert begun is not None
            assert everything.startswith(begun)
            assert len(begun) >= min(8, len(everything)) or index == 1
    assert any(len(one[1] or "") < len(other[1] or "") for one, other in zip(cut, whole, strict=True))
