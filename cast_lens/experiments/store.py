"""A run directory: the files of a run, each written whole or not at all, which are read when the run is resumed.

config.json  versions.json  settings.json
vectors/     difference vectors, one safetensors file per task
frames/      tidy parquet frames; those of one source or target in folders of their own
figures/     html, png where a browser is found, and the csv behind each
report.html

``versions.json`` is written first and ``config.json`` last, so a directory with a configuration is a run that began.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..extraction import versions
from ..files import DamagedFile, is_temporary, read_frame, read_json, remove_leftovers, write_frame, write_json
from .config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

WAIT = 600.0
"""Seconds that a shard waits while another one opens or finishes the directory."""
# Keys that change where or how fast numbers are computed, but not the numbers.
INERT = ("device", "threads")
# Files that are written at the start, before any work.
_BEGINNING = (".lock", "versions.json", "model.json", "config.json")
_FOLDERS = ("vectors", "frames", "draws", "experiments", "figures")
_MARKS = ("config.json", "versions.json")
IDENTITY = "configuration"
"""Key of ``versions.json`` for a digest of the configuration, in addition to the packages."""
_THEN = "give the arguments and versions that the run was begun with, and the same command resumes"


class InUse(ValueError):
    """Another process runs in the directory."""


def plain(name: str) -> str:
    """A name without colons, which some systems do not allow in file names."""
    return name.replace(":", "")


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run on disk."""

    path: Path

    def frame(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The frame of that name, read from disk if it exists, otherwise computed and written."""
        path = self._frame(name)
        if not path.is_file():
            self.write_frame(name, make())
        return read_frame(path)

    def write_frame(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a frame as parquet, whole or not at all."""
        return write_frame(self._frame(name), frame)

    def _frame(self, name: str) -> Path:
        return self.path / "frames" / f"{plain(name)}.parquet"

    def vectors(self, name: str) -> Path:
        """The file of the vectors of that name."""
        return self.path / "vectors" / f"{plain(name)}.safetensors"

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON, whole or not at all."""
        return write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Read what ``write_json`` wrote; None if there is no such file."""
        return read_json(self.path / name, **({"then": _THEN} if name in _MARKS else {}))


def check_run(path: Path, config: RunConfig, *, shared: bool = False) -> None:
    """Refuse a directory in which a run of this configuration can neither begin nor continue; nothing is written.

    Args:
        path: path of the directory.
        config: configuration of the run.
        shared: whether other processes may work there.

    Raises:
        ValueError: when the directory holds a run of another configuration or other versions, is in use by another
            process, holds files that are not part of a run, is a file or cannot be written.
    """
    _check_place(path)
    if not path.is_dir():
        return
    if (path / ".lock").is_file() and not shared:
        _locked(path).release()
    _check_contents(RunDirectory(path), config)


@contextmanager
def open_run(path: Path, config: RunConfig, *, shared: bool = False) -> Iterator[RunDirectory]:
    """Open or continue a run directory, and remove temporary files of killed runs.

    Args:
        path: path of the directory.
        config: configuration of the run.
        shared: let other processes open it too, and keep their temporary files; otherwise only this process may use it.

    Raises:
        ValueError: as ``check_run``.
    """
    _check_place(path)
    path.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(path)
    with sole(path, wait=shared):
        _check_contents(directory, config)
        if not shared:
            remove_leftovers(path)
        _begin(directory, config)
        if not shared:
            yield directory
    if shared:
        yield directory


@contextmanager
def sole(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a run directory.

    Raises:
        InUse: if another process uses it; with ``wait``, only after ten minutes.
    """
    lock = _locked(path, seconds=WAIT if wait else 0)
    try:
        yield
    finally:
        lock.release()


def _check_place(path: Path) -> None:
    """Refuse a path that is not a folder, or in which nothing can be written."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"{path} cannot be a run directory: {place} is a file; choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"{path} cannot be written: no permission in {place}, or a read-only disk; choose another --out"
        )


def _locked(path: Path, *, seconds: float = 0) -> FileLock:
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise InUse(f"{path} is in use by another run; wait for it or choose another --out") from None
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{path} cannot be locked ({reason}); choose another --out") from None
    return lock


def _check_contents(directory: RunDirectory, config: RunConfig) -> None:
    """Refuse other configurations, other versions and foreign files.

    If nothing has been computed yet, the run starts again with any configuration.
    """
    found, made = directory.read_json("config.json"), directory.read_json("versions.json")
    if not _results(directory.path):
        _no_strangers(directory.path, found)
        return
    if found is not None:
        _same_config(directory.path, config, found)
    elif made is None or made.get(IDENTITY) != _identity(config.to_dict()):
        raise ValueError(
            f"{directory.path} holds results but no config.json, and nothing shows that they are of this "
            "configuration; choose another --out"
        )
    if made is not None:
        _same_versions(directory.path, made)


def _same_config(path: Path, config: RunConfig, found: Mapping[str, Any]) -> None:
    wanted = config.to_dict()
    # A run and experiments may share a directory, so only options that both have are compared.
    changed = [key for key in wanted if key not in INERT and key in found and found[key] != wanted[key]]
    if changed:
        detail = "; ".join(f"{key} was {found.get(key)!r}, is {wanted[key]!r}" for key in changed[:3])
        raise ValueError(
            f"{path} holds a run of another configuration ({detail}); choose another --out, "
            "or give the same arguments to continue it"
        )


def _same_versions(path: Path, made: Mapping[str, Any]) -> None:
    now = versions()
    differing = [name for name, version in now.items() if made.get(name) != version]
    if differing:
        detail = ", ".join(f"{name} {made.get(name)} then, {now[name]} now" for name in differing)
        raise ValueError(
            f"{path} was begun with other versions ({detail}); its numbers would mix. Choose another --out"
        )


def _results(path: Path) -> bool:
    """Whether anything was computed in a directory."""
    return any(
        file.is_file() and not is_temporary(file)
        for name in _FOLDERS
        for file in (path / name).rglob("*.*")
        if file.suffix in (".parquet", ".safetensors")
    )


def _no_strangers(path: Path, config: Any) -> None:
    """Refuse a directory that holds anything but the beginning of a run."""
    ours = isinstance(config, dict) and {"model", "sources", "targets"} <= set(config)
    known = {".lock", *(_BEGINNING if ours or config is None else ())}
    others = [
        item.name for item in path.iterdir() if item.name not in known and not is_temporary(item) and not _empty(item)
    ]
    if others and not ours:
        raise ValueError(
            f"{path} is not empty and holds no run ({', '.join(sorted(others)[:4])}); choose another --out"
        )


def _empty(path: Path) -> bool:
    return path.is_dir() and not any(item.is_file() for item in path.rglob("*"))


def _begin(directory: RunDirectory, config: RunConfig) -> None:
    """Write versions and configuration, versions first, so that there is never a configuration without them."""
    found, wanted = directory.read_json("config.json"), config.to_dict()
    kept = found if found is not None and _results(directory.path) else {}
    if not kept or directory.read_json("versions.json") is None:
        about = {**versions(), "python": platform.python_version(), IDENTITY: _identity(wanted)}
        directory.write_json("versions.json", about)
    if set(wanted) - set(kept):
        directory.write_json("config.json", {**wanted, **kept})


def _identity(config: Mapping[str, Any]) -> str:
    """A digest of the options that determine the numbers of a run."""
    telling = {key: value for key, value in config.items() if key not in INERT}
    return hashlib.sha256(json.dumps(telling, sort_keys=True).encode()).hexdigest()


def begin_latest(link: Path, path: Path) -> None:
    """Point a link at the run directory next to it; an existing folder or file of that name is kept."""
    if link.exists() and not link.is_symlink():
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    # Systems without links have no such link.
    with suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(path, link.parent), target_is_directory=True)
        os.replace(temporary, link)


