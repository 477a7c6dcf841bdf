"""Several queries in one prompt: what is asked, what is read back, and rows like those of every other method."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from cast_lens.engine import answer, tokenise
from cast_lens.methods import AnyCondition, batched, evaluate_conditions, few_shot_condition, zero_shot_condition
from cast_lens.methods.conditions import UNKNOWN, parse_answers
from cast_lens.tasks import Task, Template, is_valid
from tests.small_tasks import label_task, word_task
from tests.tasks.small import lettered_task
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (" good\n2. bad\n3. good", ["good", "bad", "good"]),
        ("1. good\n2. bad\n3. good\n", ["good", "bad", "good"]),
        (" good\n2) bad\n[3] good", ["good", "bad", "good"]),
        (" good\n2: bad\n\n3. good\n4. bad", ["good", "bad", "good"]),
        (" good\n3. bad", ["good", "", "bad"]),  # a line is missing
        (" good\nbad\ngood", ["good", "", ""]),  # lines without numbers
        (" good bad good", ["good bad good", "", ""]),  # all on one line
        (" good\n2.\n3.bad", ["good", "", ""]),  # a number alone; no blank behind the dot
        (" good\n2. bad\n2. good\n3. bad", ["good", "bad", "bad"]),  # the first one counts
        (" 1984\n2. 42\n3. 7", ["1984", "42", "7"]),  # answers that are numbers
        ("2. bad\n1. good", ["good", "bad", ""]),  # out of order
        ("", ["", "", ""]),
    ],
)
def test_answers_are_read_by_their_numbers(text: str, answers: list[str]) -> None:
    assert parse_answers(text, 3) == answers


def test_a_prompt_asks_its_queries_under_one_definition() -> None:
    task = label_task()
    condition = batched(task, task.test, queries_per_prompt=3)
    assert condition.prompts[0].text == (
        "Definition: Say good or bad.\n"
        "1. Text: mood item number 18\n2. Text: mood item number 19\n3. Text: mood item number 20\n\n"
        "Answers 1 to 3, one per line:\n1."
    )
    assert condition.prompts[1].text.count("Text:") == 2
    assert "Answers 1 to 2, one" in condition.prompts[1].text
    assert condition.prompts[0].sample_id == "mood-018 to mood-020"
    assert [prompt.sample_id for prompt in condition.queries] == [example.id for example in task.test]


def test_options_stay_and_a_cue_in_the_line_of_the_input_stays() -> None:
    lettered = lettered_task()
    text = batched(lettered, lettered.test[:2]).prompts[0].text
    assert text.count("\nA. option 0") == 2
    assert "\nAnswer:" not in text
    inline = replace(label_task(), template=Template("inline", "Text: {input} Label:"))
    assert "1. Text: mood item number 18 Label:\n" in batched(inline, inline.test).prompts[0].text


@pytest.mark.parametrize("task", [label_task(), word_task()], ids=["labels", "free"])
def test_rows_have_the_columns_of_every_other_method(task: Task) -> None:
    model = tiny_model("llama")
    conditions: list[AnyCondition] = [
        batched(task, task.test, queries_per_prompt=2),
        zero_shot_condition(task, task.test),
        few_shot_condition(task, task.test, shots=2, seed=0),
    ]
    joined = evaluate_conditions(model, conditions)
    assert list(joined["method"].unique()) == ["zero-shot", "few-shot", "batched"]
    alone = evaluate_conditions(model, conditions[:1])
    assert list(alone.columns) == list(joined.columns)
    rows = joined[joined["method"] == "batched"].reset_index(drop=True)
    base = joined[joined["method"] == "zero-shot"].reset_index(drop=True)
    for column in ("target", "sample", "text", "gold", "layer", "strength", "operator", "position", "source"):
        pd.testing.assert_series_equal(rows[column], base[column])
    assert rows[list(UNKNOWN)].isna().all(axis=None)
    pd.testing.assert_frame_equal(alone, rows, check_dtype=False)


def test_answers_are_those_of_one_greedy_continuation_for_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own text is noise; what is parsed is what ``answer`` wrote for the joint prompts."""
    model, task = tiny_model("llama"), label_task()
    condition = batched(task, task.test, queries_per_prompt=3)
    longest = max(len(ids) for prompt in tokenise(model, condition.queries) for ids in prompt.answers)
    room = 3 * (longest + 3 + 4)
    written = answer(model, condition.prompts, max_new_tokens=room, stop_at_newline=False)[0]
    expected = [*parse_answers(written[0], 3), *parse_answers(written[1], 2)]
    found = condition.outcomes(model)
    assert list(found["answer"]) == expected

    def scripted(*_: object, **__: object) -> list[list[str]]:
        return [[" bad\n2. bad\n3. maybe", " good"]]

    monkeypatch.setattr("cast_lens.methods.conditions.answer", scripted)
    told = condition.outcomes(model)
    # Items 18 to 22 are good, bad, good, bad, good in turn.
    assert list(told["answer"]) == ["bad", "bad", "maybe", "good", ""]
    assert list(told["exact_match"]) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert list(told["valid"]) == [1.0, 1.0, 0.0, 1.0, 0.0]
    assert not is_valid("", condition.queries[0])


def test_what_cannot_be_asked_is_refused() -> None:
    task = label_task()
    with pytest.raises(ValueError, match="queries_per_prompt=0 must be at least 1"):
        batched(task, task.test, queries_per_prompt=0)
    with pytest.raises(ValueError, match="examples is empty"):
        batched(task, ())
    many = batched(label_task(test=60), label_task(test=60).test, queries_per_prompt=60)
    with pytest.raises(ValueError, match="more than the model's context of 512"):
        many.outcomes(tiny_model("llama"))
