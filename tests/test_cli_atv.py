"""``cast-lens atv``: a run from training to numbers on a tiny model, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cast_lens.cli import app
from tests.models.files import write_folder


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["atv", *arguments])
    return done.exit_code, done.output


def options(folder: Path, out: Path) -> list[str]:
    return [
        *("--model", str(folder), "--tasks", "review-sentiment,yes-no-facts", "--generator", "residual"),
        *("--layer", "1", "--layers", "0-2", "--examples", "4", "--validation", "2", "--templates", "own"),
        *("--epochs", "1", "--batch", "4", "--out", str(out)),
    ]


def test_train_eval_show(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "atv"
    write_folder(folder)
    code, text = invoke("train", *options(folder, out), "--hold-out", "yes-no-facts")
    assert code == 0, text
    assert f"{3 * 64 * 65} parameters trained" in text
    config = json.loads((out / "config.json").read_text())
    assert (config["design"]["layers"], config["training"]["examples"]) == ([0, 1, 2], 4)
    assert {file.name for file in out.iterdir()} >= {"atv.safetensors", "checkpoint.safetensors", "loss.html"}

    code, text = invoke(
        *("eval", str(out), "--model", str(folder), "--examples", "3"), *("--tasks", "review-sentiment,yes-no-facts")
    )
    assert code == 0, text
    found = pd.read_csv(out / "eval_test.csv").set_index(["task", "outcome"])
    assert found.loc[("yes-no-facts", "choice_correct"), "n"] == 3
    assert not found.loc[("yes-no-facts", "choice_correct"), "seen"]
    assert found.loc[("review-sentiment", "choice_correct"), "seen"]
    rows = pd.read_csv(out / "eval_test_examples.csv")
    assert rows.groupby("method").size().to_dict() == {"atv": 6, "zero-shot": 6}
    seen = rows[(rows["task"] == "review-sentiment") & (rows["method"] == "atv")]
    assert found.loc[("review-sentiment", "choice_correct"), "atv"] == seen["choice_correct"].mean()

    code, text = invoke("show", str(out))
    assert code == 0, text
    for part in (
        "task: review-sentiment",
        "generator: residual",
        "layers: 0, 1, 2",
        "parameters trained: 12480",
        "ending: '\\n'",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--tasks", "sciense"), "science"),
        (("train", "--generator", "oracle"), "generator='oracle' is unknown"),
        (("train", "--layers", "a-b"), "--layers: 'a' is not a number"),
        (("train", "--hold-out", "nothing"), "--hold-out 'nothing' is not one of the tasks"),
        (("train", "--templates", "rhyme", "--tasks", "science", "--model", "/no/such/folder"), "/no/such/folder"),
        (("eval", "/no/such/file"), "/no/such/file is not a file"),
        (("show", "/no/such/file"), "/no/such/file is not a file"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = invoke(*arguments)
    assert code == 2
    assert message in text.replace("\n", "")
    assert "Traceback" not in text
