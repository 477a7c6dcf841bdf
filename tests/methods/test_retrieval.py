"""Retrieved demonstrations against a literal search, and every prompt method under the one signature."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from cast_lens.engine import reference, tokenise
from cast_lens.extraction import token_length
from cast_lens.methods import (
    PROMPT_METHODS,
    Condition,
    random_text_condition,
    residual_embedding,
    retrieved_condition,
    sentence_embedding,
)
from cast_lens.methods.prompting import Remembered, most_similar
from cast_lens.tasks import Example, Task, few_shot_prompts, prompts_showing
from cast_lens.tasks.templates import body
from tests.closeness import assert_close
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

SOURCE, TARGET = label_task("tone"), label_task("mood")


def letters(texts: Sequence[str]) -> np.ndarray:
    """Counts of letters and digits: an embedding that can be followed by eye."""
    return np.array([[text.count(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789"] for text in texts], float)


def literal(source: Task, query: str, shots: int) -> list[str]:
    """Search one query as it is written down: cosines in plain Python, best first, ties by id."""

    def cosine(left: str, right: str) -> float:
        a, b = letters([left])[0], letters([right])[0]
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))

    ranked = sorted(source.train, key=lambda e: (-round(cosine(body(source, e), query), 9), e.id))
    return [example.id for example in ranked[:shots]]


@pytest.mark.parametrize("shots", [1, 3, 14])
def test_the_nearest_examples_are_those_of_a_literal_search(shots: int) -> None:
    found = most_similar(SOURCE, TARGET, TARGET.test, shots=shots, embed=letters)
    for example, shown in zip(TARGET.test, found, strict=True):
        assert [each.id for each in shown] == literal(SOURCE, body(TARGET, example), shots)


def test_the_prompt_shows_the_nearest_first_and_each_definition_once() -> None:
    source = replace(SOURCE, instruction="Name the tone.")
    condition = retrieved_condition(source, TARGET, TARGET.test, shots=2, embed=letters)
    shown = most_similar(source, TARGET, TARGET.test, shots=2, embed=letters)
    first, second = shown[0]
    assert condition.prompts[0].text == (
        f"Definition: Name the tone.\nText: {first.input}\nLabel: {first.answer}\n\n"
        f"Text: {second.input}\nLabel: {second.answer}\n\n"
        f"Definition: Say good or bad.\nText: {TARGET.test[0].input}\nLabel:"
    )
    assert (condition.method, condition.source) == ("retrieved few-shot", "tone")


def test_a_query_is_never_its_own_demonstration() -> None:
    found = most_similar(TARGET, TARGET, TARGET.train, shots=3, embed=letters)
    for example, shown in zip(TARGET.train, found, strict=True):
        assert example not in shown
    twin = replace(SOURCE, train=(Example("copy", TARGET.test[0].input.upper(), "good"), *SOURCE.train))
    assert "copy" not in {
        example.id for example in most_similar(twin, TARGET, TARGET.test[:1], shots=9, embed=letters)[0]
    }


def test_candidates_limit_the_search_to_a_balanced_draw() -> None:
    found = most_similar(SOURCE, TARGET, TARGET.test, shots=4, embed=letters, candidates=4, seed=3)
    ids = [{example.id for example in shown} for shown in found]
    assert all(each == ids[0] for each in ids)
    assert sorted(example.answer for example in found[0]) == ["bad", "bad", "good", "good"]
    everything = most_similar(SOURCE, TARGET, TARGET.test, shots=4, embed=letters)
    assert everything == most_similar(SOURCE, TARGET, TARGET.test, shots=4, embed=letters, candidates=99)


@pytest.mark.parametrize("layer", [None, 0])
def test_the_models_own_embedding_is_its_residual_at_the_last_token(layer: int | None) -> None:
    model = tiny_model("llama")
    texts = [body(TARGET, example) for example in TARGET.test[:3]]
    found = residual_embedding(model, layer=layer)(texts)
    for row, text in zip(found, texts, strict=True):
        tokens = tokenise(model, [text])[0].tokens
        assert_close(torch.from_numpy(row.copy()), reference.residuals(model, tokens)[2 if layer is None else layer])


def test_a_repeated_call_is_not_run_again() -> None:
    calls: list[int] = []

    def counted(texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return letters(texts)

    embed = Remembered(counted)
    for _ in range(3):
        most_similar(SOURCE, TARGET, TARGET.test, shots=1, embed=embed)
    assert calls == [14, 5]


def test_a_sentence_encoder_is_used_or_its_absence_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def encode(self, sentences: list[str], **options: object) -> np.ndarray:
            return letters(sentences)

    np.testing.assert_array_equal(sentence_embedding(Encoder())(["abc", "b"]), letters(["abc", "b"]))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="needs the package sentence-transformers: pip install 'cast-lens"):
        sentence_embedding()(["abc"])


def test_an_encoder_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("no such folder\nand a page of advice")

    package = ModuleType("sentence_transformers")
    monkeypatch.setattr(package, "SentenceTransformer", broken, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    with pytest.raises(ValueError, match=r"encoder='nowhere' cannot be loaded \(no such folder\); give the name"):
        sentence_embedding("nowhere")(["abc"])


def test_random_text_prompts_are_as_long_in_tokens_as_what_they_stand_for() -> None:
    length = token_length(tiny_model("llama"))
    condition = random_text_condition(TARGET, TARGET, TARGET.test, shots=3, seed=2, length=length)
    right = few_shot_prompts(TARGET, TARGET.test, shots=3, seed=2)
    for placebo, prompt in zip(condition.prompts, right, strict=True):
        assert placebo.query == prompt.query
        # At most one token short a demonstration, where no word fits the last gap.
        assert 0 <= length(prompt.text) - length(placebo.text) <= 3


def test_every_prompt_method_has_one_signature_and_its_own_name() -> None:
    assert list(PROMPT_METHODS) == [
        "zero-shot",
        "few-shot",
        "cross-task few-shot",
        "retrieved few-shot",
        "batched",
        "placebo: random-text few-shot",
    ]
    for name, method in PROMPT_METHODS.items():
        made = method(SOURCE, TARGET, TARGET.test, shots=2, seed=3, embed=letters)
        assert made.method == method.name == name
        assert made.source == ("tone" if method.needs_source else "")
        assert method.about
        again = method(word_task(), TARGET, TARGET.test, shots=2, seed=3, embed=letters)
        assert (again.prompts == made.prompts) != method.needs_source
        if isinstance(made, Condition):
            assert [prompt.sample_id for prompt in made.prompts] == [example.id for example in TARGET.test]
    with pytest.raises(ValueError, match="'retrieved few-shot' compares texts and needs embed"):
        PROMPT_METHODS["retrieved few-shot"](SOURCE, TARGET, TARGET.test, shots=2, seed=3)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValueError, match="shots=15 must be from 1 to 14, the examples of 'tone'"):
        most_similar(SOURCE, TARGET, TARGET.test, shots=15, embed=letters)
    with pytest.raises(ValueError, match="shots=14 is more than the 13 examples of 'mood' that differ"):
        most_similar(TARGET, TARGET, TARGET.train, shots=14, embed=letters)
    with pytest.raises(ValueError, match=r"embed gave shape \(1, 36\) for 14 examples of 'tone'"):
        most_similar(SOURCE, TARGET, TARGET.test, shots=1, embed=lambda texts: letters(texts)[:1])
    with pytest.raises(ValueError, match="zero row or one that is not finite"):
        most_similar(SOURCE, TARGET, TARGET.test, shots=1, embed=lambda texts: 0 * letters(texts))
    widths = iter((3, 4))
    with pytest.raises(ValueError, match="rows of width 3 and 4"):
        most_similar(SOURCE, TARGET, TARGET.test, shots=1, embed=lambda texts: np.ones((len(texts), next(widths))))
    with pytest.raises(ValueError, match="shown holds 1 lists of demonstrations for 5 queries"):
        prompts_showing(TARGET, TARGET.test, [TARGET.train[:1]])
