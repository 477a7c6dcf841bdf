"""Where converted models are kept: one folder a model, whole or absent, whatever interrupts its making."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .progress import step

MANIFEST = "cast_lens.json"
CHUNK = 1 << 22


def cache_folder() -> Path:
    """The user's cache: ``CAST_LENS_CACHE`` where that is set, else the platform's usual place."""
    if override := os.environ.get("CAST_LENS_CACHE"):
        return Path(override).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "cast_lens"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cast_lens"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cast_lens"


def cached(name: str, build: Callable[[Path], None], *, needed: int) -> Path:
    """The cached folder ``name``, built first where it is absent or no longer what was built.

    ``build`` fills a temporary folder beside it, which is renamed when it is complete, under a lock: an
    interrupted, failed or concurrent build leaves nothing that could be taken for a finished one.

    Args:
        name: of the folder.
        build: fills the (empty) folder that it is given.
        needed: free bytes that the build needs.

    Raises:
        ValueError: when the cache cannot be written or the disk is full; the message names the way out.
    """
    target = cache_folder() / name
    if _intact(target):
        return target
    with _explained(target.parent, needed):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f".{name}.lock"):
            if not _intact(target):  # another process may have built it while this one waited
                _check_space(target.parent, needed)
                _build(target, build)
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _build(target: Path, build: Callable[[Path], None]) -> None:
    for left_over in target.parent.glob(f".{target.name}.building-*"):  # of a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    temporary = target.parent / f".{target.name}.building-{os.getpid()}"
    temporary.mkdir()
    try:
        build(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        for path in files:  # safetensors writes for the owner alone; a cache may be shared as its folder is
            path.chmod(temporary.stat().st_mode & 0o666)
        digests = {path.relative_to(temporary).as_posix(): file_sha256(path) for path in files}
        (temporary / MANIFEST).write_text(json.dumps(digests, indent=1))
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _intact(folder: Path) -> bool:
    """Whether a folder holds exactly what its build left: half a second for the embedded model."""
    try:
        digests = json.loads((folder / MANIFEST).read_text())
        return all(file_sha256(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with step("Waiting for another process that is preparing the same model"):
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_space(folder: Path, needed: int) -> None:
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _explained(folder: Path, needed: int) -> Iterator[None]:
    """Turn what the file system refuses into what the user can do about it."""
    try:
        yield
    except OSError as error:
        way_out = "set CAST_LENS_CACHE to a folder on another disk"
        if error.errno == errno.ENOSPC:
            raise ValueError(
                f"no space left in the cache {folder}: about {needed / 1e9:.1f} GB are needed; "
                f"free some, or {way_out}"
            ) from error
        raise ValueError(
            f"the cache {folder} cannot be written ({error}); {way_out} that you may write to"
        ) from error
