"""The command line: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cast_lens.cli import _parse, app
from tests.models.files import write_folder


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_help_names_the_commands() -> None:
    code, text = invoke("--help")
    assert code == 0
    for command in ("run", "models", "tasks", "report"):
        assert command in text


def test_the_package_runs_as_a_module(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["cast_lens", "experiment", "list"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("cast_lens", run_name="__main__")
    assert ended.value.code == 0
    assert "cross-domain" in capsys.readouterr().out


def test_tasks_lists_the_suite() -> None:
    code, text = invoke("tasks")
    assert code == 0
    for name in ("country-capital", "finance-sentiment", "headline-topic.de"):
        assert name in text


def test_models_lists_what_loads() -> None:
    code, text = invoke("models")
    assert code == 0
    assert "smollm2" in text.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sources", "sciense"), "science"),
        (("--layers", "a-b"), "--layers: 'a' is no number"),
        (("--strengths", "1,x"), "--strengths: 'x' is no number"),
        (("--config", "missing.toml"), "missing.toml: No such file"),
        (("--dtype", "float99"), "float99"),
        (("--model", "/no/such/folder"), "/no/such/folder"),
        (("--tasks", "/no/such/tasks"), "/no/such/tasks"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, text = invoke("run", "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert message in text.replace("\n", "")
    assert "Traceback" not in text


def test_parsing_of_lists() -> None:
    assert _parse("layers", "1,4-6") == [1, 4, 5, 6]
    assert _parse("strengths", "0.5, 2") == [0.5, 2.0]
    assert _parse("sources", "a, b") == ["a", "b"]


def test_run_from_options_over_a_config_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_folder(folder)
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{folder.as_posix()}"\nsources = ["review-sentiment"]\ntargets = ["yes-no-facts"]\n'
        "samples = 4\nvalidation = 2\ntest = 3\nshots = 4\nstrengths = [1.0]\nbootstrap = 50\numap = false\n"
    )
    out = tmp_path / "out"
    code, text = invoke("run", "--config", str(config), "--shots", "2", "--out", str(out))
    assert code == 0, text
    assert json.loads((out / "config.json").read_text())["shots"] == 2
    assert (out / "report.html").is_file()
    assert f"Report: {out / 'report.html'}" in text.replace("\n", "")
