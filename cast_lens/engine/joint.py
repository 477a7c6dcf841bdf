"""Scores and greedy answers from one pass: decoding goes on from the keys that scoring has just computed.

``score`` and ``answer`` would each run the prompts. Here the tails hold the last prompt token and the chains of the
answers; what is read from them is what ``score`` reads, and each row then writes on from the last prompt token alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformer_lens import HookedTransformer

from ..interventions import Steering
from ..models.identity import check_interventions
from .batching import DEFAULT_BUDGET_MB, cache_bytes, row_bytes
from .decoding import decode, stop_rule, texts_of, write
from .forward import Pass, run_pass
from .layout import Batch, TokenPrompt, build_batch
from .progress import Progress, quiet
from .scores import Scores
from .scoring import Collected, plan_jobs, read_tails, score
from .support import row_model, unsupported
from .tokens import PromptLike, tokenise


def score_and_answer(
    model: HookedTransformer,
    prompts: Sequence[PromptLike],
    interventions: Sequence[Steering] = (),
    *,
    max_new_tokens: int,
    stop_at_newline: bool = True,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> tuple[Scores, list[list[str]]]:
    """``score`` and ``answer`` of the same prompts and interventions.

    Interventions at ``all`` positions, and architectures that the fast path does not know, are scored and decoded
    apart.

    Args:
        model, prompts, interventions, chat, progress: see ``score``.
        max_new_tokens, stop_at_newline: see ``answer``.
        memory_mb: working memory above the model, in MB.

    Raises:
        ValueError: see ``score`` and ``answer``.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    stop = stop_rule(model, stop_at_newline=stop_at_newline)
    ready = tokenise(model, prompts, chat=chat, room=max_new_tokens)
    check_interventions(model, interventions, len(ready))
    if unsupported(model) is not None or any(item.position == "all" for item in interventions):
        scores = score(model, ready, interventions, memory_mb=memory_mb, progress=progress)
        apart = decode(
            model,
            ready,
            interventions,
            max_new_tokens=max_new_tokens,
            stop=stop,
            memory_mb=memory_mb,
            progress=progress,
        )
        return scores, texts_of(model, apart)
    collected = Collected(len(ready), len(interventions) + 1, False, int(model.cfg.d_vocab_out))
    written: list[list[tuple[int, ...]]] = [[()] * len(ready) for _ in range(len(interventions) + 1)]
    extra = 3 * cache_bytes(model) + row_bytes(model)
    with torch.inference_mode():
        jobs = list(plan_jobs(model, ready, interventions, memory_mb=memory_mb, extra_row_bytes=extra))
        for members, chosen in progress(jobs, "score and answer", len(jobs)):
            variants = [0, *(index + 1 for index in chosen)]
            items = [interventions[index].of(members) for index in chosen]
            own = [ready[index] for index in members]
            batch, done = _pass(model, own, items)
            read_tails(row_model(model), batch, done.tails, members, variants, collected, labels_only=False)
            first = collected.first[variants][:, members]
            rows = write(model, batch, done, items, own, max_new_tokens, stop, first=first)
            for row, variant in zip(rows, variants, strict=True):
                for tokens, index in zip(row, members, strict=True):
                    written[variant][index] = tokens
    return collected.scores(interventions, ready), texts_of(model, written)


def _pass(
    model: HookedTransformer, prompts: list[TokenPrompt], interventions: list[Steering]
) -> tuple[Batch, Pass]:
    batch = build_batch(prompts, device=model.cfg.device or "cpu")
    return batch, run_pass(row_model(model), batch, interventions, keep_cache=True)
