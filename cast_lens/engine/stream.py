"""Capture of more prompts than memory holds: shards on disk, each whole, found again after a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..files import load_tensors, read_json, remove_leftovers, save_tensors, write_json
from ..models import fingerprint
from ..models.identity import check_layers
from ..models.lens import HookedTransformer
from ..tasks.types import Prompt
from .batching import DEFAULT_BUDGET_MB
from .capture import capture
from .layout import TokenPrompt
from .progress import Progress, quiet
from .tokens import PromptLike, Prompts, as_prompts

# A shard is held in memory while it is made: together with the working memory this stays below the ceiling.
SHARD_MB = 64.0
KIND = "captured residuals"


@dataclass(frozen=True, slots=True)
class CapturedResiduals:
    """Residuals on disk, read as they are asked for.

    Attributes:
        folder: manifest and shards.
        layers: block index of each entry of the layer axis.
        samples: prompts captured.
        shard_samples: samples in each shard but the last.
    """

    folder: Path
    layers: tuple[int, ...]
    samples: int
    shard_samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, chosen: slice) -> Float[Tensor, "sample layer d_model"]:
        """Consecutive samples, from the shards that hold them.

        Raises:
            ValueError: on a step other than 1, or nothing chosen.
        """
        start, stop, step = chosen.indices(self.samples)
        if step != 1 or stop <= start:
            raise ValueError(f"samples {chosen} of {self.samples}: give a non-empty slice with step 1")
        parts = []
        for number in range(start // self.shard_samples, (stop - 1) // self.shard_samples + 1):
            first = number * self.shard_samples
            shard = load_tensors(shard_path(self.folder, number), kind=KIND)[0]["residuals"]
            parts.append(shard[max(0, start - first) : stop - first])
        return torch.cat(parts)

    def to_tensor(self) -> Float[Tensor, "sample layer d_model"]:
        """Everything, in memory."""
        return self[:]


def shard_path(folder: Path, number: int) -> Path:
    """File of one shard."""
    return folder / f"residuals-{number:05d}.safetensors"


def capture_to_disk(
    model: HookedTransformer,
    prompts: Prompts,
    folder: Path,
    *,
    layers: Sequence[int] | None = None,
    chat: bool = False,
    memory_mb: float = DEFAULT_BUDGET_MB,
    shard_samples: int | None = None,
    progress: Progress = quiet,
) -> CapturedResiduals:
    """``capture`` in shards of bounded size; a folder that was begun with the same job is continued.

    Args:
        model, prompts, layers, chat, memory_mb: see ``capture``.
        folder: made as needed.
        shard_samples: samples a file; by default as many as fit 64 MB.
        progress: wraps the shards.

    Raises:
        ValueError: when the folder holds another job, ``shard_samples`` is below 1, or as ``capture``.
    """
    chosen, prompts = check_layers(model, layers), as_prompts(prompts)
    fitting = int(SHARD_MB * 1e6 / (len(chosen) * int(model.cfg.d_model) * 4))
    size = max(1, fitting) if shard_samples is None else shard_samples
    if size < 1:
        raise ValueError(f"shard_samples={size} must be at least 1")
    job = {
        "prompts": _digest(prompts),
        "samples": len(prompts),
        "model": fingerprint(model),
        "dtype": str(model.cfg.dtype),
        "layers": list(chosen),
        "chat": chat,
        "shard_samples": size,
    }
    _claim(folder, job)
    starts = list(range(0, len(prompts), size))
    missing = [start for start in starts if not shard_path(folder, start // size).is_file()]
    for start in progress(missing, "capture to disk", len(missing)):
        part = prompts[start : start + size]
        found = capture(model, part, layers=chosen, chat=chat, memory_mb=memory_mb)
        about = {"first": start, "layers": list(chosen)}
        save_tensors(shard_path(folder, start // size), {"residuals": found}, kind=KIND, about=about)
    return CapturedResiduals(folder, chosen, len(prompts), size)


def _claim(folder: Path, job: dict[str, Any]) -> None:
    manifest = folder / "manifest.json"
    found = read_json(manifest)
    if found is None:
        write_json(manifest, job)
    else:
        differing = [name for name in job if found.get(name) != job[name]]
        if differing:
            raise ValueError(
                f"{folder} holds a capture that differs in {', '.join(differing)}; choose another folder, or give "
                "the same model, prompts and layers to continue it"
            )
    remove_leftovers(folder)


def _digest(prompts: Sequence[PromptLike]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        if isinstance(prompt, TokenPrompt):
            text = " ".join(map(str, prompt.tokens))
        else:
            turns = (prompt.demonstrations, prompt.query) if isinstance(prompt, Prompt) else prompt
            text = json.dumps(turns, ensure_ascii=False)
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
