"""Files: whole or absent, with checksums that notice any flipped bit, on disks that fill up."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.files import (
    DamagedFile,
    atomic_write,
    disk_failed,
    load_tensors,
    read_frame,
    read_json,
    remove_leftovers,
    save_tensors,
    write_frame,
    write_json,
)

FRAME = pd.DataFrame({"task": [f"t{index}" for index in range(40)], "gain": np.linspace(-1, 1, 40), "x": None})
ABOUT = {"layers": [0, 1], "note": "öß", "ratio": 0.1, 3: "three"}
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "none": torch.ones(0)}


def write(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "json":
        return write_json(path, ABOUT)
    if kind == "parquet":
        return write_frame(path, FRAME)
    return save_tensors(path, TENSORS, kind="Thing", about={"note": "öß"})


def read(path: Path) -> Any:
    if path.name == "json":
        return read_json(path)
    return read_frame(path) if path.name == "parquet" else load_tensors(path, kind="Thing")


def read_or_told(path: Path) -> tuple[Any, str]:
    try:
        return read(path), ""
    except ValueError as error:
        return None, str(error)


def same(found: Any, wanted: Any) -> bool:
    if isinstance(found, pd.DataFrame):
        return found.equals(wanted)
    if isinstance(found, tuple):
        tensors = found[0].keys() == wanted[0].keys() and all(
            torch.equal(found[0][name], wanted[0][name]) for name in wanted[0]
        )
        return tensors and found[1] == wanted[1]
    return bool(found == wanted)


@pytest.mark.parametrize("kind", ["json", "parquet", "safetensors"])
def test_what_is_read_is_what_was_written_or_an_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    whole, wanted = path.read_bytes(), read(path)
    chance = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        found, told = read_or_told(path)
        assert (str(path) in told) if told else same(found, wanted), place
    for length in range(0, len(whole), max(1, len(whole) // 20)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="delete it"):
            read(path)


def test_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "plain.parquet", index=False)
    assert read_frame(tmp_path / "plain.parquet").equals(read_frame(write_frame(tmp_path / "own", FRAME)))
    (tmp_path / "plain.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "plain.json") == {"a": 1}
    assert read_json(tmp_path / "none.json") is None


def test_nested_brackets_without_end_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DamagedFile, match=r"deep\.json is damaged"):
        read_json(path)


def test_temporary_files_of_dead_writers_are_removed_and_others_kept(tmp_path: Path) -> None:
    inner = tmp_path / "vectors"
    inner.mkdir()
    dead, own = inner / ".a.safetensors.99999999-0123abcd", inner / f".a.json.{os.getpid()}-0123abcd"
    alive, old = inner / ".b.json.1-0123abcd", tmp_path / ".c.json.1-0123abcd"
    others = [tmp_path / ".lock", tmp_path / ".gitignore", inner / "kept.json", inner / ".a.12-xyz"]
    for path in (dead, own, alive, old, *others):
        path.write_bytes(b"x")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in (dead, own, old))
    assert all(path.exists() for path in (alive, *others))


def test_bytes_are_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        events.append("sync")
        real_sync(handle)

    def replace(source: Path, target: Path) -> None:
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    atomic_write(tmp_path / "file", b"data")
    assert events[:2] == ["sync", "rename"]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic_write(tmp_path / "file", b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        atomic_write(path, b"new")
    assert disk_failed(caught.value)
    assert not disk_failed(ValueError("no"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
