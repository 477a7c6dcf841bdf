"""Every experiment on every mixture of tasks ends with a report, or in one clear sentence before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cast_lens.experiments import RunConfig, run_experiment
from cast_lens.experiments.catalogue import EXPERIMENTS, find
from cast_lens.experiments.cells import Grid
from cast_lens.models.lens import HookedTransformer
from cast_lens.report.record import read_run
from tests.tiny import tiny_model

MIXTURES = {
    "free answers only": (("double", "triple"), ("triple", "reverse")),
    "labels only": (("mood", "tone"), ("tone", "size")),
    "mixed": (("mood", "double"), ("tone", "double")),
    "one target": (("mood", "double"), ("tone",)),
    "source = target": (("mood",), ("mood",)),
}
FAST = ("mixed",)
LABELS = {"mood": ("good", "bad"), "tone": ("warm", "cold"), "size": ("big", "small")}
WORDS: dict[str, Callable[[str], str]] = {
    "double": lambda word: word + word,
    "triple": lambda word: word * 3,
    "reverse": lambda word: word[::-1],
}
# Smaller than --quick, where that is still too much for a test.
OPTIONS: dict[str, dict[str, Any]] = {
    "transfer": {"umap": False},
    "cross-domain": {
        "methods": ("cast", "placebo: random direction"),
        "prompting": ("cross-task few-shot",),
        "few_shots": (1,),
    },
    "shots": {"few_shots": (1, 2)},
    "scaling": {"budgets": (2, 4), "few_shots": (1, 2)},
    "atv": {"atv_examples": (4,), "atv_holdout_examples": 4, "atv_epochs": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks as people have them: three with labels, one of them in two languages, three with free answers."""
    path = tmp_path_factory.mktemp("tasks")
    for name in (*LABELS, "mood.de"):
        labels = LABELS[name.removesuffix(".de")]
        rows = [{"input": f"{name} item {index}", "answer": labels[index % 2]} for index in range(24)]
        write(path / name, rows)
    for name, make in WORDS.items():
        words = [f"w{index}x" for index in range(24)]
        write(path / name, [{"input": word, "answer": make(word)} for word in words])
    return path


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.mkdir()
    for split, part in (("train", rows[:16]), ("validation", rows[16:20]), ("test", rows[20:])):
        lines = [json.dumps({"id": f"{row['input'].split('.')[0]}-{split}-{at}", **row}) for at, row in enumerate(part)]
        (path / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@cache
def loaded(*given: object, **options: object) -> HookedTransformer:
    """One tiny model for all runs, that soon ends the line: how long its answers are is not what is tested."""
    model = tiny_model("llama", num_hidden_layers=2)
    (newline,) = model.to_tokens("\n", prepend_bos=False)[0].tolist()
    model.unembed.b_U.data[newline] = 8.0
    return model


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run directory per mixture, so that experiments share vectors and settings as those of a user do."""
    return tmp_path_factory.mktemp("runs")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize(
    "mixture", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in MIXTURES]
)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_ends_with_a_report_or_one_sentence(name: str, mixture: str, folder: Path, directories: Path) -> None:
    sources, targets = MIXTURES[mixture]
    config = RunConfig(
        model="tiny", tasks=str(folder), sources=sources, targets=targets, shots=1, samples=4, validation=2, test=2,
        layers=(1,), strengths=(1.0,), placebos=1, finalists=1, bootstrap=20, threads=1,
    )  # fmt: skip
    kind, out = find(name), directories / mixture
    experiment = kind(**{**kind.quick(config), **OPTIONS.get(name, {})})
    before, refusal = files(out), ""
    try:
        run_experiment(experiment, config, out, load=loaded)
        assert Grid.read(out / "experiments" / name).failed() == []
        (chapter,) = read_run(out).chapters
        assert chapter.note == ""
        assert chapter.headline
    except ValueError as error:
        refusal = str(error)
    finally:
        written = files(out)
        # The next report is of the next experiment alone.
        shutil.rmtree(out / "experiments" / name, ignore_errors=True)
    if refusal:
        assert "\n" not in refusal
        assert written == before, "refused before any work"
