"""Scores and greedy answers from one pass: decoding goes on from the keys that scoring has just computed.

``score`` and ``answer`` would each run the prompts. Here the tails hold the last prompt token and the chains of the
answers; what is read from them is what ``score`` reads, and each row then writes on from the last prompt token alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformer_lens import HookedTransformer

from ..interventions import Steering
from ..models.identity import check_interventions, plain_model
from .batching import DEFAULT_BUDGET_MB, cache_bytes, own_precision, row_bytes
from .decoding import decode, write
from .forward import Pass, run_pass
from .greedy import StopRule, check_length, stop_rule, texts_of
from .layout import Batch, TokenPrompt, build_batch
from .progress import Progress, quiet
from .scores import Scores
from .scoring import Collected, plan_jobs, read_tails, score
from .support import row_model, unsupported
from .tokens import Prompts, tokenise


def score_and_answer(
    model: HookedTransformer,
    prompts: Prompts,
    interventions: Sequence[Steering] = (),
    *,
    max_new_tokens: int,
    stop_at_newline: bool = True,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> tuple[Scores, list[list[str | None]]]:
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
    check_length(max_new_tokens)
    model = plain_model(model)
    stop = stop_rule(model, stop_at_newline=stop_at_newline)
    ready = tokenise(model, prompts, chat=chat, room=max_new_tokens)
    check_interventions(model, interventions, len(ready))
    if stop_at_newline:
        _check_lines(ready, stop)
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
        return scores, texts_of(stop, apart)
    collected = Collected(len(ready), len(interventions) + 1, False, int(model.cfg.d_vocab_out))
    written: list[list[tuple[int, ...]]] = [[()] * len(ready) for _ in range(len(interventions) + 1)]
    extra = 3 * cache_bytes(model) + row_bytes(model)
    with own_precision(model):
        jobs = list(plan_jobs(model, ready, interventions, memory_mb=memory_mb, extra_row_bytes=extra))
        for members, chosen in progress(jobs, "score and answer", len(jobs)):
            variants = [0, *(index + 1 for index in chosen)]
            items = [interventions[index].of(members) for index in chosen]
            own = [ready[index] for index in members]
            batch, done = _pass(model, own, items)
            read_tails(
                row_model(model), batch, done.tails, own, members, variants, collected, labels_only=False
            )
            first = collected.first[variants][:, members]
            rows = write(model, batch, done, items, own, max_new_tokens, stop, first=first)
            for row, variant in zip(rows, variants, strict=True):
                for tokens, index in zip(row, members, strict=True):
                    written[variant][index] = tokens
    return collected.scores(interventions, ready), texts_of(stop, written)


def _check_lines(prompts: Sequence[TokenPrompt], stop: StopRule) -> None:
    """Refuse answers that decoding would cut: one with a line end inside can never be written whole.

    Raises:
        ValueError: with prompt and answer.
    """
    owners = {answer: prompt for prompt in prompts for answer in prompt.answers}
    for answer, prompt in owners.items():
        if any(stop(answer[:length]) for length in range(1, len(answer))):
            raise ValueError(
                f"{prompt.name or 'a prompt'}: the answer {stop.tokenizer.decode(list(answer))!r} holds a line end, "
                "where decoding stops, so that it could never match; give answers of one line, or decode with "
                "answer(..., stop_at_newline=False)"
            )


def _pass(
    model: HookedTransformer, prompts: list[TokenPrompt], interventions: list[Steering]
) -> tuple[Batch, Pass]:
    batch = build_batch(prompts, device=model.cfg.device or "cpu")
    return batch, run_pass(row_model(model), batch, interventions, keep_cache=True)
