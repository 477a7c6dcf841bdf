"""What the benchmarks share: the machine, timing, memory, fixed prompts, output."""

from __future__ import annotations

import argparse
import json
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cast_lens.engine import TokenPrompt
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import SPLITS, load_task


def machine() -> dict[str, Any]:
    """Date, processor, threads and versions: what a number cannot be read without."""
    about: dict[str, Any] = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    for package in ("torch", "transformers", "transformer-lens", "cast-lens"):
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            about[package] = "absent"
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


def processor() -> str:
    """Name of the processor where the system tells."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.is_file() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()


def seconds(job: Callable[[], Any], *, device: str = "cpu") -> float:
    """Wall-clock seconds of one call, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    job()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(jobs: Mapping[str, Callable[[], Any]], *, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each job, one after the other in every round, so that drift hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            taken[name].append(seconds(job, device=device))
    return {name: sorted(times)[len(times) // 2] for name, times in taken.items()}


def resident() -> float:
    """Resident memory of this process, in MB (Linux)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


@dataclass
class Peak:
    """Highest resident memory above the start, in MB."""

    above: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample resident memory in a thread while the block runs."""
    peak, before = Peak(), resident()

    def watch() -> None:
        while not peak._stop.wait(0.005):
            peak.above = max(peak.above, resident() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak._stop.set()
        thread.join()
        peak.above = max(peak.above, resident() - before)


def text_prompts(tokenizer: Any, n: int, length: int, *, shared: int = 0, skip: int = 0) -> list[TokenPrompt]:
    """Prompts of exactly ``length`` tokens cut from the shipped reviews, with two single-token answers.

    Args:
        tokenizer: of the model.
        n: prompts.
        length: tokens of each.
        shared: first tokens that are common to all of them.
        skip: tokens of the text to leave out at its beginning.
    """
    text = "\n".join(
        example.input
        for name in ("review-sentiment", "headline-topic", "finance-sentiment", "science", "everyday-sense")
        for split in SPLITS
        for example in load_task(name).split(split)
    )
    ids = tokenizer.encode(text, add_special_tokens=False)[skip:]
    own = length - shared
    while len(ids) < shared + n * own:
        ids = ids + ids
    bodies = [ids[shared + i * own : shared + (i + 1) * own] for i in range(n)]
    answers = tuple((tokenizer.encode(word, add_special_tokens=False)[0],) for word in (" yes", " no"))
    return [TokenPrompt((*ids[:shared], *body), answers, 0, f"prompt {i}") for i, body in enumerate(bodies)]


def as_transformer_lens(model: HookedTransformer) -> HookedTransformer:
    """The model with its weights in TransformerLens' own order in memory.

    ``load_model`` keeps them in Hugging Face's order, which saves TransformerLens a copy of every weight at every
    pass (a quarter of its time at 30 tokens): a baseline must not have that from us.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()
    return model


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    made.add_argument("--threads", type=int, default=0, help="threads of PyTorch (its own choice)")
    return made


def begin(options: argparse.Namespace) -> None:
    """Apply the common options."""
    if options.threads:
        torch.set_num_threads(options.threads)


def show(rows: list[dict[str, Any]], *, as_json: bool, title: str) -> None:
    """Print results: a Markdown table, or JSON."""
    if as_json:
        print(json.dumps({"benchmark": title, "machine": machine(), "rows": rows}, indent=1))
        return
    print(f"\n## {title}\n")
    print(", ".join(f"{key} {value}" for key, value in machine().items()), "\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(_text(row.get(name, "")) for name in names) + " |")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
