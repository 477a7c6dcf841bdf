"""The command line: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cast_lens.cli import RUNS, app
from cast_lens.cli_options import UNKNOWN, _completion, all_options, core_options, declared, experiment_options
from cast_lens.cli_output import explained
from cast_lens.experiments.catalogue import EXPERIMENTS, find
from cast_lens.experiments.config import RunConfig
from cast_lens.methods.atv import Design, Training
from cast_lens.models import list_models
from cast_lens.report import publish
from tests.models.files import write_folder


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.output


def test_help_names_the_commands() -> None:
    code, text = invoke("--help")
    assert code == 0
    for command in ("run", "models", "tasks", "report"):
        assert command in text


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cast_lens", "experiment", "list"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("cast_lens", run_name="__main__")
    assert ended.value.code == 0
    assert "cross-domain" in capsys.readouterr().out


def test_tasks_and_models_fit_80_columns_with_names_uncut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for arguments, names in (
        (("tasks",), ("country-capital", "finance-sentiment", "headline-topic.de")),
        (("models",), ("smollm2-135m-instruct", "LlamaForCausalLM", "Qwen3ForCausalLM")),
    ):
        code, text = invoke(*arguments)
        assert code == 0
        assert all(name in text for name in names)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_the_models_listed_are_those_that_load() -> None:
    code, text = invoke("models")
    assert code == 0
    assert {item.architecture for item in list_models()} <= set(text.split())


def test_help_and_mistakes_answer_without_loading_pytorch() -> None:
    script = (
        "import sys\nfrom cast_lens.cli import app\nfor line in sys.argv[1:]:\n"
        "    try: app(line.split(','))\n    except SystemExit as end: print('status', end.code)\n"
        "    assert not {'torch', 'pandas', 'transformer_lens'} & set(sys.modules), line\n"
    )
    lines = ["--help", "run,--help", "experiment,shots,--help", "models", "tasks", "run,--sources,sciense", "--version"]
    lines += ["run,--dtype,float23", "experiment,shots,--few-shots,x", "experiment,all,--help", "atv,train,--help"]
    lines += ["experiment,shotz", "run,--layrs,3", "run,--model,smollm-135m", "experiment,list", "recommend,--help"]
    started = os.times().children_user
    done = subprocess.run([sys.executable, "-c", script, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line[-1] for line in done.stdout.splitlines() if line.startswith("status")] == list("0000020220022200")
    # Sixteen commands and the start of Python; PyTorch alone takes longer.
    assert os.times().children_user - started < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sources", "sciense"), "science"),
        (("--layers", "a-b"), "--layers: 'a' is not a number"),
        (("--strengths", "1,x"), "--strengths: 'x' is not a number"),
        (("--config", "missing.toml"), "missing.toml: No such file"),
        (("--dtype", "float99"), "float99"),
        (("--model", "/no/such/folder"), "--model /no/such/folder does not exist"),
        (("--model", "smolm2-135m"), "did you mean smollm2-135m-instruct?"),
        (("--model", "owner/no-such-model"), "it is not in the cache, and HF_HUB_OFFLINE is set"),
        (("--tasks", "/no/such/tasks"), "/no/such/tasks"),
        (("--layers", "20-10"), "--layers: 20-10 runs backwards; write 10-20"),
        (("--layers", "-1"), "'-1' is not a layer; layers are counted from 0"),
        (("--layers", "0-99999999999"), "no model has more than 10,000 layers"),
        (("--layers", ","), "--layers: ',' names nothing"),
        (("--seed", "-1"), "seed=-1 must be at least 0"),
        (("--shots", "2.5"), "--shots: '2.5' is not a whole number"),
        (("--threads", "100000000"), "threads=100000000 must be at most 1,024"),
        (("--workers", "0"), "workers=0 must be from 1 to 256"),
        (("--out", __file__), "test_cli.py is a file; choose another --out"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    code, text = invoke("run", "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert message in text.replace("\n", "")
    # Before the model is looked for it is said which.
    assert text.count("\n") == 1 + text.startswith("Loading")
    assert list(tmp_path.iterdir()) == []


def test_parsing_of_lists() -> None:
    options = {one.name: one for one in core_options()}
    assert options["layers"].parsed("1,4-6") == [1, 4, 5, 6]
    assert options["strengths"].parsed("0.5, 2") == [0.5, 2.0]
    assert options["sources"].parsed("a, b") == ["a", "b"]
    assert options["shots"].parsed(" 3 ") == 3


def test_options_are_the_fields_of_the_classes_with_their_defaults() -> None:
    """Classes are read as text; what was read must be what the classes say."""
    owners = [(core_options(), RunConfig)]
    owners += [(experiment_options(name), find(name)) for name in EXPERIMENTS]
    owners += [
        (declared("methods/atv/config.py", "Design"), Design),
        (declared("methods/training.py", "Training"), Training),
    ]
    for options, owner in owners:
        made = owner()
        assert sorted(one.name for one in options) == sorted(field.name for field in dataclasses.fields(owner))
        for one in options:
            assert one.default is UNKNOWN or one.default == getattr(made, one.name), (owner, one.name)
            assert one.text != one.name, f"{owner.__name__}.{one.name} has no help"
            value = getattr(made, one.name)
            item = value[0] if isinstance(value, tuple) and value else value
            if item is not None and item != ():
                assert type(item).__name__ == one.kind, (owner, one.name)
    assert all(one.group != "Other" for one in core_options())
    assert {one.name for one in all_options()} >= {"shots", "few_shots", "umap"}


def test_only_the_options_that_an_experiment_has() -> None:
    code, text = invoke("experiment", "transfer", "--few-shots", "1")
    assert code == 2
    assert "No such option: --few-shots" in text


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ValueError("shots=0"), 2, "cast-lens: shots=0"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 1, "No space left on device: /x/y. Finished work"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "Permission denied: /x"),
        (ConnectionError("no network\nat all"), 1, "cast-lens: no network at all. Finished"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyError("target"), 1, "KeyError: 'target'"),
    ],
)
def test_every_end_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, told: str
) -> None:
    def job() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        explained(job)
    assert ended.value.exit_code == status
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_closed_pipe_ends_nothing() -> None:
    script = (
        "import sys\nfrom cast_lens.cli_output import Lasting\nsys.stdout = Lasting(sys.stdout)\n"
        "for number in range(5):\n    print('x' * 100_000, flush=True)\nsys.stderr.write('worked on')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        job.stdout.read(10)
        job.stdout.close()
        assert job.stderr.read() == "worked on"
        assert job.wait() == 0


def test_completion_knows_tasks_models_and_operators() -> None:
    options = {one.name: one for one in core_options()}
    assert _completion(options["targets"])("science,geo") == ["science,geography"]
    assert _completion(options["operator"])("n") == ["norm_preserving_add"]
    assert _completion(options["model"])("smol") == ["smollm2-135m-instruct"]


@pytest.mark.slow
def test_run_from_options_over_a_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    write_folder(folder)
    config = tmp_path / "run.toml"
    config.write_text(
        f'model = "{folder.as_posix()}"\nsources = ["review-sentiment"]\ntargets = ["yes-no-facts"]\n'
        "samples = 4\nvalidation = 2\ntest = 3\nshots = 4\nlayers = [1]\nstrengths = [1.0]\nfinalists = 1\n"
        "bootstrap = 50\numap = false\nthreads = 1\n"
    )
    # What pictures show is tested with the figures; starting a browser for them takes longer than the run.
    monkeypatch.setattr("cast_lens.report.publish", partial(publish, png="never"))
    code, text = invoke("run", "--config", str(config), "--shots", "2", "--quick")
    assert code == 0, text
    out = (RUNS / "latest").resolve()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-[0-9a-f]{8}", out.name)
    found = json.loads((out / "config.json").read_text())
    assert (found["shots"], found["samples"], found["placebos"]) == (2, 4, 1)
    lines = text.strip().splitlines()
    assert lines[-1] == f"Report: {RUNS / out.name / 'report.html'}"
    assert lines[-2].endswith(".")
    assert any(line.startswith("transfer: 1 of ") for line in lines)
    # The same command goes on there, and what insists begins anew; the page was written once.
    monkeypatch.setattr("cast_lens.report.publish", lambda out: out / "report.html")
    code, text = invoke("run", "--config", str(config), "--shots", "2", "--quick", "--quiet")
    assert (code, len(text.strip().splitlines())) == (0, 2)
    assert [path.name for path in RUNS.iterdir() if not path.is_symlink()] == [out.name]
    before = (out / "versions.json").stat().st_mtime_ns
    code, text = invoke("run", "--config", str(config), "--shots", "2", "--quick", "--overwrite")
    assert code == 0, text
    assert (out / "versions.json").stat().st_mtime_ns > before


def test_a_colon_in_the_text_of_an_option_does_not_cut_it() -> None:
    """Every entry of the docstring is shown to its end, whatever its lines begin with."""
    shown = " ".join(option.text for option in all_options())
    words = [line.split() for line in (RunConfig.__doc__ or "").partition("Attributes:\n")[2].splitlines()]
    missing = [line for line in words if line and " ".join(line).replace("``", "").partition(": ")[2] not in shown]
    assert not missing
