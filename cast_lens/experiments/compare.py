"""Compares runs, one per model: the gain of the vector on each pair against the gain of demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..files import read_frame, read_json
from .outcomes import over_tasks

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
        zero-shot; NaN where no few-shot prompt could be asked), ``gain, gain_low, gain_high`` of the vector. Two runs
        of one model keep their folder's name beside it.

    Raises:
        ValueError: if there are no runs, one occurs twice, one is not a run directory or has not finished the main job,
            or a run does not have the metric.
    """
    if not runs:
        raise ValueError("name one or more run directories")
    paths = [Path(run) for run in runs]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"runs={[str(path) for path in paths]} name one directory twice")
    frames = [_pairs(path, metric) for path in paths]
    labels = _labels([str(frame["model"].iloc[0]) for frame in frames], paths)
    found = [frame.assign(model=label) for frame, label in zip(frames, labels, strict=True)]
    return pd.concat(found, ignore_index=True)[list(COLUMNS)]


def by_model(pairs: pd.DataFrame) -> pd.DataFrame:
    """One row per model: what its vectors gain beside what demonstrations would.

    Args:
        pairs: from ``compare``.

    Returns:
        ``model, pairs, n`` (queries per pair, the fewest), ``gain, gain_low, gain_high`` (mean over target tasks with
        Student's interval over tasks; NaN ends below ``TASKS`` of them), ``headroom`` (mean over pairs), ``helped,
        harmed`` (pairs whose interval is above, below zero), ``worst`` (gain of the worst pair).
    """
    rows = []
    for model, part in pairs.groupby("model", sort=False):
        over = over_tasks(part.set_index(["target", "source"])["gain"])
        rows.append(
            {
                "model": model,
                "pairs": len(part),
                "n": int(part["n"].min()),
                "gain": over["gain_tasks"],
                "gain_low": over["gain_tasks_low"],
                "gain_high": over["gain_tasks_high"],
                "headroom": part["headroom"].mean(),
                "helped": int((part["gain_low"] > 0).sum()),
                "harmed": int((part["gain_high"] < 0).sum()),
                "worst": part["gain"].min(),
            }
        )
    return pd.DataFrame(rows)


def _labels(models: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """The model of each run; runs that share a model also get their folder's name, or path if the names are equal."""
    found = []
    for model, path in zip(models, paths, strict=True):
        alike = [other.name for name, other in zip(models, paths, strict=True) if name == model]
        folder = path.name if alike.count(path.name) == 1 else str(path)
        found.append(model if len(alike) == 1 else f"{model} ({folder})")
    return found


def _pairs(run: Path, metric: str) -> pd.DataFrame:
    if not run.is_dir():
        raise ValueError(f"{run} is no directory; give directories that cast-lens run wrote")
    file, config = run / "experiments" / "transfer" / "pairs.parquet", read_json(run / "config.json")
    if not isinstance(config, Mapping) or "model" not in config:
        raise ValueError(f"{run} is no run directory: it has no config.json of a run; give what cast-lens run wrote")
    if not file.is_file():
        raise ValueError(f"{run} holds no finished main job; the command that began it goes on: cast-lens run --out")
    pairs = read_frame(file)
    known = sorted(set(pairs["metric"])) if "metric" in pairs else []
    if metric not in known:
        raise ValueError(f"{run} has no pair with metric={metric!r}; it has {', '.join(known) or 'no pair at all'}")
    # A source's vector on its own task is not transfer.
    rows = pairs[(pairs["metric"] == metric) & (pairs["source"] != pairs["target"])]
    if rows.empty:
        raise ValueError(f"{run} has no pair of different tasks")
    zero, few = rows["zero-shot"], rows["few-shot"]
    named = {"model": Path(str(config["model"])).name, "run": run.name}
    return rows.assign(**named, zero_shot=zero, few_shot=few, headroom=few - zero)
