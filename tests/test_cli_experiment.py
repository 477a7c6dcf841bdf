"""``experiment all``: one experiment that cannot be had does not take the others down, a shared mistake ends all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cast_lens.cli import _planned, app
from cast_lens.experiments.catalogue import EXPERIMENTS
from cast_lens.experiments.config import RunConfig
from cast_lens.experiments.protocol import Experiment
from cast_lens.experiments.workspace import Load
from tests.experiments.small import SMALL

ENGLISH_ONLY = replace(SMALL, sources=("country-capital",))


def without_work(monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]) -> None:
    """Another function in place of ``run_experiment``, and no report."""
    monkeypatch.setattr("cast_lens.experiments.runner.run_experiment", run)
    monkeypatch.setattr("cast_lens.report.publish", lambda out: out / "report.html")
    monkeypatch.setattr("cast_lens.report.record.read_run", lambda out, **_: SimpleNamespace(chapters=()))


def run_all(monkeypatch: pytest.MonkeyPatch, out: Path, mistakes: dict[str, Exception]) -> tuple[int, str, list[str]]:
    """``experiment all`` where experiments do nothing but fail as told."""
    ran: list[str] = []

    def fake(experiment: Experiment, *_: object, **__: object) -> None:
        ran.append(experiment.name)
        if experiment.name in mistakes:
            raise mistakes[experiment.name]

    without_work(monkeypatch, fake)
    done = CliRunner().invoke(app, ["experiment", "all", "--quick", "--sources", "country-capital", "--out", str(out)])
    return done.exit_code, done.output.replace("\n", ""), ran


def test_what_cannot_be_asked_of_these_tasks_is_named_before_work_starts() -> None:
    able, refused = _planned(("cross-lingual", "shots"), ENGLISH_ONLY, {"few_shots": [1]}, quick=False)
    assert [one.name for one in able] == ["shots"]
    assert able[0].options()["few_shots"] == [1]
    assert "language" in refused["cross-lingual"]


def test_one_that_cannot_be_asked_alone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="language"):
        _planned(("cross-lingual",), ENGLISH_ONLY, {}, quick=False)


def test_a_mistake_of_all_is_told_once() -> None:
    with pytest.raises(ValueError, match="sciense"):
        _planned(("shots", "scaling"), replace(SMALL, sources=("sciense",)), {}, quick=False)


def test_left_out_and_failed_ones_leave_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mistakes = {
        "shots": ValueError("too long"),
        "scaling": RuntimeError("no cell has a result"),
        "ablation": KeyError("zero-shot"),
    }
    code, text, ran = run_all(monkeypatch, tmp_path, mistakes)
    assert ran == [name for name in EXPERIMENTS if name != "cross-lingual"]
    assert code == 1
    assert "cross-lingual: left out" in text
    assert "incomplete: ablation; scaling; shots." in text


def test_a_mistake_that_repeats_ends_the_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    again = {name: ValueError("in use by another run") for name in EXPERIMENTS}
    code, text, ran = run_all(monkeypatch, tmp_path, again)
    assert (code, len(ran)) == (2, 2)
    assert "in use by another run" in text


def test_without_a_failure_the_row_ends_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, text, _ = run_all(monkeypatch, tmp_path, {})
    assert code == 0
    assert "Report: " in text


@pytest.mark.parametrize("workers", [1, 2])
def test_one_process_loads_the_model_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int) -> None:
    loaded: list[str] = []

    def fake(_: Experiment, config: RunConfig, *__: object, load: Load, **___: object) -> None:
        load(config.model, device=config.device, dtype=config.dtype)

    monkeypatch.setattr("cast_lens.models.load_model", lambda name, **_: loaded.append(name))
    without_work(monkeypatch, fake)
    asked = ["experiment", "all", "--quick", "--workers", str(workers), "--out", str(tmp_path)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    # With workers the parent's model would be one more in memory.
    assert len(loaded) == (1 if workers == 1 else len(EXPERIMENTS))


def test_a_failed_cell_gives_status_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cast_lens.experiments.runner.failed_cells", lambda out, name: int(name == "shots"))
    code, text, _ = run_all(monkeypatch, tmp_path, {})
    assert code == 1
    assert "incomplete: shots: 1 cell failed. --retry-failed" in text


def test_quick_changes_defaults_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Experiment, RunConfig]] = []
    without_work(monkeypatch, lambda experiment, config, *_, **__: asked.append((experiment, config)))
    arguments = ["experiment", "shots", "--quick", "--shots", "7", "--few-shots", "3,9", "--out", str(tmp_path)]
    toml = tmp_path / "run.toml"
    toml.write_text('sources = ["science", "geography", "present-past"]\nsamples = 30\n')
    done = CliRunner().invoke(app, [*arguments, "--config", str(toml)])
    assert done.exit_code == 0, done.output
    ((experiment, config),) = asked
    assert (config.shots, config.samples, len(config.sources)) == (7, 30, 3)
    assert (config.bootstrap, config.placebos) == (RunConfig.quick({})["bootstrap"], 1)
    assert experiment.options()["few_shots"] == [3, 9]
