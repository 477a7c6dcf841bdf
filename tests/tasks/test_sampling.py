"""Samples are seeded, balanced over the classes, and say what they hold."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import replace

import pytest

from cast_lens.tasks import Example, Task, label_counts, load_task, sample_examples, zero_shot_prompts
from cast_lens.tasks.sampling import warn_missing_classes

from .small import example, free_task, labelled_task, lettered_task


def sorted_task(counts: dict[str, int]) -> Task:
    """A test split sorted by label, as files often are."""
    answers = [label for label, count in counts.items() for _ in range(count)]
    test = tuple(example(i, answer, prefix="test") for i, answer in enumerate(answers))
    return replace(labelled_task(tuple(counts)), test=test)


@pytest.mark.parametrize("counts", [{"a": 40, "b": 40}, {"a": 90, "b": 8, "c": 2}, {"a": 3, "b": 1, "c": 50, "d": 9}])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_of_a_sample_is_as_balanced_as_the_labels_allow(counts: dict[str, int], seed: int) -> None:
    task = sorted_task(counts)
    whole = sample_examples(task, seed=seed)
    assert sorted(e.id for e in whole) == sorted(e.id for e in task.test)
    for n in range(1, len(whole) + 1):
        sample = sample_examples(task, n, seed=seed)
        assert sample == whole[:n]
        found = Counter(one.answer for one in sample)
        most = max(found.values())
        assert all(found[label] >= min(most - 1, count) for label, count in counts.items())
        if n >= len(counts):
            assert set(found) == set(counts)


def test_a_sample_depends_on_the_seed_the_ids_and_the_classes_only() -> None:
    task = sorted_task({"a": 20, "b": 20})
    assert sample_examples(task, 8, seed=0) != sample_examples(task, 8, seed=1)
    german = replace(
        task,
        labels=("z", "b"),
        test=tuple(replace(e, answer={"a": "z"}.get(e.answer, e.answer)) for e in task.test[::-1]),
    )
    ids = [e.id for e in sample_examples(task, 8, seed=3)]
    assert [e.id for e in sample_examples(german, 8, seed=3)] == ids


def test_letters_are_balanced_and_a_rare_one_is_there() -> None:
    task = lettered_task(size=60, options=4)
    rare = Example("test-rare", "rare", "five", ("one", "two", "three", "four", "five"))
    sample = sample_examples(replace(task, test=(*task.test, rare)), 9)
    assert rare in sample
    assert len(sample) == 9


def test_excluded_examples_and_repeated_inputs_are_left_out() -> None:
    task = free_task()
    twin = Example("twin", "test  text 3", "answer 3")
    task = replace(task, test=(*task.test, twin))
    assert len(sample_examples(task)) == 13
    assert len(sample_examples(task, distinct=True)) == 12
    left = sample_examples(task, exclude=(twin, task.test[0]))
    assert {e.id for e in left} == {e.id for e in task.test} - {"twin", "test-003", "test-000"}
    with pytest.raises(ValueError, match=r"n=14 must be from 1 to 13, the examples that the test split of 'words'"):
        sample_examples(task, 14)
    with pytest.raises(ValueError, match="n=0 must be from 1 to 13"):
        sample_examples(task, 0)


def test_label_counts_say_what_is_missing() -> None:
    task = sorted_task({"a": 3, "b": 2, "c": 1})
    frame = label_counts(task, task.test[:4])
    assert frame.to_dict("records") == [
        {"task": "labelled", "split": "test", "label": "a", "n": 3},
        {"task": "labelled", "split": "test", "label": "b", "n": 1},
        {"task": "labelled", "split": "test", "label": "c", "n": 0},
    ]
    letters = label_counts(lettered_task(), lettered_task().train[:4], split="train")
    assert letters[["label", "n"]].to_numpy().tolist() == [["A", 2], ["B", 1], ["C", 1]]
    assert label_counts(free_task(), free_task().test)["n"].tolist() == [12]


def test_a_missing_class_is_warned_about() -> None:
    task = sorted_task({"a": 5, "b": 5, "c": 2})
    with pytest.warns(
        UserWarning, match=r"'labelled': no evaluated example has the answer 'b' or 'c' \(5 examples: 5 'a'\)"
    ):
        warn_missing_classes(zero_shot_prompts(task, task.test[:5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_missing_classes(zero_shot_prompts(task, task.test[:2]))
        warn_missing_classes(zero_shot_prompts(task, sample_examples(task, 3)))
        warn_missing_classes(zero_shot_prompts(free_task(), free_task().test))
        words = load_task("antonym")
        warn_missing_classes(zero_shot_prompts(words, words.test))