def default_directory(parent: Path, config: RunConfig, usable: Callable[[Path], object] = lambda path: None) -> Path:
    """The default directory of a run with this configuration: ``parent/DATE-HASH``.

    The latest directory of the same configuration is continued if possible; otherwise a new one gets a number.

    Args:
        parent: folder of the run directories.
        config: configuration of the run.
        usable: raises a ``ValueError`` for a directory in which the run cannot continue.

    Raises:
        ValueError: if the latest directory is in use.
    """
    mark = _identity(config.to_dict())[:8]
    found = [path for path in parent.glob(f"????-??-??-{mark}*") if path.is_dir() and not path.is_symlink()]
    for path in sorted(found, key=lambda one: (one.stat().st_mtime, one.name), reverse=True):
        try:
            check_run(path, config)
            usable(path)
        except InUse:
            raise
        except ValueError:
            continue
        return path
    wanted = parent / f"{date.today().isoformat()}-{mark}"
    taken = (wanted.with_name(f"{wanted.name}-{number}") for number in range(2, 10_000))
    return wanted if not wanted.exists() else next(path for path in taken if not path.exists())


def discard_run(path: Path) -> None:
    """Remove the files of a run, so that another can begin in its place; foreign files are kept.

    Raises:
        ValueError: if the directory contains no run, or one that is in progress.
    """
    if not path.is_dir():
        return
    if not _results(path):
        _no_strangers(path, _config_as_it_is(path))
    _locked(path).release()
    for name in (*_BEGINNING, *_FOLDERS, "settings.json", "report.html"):
        place = path / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _config_as_it_is(path: Path) -> Any:
    try:
        return read_json(path / "config.json")
    except DamagedFile:
        return None
