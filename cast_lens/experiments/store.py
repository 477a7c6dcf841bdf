"""A run directory: everything that a run made, each piece whole, found again when the run goes on.

config.json  versions.json  settings.json
vectors/     difference vectors, one safetensors file a task
frames/      tidy parquet frames; those of one source or target in folders of their own
figures/     html, png where a browser is found, and the csv behind each
report.html
"""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ..extraction import versions
from ..files import atomic_write
from .config import RunConfig

if TYPE_CHECKING:
    import pandas as pd

# Keys that change where or how fast numbers are made, not which numbers.
_INERT = ("device",)


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run on disk."""

    path: Path

    def frame(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The frame of that name: read when it is there, made and written otherwise."""
        import pandas as pd

        path = self.path / "frames" / f"{name}.parquet"
        if not path.is_file():
            self.write_frame(name, make())
        return pd.read_parquet(path)

    def write_frame(self, name: str, frame: pd.DataFrame) -> Path:
        """Write a frame as parquet, whole or not at all."""
        return atomic_write(self.path / "frames" / f"{name}.parquet", frame_bytes(frame))

    def write_json(self, name: str, value: Any) -> Path:
        """Write JSON, whole or not at all."""
        text = json.dumps(value, indent=1, ensure_ascii=False)
        return atomic_write(self.path / name, text.encode())

    def read_json(self, name: str) -> Any:
        """Read what ``write_json`` wrote; None when it is not there."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def frame_bytes(frame: pd.DataFrame) -> bytes:
    """A frame as parquet, to be written whole."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


@contextmanager
def open_run(path: Path, config: RunConfig) -> Iterator[RunDirectory]:
    """Open or continue a run directory, for this process alone.

    Raises:
        ValueError: when the directory holds a run of another configuration or other versions, is in use by another
            process, or holds files that are no run.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{path} is in use by another run; wait for it or choose another --out") from None
    try:
        directory = RunDirectory(path)
        _same_config(directory, config)
        yield directory
    finally:
        lock.release()


def _same_config(directory: RunDirectory, config: RunConfig) -> None:
    found, wanted = directory.read_json("config.json"), config.to_dict()
    if found is None:
        others = [item.name for item in directory.path.iterdir() if item.name != ".lock"]
        if others:
            raise ValueError(
                f"{directory.path} is not empty and holds no run ({', '.join(sorted(others)[:4])}); "
                "choose another --out"
            )
        directory.write_json("config.json", wanted)
        directory.write_json("versions.json", {**versions(), "python": platform.python_version()})
        return
    # A run and experiments may share a directory: what only one of them varies is not compared.
    changed = [key for key in wanted if key not in _INERT and key in found and found[key] != wanted[key]]
    if changed:
        detail = "; ".join(f"{key} was {found.get(key)!r}, is {wanted[key]!r}" for key in changed[:3])
        raise ValueError(
            f"{directory.path} holds a run of another configuration ({detail}); choose another --out, "
            "or give the same arguments to continue it"
        )
    if set(wanted) - set(found):
        directory.write_json("config.json", {**found, **wanted})
    made = directory.read_json("versions.json") or {}
    differing = [name for name, version in versions().items() if made.get(name) != version]
    if differing:
        detail = ", ".join(f"{name} {made.get(name)} then, {versions()[name]} now" for name in differing)
        raise ValueError(
            f"{directory.path} was begun with other versions ({detail}); its numbers would mix. Choose another --out"
        )
