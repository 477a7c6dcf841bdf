"""What is trained on, and what is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cast_lens.methods.atv import Design, Training, gather, train
from cast_lens.methods.training import draw_examples
from cast_lens.tasks import Example, Task
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

MODEL = tiny_model("llama")


def text(tokens: tuple[int, ...]) -> str:
    tokenizer: Any = MODEL.tokenizer
    return str(tokenizer.decode(list(tokens)))


def test_each_example_is_asked_in_every_template_with_its_whole_answer() -> None:
    task = label_task("mood", train=4, validation=2)
    found = gather(MODEL, [task], Training(templates=("own", "bare", "plain")))
    first = [item for item in found.train if item.sample == task.train[0].id]
    assert [item.template for item in first] == ["own", "bare", "plain"]
    assert [text(item.prompt.tokens) for item in first] == [
        "Definition: Say good or bad.\nText: mood item number 0\nLabel:",
        "Text: mood item number 0\nLabel:",
        "Sentence: mood item number 0\nLabel:",
    ]
    assert {text(item.prompt.answers[0]) for item in first} == {" good\n"}
    assert all(item.generator_text == item.text for item in found.items)
    assert {item.template for item in found.validation} == {"own"}
    assert len(found.train) == 12


def test_templates_that_come_out_equal_count_once() -> None:
    found = gather(MODEL, [word_task("double", train=3)], Training(templates=("own", "bare", "plain")))
    assert len(found.train) == 3


def test_the_recipe_asks_without_an_ending_and_reads_questions() -> None:
    found = gather(MODEL, [label_task("mood")], Training(ending=""), reads="question")
    assert text(found.train[0].prompt.answers[0]) == " good"
    assert {item.generator_text for item in found.train[:3]} == {"Q: mood item number 0 \n A: "}


def test_fewer_examples_are_drawn_balanced_and_by_seed() -> None:
    task = label_task("mood", train=14)
    drawn = [draw_examples(task, 6, seed=seed, split="train") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [example.answer for example in drawn[0]].count("good") == 3
    assert draw_examples(task, 14, seed=0, split="train") == task.train


def named(**change: Any) -> Task:
    return replace(label_task("mood"), **change)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no training examples"),
        ([named(train=())], "'mood' has no train examples"),
        ([named(validation=())], "'mood' has no validation examples"),
        ([label_task("mood"), named(labels=("good", "awful"))], "two tasks are named 'mood'"),
        ([named(kind="free", labels=(), train=(Example("a", "x", " "),))], "mood a has an empty answer"),
        ([named(train=(Example("a", "long " * 600, "good"),))], "mood a needs .* more than the model's context"),
        ([named(validation=(Example("b", "long " * 600, "good"),))], "mood b needs"),
    ],
)
def test_bad_tasks_are_refused_before_training(tasks: list[Task], message: str) -> None:
    def unexpected(step: object) -> None:
        raise AssertionError("training began")

    with pytest.raises(ValueError, match=message):
        train(MODEL, tasks, design=Design(generator="residual", layer=0), watch=unexpected)


def test_an_answer_that_the_tokenizer_does_not_know_is_refused_although_an_ending_follows() -> None:
    class Deaf:
        """Drops the word ``silence``."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def encode(self, text: str, **options: Any) -> Any:
            return self.inner.encode(text.replace(" silence", ""), **options)

        def __call__(self, text: str, **options: Any) -> Any:
            return self.inner(text.replace(" silence", ""), **options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    model: Any = tiny_model("llama")
    model.tokenizer = Deaf(model.tokenizer)
    task = named(kind="free", labels=(), train=(Example("a", "x", "silence"),))
    with pytest.raises(ValueError, match="mood a: answer 0 tokenises to nothing"):
        gather(model, [task], Training())


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(ValueError, match=r"templates=\['rhyme'\]"):
        gather(MODEL, [label_task("mood")], Training(templates=("rhyme",)))


@pytest.mark.parametrize("name", ["examples", "batch", "epochs", "patience", "learning_rate", "memory_mb"])
def test_trainings_that_make_no_sense_are_refused(name: str) -> None:
    change: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0"):
        Training(**change)
