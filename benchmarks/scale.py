"""What the whole set costs on large models, and how many workers one driver can serve.

    python -m benchmarks.scale
    python -m benchmarks.scale --model smollm2-135m-instruct

Counts matrix products as ``experiments.costs`` does, measures what the driver spends on a cell on this machine, and
simulates a driver with workers. With ``--model``, measures on this machine which share of the rate of a large matrix
product each part of a study reaches. Prints the tables of docs/scale.md.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from cast_lens.engine import capture, score
from cast_lens.evaluation import evaluate
from cast_lens.experiments.cells import Cell, Grid, Made
from cast_lens.experiments.costs import counted_flops, forward_flops, seconds
from cast_lens.interventions import Intervention
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import few_shot_prompts, load_task, zero_shot_prompts

# Shapes of Llama-3.1, from its published configuration files.
MODELS: dict[str, Any] = {
    "8 B": SimpleNamespace(n_layers=32, d_model=4096, n_heads=32, n_key_value_heads=8, d_head=128, d_mlp=14336),
    "70 B": SimpleNamespace(n_layers=80, d_model=8192, n_heads=64, n_key_value_heads=8, d_head=128, d_mlp=28672),
}
for _shape in MODELS.values():
    vars(_shape).update(gated_mlp=True, attn_only=False, num_experts=None, d_vocab_out=128256)
# Dense bfloat16 peak of one H100 SXM by its data sheet, and the share of it that is assumed to be reached.
PEAK, UTILISATION = 989e12, (0.1, 0.3, 0.5)


@dataclass(frozen=True, slots=True)
class Study:
    """The paper's cross-domain setting with this package's controls: sizes and tokens that are typical of its tasks."""

    sources: int = 8
    targets: int = 5
    samples: int = 200
    shots: int = 5
    validation: int = 100
    test: int = 500
    conditions: int = 6
    layers: int = 16
    strengths: int = 6
    example: int = 120
    answer: int = 8


def study_flops(cfg: Any, study: Study) -> dict[str, float]:
    """Operations of each part of a study."""
    zero, few = study.example, study.example * (study.shots + 1)
    capture = study.samples * study.sources * (forward_flops(cfg, new=zero) + forward_flops(cfg, new=few))
    middle = int(cfg.n_layers) // 2
    tail = forward_flops(cfg, new=1, past=zero, layers=middle)
    cells = study.layers * study.strengths
    sweep = study.sources * study.validation * (forward_flops(cfg, new=zero) + cells * tail)
    one = forward_flops(cfg, new=zero) + study.answer * forward_flops(cfg, new=1, past=zero)
    evaluate = study.sources * study.targets * study.conditions * study.test * one
    return {"capture": capture, "choose": sweep, "evaluate": evaluate}


def driver_seconds(rows: int = 500, cells: int = 60) -> float:
    """Seconds that the driver spends on one cell: a frame of that many rows is written, whole and forced to disk."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"sample": [f"example {i}" for i in range(rows)], "method": "cast", "source": "science"})
    frame = frame.assign(**{name: rng.random(rows) for name in ("exact_match", "valid", "choice_correct", "strength")})
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid.of(Path(folder), [Cell("target", number=number) for number in range(cells)])
        started = time.perf_counter()
        for cell in grid.cells:
            grid.keep(cell, Made(frame))
        return (time.perf_counter() - started) / cells


