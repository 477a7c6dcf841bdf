"""How long the selectors take, and how much memory, on two cores.

``python benchmarks/selection.py`` runs every case in a fresh process (so that peak memory is its own and compilation is
counted), prints a table, and with ``--json`` prints JSON instead. ``--small`` runs the same code on small pools in
about a minute; ``--only CASE`` runs one here.

The pool: rows around 200 centres, 24 latent dimensions and noise in all 384, which is less clustered than sentence
embeddings are; ``unstructured`` is plain Gaussian noise, the worst case for any approximate search.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

Row = dict[str, Any]
WIDTH = 384


def pool(samples: int, *, structured: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((samples, WIDTH), dtype=np.float32)
    if not structured:
        return rows
    centres = rng.standard_normal((200, WIDTH), dtype=np.float32)
    latent = rng.standard_normal((24, WIDTH), dtype=np.float32) / np.float32(24**0.5)
    rows *= np.float32(0.3)
    for start in range(0, samples, 50_000):
        block = rows[start : start + 50_000]
        block += np.float32(0.7) * centres[rng.integers(200, size=len(block))]
        block += rng.standard_normal((len(block), 24), dtype=np.float32) @ latent
    return rows


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = action()
    return result, time.perf_counter() - start


def cast(samples: int, search: str, *, structured: bool = True) -> Row:
    from cast_lens.selection import SelectionParameters, select, similarity_graph
    from cast_lens.selection.graph import diffusion_influence
    from cast_lens.selection.greedy import CoverageDiscount, Steps, greedy

    space = pool(samples, structured=structured)
    cpu_start = time.process_time()
    graph, graph_seconds = timed(lambda: similarity_graph(space, k=10, search=search))  # type: ignore[arg-type]
    settings = SelectionParameters(search=graph.search)
    _, select_seconds = timed(lambda: select(space, 100, parameters=settings, graph=graph))
    cpu_seconds = time.process_time() - cpu_start

    def greedy_only() -> None:
        influence = diffusion_influence(graph, steps=3, decay=0.5)
        steps = Steps(len(graph), 100)
        greedy(steps, influence, CoverageDiscount(graph, 0.1), alpha=0.5, scaling="max", rescale="step")

    return {
        "samples": samples,
        "search": graph.search,
        "recall": round(graph.recall, 4),
        "seconds": round(graph_seconds + select_seconds, 2),
        "graph_seconds": round(graph_seconds, 2),
        "greedy_seconds": round(timed(greedy_only)[1], 3),
        "cpu_seconds": round(cpu_seconds, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def threads(samples: int) -> Row:
    from cast_lens.selection import SelectionParameters, select

    space = pool(samples)
    chosen, seconds = [], []
    for count in (1, 2):
        settings = SelectionParameters(search="exact", threads=count)
        found, took = timed(partial(select, space, 100, parameters=settings))
        chosen.append(found.indices.tolist())
        seconds.append(round(took, 2))
    return {
        "samples": samples,
        "same_indices": chosen[0] == chosen[1],
        "seconds_one": seconds[0],
        "seconds_two": seconds[1],
    }


def simulated_spread(successors: list[list[tuple[int, float]]], seeds: list[int], runs: int, rng: Any) -> float:
    """The literal objective: mean size of an independent cascade, run as its definition says."""
    total = 0
    for _ in range(runs):
        active, wave = set(seeds), list(seeds)
        while wave:
            new = []
            for node in wave:
                for target, probability in successors[node]:
                    if target not in active and rng.random() < probability:
                        active.add(target)
                        new.append(target)
            wave = new
        total += len(active)
    return total / runs


def compiled_literal() -> Callable[..., np.ndarray]:
    """The literal greedy search, a simulation per candidate and step, but compiled."""
    import numba

    @numba.njit
    def run(offsets: Any, indices: Any, probability: Any, first: int, budget: int, runs: int, seed: int) -> Any:
        np.random.seed(seed)  # noqa: NPY002
        samples = len(offsets) - 1
        chosen = np.empty(budget, dtype=np.int64)
        chosen[0] = first
        taken = np.zeros(samples, dtype=np.bool_)
        taken[first] = True
        stamp = np.zeros(samples, dtype=np.int64)
        queue = np.empty(samples, dtype=np.int64)
        now = 0
        for step in range(1, budget):
            best, best_total = -1, -1
            for candidate in range(samples):
                if taken[candidate]:
                    continue
                total = 0
                for _ in range(runs):
                    now += 1
                    queue[:step] = chosen[:step]
                    queue[step] = candidate
                    filled, done = step + 1, 0
                    for place in range(filled):
                        stamp[queue[place]] = now
                    while done < filled:
                        node = queue[done]
                        done += 1
                        for edge in range(offsets[node], offsets[node + 1]):
                            target = indices[edge]
                            if stamp[target] != now and np.random.random() < probability[edge]:  # noqa: NPY002
                                stamp[target] = now
                                queue[filled] = target
                                filled += 1
                    total += filled
                if total > best_total:
                    best, best_total = candidate, total
            chosen[step] = best
            taken[best] = True
        return chosen

    return run


def ideal(samples: int, budget: int) -> Row:
    import random

    from cast_lens.selection import SelectionParameters, select, similarity_graph
    from cast_lens.selection.graph import expected_spread

    space = pool(samples)
    graph = similarity_graph(space, k=10)
    _, cold = timed(lambda: select(space, budget, method="ideal", graph=graph))
    fast, warm = timed(lambda: select(space, budget, method="ideal", graph=graph))
    more = select(space, budget, method="ideal", graph=graph, parameters=SelectionParameters(cascades=100))

    probability = graph.matrix("row").data
    compile_on = (graph.offsets[:3] * 0, graph.indices[:1], probability[:1])
    literal = compiled_literal()
    literal(*compile_on, 0, 1, 1, 0)
    slow, compiled_seconds = timed(
        lambda: literal(graph.offsets, graph.indices, probability, int(fast.indices[0]), budget, 10, 0)
    )
    per_step = _literal_python_seconds(graph, probability, fast.indices.tolist(), random.Random(0))
    spreads = {
        name: expected_spread(graph, chosen, cascades=2000, seed=99)
        for name, chosen in {"literal": slow, "shared": fast.indices, "shared_100": more.indices}.items()
    }
    return {
        "samples": samples,
        "budget": budget,
        "seconds": round(warm, 3),
        "seconds_with_compilation": round(cold, 2),
        "literal_python_seconds_extrapolated": round(per_step * samples * (budget - 1)),
        "literal_compiled_seconds": round(compiled_seconds, 1),
        "times_faster_than_python": round(per_step * samples * (budget - 1) / warm),
        "times_faster_than_compiled": round(compiled_seconds / warm),
        **{f"spread_{name}": round(mean, 1) for name, (mean, _) in spreads.items()},
        "standard_error": round(max(error for _, error in spreads.values()), 2),
    }


def _literal_python_seconds(graph: Any, probability: np.ndarray, chosen: list[int], rng: Any) -> float:
    """Mean seconds to score one candidate literally, over candidates sampled at early, middle and late steps."""
    successors = [
        list(zip(graph.indices[low:high].tolist(), probability[low:high].tolist(), strict=True))
        for low, high in zip(graph.offsets[:-1], graph.offsets[1:], strict=True)
    ]
    sampled = [
        (chosen[:step], candidate)
        for step in np.linspace(1, len(chosen) - 1, 5).astype(int)
        for candidate in rng.sample(range(len(graph)), 6)
    ]
    _, seconds = timed(
        lambda: [simulated_spread(successors, [*seeds, candidate], 10, rng) for seeds, candidate in sampled]
    )
    return seconds / len(sampled)


def rivals(samples: int, budget: int) -> Row:
    from cast_lens.selection import METHODS, select

    space = pool(samples)
    select(space, budget, method="ideal")  # compile first
    inputs: Row = {"differences": space, "confidence": space[:, 0]}
    seconds = {method: timed(partial(select, space, budget, method=method, **inputs))[1] for method in METHODS}
    return {"samples": samples, "budget": budget, **{name: round(took, 3) for name, took in seconds.items()}}


def cases(small: bool) -> dict[str, Callable[[], Row]]:
    large, pair = (6_000 if small else 50_000), (3_000 if small else 10_000)
    return {
        "exact": lambda: cast(4_000 if small else 20_000, "exact"),
        "pynndescent": lambda: cast(large, "pynndescent"),
        "pynndescent-unstructured": lambda: cast(large, "pynndescent", structured=False),
        "threads": lambda: threads(pair),
        "ideal": lambda: ideal(*((600, 30) if small else (3_000, 100))),
        "rivals": lambda: rivals(*((600, 30) if small else (3_000, 100))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small pools, about a minute")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", choices=cases(True), help="run one case in this process and print its JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(cases(options.small)[options.only]()))
        return
    rows = {name: _in_a_fresh_process(name, options.small) for name in cases(options.small)}
    about = {
        "date": date.today().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    if options.json:
        print(json.dumps({"about": about, "cases": rows}, indent=2))
        return
    for name, row in rows.items():
        print(f"\n{name}")
        for key, value in row.items():
            print(f"  {key:<36} {value}")


def _in_a_fresh_process(name: str, small: bool) -> Row:
    command = [sys.executable, __file__, "--only", name, *(["--small"] if small else [])]
    start, load = time.perf_counter(), os.getloadavg()[0]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    row = json.loads(done.stdout.splitlines()[-1])
    warned = [line.strip() for line in done.stderr.splitlines() if "Warning" in line]
    return {
        **row,
        "process_seconds": round(time.perf_counter() - start, 1),
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        **({"warned": warned} if warned else {}),
    }


if __name__ == "__main__":
    main()
