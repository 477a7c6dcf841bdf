"""Few-shot capture with shared beginnings against batched ``run_with_cache``, and both against a bare forward.

64 prompts: 300 common tokens (five demonstrations), then 60 of the query. ``run_with_cache`` keeps the residual after
every block, of all positions, as its interface does, in batches of 16. The bare forward is Hugging Face's own decoder
without the unembedding, on the same tokens: the limit of the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import as_transformer_lens, begin, in_turns, parser, peak_memory, show, text_prompts
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM

from cast_lens.engine import TokenPrompt, capture
from cast_lens.models import load_model
from cast_lens.models.embedded import cache_folder
from cast_lens.models.lens import HookedTransformer

BATCH = 16


@torch.inference_mode()
def with_cache(model: HookedTransformer, prompts: list[TokenPrompt]) -> Float[Tensor, "sample layer d_model"]:
    """The documented way of TransformerLens."""
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    found = []
    for start in range(0, len(prompts), BATCH):
        tokens = torch.tensor([prompt.tokens for prompt in prompts[start : start + BATCH]])
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names, return_type=None)
        found.append(torch.stack([cache[name][:, -1] for name in names], dim=1))
    return torch.cat(found)


@torch.inference_mode()
def bare(decoder: Any, prompts: list[TokenPrompt]) -> None:
    """Hugging Face's decoder stack, no logits."""
    for start in range(0, len(prompts), BATCH):
        decoder(torch.tensor([prompt.tokens for prompt in prompts[start : start + BATCH]]), use_cache=False)


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--prompts", type=int, default=64)
    options.add_argument("--shared", type=int, default=300)
    options.add_argument("--query", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    begin(given)
    fast, plain = load_model(), as_transformer_lens(load_model())
    hf = AutoModelForCausalLM.from_pretrained(cache_folder() / "smollm2-135m-instruct", dtype=torch.float32).eval()
    length = given.shared + given.query
    shared = text_prompts(fast.tokenizer, given.prompts, length, shared=given.shared)
    apart = text_prompts(fast.tokenizer, given.prompts, length, skip=1)
    few = shared[: max(1, given.prompts // 4)]
    difference = float((capture(fast, few) - with_cache(plain, few)).abs().max())
    largest = float(capture(fast, few).abs().max())
    jobs: dict[str, Callable[[], Any]] = {
        "capture, shared beginning": partial(capture, fast, shared),
        "capture, nothing shared": partial(capture, fast, apart),
        "run_with_cache": partial(with_cache, plain, shared),
        "Hugging Face bare forward": partial(bare, hf.model, shared),
    }
    taken = in_turns(jobs, rounds=given.rounds)
    tokens = given.prompts * length
    rows = []
    for name, job in jobs.items():
        with peak_memory() as peak:
            job()
        rows.append(
            {
                "route": name,
                "s": taken[name],
                "prompt tokens/s": tokens / taken[name],
                "times run_with_cache": taken["run_with_cache"] / taken[name],
                "times bare forward": taken["Hugging Face bare forward"] / taken[name],
                "peak MB above": round(peak.above),
            }
        )
    rows[0] |= {"largest difference": difference, "largest residual": largest}
    show(rows, as_json=given.json, title="Few-shot capture of 64 prompts")


if __name__ == "__main__":
    main()
