"""Frames of the schemas that a run writes, made of seeded noise: what figures and the report are tested on."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from cast_lens.experiments.catalogue.transfer import chosen_cells, side_by_side_pairs
from cast_lens.experiments.cells import Cell, Grid

FAMILY = {
    "review-sentiment": "classification",
    "headline-topic": "classification",
    "science": "multiple-choice",
    "geography": "multiple-choice",
    "present-past": "word",
}
TASKS = tuple(FAMILY)
SOURCES = ("review-sentiment", "science")
TARGETS = ("finance-sentiment", "geography", "present-past")
TARGET_FAMILY = {**FAMILY, "finance-sentiment": "classification"}
LAYERS = tuple(range(0, 30, 2))
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
METHODS = (
    "zero-shot", "few-shot", "cross-task few-shot", "cast", "placebo: shuffled labels", "placebo: random direction",
)  # fmt: skip
METRICS = ("exact_match", "valid", "choice_correct")


def parallelism(tasks: tuple[str, ...] = TASKS) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for layer in LAYERS:
        for a, b in combinations(tasks, 2):
            within = FAMILY[a] == FAMILY[b]
            cosine = (0.9 if within else 0.5) - (0.002 if within else 0.015) * layer + rng.normal(0, 0.02)
            rows.append((layer, a, b, FAMILY[a], FAMILY[b], cosine, cosine - 0.06, cosine + 0.05, 40, 40))
    columns = ["layer", "task_a", "task_b", "family_a", "family_b", "cosine", "low", "high", "n_a", "n_b"]
    frame = pd.DataFrame(rows, columns=columns)
    nulls = {"null_pairs_mean": 0.0, "null_pairs_low": -0.3, "null_pairs_high": 0.32}
    return frame.assign(**nulls, null_random_low=-0.08, null_random_high=0.08)


def cosines() -> pd.DataFrame:
    pairs = parallelism()[["task_a", "task_b", "layer", "cosine"]]
    return pairs[pairs["layer"] % 8 == 0].reset_index(drop=True)


def projection(n: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    rows = []
    for layer in (4, 12, 20):
        for place, task in enumerate(TASKS):
            for sample in range(n):
                start = rng.normal([place, -place], 0.4)
                for condition, shift in (("zero-shot", 0.0), ("few-shot", 3.0)):
                    x, y = start + shift * np.array([1.0, 0.3 * (FAMILY[task] == "word")])
                    text = f"Sample {sample} of <b>{task}</b> & its query"
                    rows.append((task, f"{task}-{sample}", condition, layer, x, y, 0.41, 0.2, text))
    columns = ["task", "sample_id", "condition", "layer", "x", "y", "explained_x", "explained_y", "text"]
    return pd.DataFrame(rows, columns=columns)


def umap(n: int = 12) -> pd.DataFrame:
    frame = projection(n)
    return frame[frame["layer"] == 12].assign(explained_x=np.nan, explained_y=np.nan)


def entropy() -> pd.DataFrame:
    rows = [
        (task, layer, condition, 1.2 + 0.05 * layer + 0.1 * place + 0.3 * (condition == "zero-shot"), 40)
        for place, task in enumerate(TASKS)
        for layer in LAYERS
        for condition in ("zero-shot", "few-shot")
    ]
    return pd.DataFrame(rows, columns=["task", "layer", "condition", "entropy", "n"])


def cohesion() -> pd.DataFrame:
    rows = [
        (task, layer, 0.8 - 0.01 * layer - 0.05 * place, 0.7 - 0.01 * layer - 0.05 * place, 0.85 - 0.05 * place, 40)
        for place, task in enumerate(TASKS)
        for layer in LAYERS
    ]
    return pd.DataFrame(rows, columns=["task", "layer", "pairwise_cosine", "low", "high", "n"])


def alignment() -> pd.DataFrame:
    rows = []
    for place, task in enumerate(TASKS):
        for other in TASKS:
            for layer in LAYERS:
                cosine = 0.85 - 0.005 * layer if task == other else 0.4 - 0.01 * layer + 0.03 * place
                rows.append((task, other, layer, cosine, cosine - 0.05, cosine + 0.05, 40))
    return pd.DataFrame(rows, columns=["task", "other", "layer", "cosine", "low", "high", "n"])


def sweep(sources: tuple[str, ...] = SOURCES) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for source in sources:
        rows.append((source, "unsteered", -1, 0.0, 24, 0.2, 0.4, 0.5, -2.5, False))
        for kind in ("vector", "placebo: random direction"):
            for layer in LAYERS:
                for strength in STRENGTHS:
                    peak = np.exp(-((layer - 18) ** 2) / 60 - (strength - 2) ** 2)
                    hit = float(np.clip(0.2 + 0.7 * peak * (kind == "vector") + rng.normal(0, 0.03), 0, 1))
                    cell = (hit, min(1.0, hit + 0.1), 0.5, -2.5 + hit)
                    chosen = (kind, layer, strength) == ("vector", 18, 2.0)
                    rows.append((source, kind, layer, strength, 24, *cell, chosen))
    columns = ["source", "kind", "layer", "strength", "n", "first_match", "first_valid", "choice_correct"]
    frame = pd.DataFrame(rows, columns=[*columns, "gold_logprob", "chosen"])
    frame["first_match_low"] = (frame["first_match"] - 0.15).clip(0)
    frame["first_match_high"] = (frame["first_match"] + 0.15).clip(upper=1)
    frame["exact_match"] = frame["first_match"].where(frame["chosen"])
    return frame


LEVELS = {
    "zero-shot": (0.05, 0.1, 0.4),
    "few-shot": (0.6, 0.98, 0.62),
    "cross-task few-shot": (0.35, 0.9, 0.4),
    "cast": (0.4, 0.95, 0.42),
    "placebo: shuffled labels": (0.33, 0.8, 0.41),
    "placebo: random direction": (0.08, 0.15, 0.4),
}


def transfer() -> pd.DataFrame:
    rows = []
    for target in TARGETS:
        for method in METHODS:
            for source in [""] if method in ("zero-shot", "few-shot") else SOURCES:
                for place, metric in enumerate(METRICS):
                    if TARGET_FAMILY[target] == "word" and metric != "exact_match":
                        continue
                    value, base = LEVELS[method][place], LEVELS["zero-shot"][place]
                    if source == "science" and target == "finance-sentiment" and metric == "exact_match":
                        value = base - 0.04
                    rows.append(_transfer_row(target, source, method, metric, value, base))
    return pd.DataFrame(rows)


def _transfer_row(target: str, source: str, method: str, metric: str, value: float, base: float) -> dict[str, object]:
    gain = value - base
    steered = source != ""
    return {
        "target": target,
        "target_family": TARGET_FAMILY[target],
        "source": source,
        "source_family": FAMILY.get(source, ""),
        "method": method,
        "metric": metric,
        "n": 48,
        "value": value,
        "low": max(0.0, value - 0.1),
        "high": min(1.0, value + 0.1),
        "baseline": base,
        "gain": gain,
        "gain_low": gain - 0.12,
        "gain_high": gain + 0.12,
        "p_value": 0.01,
        "p_adjusted": 0.08,
        "n_tests": 12,
        "verdict": "not shown" if method == "cast" else "",
        "layer": 18 if steered else -1,
        "strength": 2.0 if steered else 0.0,
    }


def split(total: float | None = None, choice: float = 0.02) -> pd.DataFrame:
    """The split of each steered gain, and of each placebo's; ``total`` overrides every total."""
    rows = []
    for target in ("finance-sentiment", "geography"):
        for source in SOURCES:
            for method, gain in (("cast", 0.35 if total is None else total), ("placebo: random direction", 0.03)):
                parts = {"total": gain, "format": gain - choice, "choice": choice}
                ends = {f"{name}_low": value - 0.08 for name, value in parts.items()}
                ends |= {f"{name}_high": value + 0.08 for name, value in parts.items()}
                rows.append({"target": target, "source": source, "method": method, "n": 48, **parts, **ends})
    return pd.DataFrame(rows)


