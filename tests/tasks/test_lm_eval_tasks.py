"""Tasks of lm-evaluation-harness are read from a local folder, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from cast_lens.tasks import load_task

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("default")

CHOICE = """task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{train: {0}/train.jsonl, validation: {0}/validation.jsonl, test: {0}/test.jsonl}}}}
training_split: train
validation_split: validation
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
"""
FREE = """task: tiny_free
dataset_path: json
dataset_kwargs: {{data_files: {{test: {0}/test.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{choices[gold]}}}}"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "validation", "test"):
        rows = [
            f'{{"question": "{split} question {number}?", "choices": ["yes {number}", "no"], "gold": {number % 2}}}'
            for number in range(4)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    (tmp_path / "choice.yaml").write_text(CHOICE.format(tmp_path))
    (tmp_path / "free.yaml").write_text(FREE.format(tmp_path))
    return tmp_path


def test_questions_options_answers_and_splits(folder: Path) -> None:
    task = load_task("lm-eval:tiny_choice", tasks=folder)
    assert (task.kind, task.name) == ("multiple-choice", "lm-eval:tiny_choice")
    assert [len(task.split(name)) for name in ("train", "validation", "test")] == [4, 4, 4]
    first = min(task.test, key=lambda example: example.input)
    assert (first.input, first.choices, first.answer) == ("test question 0?", ("yes 0", "no"), "yes 0")


def test_free_answers(folder: Path) -> None:
    task = load_task("lm-eval:tiny_free", tasks=folder)
    assert task.kind == "free"
    answers = {
        example.input: example.answer for name in ("train", "validation", "test") for example in task.split(name)
    }
    assert answers == {
        "test question 0?": "yes 0",
        "test question 1?": "no",
        "test question 2?": "yes 2",
        "test question 3?": "no",
    }


def test_a_name_that_the_harness_does_not_know(folder: Path) -> None:
    with pytest.raises(ValueError, match="no single task of lm-eval"):
        load_task("lm-eval:sciense", tasks=folder)
