"""The engine against plain hooks on a padded batch, for any model: scores, residuals and generated tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cast_lens.engine import TokenPrompt, capture, score, unsupported
from cast_lens.engine.decoding import decode
from cast_lens.models import HookedDecoder
from tests.engine.cases import ANSWERS, PAD, few_shot_prompts, padded_logits, padded_scores, some_kinds


def compared(model: HookedDecoder) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What was compared, what the engine gives, and what hooks give; less of it where each costs a hooked pass."""
    fast = unsupported(model) is None
    prompts = few_shot_prompts()[::2] if fast else few_shot_prompts(ANSWERS[:2])[:8:5]
    items = some_kinds(int(model.cfg.d_model), int(model.cfg.n_layers))[:: 1 if fast else 2]
    got = score(model, prompts, items, keep_logits=True)
    assert got.logits is not None
    for variant, item in enumerate([None, *items]):
        logprobs, first = padded_scores(model, prompts, item)
        yield f"logits {variant}", got.logits[variant], first
        yield (f"answers {variant}", torch.cat([rows[variant] for rows in got.answer_logprobs]), torch.cat(logprobs))
    yield "residuals", capture(model, prompts), _residuals(model, prompts)
    # Teacher-forced, so that rounding in a near tie cannot send the two routes down different paths.
    texts = [TokenPrompt(prompt.tokens) for prompt in prompts]
    written = decode(model, texts, items, max_new_tokens=4 if fast else 2, stop=lambda tokens: False)
    for variant, item in enumerate([None, *items]):
        sequences = [text.tokens + ids for text, ids in zip(texts, written[variant], strict=True)]
        rows = padded_logits(model, sequences, [len(text.tokens) for text in texts], item)
        steps = [
            (row[len(text.tokens) - 1 : -1], list(ids))
            for row, text, ids in zip(rows, texts, written[variant], strict=True)
        ]
        chosen = torch.stack([logits[range(len(ids)), ids] for logits, ids in steps])
        yield f"decoded {variant}", chosen, torch.stack([logits.amax(dim=-1) for logits, _ in steps])


def _residuals(model: HookedDecoder, prompts: list[TokenPrompt]) -> Tensor:
    if not model.takes_left_padding and len(prompts) > 1:
        return torch.cat([_residuals(model, [prompt]) for prompt in prompts])
    width = max(len(prompt.tokens) for prompt in prompts)
    ids = torch.tensor([(PAD,) * (width - len(prompt.tokens)) + prompt.tokens for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt.tokens)) + [1] * len(prompt.tokens) for prompt in prompts])
    with torch.no_grad():
        _, cache = model.run_with_cache(ids, attention_mask=mask)
    return torch.stack([cache[f"blocks.{i}.hook_resid_post"][:, -1] for i in range(model.cfg.n_layers)], dim=1)
