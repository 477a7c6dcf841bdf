"""Tasks of lm-evaluation-harness: the prompts, choices and gold answers that the harness itself asks a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cast_lens.tasks import Task, few_shot, load_task, zero_shot_prompts

lm_eval = pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("default")

ARC = [
    {
        "id": f"q{number}",
        "question": f"Which of these is number {number}?",
        "choices": {"text": [f"the {number}", f"a {number + 1} or so", "neither"], "label": ["A", "B", "C"]},
        "answerKey": "ABC"[number % 3],
    }
    for number in range(12)
]
FILMS = [{"text": f"film {number}", "label": number % 2} for number in range(12)]
SUMS = [{"a": number, "b": 2, "answers": [f"{number + 2}", f"{number + 2}.0"][: 1 + number % 2]} for number in range(9)]
FILM = """task: my_films
dataset_path: json
dataset_kwargs: {data_files: {train: FOLDER/films.jsonl, test: FOLDER/films_test.jsonl}}
training_split: train
test_split: test
output_type: multiple_choice
description: "Judge the film. \\n"
doc_to_text: "Film: {{text}}\\nVerdict:"
doc_to_choice: ["bad", "good"]
doc_to_target: label
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SUM = """task: my_sums
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/sums.jsonl}}
validation_split: validation
output_type: generate_until
gen_prefix: "The sum is"
doc_to_text: !function sums.ask
doc_to_target: answers
generation_kwargs: {until: ["\\n"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def _lines(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(one) for one in records))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two definitions with their data, and data for a definition of the harness's own."""
    for name, text in (("films", FILM), ("sums", SUM)):
        (tmp_path / f"my_{name}.yaml").write_text(text.replace("FOLDER", str(tmp_path)))
    (tmp_path / "sums.py").write_text("def ask(doc):\n    return f\"What is {doc['a']} and {doc['b']}?\"\n")
    _lines(tmp_path / "films.jsonl", FILMS)
    _lines(tmp_path / "films_test.jsonl", [{"text": f"play {number}", "label": number % 2} for number in range(4)])
    _lines(tmp_path / "sums.jsonl", SUMS)
    for split, part in (("train", ARC[:6]), ("validation", ARC[6:9]), ("test", ARC[9:])):
        _lines(tmp_path / "ai2_arc" / "ARC-Easy" / f"{split}.jsonl", part)
    return tmp_path


def _asked(name: str, folder: Path) -> tuple[list[Any], list[Any]]:
    """What the harness asks a model about a task, and the targets that it logs."""
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Recorder(LM):
        """Answers nothing and remembers what it was asked."""

        def loglikelihood(self, requests: Any) -> Any:
            asked.extend(request.args for request in requests)
            return [(0.0, False)] * len(requests)

        def generate_until(self, requests: Any) -> Any:
            asked.extend(request.args for request in requests)
            return [""] * len(requests)

        loglikelihood_rolling = loglikelihood

    asked: list[Any] = []
    mine = name.startswith("my_")
    own = Path(lm_eval.tasks.__file__).parent / "arc"
    manager = TaskManager(include_path=str(folder if mine else own), include_defaults=False)
    changed = {"dataset_path": str(folder / "ai2_arc" / "ARC-Easy"), "dataset_name": None}
    spec: Any = name if mine else {"group": "g", "task": [{"task": name, **changed}]}
    found = lm_eval.simple_evaluate(Recorder(), tasks=[spec], task_manager=manager, bootstrap_iters=0, log_samples=True)
    assert found is not None
    return asked, [sample["target"] for sample in found["samples"][name]]


def _all(task: Task) -> list[Any]:
    return sorted(
        (example for part in (task.train, task.validation, task.test) for example in part),
        key=lambda example: int(example.id.split("-")[-1]),
    )


def test_options_are_scored_as_the_harness_scores_them(folder: Path) -> None:
    task = load_task("lm-eval:arc_easy", tasks=folder)
    assert (task.kind, len(task.train), len(task.validation), len(task.test)) == ("multiple-choice", 6, 3, 3)
    prompts = zero_shot_prompts(task, sorted(task.test, key=lambda example: example.id))
    asked, targets = _asked("arc_easy", folder)
    assert [(prompt.text, f" {choice}") for prompt in prompts for choice in prompt.choices] == asked
    assert [prompt.choices.index(prompt.gold) for prompt in prompts] == [int(target) for target in targets]
    assert prompts[0].choices == ("the 9", "a 10 or so", "neither")


