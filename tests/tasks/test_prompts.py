"""Prompts as text, and the laws that tie zero-shot, few-shot and cross-task prompts together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from cast_lens.tasks import (
    Example,
    Task,
    cross_task,
    cross_task_prompts,
    demonstrations,
    few_shot,
    few_shot_prompts,
    load_task,
    prompts_showing,
    zero_shot,
    zero_shot_prompts,
)
from cast_lens.tasks.templates import body, definition, gold

from .small import example, free_task, labelled_task, lettered_task

TASKS = [labelled_task(), lettered_task(), free_task()]
WAYS = ["fixed", "per-query"]
by_kind = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
by_way = pytest.mark.parametrize("way", WAYS)


def test_the_text_of_a_labelled_prompt() -> None:
    task = labelled_task()
    prompt = few_shot(task, task.test[0], shots=2, seed=0)
    (first, one), (second, other) = prompt.demonstrations
    assert prompt.text == f"{first} {one}\n\n{second} {other}\n\nSentence: test text 0\nLabel:"
    assert first.startswith("Definition: Judge it.\nSentence: train text ")
    assert second.startswith("Sentence: train text ")
    assert {one, other} == {"good", "bad"}
    assert (prompt.gold, prompt.choices) == ("good", ("good", "bad"))
    assert (prompt.task, prompt.sample_id) == ("labelled", "test-000")


def test_the_text_of_a_lettered_prompt() -> None:
    task = lettered_task()
    prompt = zero_shot(task, task.test[1])
    assert prompt.text == ("Definition: Choose.\nQuestion: test text 1\nA. option 0\nB. option 1\nC. option 2\nAnswer:")
    assert (prompt.gold, prompt.choices) == ("B", ("A", "B", "C"))


def test_the_text_of_a_word_prompt() -> None:
    task = free_task(size=2)
    prompt = few_shot(task, task.test[0], shots=1, seed=0)
    shown = prompt.demonstrations[0][1].removeprefix("answer ")
    assert prompt.text == f"Q: train text {shown}\nA: answer {shown}\n\nQ: test text 0\nA:"
    assert (prompt.gold, prompt.choices) == ("answer 0", ())


@by_kind
def test_few_shot_without_its_demonstrations_is_zero_shot(task: Task) -> None:
    for query in task.test:
        prompt = few_shot(task, query, shots=3, seed=1)
        bare = replace(prompt, demonstrations=(), query=definition(task) + prompt.query)
        assert bare == zero_shot(task, query)
        assert prompt.text.startswith(definition(task))
        assert prompt.text.endswith(body(task, query))
        assert zero_shot(task, query).text == definition(task) + body(task, query)


@by_kind
def test_without_instruction_the_definition_is_gone_and_nothing_else(task: Task) -> None:
    query, opening = task.test[0], definition(task)
    few = few_shot(task, query, shots=3, seed=1)
    assert few_shot(task, query, shots=3, seed=1, instruction=False).text == few.text.removeprefix(opening)
    assert zero_shot(task, query, instruction=False).text == body(task, query)


@by_kind
@by_way
def test_the_query_is_never_among_its_demonstrations(task: Task, way: Any) -> None:
    for query in task.train:
        # As many as can be shown without the query: a draw that forgot to exclude it would show it.
        shown = few_shot(task, query, shots=len(task.train) - 1, seed=3, demonstrations=way).demonstrations
        assert not any(query.input == text.split("\n")[0].partition(": ")[2] for text, _ in shown)
        assert len({text.removeprefix(definition(task)) for text, _ in shown}) == len(task.train) - 1


def test_an_example_with_the_querys_input_is_not_shown_either() -> None:
    task = labelled_task(size=4)
    twin = Example("another id", "  train text 2 ", "good")
    shown = {example.id for example in demonstrations(task, shots=3, seed=0, exclude=(twin,))}
    assert shown == {"train-000", "train-001", "train-003"}
    with pytest.raises(ValueError, match="shots=4 is more than the 3 distinct examples"):
        demonstrations(task, shots=4, seed=0, exclude=(twin,))
    other_case = replace(twin, input="Train text 2")
    assert len(demonstrations(task, shots=4, seed=0, exclude=(other_case,))) == 4


def test_an_input_that_stands_twice_in_the_pool_is_shown_once() -> None:
    task = labelled_task(size=4)
    task = replace(task, train=(*task.train, Example("copy", "train text 0", "bad")))
    assert len({e.input for e in demonstrations(task, shots=4, seed=0)}) == 4
    with pytest.raises(ValueError, match="shots=5 is more than the 4"):
        demonstrations(task, shots=5, seed=0)


@by_kind
@by_way
def test_the_same_seed_gives_the_same_prompt_and_another_seed_another(task: Task, way: Any) -> None:
    def texts(seed: int) -> list[str]:
        return [p.text for p in few_shot_prompts(task, task.test, shots=4, seed=seed, demonstrations=way)]

    assert texts(0) == texts(0)
    assert all(len({texts(seed)[i] for seed in range(8)}) > 4 for i in range(3))


@by_kind
def test_fixed_demonstrations_are_the_same_for_every_query(task: Task) -> None:
    prompts = few_shot_prompts(task, task.test, shots=4, seed=0)
    assert len({prompt.demonstrations for prompt in prompts}) == 1
    assert len({prompt.query for prompt in prompts}) == len(task.test)


@by_kind
def test_per_query_demonstrations_differ_between_queries_but_not_with_their_company(task: Task) -> None:
    prompts = few_shot_prompts(task, task.test, shots=4, seed=0, demonstrations="per-query")
    assert len({prompt.demonstrations for prompt in prompts}) > 6
    alone = few_shot(task, task.test[5], shots=4, seed=0, demonstrations="per-query")
    assert alone == prompts[5]


def test_a_query_among_the_fixed_demonstrations_is_replaced_by_one_of_its_class() -> None:
    task = labelled_task(size=40)
    usual = demonstrations(task, shots=6, seed=2)
    for place, query in enumerate(usual):
        shown = demonstrations(task, shots=6, seed=2, exclude=(query,))
        kept = [a == b for a, b in zip(usual, shown, strict=True)]
        assert kept == [other != place for other in range(6)]
        assert shown[place].answer == query.answer
        assert shown[place] not in usual


def test_several_excluded_demonstrations_get_different_stand_ins() -> None:
    task = labelled_task(size=40)
    usual = demonstrations(task, shots=6, seed=2)
    shown = demonstrations(task, shots=6, seed=2, exclude=usual)
    assert len({e.id for e in (*usual, *shown)}) == 12
    assert [e.answer for e in shown] == [e.answer for e in usual]


def test_a_translation_of_the_query_is_excluded_by_its_id() -> None:
    english, german = load_task("review-sentiment"), load_task("review-sentiment.de")
    shots = len(german.train) - 1
    for query in english.train[:5]:
        shown = {e.id for e in demonstrations(german, shots=shots, seed=0, exclude=(query,))}
        assert shown == {e.id for e in german.train} - {query.id}


def test_a_single_demonstration_is_of_any_class() -> None:
    task = labelled_task(("a", "b", "c"), size=12)
    assert {demonstrations(task, shots=1, seed=seed)[0].answer for seed in range(20)} == {"a", "b", "c"}


@pytest.mark.parametrize("shots", range(1, 13))
def test_classes_are_balanced_within_one(shots: int) -> None:
    task = labelled_task(("a", "b", "c"), size=12)
    for seed in range(10):
        counts = Counter({label: 0 for label in task.labels})
        counts.update(e.answer for e in demonstrations(task, shots=shots, seed=seed))
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("shots", range(1, 13))
def test_gold_letters_are_balanced_within_one(shots: int) -> None:
    task = lettered_task(options=4)
    for seed in range(10):
        counts = Counter({letter: 0 for letter in "ABCD"})
        counts.update(gold(task, e) for e in demonstrations(task, shots=shots, seed=seed))
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_rare_class_is_shown_as_often_as_a_common_one_while_it_lasts() -> None:
    task = labelled_task(size=20)
    task = replace(task, train=(*(e for e in task.train if e.answer == "good"), task.train[1]))
    assert Counter(e.answer for e in demonstrations(task, shots=2, seed=0)) == {"good": 1, "bad": 1}
    assert Counter(e.answer for e in demonstrations(task, shots=6, seed=0)) == {"good": 5, "bad": 1}


def test_a_letter_that_hardly_any_item_has_is_not_pushed_into_every_prompt() -> None:
    task = lettered_task(size=60, options=4)
    five = tuple(f"option {i}" for i in range(5))
    odd = replace(example(99, "option 4", choices=five), id="odd")
    task = replace(task, train=(*task.train, odd))
    shown = [e.id for seed in range(20) for e in demonstrations(task, shots=8, seed=seed)]
    assert "odd" not in shown
    assert "odd" in [e.id for e in demonstrations(task, shots=61, seed=0)]


def test_the_order_of_demonstrations_is_seeded_and_not_by_class() -> None:
    task = labelled_task(size=40)
    patterns = {tuple(e.answer for e in demonstrations(task, shots=4, seed=seed)) for seed in range(60)}
    assert len(patterns) == 6  # every arrangement of two and two


def test_the_order_of_the_file_does_not_matter() -> None:
    task = labelled_task(size=20)
    assert demonstrations(replace(task, train=task.train[::-1]), shots=5, seed=0) == demonstrations(
        task, shots=5, seed=0
    )


def test_parallel_languages_show_parallel_demonstrations() -> None:
    english, german = load_task("headline-topic"), load_task("headline-topic.de")
    for seed in range(3):
        drawn = demonstrations(english, shots=6, seed=seed)
        assert [e.id for e in drawn] == [e.id for e in demonstrations(german, shots=6, seed=seed)]


def test_demonstrations_come_from_the_pool_asked_for() -> None:
    task = free_task()
    drawn = demonstrations(task, shots=5, seed=0, pool="validation")
    assert all(e in task.validation for e in drawn)
    prompt = few_shot(task, task.test[0], shots=2, seed=0, pool="validation")
    assert all(text.startswith("Q: validation text") for text, _ in prompt.demonstrations)


def test_cross_task_shows_the_source_and_asks_the_target() -> None:
    source, target = lettered_task(), labelled_task()
    prompt = cross_task(source, target, target.test[0], shots=2, seed=0)
    assert prompt.query == "Definition: Judge it.\nSentence: test text 0\nLabel:"
    assert prompt.text.startswith("Definition: Choose.\nQuestion: train text ")
    assert prompt.text.count("Definition:") == 2
    assert prompt.demonstrations == few_shot(source, source.test[0], shots=2, seed=0).demonstrations
    assert (prompt.gold, prompt.choices, prompt.task) == ("good", ("good", "bad"), "labelled")
    bare = cross_task(source, target, target.test[0], shots=2, seed=0, instruction=False)
    assert "Definition" not in bare.text


def test_cross_task_of_a_task_with_itself_never_shows_the_query() -> None:
    task = labelled_task(size=5)
    for query in task.train:
        prompt = cross_task(task, task, query, shots=4, seed=0)
        assert all(query.input not in text for text, _ in prompt.demonstrations)


@by_kind
@by_way
def test_lists_of_prompts_are_the_single_prompts_in_order(task: Task, way: Any) -> None:
    source = TASKS[0]
    more: dict[str, Any] = {"shots": 3, "seed": 5, "demonstrations": way, "shuffle_labels": True}
    assert zero_shot_prompts(task, task.test) == [zero_shot(task, e) for e in task.test]
    assert few_shot_prompts(task, iter(task.test), **more) == [few_shot(task, e, **more) for e in task.test]
    assert cross_task_prompts(source, task, task.test, **more) == [
        cross_task(source, task, e, **more) for e in task.test
    ]


@pytest.mark.parametrize("shots", [2, 4, 8])
def test_shuffled_labels_are_right_as_often_as_chance(shots: int) -> None:
    task = labelled_task(size=40)
    for seed in range(10):
        right = few_shot(task, task.test[0], shots=shots, seed=seed).demonstrations
        shuffled = few_shot(task, task.test[0], shots=shots, seed=seed, shuffle_labels=True).demonstrations
        assert [text for text, _ in shuffled] == [text for text, _ in right]
        assert Counter(a for _, a in shuffled) == Counter(a for _, a in right)
        hits = sum(a == b for (_, a), (_, b) in zip(right, shuffled, strict=True))
        # Two examples of two labels can only be both right or both wrong.
        assert hits == shots // 2 or shots == 2


def test_shuffled_free_answers_are_all_wrong() -> None:
    task = free_task()
    for seed in range(10):
        shuffled = few_shot(task, task.test[0], shots=5, seed=seed, shuffle_labels=True).demonstrations
        pairs = [(text.split("\n")[0].split()[-1], answer.split()[-1]) for text, answer in shuffled]
        assert all(number != answer for number, answer in pairs)
        assert {number for number, _ in pairs} == {answer for _, answer in pairs}


def test_shuffled_letters_stay_admissible() -> None:
    task = lettered_task(options=4)
    short = tuple(replace(e, choices=e.choices[:2]) for e in task.train if e.answer in ("option 0", "option 1"))
    task = replace(task, train=(*short, *(e for e in task.train if e.answer in ("option 2", "option 3"))))
    for seed in range(10):
        for text, answer in few_shot(task, task.test[0], shots=8, seed=seed, shuffle_labels=True).demonstrations:
            assert f"\n{answer}. option" in text


def test_a_single_shuffled_demonstration_says_nothing_about_its_label() -> None:
    task = labelled_task(size=40)
    hits = 0
    for seed in range(200):
        ((_, right),) = few_shot(task, task.test[0], shots=1, seed=seed).demonstrations
        ((_, shown),) = few_shot(task, task.test[0], shots=1, seed=seed, shuffle_labels=True).demonstrations
        hits += right == shown
    # Binomial(200, 1/2) leaves 70..130 once in fifty thousand; the seeds are fixed.
    assert 70 <= hits <= 130


def test_the_placebo_is_seeded_and_shared_by_all_queries() -> None:
    task = labelled_task()
    prompts = few_shot_prompts(task, task.test, shots=4, seed=0, shuffle_labels=True)
    assert len({p.demonstrations for p in prompts}) == 1
    assert prompts == few_shot_prompts(task, task.test, shots=4, seed=0, shuffle_labels=True)


@pytest.mark.parametrize("shots", [0, -1])
def test_fewer_than_one_shot_is_an_error(shots: int) -> None:
    with pytest.raises(ValueError, match=f"shots={shots} demonstrates nothing; give at least 1"):
        few_shot(labelled_task(), example(0, "good"), shots=shots, seed=0)


def test_more_shots_than_examples_is_an_error() -> None:
    task = labelled_task(size=6)
    assert len(few_shot(task, task.test[0], shots=6, seed=0).demonstrations) == 6
    with pytest.raises(ValueError, match=r"shots=7 is more than the 6 distinct examples.*train split of 'labelled'"):
        few_shot(task, task.test[0], shots=7, seed=0)
    with pytest.raises(ValueError, match="shots=6 is more than the 5 distinct"):
        few_shot(task, task.train[0], shots=6, seed=0)


def test_an_unknown_split_or_way_is_an_error() -> None:
    task = labelled_task()
    # A run-time type checker, where one is switched on, refuses the literal before we do.
    refused = (ValueError, TypeError)
    with pytest.raises(refused, match=r"split='dev' is unknown; choose one of train, validation, test|Type-check"):
        few_shot(task, task.test[0], shots=1, seed=0, pool="dev")  # type: ignore[arg-type]
    with pytest.raises(refused, match=r'demonstrations=.random. is unknown; choose "fixed" or "per-query"|Type-check'):
        few_shot(task, task.test[0], shots=1, seed=0, demonstrations="random")  # type: ignore[arg-type]


def test_chosen_demonstrations_are_shown_as_drawn_ones_are() -> None:
    source, target = lettered_task(), labelled_task()
    own = demonstrations(target, shots=3, seed=4)
    assert prompts_showing(target, target.test, [own] * 12) == few_shot_prompts(target, target.test, shots=3, seed=4)
    others = demonstrations(source, shots=2, seed=4)
    for instruction in (True, False):
        assert prompts_showing(
            target, target.test, [others] * 12, source=source, instruction=instruction
        ) == cross_task_prompts(source, target, target.test, shots=2, seed=4, instruction=instruction)
    with pytest.raises(ValueError, match="shown holds 12 lists of demonstrations for 12 queries"):
        prompts_showing(target, target.test, [own] * 11 + [()])


def test_any_text_can_be_a_query() -> None:
    task = labelled_task()
    assert zero_shot_prompts(task, "a new text") == zero_shot_prompts(task, ["a new text"])
    (prompt,) = zero_shot_prompts(task, ["a new text"])
    assert prompt.text == "Definition: Judge it.\nSentence: a new text\nLabel:"
    assert (prompt.gold, prompt.choices) == ("", ("good", "bad"))
    shown = few_shot(task, "a new text", shots=2, seed=0)
    assert shown.demonstrations == few_shot(task, task.test[0], shots=2, seed=0).demonstrations
    assert shown.query == prompt.query.removeprefix("Definition: Judge it.\n")
    with pytest.raises(
        ValueError, match="the text 'why' cannot be a query of 'lettered', whose template shows input, options"
    ):
        zero_shot(lettered_task(), "why")
