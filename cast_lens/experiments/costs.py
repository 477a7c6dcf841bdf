"""What running a model costs: floating-point operations from its architecture, time and memory by measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ..models.lens import HookedTransformer


def forward_flops(cfg: Any, *, new: int, past: int = 0, layers: int | None = None, read: int | None = None) -> int:
    """Floating-point operations of the matrix products of a forward pass over new tokens after cached ones.

    With ``t`` new tokens, ``p`` cached tokens, width ``d``, ``h`` heads, ``g`` key-value heads, head width ``e``, MLP
    width ``m`` and vocabulary ``v``, counting a multiplication with its addition as 2:

    - queries, keys, values, output: ``2 t d e (2 h + 2 g)`` per layer;
    - scores and their product with the values: ``4 t (p + t) h e`` per layer, including the masked half, which
      implementations compute;
    - MLP: ``2 t d m`` for each of its 2 matrices (3 if it is gated), for each expert that a token visits, and ``2 t d``
      for each expert's gate;
    - unembedding: ``2 r d v`` for ``r`` unembedded tokens.

    Norms, activations, rotary embeddings and the steering vector (``d`` additions per token) are left out, because
    together they are below one per cent.

    Args:
        cfg: configuration of a ``HookedTransformer``.
        new: number of tokens that run.
        past: number of tokens with cached keys and values.
        layers: number of blocks that run; None for all.
        read: number of tokens that are unembedded; None for 1.
    """
    heads, head, width = int(cfg.n_heads), int(cfg.d_head), int(cfg.d_model)
    grouped = int(cfg.n_key_value_heads or heads)
    projections = 2 * new * width * head * (2 * heads + 2 * grouped)
    attention = 4 * new * (past + new) * heads * head
    block = projections + attention + _mlp_flops(cfg, new)
    blocks = int(cfg.n_layers) if layers is None else layers
    return blocks * block + 2 * (1 if read is None else read) * width * int(cfg.d_vocab_out)


def _mlp_flops(cfg: Any, new: int) -> int:
    if cfg.attn_only:
        return 0
    matrices = 3 if cfg.gated_mlp else 2
    one = 2 * new * int(cfg.d_model) * int(cfg.d_mlp) * matrices
    if not cfg.num_experts:
        return one
    return one * int(cfg.experts_per_token) + 2 * new * int(cfg.d_model) * int(cfg.num_experts)


def answer_flops(cfg: Any, *, prompt: int, written: int, shared: int = 0) -> int:
    """Operations of a greedy answer with a key-value cache.

    Args:
        cfg: configuration of a ``HookedTransformer``.
        prompt: number of tokens of the prompt.
        written: number of tokens of the answer; the last one is not run.
        shared: number of prompt tokens whose keys and values are cached from an earlier query.
    """
    first = forward_flops(cfg, new=prompt - shared, past=shared)
    return first + sum(forward_flops(cfg, new=1, past=prompt + step) for step in range(max(0, written - 1)))


def sweep_flops(cfg: Any, *, prompts: Sequence[tuple[int, int]], layers: Sequence[int], strengths: int) -> int:
    """Operations of choosing layer and strength with ``engine.sweep``: the blocks above each layer run once per cell.

    Args:
        cfg: configuration of a ``HookedTransformer``.
        prompts: for each prompt, its number of tokens, and that of its answers without their first tokens.
        layers: layers of the sweep.
        strengths: number of strengths.
    """
    total = 0
    for length, answers in prompts:
        tail = 1 + answers
        total += forward_flops(cfg, new=length + answers, read=tail)
        for layer in layers:
            above = int(cfg.n_layers) - 1 - layer
            total += strengths * forward_flops(cfg, new=tail, past=length - 1, layers=above, read=tail)
    return total


def counted_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of a call, as PyTorch counts them while it runs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def seconds(run: Callable[[], object], model: HookedTransformer) -> float:
    """Wall time of a call in seconds, including the work of a GPU."""
    _wait(model)
    started = time.perf_counter()
    run()
    _wait(model)
    return time.perf_counter() - started


def peak_megabytes(run: Callable[[], object], model: HookedTransformer) -> float:
    """Peak memory in MB that the tensors of a call need in addition to what was allocated before.

    On a GPU it comes from the allocator; on the CPU from the allocations and releases that PyTorch's profiler records,
    which do not depend on other memory of the process. NaN if the profiler records none.
    """
    device = torch.device(model.cfg.device or "cpu")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    # Otherwise the profiler writes a line to the terminal each time that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    results = getattr(record.profiler, "kineto_results", None)
    changes = [event.nbytes() for event in results.events() if event.name() == "[memory]"] if results else []
    return float(np.cumsum(changes).max()) / 1e6 if changes else float("nan")


def _wait(model: HookedTransformer) -> None:
    if torch.device(model.cfg.device or "cpu").type == "cuda":
        torch.cuda.synchronize()


def counted(rows: pd.DataFrame, *, baseline: str) -> pd.DataFrame:
    """Tokens and operations per query.

    Args:
        rows: of ``efficiency``: ``part, target, method, queries, tokens, written, flops, flops_cached, once_flops``.
        baseline: the method to which the ratios refer, on the same targets.

    Returns:
        ``method, targets, n`` (queries), ``tokens, written, gflops, cached_gflops`` per query, ``flops_ratio,
        cached_ratio`` relative to the baseline run in full, ``once_gflops`` (mean over targets).
    """
    queries = rows[rows["part"] == "query"]
    zero = queries[queries["method"] == baseline].groupby("target")[["flops", "queries"]].sum()
    found = []
    for method, part in queries.groupby("method", sort=False):
        n, targets = part["queries"].sum(), part["target"].unique()
        same = zero.reindex(targets)
        each = (
            float(same["flops"].sum()) / float(same["queries"].sum()) if same.notna().all(axis=None) else float("nan")
        )
        flops, cached = float(part["flops"].sum()) / n, float(part["flops_cached"].sum()) / n
        found.append(
            {
                "method": method,
                "targets": len(targets),
                "n": int(n),
                "tokens": part["tokens"].sum() / n,
                "written": part["written"].sum() / n,
                "gflops": flops / 1e9,
                "cached_gflops": cached / 1e9,
                "flops_ratio": flops / each,
                "cached_ratio": cached / each,
                "once_gflops": float(part.groupby("target")["once_flops"].first().mean()) / 1e9,
            }
        )
    return pd.DataFrame(found)


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Latency and memory; these numbers differ from run to run.

    Returns:
        ``method, n`` (single calls), ``median_ms, quartile_low_ms, quartile_high_ms`` per query in single calls,
        ``batch_ms`` per query with all queries at once, and then ``megabytes`` in addition to the model (the largest
        over targets).
    """
    found = []
    for method, part in rows.groupby("method", sort=False):
        single, batch = part[part["part"] == "query"], part[part["part"] == "batch"]
        each = 1e3 * single["seconds"] / single["queries"]
        low, middle, high = each.quantile([0.25, 0.5, 0.75])
        found.append(
            {
                "method": method,
                "n": len(each),
                "median_ms": middle,
                "quartile_low_ms": low,
                "quartile_high_ms": high,
                "batch_ms": 1e3 * batch["seconds"].sum() / batch["queries"].sum(),
                "megabytes": batch["megabytes"].max(),
            }
        )
    return pd.DataFrame(found)
