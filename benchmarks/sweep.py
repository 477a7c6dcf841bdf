"""The one-pass sweep against the batched loop of ``run_with_hooks``: 16 prompts, 30 layers × 8 strengths.

The loop runs on a model of its own, laid out as TransformerLens lays it out, with all prompts in one batch: it is the
best that a loop can do. Only some of its cells are run and the rest is extrapolated: every cell costs the same. Both
run in one process, and logits are compared on the cells that were run.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from common import as_transformer_lens, begin, in_turns, parser, seconds, show, text_prompts
from jaxtyping import Float
from torch import Tensor

from cast_lens.engine import TokenPrompt, score
from cast_lens.interventions import Intervention
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def grid(model: HookedTransformer, *, seed: int = 1) -> list[Intervention]:
    """A random direction of a tenth of a residual's usual norm at every layer, in eight strengths."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(model.cfg.n_layers, model.cfg.d_model, generator=generator)
    return [
        Intervention(directions[layer], layer, strength)
        for layer in range(model.cfg.n_layers)
        for strength in STRENGTHS
    ]


@torch.inference_mode()
def hooked(model: HookedTransformer, tokens: Tensor, item: Intervention) -> Float[Tensor, "prompt vocab"]:
    """One cell as everybody does it: logits after the last token, the vector added there by a hook."""

    def edit(residual: Tensor, hook: Any) -> Tensor:
        changed = residual.clone()
        changed[:, -1] = item(residual[:, -1])
        return changed

    name = f"blocks.{item.layer}.hook_resid_post"
    return model.run_with_hooks(tokens, fwd_hooks=[(name, edit)], return_type="logits")[:, -1]


def measure(
    fast: HookedTransformer, plain: HookedTransformer, prompts: list[TokenPrompt], *, sampled: int, rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    cells = grid(fast)
    tokens = torch.tensor([prompt.tokens for prompt in prompts])
    chosen = list(range(0, len(cells), max(1, len(cells) // sampled)))
    known = score(fast, prompts, cells, keep_logits=True, memory_mb=MEMORY_MB)
    assert known.logits is not None
    worst = max(float((hooked(plain, tokens, cells[index]) - known.logits[index + 1]).abs().max()) for index in chosen)
    with torch.inference_mode():
        jobs = {
            "one pass": partial(score, fast, prompts, cells, memory_mb=MEMORY_MB),
            "labels": partial(score, fast, prompts, cells, memory_mb=MEMORY_MB, labels_only=True),
            "forward": partial(plain, tokens),
        }
        taken = in_turns(jobs, rounds=rounds)
        loop = sum(seconds(partial(hooked, plain, tokens, cells[index])) for index in chosen)
    whole = loop / len(chosen) * len(cells)
    return {
        "tokens": tokens.shape[1],
        "cells": len(cells),
        "loop s": whole,
        "cells run": len(chosen),
        "one pass s": taken["one pass"],
        "ratio": whole / taken["one pass"],
        "in forwards": taken["one pass"] / taken["forward"],
        "labels only s": taken["labels"],
        "labels ratio": whole / taken["labels"],
        "labels in forwards": taken["labels"] / taken["forward"],
        "largest logit difference": worst,
    }


MEMORY_MB = 1024.0


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--lengths", type=int, nargs="+", default=[30, 150])
    options.add_argument("--prompts", type=int, default=16)
    options.add_argument("--sampled", type=int, default=12, help="cells of the loop that are run")
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    begin(given)
    fast, plain = load_model(given.model), as_transformer_lens(load_model(given.model))
    rows = [
        measure(
            fast, plain, text_prompts(fast.tokenizer, given.prompts, length), sampled=given.sampled, rounds=given.rounds
        )
        for length in given.lengths
    ]
    show(rows, as_json=given.json, title="Sweep: one pass against a batched loop of run_with_hooks")


if __name__ == "__main__":
    main()
