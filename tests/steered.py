"""What the steering tests share: tiny models, edits, and loops with plain hooks as the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from cast_lens.interventions import Intervention
from cast_lens.models.lens import HookedTransformer
from tests.tiny import tiny_model

# Absolute positions, rotary ones, parallel blocks, and a sliding window with norms on both sides.
ARCHITECTURES = ("gpt2", "llama", "neox", "gemma2")
LAYER = 1
PROMPTS = [
    "The capital of France is",
    "Question: which planet is the largest? (a) Mars (b) Jupiter Answer:",
    "The opposite of hot is",
]
NEW = 5


@cache
def model_of(architecture: str = "llama", *, bos: bool = False) -> HookedTransformer:
    return tiny_model(architecture, bos=bos)


def tokenizer_of(model: HookedTransformer) -> Any:
    return model.tokenizer


def direction(seed: int = 0, *, norm: float = 12.0) -> Tensor:
    noise = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    return norm * noise / noise.norm()


def edit(layer: int = LAYER, strength: float = 1.0, *, seed: int = 0, **about: Any) -> Intervention:
    return Intervention(direction(seed), layer, strength, **about)


def close(got: Tensor, expected: Tensor) -> None:
    """Float32 sums in another order: a few units in the last place of the largest entry."""
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max()))


def residuals(model: HookedTransformer, *args: Any, **kwargs: Any) -> Tensor:
    """[layer, batch, position, d_model]."""
    _, cache = model.run_with_cache(*args, names_filter=lambda name: name.endswith("hook_resid_post"), **kwargs)
    return torch.stack([cache["resid_post", layer] for layer in range(model.cfg.n_layers)])


def oracle_hooks(interventions: Sequence[Intervention], prompt_length: int) -> list[Any]:
    """Plain hooks for one unpadded sequence that begins with the prompt."""

    def hook_for(item: Intervention) -> Callable[..., Tensor]:
        def hook(residual: Tensor, hook: Any) -> Tensor:
            for position in range(residual.shape[1]):
                if (
                    item.position == "all"
                    or position == prompt_length - 1
                    or (item.position == "last" and position >= prompt_length)
                ):
                    row = residual[0, position].clone()
                    residual = residual.clone()
                    residual[0, position] = item(row)
            return residual

        return hook

    return [(f"blocks.{item.layer}.hook_resid_post", hook_for(item)) for item in interventions]


@torch.no_grad()
def oracle(model: HookedTransformer, prompt: str, interventions: Sequence[Intervention], new: int = NEW) -> list[int]:
    """Greedy decoding of one prompt: no cache, no batch, no padding."""
    tokens = model.to_tokens(prompt)
    length = tokens.shape[1]
    for _ in range(new):
        logits = model.run_with_hooks(tokens, fwd_hooks=oracle_hooks(interventions, length))
        tokens = torch.cat((tokens, logits[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    return tokens[0, length:].tolist()


def no_trace(model: HookedTransformer) -> bool:
    hooks = [point for point in model.hook_points() if point.fwd_hooks or point._forward_hooks]
    return not hooks and not {"forward", "generate", "generate_stream"} & set(vars(model))
