"""``experiment all``: one experiment that cannot be had does not take the others down, a shared mistake ends all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cast_lens.cli import app
from cast_lens.cli_experiment import _planned
from cast_lens.experiments.bench import Load
from cast_lens.experiments.catalogue import EXPERIMENTS
from cast_lens.experiments.settings import ExperimentConfig
from tests.experiments.small import SMALL

ENGLISH_ONLY = replace(SMALL, sources=("country-capital",))


def run_all(
    monkeypatch: pytest.MonkeyPatch, out: Path, mistakes: dict[str, Exception]
) -> tuple[int, str, list[str]]:
    """``experiment all`` where experiments do nothing but fail as told."""
    ran: list[str] = []

    def fake(name: str, *_: object, **__: object) -> None:
        ran.append(name)
        if name in mistakes:
            raise mistakes[name]

    monkeypatch.setattr("cast_lens.experiments.runner.run_experiment", fake)
    monkeypatch.setattr("cast_lens.report.publish", lambda out: out / "report.html")
    done = CliRunner().invoke(
        app, ["experiment", "all", "--quick", "--sources", "country-capital", "--out", str(out)]
    )
    return done.exit_code, done.output.replace("\n", ""), ran


def test_what_cannot_be_asked_of_these_tasks_is_named_before_work_starts() -> None:
    able, refused = _planned(("cross-lingual", "shots"), ENGLISH_ONLY)
    assert able == ["shots"]
    assert "language" in refused["cross-lingual"]


def test_one_that_cannot_be_asked_alone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="language"):
        _planned(("cross-lingual",), ENGLISH_ONLY)


def test_a_mistake_of_all_is_told_once() -> None:
    with pytest.raises(ValueError, match="sciense"):
        _planned(("shots", "scaling"), replace(SMALL, sources=("sciense",)))


def test_left_out_and_failed_ones_leave_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mistakes = {"shots": ValueError("too long"), "scaling": RuntimeError("no cell has a result")}
    code, text, ran = run_all(monkeypatch, tmp_path, mistakes)
    assert ran == [name for name in EXPERIMENTS if name != "cross-lingual"]
    assert code == 1
    assert "cross-lingual: left out" in text
    assert "without a result: scaling, shots" in text


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
def test_one_process_loads_the_model_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, workers: int
) -> None:
    loaded: list[str] = []

    def fake(name: str, config: ExperimentConfig, *_: object, load: Load, **__: object) -> None:
        load(config.model, device=config.device, dtype=config.dtype)

    monkeypatch.setattr("cast_lens.models.load_model", lambda name, **_: loaded.append(name))
    monkeypatch.setattr("cast_lens.experiments.runner.run_experiment", fake)
    monkeypatch.setattr("cast_lens.report.publish", lambda out: out / "report.html")
    asked = ["experiment", "all", "--quick", "--workers", str(workers), "--out", str(tmp_path)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    # With workers the parent's model would be one more in memory.
    assert len(loaded) == (1 if workers == 1 else len(EXPERIMENTS))
