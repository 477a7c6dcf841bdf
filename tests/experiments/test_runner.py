"""Experiments last: killed and continued, in several processes, with failing cells, they end with the same numbers."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from cast_lens import experiments
from cast_lens.cli import app
from cast_lens.experiments import RunConfig, run_experiment
from cast_lens.experiments.catalogue import EXPERIMENTS, find
from cast_lens.experiments.catalogue.cross_domain import CrossDomain
from cast_lens.experiments.cells import Cell, Grid
from cast_lens.experiments.protocol import joined
from cast_lens.experiments.runner import failed_cells
from cast_lens.experiments.workspace import Workspace
from cast_lens.report import write_report
from tests.experiments.small import pairs_config

NAME = "cross-domain"
RUN = CrossDomain(
    methods=("cast", "placebo: random direction"), prompting=("cross-task few-shot",), few_shots=(1, 5000)
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return pairs_config(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_experiment(RUN, config, out)
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Every frame of the experiment, byte for byte."""
    folder = out / "experiments" / NAME
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def begun(finished: Path, out: Path, *, open_cells: str = "few-shot*") -> Path:
    """A copy of the finished run in which some cells are still to do and no table has been written."""
    shutil.copytree(finished, out)
    folder = out / "experiments" / NAME
    left = [*folder.glob("*.parquet"), *folder.glob("rows/*.parquet"), *folder.glob(f"cells/{open_cells}.parquet")]
    for path in left:
        path.unlink()
    return out


def test_rows_hold_every_condition_on_the_same_examples(finished: Path) -> None:
    folder = finished / "experiments" / NAME / "rows"
    rows = joined({path.stem: pd.read_parquet(path) for path in folder.glob("*.parquet")})
    assert set(rows["method"]) == {
        "zero-shot",
        "few-shot, k=1",
        "cross-task few-shot",
        "cast",
        "cast (own vector)",
        "placebo: random direction",
        "placebo: random direction (own vector)",
    }
    for _, part in rows.groupby("target"):
        assert part.groupby(["method", "source", "seed"])["sample"].agg(tuple).nunique() == 1
    own = rows["method"].str.endswith("(own vector)")
    assert (rows.loc[own, "target"] == rows.loc[own, "source"]).all()


def test_demonstrations_that_do_not_fit_are_left_out_and_named(config: RunConfig, finished: Path) -> None:
    assert Grid.read(finished / "experiments" / NAME).failed() == []
    frames = {path.stem: pd.read_parquet(path) for path in (finished / "experiments" / NAME).glob("*.parquet")}
    assert RUN.findings(frames, config).left_out == (
        "Not run: 5000 in-task demonstrations: more than the context or the train split holds.",
    )


def test_pooled_gains_are_the_mean_over_pairs(finished: Path) -> None:
    folder = finished / "experiments" / NAME
    methods, result = (pd.read_parquet(folder / f"{name}.parquet") for name in ("methods", "result"))
    one = methods[(methods["method"] == "cast") & (methods["metric"] == "exact_match")].iloc[0]
    pairs = result[(result["method"] == "cast") & (result["metric"] == "exact_match")]
    assert one["pairs"] == len(pairs) == 3
    assert one["gain"] == pytest.approx(pairs["gain"].mean())


