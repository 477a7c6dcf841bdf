"""Random text stands where demonstrations stood, is as long, and says nothing of the task's answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cast_lens.tasks import (
    cross_task_prompts,
    few_shot_prompts,
    load_task,
    with_random_text,
    word_count,
    zero_shot_prompts,
)
from cast_lens.tasks.prompts import neutral_words
from tests.tasks.small import free_task, labelled_task, lettered_task

STARTER = ("review-sentiment", "science", "antonym", "headline-topic.de", "yes-no-facts")


@pytest.mark.parametrize("name", STARTER)
def test_each_demonstration_keeps_its_length_and_nothing_else(name: str) -> None:
    task = load_task(name)
    prompts = few_shot_prompts(task, task.test[:3], shots=4, seed=1)
    placebo = with_random_text(prompts, task, seed=0)
    for prompt, random in zip(prompts, placebo, strict=True):
        assert replace(random, demonstrations=()) == replace(prompt, demonstrations=())
        for (body, answer), (text, last) in zip(prompt.demonstrations, random.demonstrations, strict=True):
            assert word_count(f"{text} {last}") == word_count(f"{body} {answer}")
            assert ":" not in text.removeprefix(f"Definition: {task.instruction}\n")
            assert text.startswith("Definition: ") == body.startswith("Definition: ")


@pytest.mark.parametrize("name", STARTER)
def test_no_word_is_an_answer(name: str) -> None:
    task = load_task(name)
    answers = {label.casefold() for label in task.labels or [example.answer for example in task.train]}
    words = {word.casefold() for word in neutral_words(task)}
    assert words
    assert not words & (set("abcde") if task.kind == "multiple-choice" else answers)


def test_length_is_measured_as_asked() -> None:
    task = load_task("review-sentiment")
    prompts = few_shot_prompts(task, task.test[:1], shots=5, seed=0, instruction=False)
    ((*right,), (*random,)) = (
        [f"{body} {answer}" for body, answer in shown]
        for shown in (
            prompts[0].demonstrations,
            with_random_text(prompts, task, seed=0, length=len, instruction=False)[0].demonstrations,
        )
    )
    assert [len(text) for text in random] == [len(text) for text in right]


def test_prompts_that_share_demonstrations_share_the_random_text() -> None:
    task = labelled_task()
    prompts = few_shot_prompts(task, task.test, shots=3, seed=0)
    one, again, other = (with_random_text(prompts, task, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len({prompt.demonstrations for prompt in one}) == 1
    own = few_shot_prompts(task, task.test, shots=3, seed=0, demonstrations="per-query")
    assert len({prompt.demonstrations for prompt in with_random_text(own, task, seed=0)}) > 1


def test_words_come_from_the_demonstrations_task() -> None:
    source, target = lettered_task(), free_task()
    prompts = cross_task_prompts(source, target, target.test[:1], shots=2, seed=0)
    (prompt,) = with_random_text(prompts, source, seed=0)
    shown = " ".join(f"{body} {last}" for body, last in prompt.demonstrations)
    assert shown.startswith("Definition: Choose.\n")
    assert set(shown.removeprefix("Definition: Choose.\n").split()) <= set(neutral_words(source))


def test_a_script_without_blanks_is_cut_into_characters() -> None:
    task = labelled_task()
    chinese = "这部电影既温暖又有趣而且结局让所有的观众都感到非常满意"
    task = replace(task, train=tuple(replace(example, input=chinese) for example in task.train))
    assert set(neutral_words(task)) == set(chinese)


def test_what_cannot_be_replaced_is_refused() -> None:
    task = labelled_task()
    with pytest.raises(ValueError, match="prompt of labelled test-000 shows no demonstrations to replace"):
        with_random_text(zero_shot_prompts(task, task.test), task, seed=0)
    bare = replace(task, train=tuple(replace(example, input="Good, bad!") for example in task.train))
    with pytest.raises(ValueError, match="train inputs of 'labelled' hold no word that is not an answer"):
        neutral_words(bare)
