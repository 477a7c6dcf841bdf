"""Tasks from lists and frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.tasks import Task, few_shot, load_task, zero_shot

ROWS = [{"text": f"text {i}", "label": ("good", "bad")[i % 2]} for i in range(20)]


def test_a_list_or_a_frame_is_a_task_in_one_line() -> None:
    task = Task.from_records(
        ROWS, name="mood", instruction="Judge it.", template="Text: {input}\nMood:", labels=["good", "bad"]
    )
    assert (task.name, task.kind, task.labels, task.origin) == ("mood", "classification", ("good", "bad"), "records")
    assert (len(task.train), len(task.validation), len(task.test)) == (10, 4, 6)
    query = task.test[0]
    assert zero_shot(task, query).text == f"Definition: Judge it.\nText: {query.input}\nMood:"
    frame = pd.DataFrame(ROWS).assign(count=np.arange(20), note=np.nan)
    other = Task.from_records(frame, name="mood", labels=["good", "bad"])
    assert [e.input for e in other.test] == [e.input for e in task.test]
    named = Task.from_records(frame, fields={"input": "text", "answer": "count"})
    assert {e.answer for e in named.test} <= {str(i) for i in range(20)}


def test_three_pairs_are_enough() -> None:
    task = Task.from_records([("hot", "cold"), ("big", "small"), ("up", "down")], name="opposites")
    assert task.kind == "free"
    assert {e.input for part in (task.train, task.validation, task.test) for e in part} == {"hot", "big", "up"}
    assert zero_shot(task, task.test[0]).text == f"Q: {task.test[0].input}\nA:"


def test_records_may_name_their_splits() -> None:
    rows = [{**row, "split": "train" if i < 15 else "test"} for i, row in enumerate(ROWS)]
    task = Task.from_records(rows)
    assert (len(task.train) + len(task.validation), len(task.test)) == (15, 5)
    assert task.labels == ("good", "bad")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="records holds 2; give at least 3"):
        Task.from_records([("a", "b"), ("c", "d")])
    with pytest.raises(ValueError, match="record 2: expected a JSON object, got text"):
        Task.from_records([ROWS[0], "text", ROWS[1]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r'record 1: field "answer" is missing.*--fields'):
        Task.from_records([{"text": "a", "verdict": "b"}] * 3)
    with pytest.raises(ValueError, match="record 2: field \"answer\": 'bad' is not a label"):
        Task.from_records(ROWS, labels=["good", "poor"])


def test_the_path_of_a_file_is_a_task_and_three_lines_with_labels_are_a_classification(tmp_path: Path) -> None:
    rows = [("Cold soup.", "bad"), ("Best pizza in years!", "good"), ("An hour for nothing.", "bad")]
    path = tmp_path / "mood.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    task = load_task(str(path))
    assert (task.name, task.kind, task.labels) == ("mood", "classification", ("bad", "good"))
    with pytest.raises(ValueError, match="there is no such folder or file"):
        load_task(str(tmp_path / "absent.csv"))
    with pytest.raises(ValueError, match="Steering it with another task's vector needs none"):
        few_shot(task, task.test[0], shots=5)
