"""Every folder of the evaluation data loads, where that data lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from cast_lens.tasks import SPLITS, few_shot, list_tasks, load_task, zero_shot
from cast_lens.tasks.sampling import input_key
from cast_lens.tasks.templates import KNOWN

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the evaluation data is not on this machine")


def test_every_folder_is_a_task() -> None:
    names = {info.name for info in list_tasks(DATA)}
    folders = {path.parent for path in DATA.rglob("*.jsonl")}
    assert len(names) == len(folders)
    assert {"sst2", "xnli", "xnli.de", "sib200.ja", "antonym", "race", "medmcqa"} <= names


def test_every_task_is_whole_and_its_splits_are_disjoint() -> None:
    for info in list_tasks(DATA):
        task = load_task(info.name, tasks=DATA)
        base = info.name.partition(".")[0]
        assert min(info.sizes) >= 20, info.name
        assert (task.kind, task.family) == (
            (KNOWN[base].kind, KNOWN[base].family) if base in KNOWN else ("free", "word")
        )
        examples = [example for split in SPLITS for example in task.split(split)]
        assert len({example.id for example in examples}) == len(examples)
        inputs = [{input_key(example.input) for example in task.split(split)} for split in SPLITS]
        assert len(set.union(*inputs)) == sum(map(len, inputs))


def test_gold_letters_are_those_of_the_data() -> None:
    for name in ("commonsense_qa", "arc_easy", "arc_challenge", "sciq", "medmcqa", "race"):
        task = load_task(name, tasks=DATA)
        for split in SPLITS:
            for example in task.split(split):
                assert zero_shot(task, example).gold == example.fields["label"]


def test_parallel_sets_are_split_by_id() -> None:
    for name, languages in (("xnli", ("de", "es", "fr", "zh")), ("sib200", ("de", "es", "fr", "zh", "ja"))):
        english = load_task(name, tasks=DATA)
        for language in languages:
            other = load_task(f"{name}.{language}", tasks=DATA)
            for split in SPLITS:
                labels = {example.id: example.answer for example in english.split(split)}
                assert {example.id: example.answer for example in other.split(split)} == labels


def test_the_papers_instructions_are_used_where_they_lie() -> None:
    task = load_task("sst2", tasks=DATA)
    assert task.template.name == "2405.10548/004, paper's instruction"
    text = few_shot(task, task.test[0], shots=1, seed=0).text
    assert text.startswith("Definition: Given a movie review do text classification")
    assert load_task("xnli", tasks=DATA).template.name == "2405.10548/001, own instruction"
