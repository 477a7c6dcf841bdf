"""Residuals after each block, at the last prompt token or at tokens that you name, in memory or on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..files import load_tensors, read_json, remove_leftovers, save_tensors, write_json
from ..models import fingerprint
from ..models.identity import check_layers, plain_model
from ..models.lens import HookedTransformer
from ..tasks.types import Prompt
from . import reference
from .attention import GROUP_BYTES
from .batching import DEFAULT_BUDGET_MB, plan_batches, row_bytes, warn_beyond
from .forward import run_pass
from .layout import TokenPrompt, build_batch
from .model import own_precision
from .progress import Progress, automatic, quiet
from .support import row_model, unsupported
from .tokens import PromptLike, Prompts, as_prompts, tokenise


def capture(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    chat: bool = False,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
) -> Float[Tensor, "sample *position layer d_model"]:
    """Residual stream after each block (``hook_resid_post``) at the last prompt token, or at tokens that you name.

    A beginning that prompts share runs once, and batches stay within the memory budget.

    Args:
        model: any ``HookedTransformer``; architectures that the fast path does not support take the plain route.
        prompts: texts, ``Prompt`` objects or ``TokenPrompt`` objects; a single prompt is a batch of one.
        layers: block indices; None for all.
        positions: which tokens of each prompt, as indices of its token list (BOS included): -1 is the last, 0 the
            first. Each prompt is run up to that token, because the later tokens of a causal model do not matter.
        chat: use the model's chat template.
        memory_mb: working memory in MB, in addition to the model and the result. Attention takes at most 32 MB of it
            (48 if its scores are capped, have sinks or are in half precision), however long a prompt is. The rows of
            one prompt are never split; a prompt that exceeds the budget on its own causes a warning first.
        progress: wraps the batches, e.g. to draw a bar.

    Returns:
        float32 on the CPU: ``[sample, layer, d_model]``, or ``[sample, position, layer, d_model]`` with ``positions``.

    Raises:
        ValueError: see ``tokenise``; layers or positions out of range.

    >>> capture(model, ["The sky is", "Grass is"]).shape        # a model with 4 layers of width 64
    torch.Size([2, 4, 64])
    """
    chosen = check_layers(model, layers)
    ready = tokenise(model, prompts, chat=chat)
    if positions is None:
        return _capture(model, ready, chosen, memory_mb, progress)
    places = tuple(positions)
    found = _capture(model, _beginnings(ready, places), chosen, memory_mb, progress)
    return found.view(len(ready), len(places), len(chosen), -1)


def _beginnings(prompts: Sequence[TokenPrompt], positions: tuple[int, ...]) -> list[TokenPrompt]:
    """Each prompt cut after each of the positions."""
    if not positions:
        raise ValueError("positions is empty; give token indices such as [-1], or None for the last token")
    for index, prompt in enumerate(prompts):
        size = len(prompt.tokens)
        outside = [place for place in positions if not -size <= place < size]
        if outside:
            raise ValueError(
                f"positions={list(positions)}: prompt {index} has {size} tokens, so {outside[0]} is outside; "
                f"give indices from {-size} to {size - 1}"
            )
    return [
        replace(prompt, tokens=prompt.tokens[: place % len(prompt.tokens) + 1], answers=(), gold=-1, end=())
        for prompt in prompts
        for place in positions
    ]


def _capture(
    model: HookedTransformer, ready: list[TokenPrompt], chosen: tuple[int, ...], memory_mb: float, progress: Progress
) -> Float[Tensor, "sample layer d_model"]:
    """``capture`` of tokenised prompts at their last token."""
    result = torch.empty(len(ready), len(chosen), int(model.cfg.d_model), dtype=torch.float32)
    model = plain_model(model)
    if unsupported(model) is not None:
        for index, prompt in enumerate(progress(ready, "capture (plain route)", len(ready))):
            result[index] = reference.residuals(model, prompt.tokens)[list(chosen)]
        return result
    max_rows = rows_within(model, memory_mb)
    warn_beyond(model, ready, memory_mb)
    with own_precision(model):
        batches = list(plan_batches(ready, max_rows=max_rows, answers=False))
        for batch in progress(batches, "capture", len(batches)):
            result[batch] = _capture_batch(model, [ready[index] for index in batch], chosen)
    return result


def rows_within(model: HookedTransformer, memory_mb: float, *, kept: float = 0) -> int:
    """How many rows fit into a memory budget (at least one) if ``kept`` bytes per row remain in memory.

    Raises:
        ValueError: when the budget is not a positive number.
    """
    if not memory_mb > 0:
        raise ValueError(f"memory_mb={memory_mb} must be a positive number of megabytes")
    budget, row = memory_mb * 1e6 - 2 * GROUP_BYTES, row_bytes(model) + kept
    hidden = 3 * int(model.cfg.d_mlp or model.cfg.d_model) * model.cfg.dtype.itemsize
    wide = row_model(model).wide_rows
    if wide is None or budget < wide * (row + hidden):
        return max(1, int(budget / (row + hidden)))
    return int((budget - wide * hidden) / row)


def _capture_batch(
    model: HookedTransformer, prompts: list[TokenPrompt], layers: tuple[int, ...]
) -> Float[Tensor, "sample layer d_model"]:
    batch = build_batch(prompts, answers=False, device=model.cfg.device or "cpu")
    found = torch.empty(len(prompts), len(layers), int(model.cfg.d_model), dtype=torch.float32)
    rows = {layer: row for row, layer in enumerate(layers)}

    def observe(layer: int, tails: Tensor) -> None:
        if layer in rows:
            found[:, rows[layer]] = tails.float().cpu()

    run_pass(row_model(model), batch, observe=observe, until=layers[-1])
    return found


# A shard is in memory while it is computed, in addition to the working memory.
SHARD_MB = 64.0
KIND = "captured residuals"


@dataclass(frozen=True, slots=True)
class CapturedResiduals:
    """Residuals on disk, which are read when they are indexed.

    Attributes:
        folder: where manifest and shards are.
        layers: block index of each entry of the layer axis.
        samples: how many prompts were captured.
        shard_samples: samples per shard; the last shard may have fewer.
    """

    folder: Path
    layers: tuple[int, ...]
    samples: int
    shard_samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, chosen: slice) -> Float[Tensor, "sample layer d_model"]:
        """Consecutive samples.

        Raises:
            ValueError: for a step other than 1, or an empty slice.
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
        """All residuals, in memory."""
        return self[:]


def shard_path(folder: Path, number: int) -> Path:
    """The file of one shard."""
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
    """``capture`` in shards of limited size; an interrupted capture continues in the same folder.

    Args:
        model, prompts, layers, chat, memory_mb: see ``capture``.
        folder: created if it does not exist.
        shard_samples: samples per file; by default as many as fit into 64 MB.
        progress: wraps the shards.

    Raises:
        ValueError: if the folder contains another capture or ``shard_samples`` is below 1; see also ``capture``.
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
