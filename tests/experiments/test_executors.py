"""Shards share the cells of a folder: none is computed twice, none is lost, the numbers are those of one process."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cast_lens.experiments import RunConfig, run_experiment
from cast_lens.experiments.catalogue.cross_domain import CrossDomain
from cast_lens.experiments.cells import Cell, Grid
from cast_lens.experiments.executors import Claims, Here, Share
from cast_lens.experiments.store import open_run
from tests.experiments.small import small_config

RUN = CrossDomain(methods=("cast", "placebo: random direction"), prompting=(), few_shots=(1,))
CELLS = [Cell("cell", number=number) for number in range(7)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("tiny")
    return small_config(folder, samples=4, test=2, strengths=(1.0,), threads=1)


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_experiment(RUN, config, out)
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Every frame of the experiment, byte for byte."""
    folder = out / "experiments" / RUN.name
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each cell is computed."""
    counts, real = Counter[str](), Here.make

    def counted(self: Here, cell: Cell) -> pd.DataFrame:
        counts[cell.key] += 1
        return real(self, cell)

    monkeypatch.setattr(Here, "make", counted)
    return counts


def test_a_share_is_read_from_text() -> None:
    assert Share.parse("3/20") == Share(3, 20)
    for text in ("0/2", "3/2", "3", "a/b", "1/0", "-1/2", ""):
        with pytest.raises(ValueError, match="NUMBER/COUNT"):
            Share.parse(text)


def test_each_share_begins_elsewhere_and_goes_on_with_the_rest() -> None:
    for number in (1, 2, 3):
        order = Share(number, 3).order(CELLS)
        assert sorted(cell.number for cell in order) == list(range(7))
        assert [cell.number for cell in order[: len(CELLS[number - 1 :: 3])]] == list(range(number - 1, 7, 3))


def test_of_many_that_want_a_cell_one_gets_it(tmp_path: Path) -> None:
    everyone = [Claims(tmp_path) for _ in range(8)]
    barrier = threading.Barrier(8)

    def want(claims: Claims) -> bool:
        barrier.wait()
        return claims.take(CELLS[0])

    for claims in everyone:
        claims.__enter__()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(want, everyone)) == 1
        # The holder is gone: again one of them takes the claim over.
        [file] = tmp_path.glob("[!.]*.json")
        os.utime(file, (time.time() - 1000,) * 2)
        holder = json.loads(file.read_text())["by"]
        others = [claims for claims in everyone if claims.name != holder]
        barrier = threading.Barrier(7)
        assert sum(pool.map(want, others)) == 1
        assert json.loads(file.read_text())["by"] != holder
    for claims in everyone:
        claims.__exit__()
    assert not list(tmp_path.glob("[!.]*"))


def test_a_claim_stays_young_while_it_is_held(tmp_path: Path) -> None:
    with Claims(tmp_path, heartbeat=0.05, lost=0.4) as one, Claims(tmp_path, heartbeat=0.05, lost=0.4) as other:
        assert one.take(CELLS[0])
        time.sleep(0.8)
        assert not other.take(CELLS[0])
        one.release(CELLS[0])
        assert other.take(CELLS[0])


def test_two_shards_compute_each_cell_once(
    config: RunConfig, finished: Path, made: Counter[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(run_experiment, RUN, config, out, shard=Share(number, 2)) for number in (1, 2)]
        frames = [job.result() for job in jobs]
    grid = Grid.read(out / "experiments" / RUN.name)
    assert made == Counter(cell.key for cell in grid.cells)
    assert any(len(frame) for frame in frames)
    assert contents(out) == contents(finished)
    assert not list((grid.path / "claims").glob("[!.]*"))


def test_what_a_lost_shard_had_claimed_is_picked_up(
    config: RunConfig, finished: Path, made: Counter[str], tmp_path: Path
) -> None:
    out, grid = tmp_path / "out", Grid.read(finished / "experiments" / RUN.name)
    claims = out / "experiments" / RUN.name / "claims"
    with open_run(out, config, shared=True):
        claims.mkdir(parents=True)
    for cell in (grid.cells[0], grid.cells[-1]):
        (claims / f"{cell.key}.json").write_text(json.dumps({"by": "a machine that is gone"}))
        os.utime(claims / f"{cell.key}.json", (time.time() - 1000,) * 2)
    run_experiment(RUN, config, out, shard=Share(5, 20))
    assert contents(out) == contents(finished)
    assert set(made.values()) == {1}


def test_a_cell_that_another_computes_is_left_to_it(config: RunConfig, made: Counter[str], tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    tasks = RUN.read_tasks(config)
    last = RUN.plan(config, tasks)[-1]
    with open_run(out, config, shared=True), Claims(out / "experiments" / RUN.name / "claims") as other:
        other.take(last)
        frame = run_experiment(RUN, config, out, shard=Share(1, 2), say=said.append)
        assert frame.empty
        assert last.key not in made
        assert any("the last of them writes the tables" in line for line in said)
        assert not (out / "experiments" / RUN.name / "result.parquet").exists()
        with pytest.raises(ValueError, match="in use by shards"):
            run_experiment(RUN, config, out)
    # The same command ends it when the other one has gone.
    assert len(run_experiment(RUN, config, out, shard=Share(1, 2)))
    assert made[last.key] == 1


@pytest.mark.parametrize("how", [{"workers": 2}, {"overwrite": True}])
def test_a_shard_is_one_process(how: dict[str, Any], config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard goes with neither"):
        run_experiment(RUN, config, tmp_path / "out", shard=Share(1, 2), **how)
    assert not (tmp_path / "out").exists()
