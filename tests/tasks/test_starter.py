"""The suite that ships keeps its own rules."""

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest

from cast_lens.tasks import SPLITS, list_tasks, load_task
from cast_lens.tasks.sampling import input_key
from cast_lens.tasks.starter import FOLDER, STARTER, starter_file
from cast_lens.tasks.templates import body, definition, gold_letter
from cast_lens.tasks.types import Example, Split, Task, TaskInfo

NAMES = tuple(STARTER)
CLASSES = tuple(name for name in NAMES if STARTER[name].kind == "classification")
LETTERED = tuple(name for name in NAMES if STARTER[name].kind == "multiple-choice")
WORDS = tuple(name for name in NAMES if STARTER[name].kind == "free")
TRANSLATED = tuple(name for name in NAMES if "." in name)


def everything(task: Task) -> list[Example]:
    return [*task.train, *task.validation, *task.test]


def test_a_listing_is_what_the_tasks_are() -> None:
    assert list_tasks() == [TaskInfo.of(load_task(name)) for name in STARTER]


def test_every_task_has_its_file_and_every_file_its_task() -> None:
    assert {starter_file(name) for name in NAMES} == set(FOLDER.glob("*.jsonl"))
    assert [info.name for info in list_tasks()] == list(NAMES)


def test_the_suite_covers_what_it_promises() -> None:
    assert {"review-sentiment", "headline-topic", "finance-sentiment", "question-type", "yes-no-facts"} <= set(CLASSES)
    assert {"science", "geography", "everyday-sense"} == set(LETTERED)
    assert {f"{task}.{code}" for task in ("review-sentiment", "headline-topic") for code in ("de", "fr", "es")} == set(
        TRANSLATED
    )
    assert [len(STARTER[name].labels) for name in CLASSES[::4]] == [2, 4, 3]


@pytest.mark.parametrize("name", [*CLASSES, *LETTERED])
def test_tasks_with_choices_have_64_examples_to_train_on_and_to_test(name: str) -> None:
    task = load_task(name)
    assert min(len(task.train), len(task.test)) >= 64
    assert len(task.validation) >= 32


@pytest.mark.parametrize("name", WORDS)
def test_word_tasks_have_a_hundred_examples_in_all(name: str) -> None:
    task = load_task(name)
    assert len(everything(task)) >= 100
    assert min(len(task.train), len(task.test)) >= 40
    assert len(task.validation) >= 20


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced_and_all_present(name: str, split: Split) -> None:
    task = load_task(name)
    counts = Counter(example.answer for example in task.split(split))
    assert set(counts) == set(task.labels)
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", LETTERED)
@pytest.mark.parametrize("split", SPLITS)
def test_gold_letters_are_evenly_spread(name: str, split: Split) -> None:
    counts = Counter(gold_letter(example) for example in load_task(name).split(split))
    assert set(counts) == set("ABCD")
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("name", LETTERED)
def test_options_differ_and_length_does_not_give_the_answer_away(name: str) -> None:
    examples = everything(load_task(name))
    assert all(len({input_key(option) for option in example.choices}) == 4 for example in examples)
    longest = sum(
        len(example.answer) == max(map(len, example.choices))
        and sum(len(option) == len(example.answer) for option in example.choices) == 1
        for example in examples
    )
    # Chance is a quarter; choosing the longest option must stay far from knowing the answer.
    assert longest / len(examples) < 0.4


@pytest.mark.parametrize("name", NAMES)
def test_no_example_stands_twice(name: str) -> None:
    task = load_task(name)
    examples = everything(task)
    assert len({example.id for example in examples}) == len(examples)
    assert len({input_key(example.input) for example in examples}) == len(examples)
    assert task.dropped == 0


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_clean(name: str) -> None:
    task = load_task(name)
    texts = [text for example in everything(task) for text in (example.input, example.answer, *example.choices)]
    texts += [task.instruction, task.template.body, task.template.definition, *task.labels]
    for text in texts:
        assert unicodedata.normalize("NFC", text) == text
        assert not any(unicodedata.category(character) in ("Cc", "Cf", "Co") for character in text.replace("\n", ""))
    for example in everything(task):
        # French sets a no-break space before some marks; any other space is a single blank.
        assert example.input == " ".join(filter(None, example.input.split(" ")))
        assert {character for character in example.input if character.isspace()} <= {" ", "\u00a0"}
        assert example.answer == example.answer.strip()


@pytest.mark.parametrize("name", TRANSLATED)
def test_languages_are_parallel_by_id(name: str) -> None:
    english, other = load_task(name.partition(".")[0]), load_task(name)
    meaning = dict(zip(other.labels, english.labels, strict=True))
    for split in SPLITS:
        theirs = {example.id: meaning[example.answer] for example in other.split(split)}
        assert theirs == {example.id: example.answer for example in english.split(split)}
    assert {example.language for example in everything(other)} == {other.language}
    untranslated = {e.input for e in everything(other)} & {e.input for e in everything(english)}
    assert not untranslated


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translated_task_speaks_its_language_throughout(name: str) -> None:
    english, other = load_task(name.partition(".")[0]), load_task(name)
    assert other.instruction != english.instruction
    assert other.template.body != english.template.body
    assert not set(other.labels) & {"positive", "negative", "sports", "world", "business", "technology"}
    for label in other.labels:
        assert label in definition(other)


@pytest.mark.parametrize("name", CLASSES)
def test_the_instruction_names_every_label(name: str) -> None:
    task = load_task(name)
    assert all(label in task.instruction for label in task.labels)


@pytest.mark.parametrize("name", NAMES)
def test_every_body_ends_in_its_cue(name: str) -> None:
    task = load_task(name)
    text = body(task, task.test[0])
    assert text.endswith(":")
    assert task.test[0].input in text


@pytest.mark.parametrize("name", WORDS)
def test_a_word_task_never_asks_for_its_own_input(name: str) -> None:
    same = [example.input for example in everything(load_task(name)) if example.input == example.answer]
    assert not same


def test_word_tasks_carry_no_instruction() -> None:
    assert {definition(load_task(name)) for name in WORDS} == {""}
