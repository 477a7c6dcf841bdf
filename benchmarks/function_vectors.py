"""Indirect effects of all heads: one pass against a hooked pass per head, on the same prompts.

python -m benchmarks.function_vectors --prompts 2 --loop-heads 12
"""

from __future__ import annotations

import argparse
import time

import torch

from cast_lens.engine import capture_heads, indirect_effects, tokenise
from cast_lens.extraction import Extraction
from cast_lens.methods.function_vectors import icl_prompts
from cast_lens.models import load_model
from cast_lens.tasks import load_task


def main() -> None:
    """Print seconds of both routes, their ratio, and the largest difference of an effect."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--task", default="antonym")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--loop-heads", type=int, default=12, help="heads that the loop runs; the rest is extrapolated")
    given = parser.parse_args()
    model = load_model(given.model)
    made = icl_prompts(load_task(given.task), Extraction(shots=given.shots, shuffle_labels=True), given.prompts)
    prompts = tokenise(model, made)
    values = capture_heads(model, prompts).mean(dim=0)
    started = time.perf_counter()
    fast = indirect_effects(model, prompts, values)
    one_pass = time.perf_counter() - started
    n_layers, n_heads = values.shape[:2]
    step = max(1, n_layers * n_heads // given.loop_heads)
    heads = [divmod(index, n_heads) for index in range(0, n_layers * n_heads, step)]
    started = time.perf_counter()
    worst = max(
        abs(float(fast[i, a, b]) - looped(model, p, values, (a, b))) for i, p in enumerate(prompts) for a, b in heads
    )
    loop = (time.perf_counter() - started) * n_layers * n_heads / len(heads)
    tokens = sum(len(prompt.tokens) for prompt in prompts) / len(prompts)
    sizes = f"{n_layers} x {n_heads} heads, {len(prompts)} prompts of {tokens:.0f} tokens"
    print(f"{sizes}, {torch.get_num_threads()} threads")
    print(f"one pass {one_pass:.2f} s, loop {loop:.1f} s (from {len(heads)} heads), ratio {loop / one_pass:.0f}")
    print(f"largest difference of an effect {worst:.1e}")


@torch.no_grad()
def looped(model: torch.nn.Module, prompt: object, values: torch.Tensor, head: tuple[int, int]) -> float:
    """The recipe: one patched pass per prompt and head; the unpatched pass of a prompt is run once."""
    layer, index = head
    tokens = torch.tensor([prompt.tokens])  # type: ignore[attr-defined]
    first = prompt.answers[prompt.gold][0]  # type: ignore[attr-defined]

    def patch(z: torch.Tensor, hook: object) -> torch.Tensor:
        z[0, -1, index] = values[layer, index]
        return z

    out = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", patch)])  # type: ignore[operator]
    return float(out[0, -1].softmax(dim=-1)[first]) - _plain(model, prompt)


_PLAIN: dict[int, float] = {}


@torch.no_grad()
def _plain(model: torch.nn.Module, prompt: object) -> float:
    if id(prompt) not in _PLAIN:
        tokens = torch.tensor([prompt.tokens])  # type: ignore[attr-defined]
        first = prompt.answers[prompt.gold][0]  # type: ignore[attr-defined]
        _PLAIN[id(prompt)] = float(model(tokens)[0, -1].softmax(dim=-1)[first])
    return _PLAIN[id(prompt)]


if __name__ == "__main__":
    main()
