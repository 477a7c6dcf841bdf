"""A cached folder is whole or absent, whatever happens while it is made."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cast_lens.models import embedded as cache
from cast_lens.models.embedded import cache_folder, cached


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CAST_LENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Writes two files and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights").write_bytes(b"0123456789")
        (folder / "inner").mkdir()
        (folder / "inner" / "config").write_text("{}")


def _visible(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock"))


def test_a_folder_is_built_once(root: Path) -> None:
    build = Builder()
    folder = cached("model", build, needed=0)
    assert folder == root / "model"
    assert cached("model", build, needed=0) == folder
    assert build.calls == 1
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert _visible(root) == ["model"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "weights").write_bytes(b"01234"),
        lambda folder: (folder / "weights").write_bytes(b"0123456780"),
        lambda folder: (folder / "inner" / "config").unlink(),
        lambda folder: (folder / cache.MANIFEST).unlink(),
        lambda folder: (folder / cache.MANIFEST).write_text("[1"),
        lambda folder: (folder / cache.MANIFEST).write_text("[1]"),
        shutil.rmtree,
    ],
    ids=["truncated", "one byte", "file gone", "manifest gone", "half a manifest", "odd manifest", "all gone"],
)
def test_a_damaged_folder_is_built_again(root: Path, damage: Callable[[Path], object]) -> None:
    build = Builder()
    damage(cached("model", build, needed=0))
    folder = cached("model", build, needed=0)
    assert build.calls == 2
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert _visible(root) == ["model"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_build_leaves_nothing(root: Path, interruption: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "weights").write_bytes(b"01234")
        raise interruption

    with pytest.raises(interruption):
        cached("model", build, needed=0)
    assert _visible(root) == []
    assert cached("model", Builder(), needed=0).is_dir()  # the lock was given back


def test_what_a_killed_process_left_is_cleared_away(root: Path) -> None:
    left = root / ".model.building-123"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(b"0")
    cached("model", Builder(), needed=0)
    assert _visible(root) == ["model"]


def test_two_at_once_build_once(root: Path) -> None:
    build = Builder()
    inside, outside = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        inside.set()
        assert outside.wait(10)
        build(folder)

    first = threading.Thread(target=cached, args=("model", slow), kwargs={"needed": 0})
    second = threading.Thread(target=cached, args=("model", build), kwargs={"needed": 0})
    first.start()
    assert inside.wait(10)
    second.start()
    second.join(0.2)
    assert second.is_alive()  # it waits for the first
    outside.set()
    first.join(10)
    second.join(10)
    assert build.calls == 1
    assert _visible(root) == ["model"]


def test_a_full_disk_is_noticed_before_anything_is_fetched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = Builder()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.raises(ValueError, match=r"no space left in the cache .*: about 0.8 GB .* set CAST_LENS_CACHE"):
        cached("model", build, needed=800_000_000)
    assert build.calls == 0
    assert _visible(root) == []


def test_a_disk_that_fills_up_while_building(root: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "weights").write_bytes(b"0")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="no space left in the cache"):
        cached("model", build, needed=0)
    assert _visible(root) == []


def test_a_cache_that_cannot_be_written(root: Path) -> None:
    root.parent.mkdir(exist_ok=True)
    root.write_text("a file where the folder should be")
    with pytest.raises(ValueError, match=r"cache .* cannot be written .* set CAST_LENS_CACHE"):
        cached("model", Builder(), needed=0)


def test_files_are_as_readable_as_their_folder(root: Path) -> None:
    def private(folder: Path) -> None:
        (folder / "weights").write_bytes(b"0")
        (folder / "weights").chmod(0o600)

    folder = cached("model", private, needed=0)
    assert (folder / "weights").stat().st_mode & 0o666 == folder.stat().st_mode & 0o666


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.cache/cast_lens"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/cast_lens"),
        ("darwin", {}, "home/Library/Caches/cast_lens"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/cast_lens"),
        ("win32", {}, "home/AppData/Local/cast_lens"),
        ("linux", {"CAST_LENS_CACHE": "mine"}, "mine"),
    ],
)
def test_the_usual_place_of_each_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("CAST_LENS_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cache.sys, "platform", platform)
    monkeypatch.setattr(cache.Path, "home", lambda: Path("home"))
    assert cache_folder() == Path(expected)