@pytest.mark.slow
def test_the_same_numbers_from_two_processes(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    run_experiment(RUN, config, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == contents(finished)


# Forked and not spawned: starting Python and importing PyTorch takes longer than all the work.
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killed_and_continued_it_ends_with_the_same_bytes(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = os.fork()
    if job == 0:
        try:
            run_experiment(RUN, config, out)
        finally:
            os._exit(0)
    cells = out / "experiments" / NAME / "cells"
    ends = time.time() + 120
    while time.time() < ends and len(list(cells.glob("[!.]*.parquet"))) < 3:
        time.sleep(0.005)
    os.kill(job, signal.SIGKILL)
    os.waitpid(job, 0)
    written = {path.name: path.stat().st_mtime_ns for path in cells.glob("[!.]*.parquet")}
    assert 3 <= len(written) < len(contents(finished))
    run_experiment(RUN, config, out)
    assert {path.name: path.stat().st_mtime_ns for path in cells.glob("*.parquet")}.items() >= written.items()
    assert contents(out) == contents(finished)


@pytest.fixture
def few_shot_fails(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Few-shot cells end in an error until this is undone."""
    whole = CrossDomain.compute

    def broken(self: CrossDomain, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        if cell.kind == "few-shot":
            raise ZeroDivisionError("a cell of this test")
        return whole(self, workspace, cell)

    monkeypatch.setattr(CrossDomain, "compute", broken)
    return monkeypatch


def test_a_failing_cell_is_reported_and_the_others_go_on(
    config: RunConfig, finished: Path, tmp_path: Path, few_shot_fails: pytest.MonkeyPatch
) -> None:
    out = begun(finished, tmp_path / "out")
    told: list[str] = []
    run_experiment(RUN, config, out, say=told.append)
    assert any("ZeroDivisionError: a cell of this test" in line for line in told)
    shown = CliRunner().invoke(app, ["experiment", "status", str(out)]).output
    assert "4 failed" in shown
    assert "ZeroDivisionError" in shown
    assert "ZeroDivisionError" in write_report(out).read_text()
    few_shot_fails.undo()
    run_experiment(RUN, config, out)
    assert len(Grid.read(out / "experiments" / NAME).failed()) == 4
    run_experiment(RUN, config, out, retry_failed=True)
    assert contents(out) == contents(finished)


def test_without_any_result_the_tracebacks_are_named(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: CrossDomain, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        raise ZeroDivisionError

    monkeypatch.setattr(CrossDomain, "compute", broken)
    with pytest.raises(RuntimeError, match="no cell has a result; tracebacks are in"):
        run_experiment(RUN, config, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/no/such/model"}, "/no/such/model"),
        ({"layers": (0, 99)}, "99"),
        ({"strengths": (1.0, 1e39)}, r"strengths: 1e\+39 is beyond what float32 can hold and square"),
        ({"sources": ("sciense",)}, "science"),
        ({"select": "besst"}, "besst"),
        ({"samples": 100_000}, "100000"),
        ({"shots": 900}, "900|context|tokens"),
        ({"chat_arguments": ("nonsense",)}, "nonsense"),
    ],
)
def test_a_start_that_fails_leaves_nothing_behind(
    config: RunConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    out = tmp_path / "run" / "out"
    with pytest.raises(ValueError, match=message):
        run_experiment(RUN, dataclasses.replace(config, **changes), out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks its workers")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_start_that_fails_in_workers_leaves_nothing_behind(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked)
    with pytest.raises(ValueError, match="99"):
        run_experiment(RUN, dataclasses.replace(config, layers=(99,)), tmp_path / "out", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_another_number_of_threads_goes_on(config: RunConfig, finished: Path) -> None:
    before = contents(finished)
    run_experiment(RUN, dataclasses.replace(config, threads=2), finished)
    assert contents(finished) == before


def test_damage_is_told_with_the_file_and_mended_by_deleting_it(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    folder = out / "experiments" / NAME
    (vectors, *_), (cell, *_) = sorted((out / "vectors").iterdir()), sorted((folder / "cells").glob("few*"))
    for path, also in ((vectors, sorted((folder / "cells").glob("steered*"))[0]), (cell, None)):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        if also is not None:
            also.unlink()
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged .* delete it"):
            run_experiment(RUN, config, out)
        assert Grid.read(folder).failed() == []
        path.unlink()
        run_experiment(RUN, config, out)
        assert contents(out) == contents(finished)


@pytest.mark.parametrize("number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)])
def test_a_full_or_read_only_disk_ends_the_run_and_it_goes_on_later(
    config: RunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    out, real, written = begun(finished, tmp_path / "out"), os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal written
        written += 1
        if written > 4:
            raise OSError(number, os.strerror(number), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        run_experiment(RUN, config, out)
    monkeypatch.undo()
    assert not list(out.rglob("failed/*"))
    run_experiment(RUN, config, out)
    assert contents(out) == contents(finished)


def test_tables_that_cannot_be_made_without_failed_cells_say_so(
    config: RunConfig, finished: Path, tmp_path: Path, few_shot_fails: pytest.MonkeyPatch
) -> None:
    def tables(*_: object) -> dict[str, pd.DataFrame]:
        raise KeyError("zero-shot")

    few_shot_fails.setattr(CrossDomain, "tables", tables)
    begun(finished, tmp_path / "out")
    with pytest.raises(RuntimeError, match=r"without the failed cells .*KeyError: 'zero-shot'.*--retry-failed"):
        run_experiment(RUN, config, tmp_path / "out")
    assert "ZeroDivisionError" in write_report(tmp_path / "out").read_text()
    assert failed_cells(tmp_path / "out", NAME) == 4


def test_a_directory_in_use_or_of_another_configuration_is_refused(config: RunConfig, finished: Path) -> None:
    with FileLock(finished / ".lock"), pytest.raises(ValueError, match="in use by another run"):
        run_experiment(RUN, config, finished)
    with pytest.raises(ValueError, match="another configuration \\(shots was 2, is 3\\)"):
        run_experiment(RUN, dataclasses.replace(config, shots=3), finished)
    with pytest.raises(ValueError, match=r"other options \(few_shots was .1, 5000., is .1.\)"):
        run_experiment(dataclasses.replace(RUN, few_shots=(1,)), config, finished)
    with pytest.raises(ValueError, match="workers=0"):
        run_experiment(RUN, config, finished, workers=0)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'cross-domain'"):
        find("cross-domian")
    with pytest.raises(AttributeError, match="no attribute 'cross_domian'"):
        _ = experiments.cross_domian
    assert all(callable(getattr(experiments, name.replace("-", "_"))) for name in EXPERIMENTS)


def test_every_experiment_is_a_command_with_the_options_of_the_configuration() -> None:
    listed = CliRunner().invoke(app, ["experiment", "list"]).output
    assert all(name in listed for name in EXPERIMENTS)
    shown = CliRunner().invoke(app, ["experiment", "cross-domain", "--help"], terminal_width=200).output
    for field in (*dataclasses.fields(RunConfig), *dataclasses.fields(CrossDomain)):
        assert f"--{field.name.replace('_', '-')}" in shown
    assert "--umap" not in shown


@pytest.mark.slow
def test_the_command_writes_a_report_with_the_chapter(config: RunConfig, tmp_path: Path) -> None:
    options = [
        *("--model", config.model, "--sources", "review-sentiment", "--targets", "question-type"),
        *("--shots", "2", "--samples", "4", "--validation", "3", "--test", "4", "--strengths", "1,2"),
        *("--finalists", "2", "--bootstrap", "50", "--methods", "cast,placebo: random direction"),
        *("--prompting", "cross-task few-shot", "--few-shots", "1", "--threads", "1"),
    ]
    done = CliRunner().invoke(app, ["experiment", "cross-domain", *options, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 'id="experiment-cross-domain"' in page
    assert "What cannot be concluded" in page
    assert 'id="outcomes"' not in page
    assert (tmp_path / "out" / "figures" / "cross_domain_methods.html").is_file()
