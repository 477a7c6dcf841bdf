"""Which answers an intervention changes: a hand-made frame of answers in, counts and lines out."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.evaluation import changed_answers

GOLD = {"a": "yes", "b": "no", "c": "yes", "d": "no"}
ANSWERS = {
    0: {"a": "It is", "b": "no", "c": "yes", "d": "maybe"},
    1: {"a": "yes", "b": "yes", "c": "yes", "d": "  perhaps\n"},
    2: {"a": "It is", "b": "no", "c": "yes", "d": "maybe"},
}


def answers() -> pd.DataFrame:
    rows = [
        {
            "variant": variant,
            "name": "steered" if variant else "unsteered",
            "layer": 7 if variant else -1,
            "strength": 1.5 * variant,
            "sample": sample,
            "text": f"Definition: a line that is by far the longest of this prompt\nQuestion: is it {sample}?\nAnswer:",
            "gold": GOLD[sample],
            "answer": answer,
            "exact_match": float(answer == GOLD[sample]),
        }
        for sample in GOLD
        for variant, by_sample in ANSWERS.items()
        for answer in [by_sample[sample]]
    ]
    return pd.DataFrame(rows)


def test_counts_what_changed_and_which_way() -> None:
    first, second = changed_answers(answers()).to_dict("records")
    assert (first["variant"], first["layer"], first["strength"], first["n"]) == (1, 7, 1.5, 4)
    assert (first["n_changed"], first["n_mended"], first["n_broken"]) == (3, 1, 1)
    assert (second["n_changed"], second["changed"]) == (0, "")


def test_tells_turned_answers_first_and_no_more_than_asked() -> None:
    lines = changed_answers(answers()).loc[0, "changed"].splitlines()
    assert lines == [
        "Question: is it a? (gold: yes): “It is” → “yes” (now right)",
        "Question: is it b? (gold: no): “no” → “yes” (now wrong)",
        "Question: is it d? (gold: no): “maybe” → “perhaps”",
    ]
    assert changed_answers(answers(), limit=1).loc[0, "changed"].splitlines() == lines[:1]


def test_order_of_rows_does_not_matter() -> None:
    mixed = answers().sample(frac=1, random_state=3)
    columns = ["variant", "n_changed", "n_mended", "n_broken"]
    pd.testing.assert_frame_equal(changed_answers(mixed)[columns], changed_answers(answers())[columns])


@pytest.mark.parametrize(
    ("frame", "limit"), [(answers().drop(columns="answer"), 3), (answers().query("variant > 0"), 3), (answers(), 0)]
)
def test_refuses_what_is_not_from_evaluate(frame: pd.DataFrame, limit: int) -> None:
    with pytest.raises(ValueError, match="answers must come from evaluate"):
        changed_answers(frame, limit=limit)


def test_blanks_around_an_answer_are_no_change() -> None:
    frame = answers()
    second = frame["variant"] == 2
    frame.loc[second, "answer"] = frame.loc[second, "answer"] + "\n"
    assert changed_answers(frame)["n_changed"].tolist() == [3, 0]


def test_repeated_sample_ids_are_paired_in_their_order() -> None:
    """Two prompts of one sample, as two sets of demonstrations make them."""
    once, again = answers(), answers()
    again.loc[again["variant"] == 0, "answer"] = "something else"
    changed = changed_answers(pd.concat([once, again]))
    assert changed["n"].tolist() == [8, 8]
    assert changed["n_changed"].tolist() == [3 + 4, 4]


def test_one_id_in_two_tasks_is_two_samples() -> None:
    both = pd.concat([answers().assign(task=task) for task in ("first", "second")])
    assert changed_answers(both)["n_changed"].tolist() == [6, 0]


def test_a_variant_of_other_prompts_is_refused() -> None:
    frame = answers()
    frame = frame[(frame["variant"] != 0) | (frame["sample"] != "d")]
    with pytest.raises(ValueError, match="variant 1 has answers to prompts that variant 0"):
        changed_answers(frame)
