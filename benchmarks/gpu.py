"""Sweep and capture on a Llama-3.1-8B-shaped model with random weights, against what the device can do.

No download: the weights are random, their shapes are the 8B model's. ``--small`` (the choice where there is no CUDA
device) runs the same job on a model that a laptop holds.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common import begin, parser, seconds, show

from cast_lens.engine import TokenPrompt, capture, score
from cast_lens.interventions import Intervention
from cast_lens.models.lens import HookedTransformer, HookedTransformerConfig

LLAMA_8B = {
    "n_layers": 32,
    "d_model": 4096,
    "n_heads": 32,
    "d_head": 128,
    "n_key_value_heads": 8,
    "d_mlp": 14336,
    "d_vocab": 128256,
}
SMALL = {
    "n_layers": 4,
    "d_model": 256,
    "n_heads": 4,
    "d_head": 64,
    "n_key_value_heads": 2,
    "d_mlp": 688,
    "d_vocab": 4096,
}


def random_model(shape: dict[str, Any], *, device: str, dtype: torch.dtype) -> HookedTransformer:
    """A Llama of this shape; weights small enough that activations stay finite."""
    config = HookedTransformerConfig(
        **shape,
        n_ctx=2048,
        act_fn="silu",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=shape["d_head"],
        rotary_adjacent_pairs=False,
        gated_mlp=True,
        final_rms=True,
        original_architecture="LlamaForCausalLM",
        init_weights=False,
        device=device,
        dtype=dtype,
    )
    model = HookedTransformer(config)
    generator = torch.Generator(device=device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.02, generator=generator)
            elif name.endswith(".w"):
                parameter.fill_(1.0)
            else:
                parameter.zero_()
    return model.eval()


def matmul_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Measured rate of a large square product, in TFLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    job = partial(torch.mm, a, b)
    seconds(job, device=device)
    return 2 * size**3 / min(seconds(job, device=device) for _ in range(5)) / 1e12


def bandwidth(device: str, megabytes: int) -> float:
    """Measured rate of a copy, bytes read and written, in GB/s."""
    source = torch.empty(megabytes * 1_000_000, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    job = partial(target.copy_, source)
    seconds(job, device=device)
    return 2 * source.numel() / min(seconds(job, device=device) for _ in range(5)) / 1e9


def row_flops(shape: dict[str, int]) -> float:
    """Multiply-adds of one row through one block, twice over; attention itself left out."""
    heads, kv = shape["n_heads"] * shape["d_head"], shape["n_key_value_heads"] * shape["d_head"]
    return 2.0 * shape["d_model"] * (2 * heads + 2 * kv + 3 * shape["d_mlp"])


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--small", action="store_true")
    options.add_argument("--prompts", type=int, default=16)
    options.add_argument("--length", type=int, default=150)
    options.add_argument("--memory-mb", type=float, default=8192.0)
    given = options.parse_args()
    begin(given)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    small = given.small or device == "cpu"
    shape, dtype = (SMALL, torch.float32) if small else (LLAMA_8B, torch.bfloat16)
    rate = matmul_rate(device, dtype, 1024 if small else 8192)
    copied = bandwidth(device, 256 if small else 4096)
    model = random_model(shape, device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(10, shape["d_vocab"], (given.prompts, given.length), generator=generator).tolist()
    prompts = [TokenPrompt(tuple(row), ((11,), (12,)), 0, f"prompt {i}") for i, row in enumerate(ids)]
    directions = torch.randn(shape["n_layers"], shape["d_model"], generator=generator)
    cells = [
        Intervention(directions[layer], layer, strength)
        for layer in range(shape["n_layers"])
        for strength in (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
    ]
    trunk = given.prompts * given.length * shape["n_layers"]
    tails = given.prompts * sum(shape["n_layers"] - 1 - item.layer for item in cells)
    jobs: dict[str, tuple[Any, float]] = {
        "capture": (partial(capture, model, prompts, memory_mb=given.memory_mb), trunk * row_flops(shape)),
        f"sweep, {len(cells)} cells": (
            partial(score, model, prompts, cells, memory_mb=given.memory_mb),
            (trunk + tails) * row_flops(shape)
            + 2.0 * given.prompts * (len(cells) + 1) * shape["d_model"] * shape["d_vocab"],
        ),
    }
    rows = []
    for name, (job, work) in jobs.items():
        seconds(job, device=device)
        taken = min(seconds(job, device=device) for _ in range(3))
        rows.append(
            {
                "job": name,
                "model": "small" if small else "8B shape",
                "dtype": str(dtype).removeprefix("torch."),
                "s": taken,
                "TFLOP/s": work / taken / 1e12,
                "matmul TFLOP/s": rate,
                "fraction": work / taken / 1e12 / rate,
                "copy GB/s": copied,
            }
        )
    show(rows, as_json=given.json, title="Sweep and capture on a large model")


if __name__ == "__main__":
    main()