def outcomes(target: str) -> pd.DataFrame:
    rows = [
        {"target": target, "sample": f"{target}-{i}", "method": method, "source": "science" * (method == "cast")}
        | {"text": f"Query {i}", "gold": "good", "answer": "good" if i % 2 else "It is", "exact_match": float(i % 2)}
        for method in METHODS
        for i in range(6)
    ]
    return pd.DataFrame(rows).assign(valid=1.0, choice_correct=1.0, layer=-1, strength=0.0)


def methods() -> pd.DataFrame:
    """Each condition over all its pairs."""
    rows = transfer().query("method != 'zero-shot'").groupby(["method", "metric"], sort=False)
    ends = {name: (name, "mean") for name in ("value", "baseline", "gain", "gain_low", "gain_high")}
    return rows.agg(pairs=("gain", "size"), n=("n", "sum"), **ends).reset_index()


def labels() -> pd.DataFrame:
    """Counts of labels; the test queries of one target are all of one class."""
    rows = [("finance-sentiment", "test", label, n) for label, n in (("positive", 48), ("negative", 0))]
    rows += [("review-sentiment", "samples", label, 20) for label in ("positive", "negative")]
    return pd.DataFrame(rows, columns=["task", "use", "label", "n"])


FRAMES = {
    "result": transfer,
    "pairs": lambda: side_by_side_pairs(transfer()),
    "methods": methods,
    "split": split,
    "sweep": lambda: pd.concat([sweep((source,)) for source in SOURCES], ignore_index=True),
    "settings": lambda: chosen_cells(pd.concat([sweep((source,)) for source in SOURCES], ignore_index=True)),
    "parallelism": parallelism,
    "cosines": cosines,
    "projection": lambda: pd.concat([projection(), umap()], ignore_index=True),
    "entropy": entropy,
    "cohesion": cohesion,
    "alignment": alignment,
    "labels": labels,
}


def write_run(folder: Path, *, leave_out: tuple[str, ...] = ()) -> Path:
    """A run directory as a finished main job leaves it, without the named frames and documents."""
    chapter = folder / "experiments" / "transfer"
    grid = Grid.planned(chapter, [Cell("outcomes", target) for target in TARGETS])
    for cell in grid.cells:
        grid.compute(cell, lambda cell: outcomes(cell.target))
    for name, make in FRAMES.items():
        if name not in leave_out:
            make().to_parquet(chapter / f"{name}.parquet", index=False)
    documents = {
        "config": {
            "model": "tiny-model", "sources": list(SOURCES), "targets": list(TARGETS), "shots": 5, "samples": 40,
            "validation": 24, "test": 48, "seed": 0, "dtype": "float32", "device": "cpu", "strengths": list(STRENGTHS),
        },
        "versions": {"cast_lens": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        "model": {"name": "tiny-model", "fingerprint": "abc123", "parameters": 134_515_008, "n_layers": 30},
        "experiments/transfer/options": {"umap": True},
        "experiments/transfer/summary": {"seconds": 312.4},
    }  # fmt: skip
    for name, document in documents.items():
        if name not in leave_out:
            (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
