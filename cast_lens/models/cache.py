"""Where converted models are kept: a folder a model, whole or absent."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache: ``CAST_LENS_CACHE`` where it is set, else the platform's usual place."""
    if override := os.environ.get("CAST_LENS_CACHE"):
        return Path(override)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "cast_lens"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "cast_lens"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cast_lens"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The cached folder ``name``; ``build`` fills a temporary folder that is then renamed."""
    target = cache_folder() / name
    if (target / "complete").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{name}."))
    try:
        build(temporary)
        (temporary / "complete").touch()
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
