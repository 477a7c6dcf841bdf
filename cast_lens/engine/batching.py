"""Which prompts go together, so that beginnings are shared and memory stays within the budget."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch

from ..models.lens import HookedTransformer
from .attention import GROUP_BYTES
from .layout import MIN_SHARED, TokenPrompt, common_prefix
from .support import row_model

# Memory above the model, in MB, that capture and scoring work within by default.
DEFAULT_BUDGET_MB = 128.0


def warn_beyond(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    memory_mb: float,
    *,
    variants: int = 1,
    whole: bool = False,
    kept: float = 0,
    new_tokens: int = 0,
) -> None:
    """Warn before work starts if a single prompt needs more memory than the budget, since prompts cannot be split."""
    longest = max(prompts, key=lambda prompt: len(prompt.tokens))
    need = prompt_bytes(model, longest, variants=variants, whole=whole, kept=kept, new_tokens=new_tokens) / 1e6
    if need > memory_mb:
        warnings.warn(
            f"memory_mb={memory_mb:g} cannot be kept: {longest.name or 'the longest prompt'} has "
            f"{len(longest.tokens)} tokens, which run together and need about {need:.0f} MB; use shorter prompts "
            "or give more memory",
            UserWarning,
            stacklevel=4,
        )


def prompt_bytes(
    model: HookedTransformer, prompt: TokenPrompt, *, variants: int, whole: bool, kept: float = 0, new_tokens: int = 0
) -> float:
    """Estimated peak memory of one prompt: its rows, the MLP's hidden layer and attention.

    In a mixture of experts one expert is counted, so a model that runs every expert on every row needs more.

    Args:
        model: gives the widths.
        prompt: the only prompt of its batch.
        variants: how many run together.
        whole: whether the whole prompt is steered; see ``layout``.
        kept: bytes per row that are kept for decoding; see ``cache_bytes``.
        new_tokens: the most tokens that each variant writes.
    """
    cfg, length, kernel = model.cfg, len(prompt.tokens), row_model(model)
    rows = length * (variants if whole else 1) + sum(map(len, prompt.scored)) * variants
    wide = rows if kernel.wide_rows is None else min(rows, kernel.wide_rows)
    hidden = 3 * int(cfg.d_mlp or cfg.d_model) * cfg.dtype.itemsize * wide
    # Attention processes as many rows as fit into GROUP_BYTES: scores, weights, and one more copy if scores are capped
    # or cast to another precision. Only prompts that are steered as a whole need a mask of their own.
    fused = all(spec.soft_cap <= 0 and spec.sinks is None for spec in kernel.attention)
    copies = 2 if fused and cfg.dtype == torch.float32 else 3
    scores = copies * min(
        GROUP_BYTES, length**2 * (4 * variants * cfg.n_heads if whole else 5 if fused else 17 * cfg.n_heads)
    )
    held = kept * (rows + new_tokens * variants)
    return rows * row_bytes(model) + hidden + scores + (length**2 if whole else 0) + held


def row_bytes(model: HookedTransformer) -> int:
    """Bytes per row while a block runs: residual, norm, queries, keys, values and attention output."""
    cfg = model.cfg
    heads = cfg.n_heads * cfg.d_head
    kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    return (4 * cfg.d_model + 4 * heads + 6 * kv) * cfg.dtype.itemsize


def cache_bytes(model: HookedTransformer) -> float:
    """Bytes per row of the keys and values of all layers, plus two layers' worth while one is being rearranged."""
    cfg = model.cfg
    kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
    return 2.0 * (cfg.n_layers + 2) * kv * cfg.dtype.itemsize


def plan_batches(
    prompts: Sequence[TokenPrompt],
    *,
    max_rows: int,
    variants: int = 1,
    whole: bool = False,
    answers: bool = True,
    new_tokens: int = 0,
) -> Iterator[list[int]]:
    """Indices of prompts that run together, each prompt once.

    Prompts are sorted by their tokens, so that neighbours share beginnings; a batch ends where its rows
    (trunk, plus tails and new tokens times variants) would exceed ``max_rows``. A prompt that exceeds it runs alone.
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index].tokens)
    batch: list[int] = []
    rows = 0
    for index in order:
        shared = _shared(prompts[batch[-1]], prompts[index]) if batch and not whole else 0
        tail = _tail_rows(prompts[index], whole=whole, answers=answers) + new_tokens
        cost = (0 if whole else len(prompts[index].tokens) - 1) + tail * variants
        if batch and rows + cost - shared > max_rows:
            yield batch
            batch, rows, shared = [], 0, 0
        batch.append(index)
        rows += cost - shared
    if batch:
        yield batch


def _tail_rows(prompt: TokenPrompt, *, whole: bool, answers: bool) -> int:
    chains = sum(len(answer) - 1 for answer in prompt.scored) if answers else 0
    return chains + (len(prompt.tokens) if whole else 1)


def _shared(left: TokenPrompt, right: TokenPrompt) -> int:
    count = common_prefix((left.tokens[:-1], right.tokens[:-1]))
    return count if count >= MIN_SHARED else 0
