"""Runs side by side: what the vector gains on each pair against what demonstrations would, one run per model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..files import read_frame, read_json

COLUMNS = (
    "model",
    "run",
    "target",
    "source",
    "n",
    "zero_shot",
    "few_shot",
    "headroom",
    "gain",
    "gain_low",
    "gain_high",
)


def compare(runs: Sequence[str | Path], *, metric: str = "exact_match") -> pd.DataFrame:
    """Gain against headroom of every pair of finished main jobs.

    Args:
        runs: run directories that hold the experiment ``transfer``.
        metric: which outcome.

    Returns:
        one row per run and pair: ``model, run, target, source, n, zero_shot, few_shot, headroom`` (few-shot minus
        zero-shot), ``gain, gain_low, gain_high`` of the vector. Two runs of one model keep their folder's name beside
        it.

    Raises:
        ValueError: no runs, a directory without the experiment ``transfer``, or a metric that it does not have.
    """
    if not runs:
        raise ValueError("name one or more run directories")
    frames = [_pairs(Path(run), metric) for run in runs]
    names = [str(frame["model"].iloc[0]) for frame in frames]
    found = [
        frame.assign(model=f"{name} ({frame['run'].iloc[0]})") if names.count(name) > 1 else frame
        for name, frame in zip(names, frames, strict=True)
    ]
    return pd.concat(found, ignore_index=True)[list(COLUMNS)]


def _pairs(run: Path, metric: str) -> pd.DataFrame:
    file, config = run / "experiments" / "transfer" / "pairs.parquet", read_json(run / "config.json")
    if config is None or not file.is_file():
        raise ValueError(f"{run} holds no finished main job; give directories that cast-lens run wrote")
    pairs = read_frame(file)
    rows = pairs[pairs["metric"] == metric] if len(pairs) else pairs
    if rows.empty:
        known = ", ".join(sorted(set(pairs["metric"]))) if len(pairs) else "none"
        raise ValueError(f"{run} has no pair with metric={metric!r}; it has {known}")
    zero, few = rows["zero-shot"], rows["few-shot"]
    named = {"model": Path(str(config["model"])).name, "run": run.name}
    return rows.assign(**named, zero_shot=zero, few_shot=few, headroom=few - zero)