def test_shared_choices_are_labels(folder: Path) -> None:
    task = load_task("lm-eval:my_films", tasks=folder)
    assert (task.kind, task.labels, task.instruction) == ("classification", ("bad", "good"), "Judge the film. \n")
    prompts = zero_shot_prompts(task, sorted(task.test, key=lambda example: example.id))
    asked, targets = _asked("my_films", folder)
    assert [(prompt.text, f" {choice}") for prompt in prompts for choice in prompt.choices] == asked
    assert [task.labels.index(prompt.gold) for prompt in prompts] == [int(target) for target in targets]
    shown = few_shot(task, task.test[0], shots=2)
    assert shown.text.startswith("Judge the film. \nFilm: film ")
    assert shown.text.count("Judge") == 1


def test_written_answers(folder: Path) -> None:
    with pytest.warns(UserWarning, match="several right answers"):
        task = load_task("lm-eval:my_sums", tasks=folder)
    examples = _all(task)
    assert (task.kind, len(examples), bool(task.train and task.validation and task.test)) == ("free", 9, True)
    prompts = zero_shot_prompts(task, examples)
    asked, targets = _asked("my_sums", folder)
    assert [prompt.text for prompt in prompts] == [context for context, _ in asked]
    assert prompts[0].text == "What is 0 and 2? The sum is"
    assert [prompt.gold for prompt in prompts] == [target[0] for target in targets]


def test_the_model_answers_as_in_the_harness(folder: Path) -> None:
    """Accuracy of admissible answers is the harness's own."""
    from lm_eval.tasks import TaskManager

    import cast_lens as cl
    from cast_lens.share.lm_eval import CastLensLM
    from tests.tiny import tiny_model

    ours = cl.evaluate(tiny_model(), zero_shot_prompts(*[(t := load_task("lm-eval:my_films", tasks=folder)), t.test]))
    found = lm_eval.simple_evaluate(
        CastLensLM(tiny_model()),
        tasks=["my_films"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    assert found is not None
    assert ours["choice_correct"].mean() == found["results"]["my_films"]["acc,none"]


def test_a_run_takes_such_tasks(folder: Path) -> None:
    from cast_lens.experiments.config import RunConfig

    assert RunConfig(sources=("lm-eval:arc_easy",), tasks=str(folder)).sources == ("lm-eval:arc_easy",)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_film", r"did you mean lm-eval:my_films"),
        ("ai2_arc", r"is a group of tasks; choose one of them"),
        ("winogrande", r"cannot be had|context per choice"),
    ],
)
def test_names_that_are_no_task(name: str, says: str, folder: Path) -> None:
    with pytest.raises((ValueError, ConnectionError), match=says):
        load_task(f"lm-eval:{name}", tasks=folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("doc_to_target: label", "doc_to_target: \"{{7 if text == 'film 3' else label}}\""),
            r"train 3: doc_to_target gives '7', which is not one of 2 choices",
        ),
        (("output_type: multiple_choice", "output_type: loglikelihood_rolling"), "has output_type"),
        (("metric_list", "target_delimiter: '\\n'\nmetric_list"), "between context and choice"),
        (("{{text}}", "{{txt | nothing}}"), "lm-eval cannot build it"),
        (("films.jsonl", "absent.jsonl"), "cannot be had"),
    ],
)
def test_what_cannot_be_asked_is_one_error(change: tuple[str, str], says: str, folder: Path) -> None:
    path = folder / "my_films.yaml"
    path.write_text(path.read_text().replace(*change).replace("'\\n'", '"\\n"'))
    with pytest.raises((ValueError, ConnectionError), match=says):
        load_task("lm-eval:my_films", tasks=folder)


def test_without_data_or_network(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"lm-eval:arc_easy: its data cannot be had.*tasks="):
        load_task("lm-eval:arc_easy", tasks=tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        load_task("lm-eval:arc_easy", tasks=tmp_path / "absent")


def test_without_the_harness(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ValueError, match=r'not installed .*pip install "cast-lens\[lm-eval\]"'):
        load_task("lm-eval:my_films", tasks=folder)
