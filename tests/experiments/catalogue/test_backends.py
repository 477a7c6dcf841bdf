"""The main job with the targets answered elsewhere: the same outcomes as the engine's, from any backend."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from cast_lens.cli import app
from cast_lens.experiments.catalogue.transfer import Transfer
from cast_lens.experiments.cells import Cell
from tests.backends.fakes import EASYSTEER, VLLM_LENS, EasySteerLLM, VllmLensLLM
from tests.experiments.small import computed, small_config, workspace_of

EXACT = ["target", "sample", "method", "source", "layer", "strength", "seed", "answer", "exact_match", "valid"]
CLOSE = ["gold_logprob", "gold_margin"]
pytestmark = pytest.mark.filterwarnings("ignore:.*no evaluated example")


def _same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(found) == len(expected) > 0
    assert (found["method"] == "cast").any()
    pd.testing.assert_frame_equal(found[[*EXACT, "choice_correct"]], expected[[*EXACT, "choice_correct"]])
    pd.testing.assert_frame_equal(found[CLOSE], expected[CLOSE], atol=1e-3, rtol=1e-3)


def _run(backend: str, model: Path, out: Path) -> Any:
    given = {
        "sources": "review-sentiment", "targets": "yes-no-facts", "shots": "2", "samples": "6", "validation": "2",
        "test": "3", "layers": "1,2", "strengths": "1,2", "placebos": "1", "finalists": "2", "bootstrap": "50",
        "rule": "own", "model": str(model), "out": str(out), "backend": backend,
    }  # fmt: skip
    typed = [part for name, value in given.items() for part in (f"--{name}", value)]
    return CliRunner().invoke(app, ["run", "--no-umap", *typed])


@pytest.mark.slow
def test_the_command_line_gives_the_same_numbers_through_plain_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cast_lens.cli._finish", lambda *given: None)
    folder = tmp_path / "tiny"
    folder.mkdir()
    small_config(folder)
    frames = {}
    for backend in ("engine", "hooks"):
        done = _run(backend, folder, tmp_path / backend)
        assert done.exit_code == 0, done.output
        frames[backend] = pd.read_parquet(tmp_path / backend / "experiments/transfer/rows/outcomes.parquet")
    _same(frames["hooks"], frames["engine"])
    assert frames["hooks"]["first_match"].isna().all()
    tables = [pd.read_parquet(tmp_path / backend / "experiments/transfer/result.parquet") for backend in frames]
    pd.testing.assert_frame_equal(tables[0], tables[1])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stand-ins for vLLM with both of its steering packages; what ``vllm.LLM`` was given."""
    asked: list[dict[str, Any]] = []

    def llm(**given: Any) -> Any:
        asked.append(given)
        return EasySteerLLM() if given.pop("enable_steer_vector", False) else VllmLensLLM()

    vllm = SimpleNamespace(LLM=llm, SamplingParams=EASYSTEER.SamplingParams)
    hidden = SimpleNamespace(capture=EASYSTEER.capture)
    modules = {"vllm": vllm, "vllm.steer_vectors": EASYSTEER, "easysteer": SimpleNamespace(hidden_states=hidden)}
    for name, module in {**modules, "easysteer.hidden_states": hidden, "vllm_lens": VLLM_LENS}.items():
        monkeypatch.setitem(sys.modules, name, module)
    from cast_lens.backends import protocol

    protocol._served.cache_clear()
    return asked


def test_served_models_answer_as_the_engine_does(tmp_path: Path, served: list[dict[str, Any]]) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    config = small_config(folder, rule="own")
    workspace, cell = workspace_of(Transfer(), config, tmp_path / "out"), Cell("outcomes", "yes-no-facts")
    expected = computed(Transfer(), workspace, cell)
    for backend in ("easysteer", "vllm-lens"):
        experiment = Transfer(backend=backend, backend_arguments=("tensor_parallel_size=2",))
        assert experiment.plan(config, workspace.tasks)
        _same(computed(experiment, workspace, cell), expected)
    assert [given["tensor_parallel_size"] for given in served] == [2, 2]
    assert {given["model"] for given in served} == {str(folder)}
    assert served[0]["steer_algorithms"] == ["direct"]


@pytest.mark.parametrize(
    ("backend", "more", "says"),
    [
        ("easysteer", (), r"EasySteer is not installed .* choose backend engine"),
        ("vllm-lens", (), r"vllm-lens is not installed"),
        ("vllm-lens", ("--operator", "replace"), r"vllm-lens cannot express operator='replace'"),
        ("easysteer", ("--operator", "ablate"), r"easysteer cannot express operator='ablate'"),
        ("sglang", (), r"backend='sglang' is unknown; choose from engine, hooks, easysteer, vllm-lens"),
    ],
)
def test_what_a_backend_cannot_do_is_one_line_before_work_starts(
    backend: str, more: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ["run", "--quick", "--model", "no-such-model", "--backend", backend, *more, "--out", str(out)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code != 0
    assert re.search(says, " ".join(done.output.split()))
    assert len(done.output.strip().splitlines()) == 1
    assert not out.exists()
