"""What a run directory holds, read as far as the run got."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .chapters import Chapter, read_chapters

STEERED = "steered"
OWN = "steered (own vector)"


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """One run as it is on disk.

    Attributes:
        path: of the run directory.
        config: what the run was asked to do.
        versions: of the packages that it ran with.
        model: name, fingerprint, size; empty when the run ended before the model was loaded.
        seconds: time of all sittings together; None when the run is not finished.
        frames: the tidy frames that are there, by name.
        chapters: the experiments that the directory holds.
    """

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    seconds: float | None
    frames: Mapping[str, pd.DataFrame]
    chapters: Sequence[Chapter] = ()

    @property
    def is_run(self) -> bool:
        """Whether the main job was begun here; a directory may hold experiments alone."""
        return bool(self.frames) or not self.chapters

    @property
    def sources(self) -> list[str]:
        """Sources of the run."""
        return list(self.config.get("sources", []))

    @property
    def targets(self) -> list[str]:
        """Targets of the run."""
        return list(self.config.get("targets", []))


FRAMES = (
    "transfer",
    "split",
    "parallelism",
    "sweep",
    "cosines",
    "projection",
    "alignment",
    "cohesion",
    "entropy",
)


def read_run(run_dir: Path) -> RunRecord:
    """Read a run directory, finished or not.

    Raises:
        ValueError: when there is no such directory, or it holds no run.
    """
    if not (run_dir / "config.json").is_file():
        raise ValueError(f"{run_dir} holds no run (no config.json); give the directory that a run wrote to")
    config = _json(run_dir / "config.json")
    seconds = _json(run_dir / "seconds.json").get("seconds")
    found = {name: _frame(run_dir / "frames", name) for name in FRAMES}
    return RunRecord(
        path=run_dir,
        config=config,
        versions=_json(run_dir / "versions.json"),
        model=_json(run_dir / "model.json"),
        seconds=None if seconds is None else float(seconds),
        frames={name: frame for name, frame in found.items() if frame is not None and len(frame)},
        chapters=read_chapters(run_dir, config),
    )


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _frame(folder: Path, name: str) -> pd.DataFrame | None:
    """The frame of that name; while a run is under way, what there is of its parts."""
    whole, parts = folder / f"{name}.parquet", sorted((folder / name).glob("*.parquet"))
    if whole.is_file():
        return pd.read_parquet(whole)
    return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True) if parts else None