def simulated(workers: int, cells: int, cell_seconds: float, driver: float, *, seed: int = 0) -> float:
    """Share of the workers' time that is spent on cells, when one driver takes their results one after the other.

    Args:
        workers: that compute at once.
        cells: to do.
        cell_seconds: mean of a cell; single ones are exponential.
        driver: seconds that the driver spends on each.
        seed: of the durations.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.exponential(cell_seconds, cells)
    ready = [(float(length), place) for place, length in enumerate(lengths[:workers])]
    heapq.heapify(ready)
    clock, given = 0.0, min(workers, cells)
    while ready:
        done, _ = heapq.heappop(ready)
        # A worker waits until the driver has taken its result and given it the next cell.
        clock = max(clock, done) + driver
        if given < cells:
            heapq.heappush(ready, (clock + float(lengths[given]), given))
            given += 1
    return float(lengths.sum() / (clock * workers))


def utilisation(model: HookedTransformer, *, prompts: int = 8) -> list[dict[str, Any]]:
    """Which share of the rate of a large matrix product capture, sweep and evaluation reach, by counted operations.

    Args:
        model: whose passes are timed, in its own dtype on its own device.
        prompts: zero-shot prompts of each part; capture has as many few-shot prompts.

    Returns:
        one row per part: ``part, counted`` (operations that PyTorch counted), ``seconds``, ``rate`` and ``peak``
        (operations per second of the part, and of a product of 2048 × 2048 matrices), ``share``.
    """
    task = load_task("science")
    examples = task.test[:prompts]
    zero, few = zero_shot_prompts(task, examples), few_shot_prompts(task, examples, shots=5)
    device, dtype = str(model.cfg.device), next(model.parameters()).dtype
    directions = torch.randn(
        int(model.cfg.n_layers), int(model.cfg.d_model), generator=torch.Generator().manual_seed(0)
    )
    steered = [
        Intervention(row, layer, strength) for layer, row in enumerate(directions) for strength in (1.0, 2.0, 4.0)
    ]
    jobs: dict[str, Callable[[], object]] = {
        "capture": lambda: capture(model, few),
        "choose": lambda: score(model, zero, steered),
        "evaluate": lambda: evaluate(model, zero, steered[::12]),
    }
    square = torch.randn(2048, 2048, device=device, dtype=dtype)
    peak = 2 * 2048**3 / min(seconds(lambda: square @ square, model) for _ in range(5))
    rows = []
    for part, job in jobs.items():
        counted = counted_flops(job)
        taken = min(seconds(job, model) for _ in range(2))
        rate = counted / taken
        rows.append(
            {"part": part, "counted": counted, "seconds": taken, "rate": rate, "peak": peak, "share": rate / peak}
        )
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="", help="measure utilisation with this model, and nothing else")
    given = options.parse_args()
    if given.model:
        for row in utilisation(load_model(given.model)):
            print(
                f"{row['part']}: {row['counted']:.3g} operations in {row['seconds']:.2f} s, {row['rate'] / 1e9:.1f} "
                f"of {row['peak'] / 1e9:.1f} GFLOP/s: {row['share']:.0%}"
            )
        return
    study = Study()
    print(json.dumps(asdict(study)))
    for name, cfg in MODELS.items():
        parts = study_flops(cfg, study)
        total = sum(parts.values())
        hours = ", ".join(f"{total / (PEAK * share) / 3600:.2f} h at {share:.0%}" for share in UTILISATION)
        shares = ", ".join(f"{part} {flops / total:.0%}" for part, flops in parts.items())
        print(f"{name}: {total:.2e} operations ({shares}); one H100: {hours}")
    driver = driver_seconds()
    print(f"driver: {1000 * driver:.1f} ms per cell of 500 rows")
    for cell_seconds in (1.0, 10.0, 60.0):
        for workers in (10, 100, 1000, 5000):
            share = simulated(workers, max(20_000, 4 * workers), cell_seconds, driver)
            print(f"cells of {cell_seconds:g} s, {workers} workers: {share:.0%} busy")
    print(f"10^6 cells: {1e6 * driver / 3600:.1f} h of the driver alone")
    print(f"listing: {_listing():.2f} s per look at 5,000 cells")


def _listing(cells: int = 5_000) -> float:
    """Seconds that one look takes at which cells are done."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid.of(Path(folder), [Cell("target", number=number) for number in range(cells)])
        (grid.path / "cells").mkdir()
        for cell in grid.cells:
            grid.file(cell).touch()
        started = time.perf_counter()
        grid.open_cells(prepares=False, retry_failed=False)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
