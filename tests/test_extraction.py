"""Difference vectors of a task against plain hooked passes over the very prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cast_lens.engine import capture, reference, score, tokenise
from cast_lens.extraction import Extraction, difference_vectors, draw_samples, shown_prompts, token_length
from cast_lens.models import fingerprint
from cast_lens.tasks import demonstrations, few_shot, zero_shot
from tests.closeness import assert_close
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model


def test_differences_are_few_shot_minus_zero_shot_of_the_same_queries() -> None:
    model, task = tiny_model("llama"), label_task()
    how = Extraction(samples=4, shots=3, seed=5)
    found = difference_vectors(model, task, how)
    for row, example in enumerate(draw_samples(task, how)):
        few = tokenise(model, [few_shot(task, example, shots=3, seed=5)])[0]
        zero = tokenise(model, [zero_shot(task, example)])[0]
        assert_close(found.few_shot[row], reference.residuals(model, few.tokens))
        assert_close(found.zero_shot[row], reference.residuals(model, zero.tokens))
        assert found.sample_ids[row] == example.id


def test_samples_are_balanced_and_never_demonstrations() -> None:
    task = label_task()
    how = Extraction(samples=8, shots=4, seed=1)
    drawn = draw_samples(task, how)
    shown = {example.id for example in demonstrations(task, shots=4, seed=1)}
    assert not shown & {example.id for example in drawn}
    assert sum(example.answer == "good" for example in drawn) == 4
    assert drawn == draw_samples(task, how)
    assert drawn != draw_samples(task, Extraction(samples=8, shots=4, seed=2))


def test_too_many_samples_are_refused_before_work() -> None:
    with pytest.raises(ValueError, match=r"samples=11 must be from 1 to 10: the train split of 'mood' holds 14"):
        draw_samples(label_task(), Extraction(samples=11, shots=4))


def test_provenance_says_where_it_came_from() -> None:
    model = tiny_model("llama")
    found = difference_vectors(model, label_task(), Extraction(samples=2, shots=2, seed=3), layers=(0, 2))
    about = found.provenance
    assert (about.task, about.shots, about.seed, found.layers) == ("mood", 2, 3, (0, 2))
    assert about.fingerprint == fingerprint(model)
    assert about.sample_ids == found.sample_ids
    assert "torch" in about.versions


def test_shuffled_labels_change_the_few_shot_side_only() -> None:
    model, task = tiny_model("llama"), label_task()
    plain = difference_vectors(model, task, Extraction(samples=3, shots=4))
    shuffled = difference_vectors(model, task, Extraction(samples=3, shots=4, shuffle_labels=True))
    assert torch.equal(plain.zero_shot, shuffled.zero_shot)
    assert not torch.allclose(plain.few_shot, shuffled.few_shot)


def test_random_text_is_as_long_as_the_demonstrations_in_tokens() -> None:
    model, task = tiny_model("llama"), label_task()
    how = Extraction(samples=3, shots=4)
    random = replace(how, random_text=True)
    queries = draw_samples(task, how)
    length = token_length(model)
    right, placebo = (shown_prompts(model, task, queries, each)[0].demonstrations for each in (how, random))
    for (body, answer), (text, last) in zip(right, placebo, strict=True):
        # A word of one token fills any last gap where there is one; these words have up to five.
        assert 0 <= length(f"{body} {answer}") - length(f"{text} {last}") <= 1
    plain, found = difference_vectors(model, task, how), difference_vectors(model, task, random)
    assert_close(found.zero_shot, plain.zero_shot)
    assert not torch.allclose(plain.few_shot, found.few_shot)
    assert found.provenance.note == "random text in place of the demonstrations"


def test_two_placebos_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="shuffle_labels and random_text are two placebos"):
        Extraction(shuffle_labels=True, random_text=True)


def test_pairs_of_texts_in_place_of_a_task() -> None:
    model = tiny_model("llama")
    pairs = [("I love this film", "I hate this film"), ("so good", "so bad")]
    found = difference_vectors(model, pairs=pairs, layers=[1, 3])
    expected = capture(model, ["I love this film", "so good", "I hate this film", "so bad"], layers=[1, 3])
    assert torch.equal(found.few_shot, expected[:2])
    assert torch.equal(found.values, expected[:2] - expected[2:])
    assert (found.sample_ids, found.layers) == (("pair-0", "pair-1"), (1, 3))
    assert found.provenance.fingerprint == fingerprint(model)
    score(model, ["The"], [found.mean().intervention(3)])


@pytest.mark.parametrize("pairs", [[], "ab", [("one",)], [("one", 2)], ["ab"]])
def test_pairs_that_are_none_are_refused(pairs: Any) -> None:
    with pytest.raises(ValueError, match="pairs must be one or more pairs of texts"):
        difference_vectors(tiny_model("llama"), pairs=pairs)


def test_a_task_or_pairs() -> None:
    with pytest.raises(ValueError, match=r"give a task .* or pairs of texts, not both"):
        difference_vectors(tiny_model("llama"))
    with pytest.raises(ValueError, match="not both"):
        difference_vectors(tiny_model("llama"), word_task(), pairs=[("a", "b")])
