"""Run directories: checked before anything is written, begun anew after any kill, never mixed."""

from __future__ import annotations

import json
import os
import signal
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cast_lens.experiments import store
from cast_lens.experiments.config import RunConfig
from cast_lens.experiments.store import RunDirectory, check_run, discard_run, open_run

CONFIG, OTHER = RunConfig(shots=3), RunConfig(shots=4)
FRAME = pd.DataFrame({"a": [1, 2]})


def begun(path: Path, *, results: bool = True) -> Path:
    with open_run(path, CONFIG) as directory:
        if results:
            directory.write_frame("found", FRAME)
    return path


def killed_at(step: int, path: Path) -> bool:
    """Begin a run in a process that is killed at that step of writing; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    steps = 0

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        setattr(os, name, call)

    for name in ("open", "fsync", "replace", "mkdir", "unlink"):
        counted(name)
    try:
        with open_run(path, CONFIG):
            os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_kill_at_any_moment_of_the_start_leaves_a_directory_that_is_begun_anew(tmp_path: Path) -> None:
    for step in range(1, 100):
        path = tmp_path / str(step)
        was_killed = killed_at(step, path)
        # Another configuration than that of the killed start: nothing was computed, nothing blocks.
        with open_run(path, OTHER):
            pass
        assert json.loads((path / "config.json").read_text())["shots"] == 4
        assert sorted(item.name for item in path.iterdir()) == [".lock", "config.json", "versions.json"]
        if not was_killed:
            break
    assert 5 < step < 99


@pytest.mark.parametrize(
    "names",
    [(".lock",), ("config.json",), ("versions.json",), (".config.json.1-0123abcd",), ("versions.json", ".lock")],
)
def test_what_a_killed_start_left_is_no_stranger(tmp_path: Path, names: tuple[str, ...]) -> None:
    whole = begun(tmp_path / "whole", results=False)
    path = tmp_path / "part"
    path.mkdir()
    for name in names:
        (path / name).write_bytes((whole / name).read_bytes() if (whole / name).is_file() else b"half")
    check_run(path, CONFIG)
    with open_run(path, CONFIG):
        pass
    assert (path / "versions.json").is_file()


def test_versions_and_configuration_are_written_again_when_they_were_deleted(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    for name in ("config.json", "versions.json"):
        before = (path / name).read_bytes()
        (path / name).unlink()
        with open_run(path, CONFIG):
            pass
        assert (path / name).read_bytes() == before
    (path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds results but no config\.json"):
        check_run(path, OTHER)


def test_threads_and_device_do_not_matter_and_the_rest_does(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    check_run(path, replace(CONFIG, device="cuda", threads=7) if hasattr(CONFIG, "threads") else CONFIG)
    with pytest.raises(ValueError, match=r"another configuration \(shots was 3, is 4\)"):
        check_run(path, OTHER)


def test_other_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = begun(tmp_path / "run")
    monkeypatch.setattr(store, "versions", lambda: {"torch": "9.9"})
    with pytest.raises(ValueError, match=r"torch .* then, 9\.9 now"):
        check_run(path, CONFIG)


@pytest.mark.parametrize("name", ["config.json", "versions.json"])
def test_damage_names_the_file_and_the_way_out(tmp_path: Path, name: str) -> None:
    path = begun(tmp_path / "run")
    data = (path / name).read_bytes()
    for wrong in (data[: len(data) // 2], data.replace(b"3", b"4", 1), b"[" * 100_000):
        (path / name).write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{name} is damaged .*delete it"):
            check_run(path, CONFIG)


def test_checking_writes_nothing(tmp_path: Path) -> None:
    check_run(tmp_path / "a" / "b", CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_a_file_and_a_read_only_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"holds no run \(thesis\.tex\)"):
        check_run(stranger, CONFIG)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ValueError, match=r"holds no run \(config\.json\)"):
        check_run(model, CONFIG)
    file = tmp_path / "file"
    file.write_text("x")
    for path in (file, file / "inside"):
        with pytest.raises(ValueError, match=r"file is a file; choose another --out"):
            check_run(path, CONFIG)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written"):
        check_run(tmp_path / "new", CONFIG)


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", CONFIG):
        for attempt in (lambda: check_run(tmp_path / "run", CONFIG), lambda: discard_run(tmp_path / "run")):
            with pytest.raises(ValueError, match="in use by another run"):
                attempt()


def test_overwriting_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    (path / "notes.txt").write_text("mine")
    discard_run(path)
    assert [item.name for item in path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="holds no run"):
        discard_run(path)
    discard_run(tmp_path / "none")


def test_frames_are_made_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.frame("a", lambda: FRAME).equals(FRAME)
    assert directory.frame("a", lambda: FRAME.iloc[:0]).equals(FRAME)
