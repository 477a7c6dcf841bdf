"""Public data sets: their rows read right, from tables built here; the network is never touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from cast_lens.tasks import Task, load_task, zero_shot
from cast_lens.tasks.hub import HUB, MOST, fetch, task_from_tables
from cast_lens.tasks.templates import KNOWN

Rows = list[dict[str, Any]]


def options(number: int, marks: str = "ABCD") -> dict[str, Any]:
    return {
        "id": f"id-{number}",
        "question": f"question {number}",
        "choices": {"text": [f"{number} {mark}" for mark in marks], "label": list(marks)},
        "answerKey": marks[number % len(marks)],
    }


def pair(first: str, second: str, number: int, classes: int) -> dict[str, Any]:
    return {first: f"first {number}", second: f"second {number}", "label": number % classes, "idx": number}


ROWS: Mapping[str, Any] = {
    "ag_news": lambda n: {"text": f"news {n}", "label": n % 4},
    "sst2": lambda n: {"sentence": f"film {n}", "label": n % 2, "idx": n},
    "mnli": lambda n: pair("premise", "hypothesis", n, 3),
    "qqp": lambda n: pair("question1", "question2", n, 2),
    "boolq": lambda n: {"passage": f"passage {n}", "question": f"question {n}", "answer": n % 2 == 0},
    "commonsense_qa": lambda n: options(n, "ABCDE"),
    "arc_easy": lambda n: options(n, "1234"),
    "arc_challenge": lambda n: options(n),
    "race": lambda n: {
        "article": f"article {n}",
        "question": f"question {n}",
        "options": [f"{n} {mark}" for mark in "ABCD"],
        "answer": "ABCD"[n % 4],
    },
    "sciq": lambda n: {
        "question": f"question {n}",
        "correct_answer": f"right {n}",
        **{f"distractor{i}": f"wrong {n} {i}" for i in (1, 2, 3)},
    },
    "medmcqa": lambda n: (
        {"id": f"id-{n}", "question": f"question {n}", "cop": n % 4} | {f"op{mark}": f"{n} {mark}" for mark in "abcd"}
    ),
    "social_i_qa": lambda n: (
        {"context": f"context {n}", "question": "why?", "label": str(n % 3 + 1)}
        | {f"answer{mark}": f"{n} {mark}" for mark in "ABC"}
    ),
    "financial_phrasebank": lambda n: {"sentence": f"finance {n}", "label": n % 3},
    "xnli": lambda n: pair("premise", "hypothesis", n, 3),
}


def tables(name: str, size: int = 60) -> dict[str, datasets.Dataset]:
    """Every split that the data set uses; rows of different splits differ."""
    used = sorted(set(HUB[name].splits.values()))
    row = ROWS[name.partition(".")[0]]
    return {
        split: datasets.Dataset.from_list([row(n) for n in range(place * 10_000, place * 10_000 + size)])
        for place, split in enumerate(used)
    }


def build(name: str, size: int = 60, seed: int = 0) -> Task:
    return task_from_tables(name, HUB[name], tables(name, size), seed=seed, revision="abc123")


def test_the_sources_and_targets_of_the_paper_are_all_there() -> None:
    assert {name for name in HUB if "." not in name} == set(ROWS) == set(KNOWN) - {"sib200"}
    assert {"xnli.de", "xnli.zh", "xnli.sw"} <= set(HUB)


@pytest.mark.parametrize("name", [*ROWS, "xnli.de"])
def test_every_data_set_becomes_a_task(name: str) -> None:
    task = build(name)
    base = name.partition(".")[0]
    assert (task.kind, task.family) == (KNOWN[base].kind, KNOWN[base].family)
    assert task.origin.startswith(f"hub: {HUB[name].path}")
    assert task.origin.endswith(" at abc123")
    splits = [{e.id for e in task.split(split)} for split in ("train", "validation", "test")]
    assert all(splits)
    assert not splits[0] & splits[2] | splits[1] & splits[2] | splits[0] & splits[1]
    for example in task.test:
        prompt = zero_shot(task, example)
        assert prompt.gold in prompt.choices
        assert example.input.split("\n")[0] in prompt.query
    if task.labels:
        assert {e.answer for e in task.test} == set(task.labels)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ag_news", lambda n: ("world", "sports", "business", "technology")[n % 4]),
        ("sst2", lambda n: ("negative", "positive")[n % 2]),
        ("mnli", lambda n: ("entailment", "neutral", "contradiction")[n % 3]),
        ("qqp", lambda n: ("not duplicate", "duplicate")[n % 2]),
        ("boolq", lambda n: ("True", "False")[n % 2]),
        ("financial_phrasebank", lambda n: ("negative", "neutral", "positive")[n % 3]),
        ("commonsense_qa", lambda n: f"{n} {'ABCDE'[n % 5]}"),
        ("arc_easy", lambda n: f"{n} {n % 4 + 1}"),
        ("race", lambda n: f"{n} {'ABCD'[n % 4]}"),
        ("sciq", lambda n: f"right {n}"),
        ("medmcqa", lambda n: f"{n} {'abcd'[n % 4]}"),
        ("social_i_qa", lambda n: f"{n} {'ABC'[n % 3]}"),
    ],
)
def test_every_row_keeps_its_answer(name: str, answer: Any) -> None:
    for example in build(name).test:
        number = int(next(word for word in example.input.replace("\n", " ").split() if word.isdigit()))
        assert example.answer == answer(number)


def test_sciq_options_are_shuffled_by_the_question_alone() -> None:
    first, again = build("sciq"), build("sciq", seed=5)
    letters = Counter(zero_shot(first, e).gold for e in first.test)
    assert set(letters) == set("ABCD")
    shown = {e.id: e.choices for e in again.test}
    assert all(shown[e.id] == e.choices for e in first.test if e.id in shown)


def test_samples_are_capped_balanced_and_seeded() -> None:
    rows = [{"sentence": f"film {n}", "label": int(n % 8 == 0), "idx": n} for n in range(4000)]
    big = {"train": datasets.Dataset.from_list(rows), "validation": datasets.Dataset.from_list(rows[::-1])}
    with pytest.warns(UserWarning, match="sst2: .* dropped, because a later split"):
        task, again, other = (
            task_from_tables("sst2", HUB["sst2"], big, seed=seed, revision="main") for seed in (0, 0, 1)
        )
    assert len(task.test) == MOST["test"]
    # One in eight of the 2,000 rows read is positive: about 250, as many as an even half of 500 needs.
    assert 200 <= Counter(e.answer for e in task.test)["positive"] <= 250
    assert Counter(e.answer for e in task.test[:20]) == {"positive": 10, "negative": 10}
    assert len(task.train) + len(task.validation) + task.dropped == MOST["train"]
    assert task == again
    assert task.test != other.test


def test_languages_of_xnli_are_parallel() -> None:
    english, german = build("xnli"), build("xnli.de")
    assert german.language == "de"
    for split in ("train", "validation", "test"):
        assert [e.id for e in english.split(split)] == [e.id for e in german.split(split)]


def test_unlabelled_rows_are_left_out() -> None:
    parts = tables("sst2")
    parts["validation"] = parts["validation"].map(lambda row: {"label": -1 if row["idx"] % 3 == 0 else row["label"]})
    task = task_from_tables("sst2", HUB["sst2"], parts, seed=0, revision="main")
    assert len(task.test) == 40


def test_changed_columns_are_named() -> None:
    parts = tables("sst2")
    parts["train"] = parts["train"].rename_column("sentence", "text")
    with pytest.raises(
        ValueError, match=r"nyu-mll/glue, split 'train', row \d+: cannot be read .* columns text, label"
    ):
        task_from_tables("sst2", HUB["sst2"], parts, seed=0, revision="main")
    parts = tables("sst2")
    parts["train"] = parts["train"].map(lambda row: {"label": 7})
    with pytest.raises(ValueError, match="label 7 is beyond the 2 labels"):
        task_from_tables("sst2", HUB["sst2"], parts, seed=0, revision="main")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_a_local_copy_loads_through_the_same_code(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_cache / "glue"
    folder.mkdir()
    for split, table in tables("sst2").items():
        table.to_parquet(folder / f"{split}.parquet")
    monkeypatch.setitem(HUB, "sst2", replace(HUB["sst2"], path=str(folder), config=None))
    task = load_task("sst2", hub=True)
    assert task.test == build("sst2").test
    assert task.origin == f"hub: {folder} at main"


def test_without_a_network_the_error_says_what_to_do(own_cache: Path) -> None:
    with pytest.raises(ConnectionError, match=r"'nyu-mll/glue' cannot be fetched .* or use a built-in task"):
        load_task("sst2", hub=True)
    with pytest.raises(ConnectionError, match="connect to a network"):
        fetch(HUB["ag_news"], "train", revision="main")


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match="task 'sst3' is unknown; did you mean sst2"):
        load_task("sst3", hub=True)
    with pytest.raises(ValueError, match=r"task 'xnli\.xx' is unknown; did you mean"):
        load_task("xnli.xx", hub=True)
