"""Greedy answers under many interventions at once, from the same shared keys and values.

After one pass over the prompts every (variant, prompt) row continues alone, with its own few keys and the prompt's
shared ones; rows that have ended leave. ``score_and_answer`` reads scores off the same pass: its tails hold the last
prompt token and the chains of the answers, and each row writes on from the last prompt token alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..interventions import Interventions, Steering, as_interventions, edited_tokens
from ..models.identity import check_interventions, plain_model
from ..models.lens import HookedTransformer
from . import reference
from .attention import Path, attend_rows
from .batching import DEFAULT_BUDGET_MB, cache_bytes
from .forward import Pass, run_pass
from .greedy import Stop, StopRule, check_length, stop_rule, texts_of, while_open, write_greedily
from .layout import Batch, TokenPrompt, build_batch
from .model import Attend, AttentionSpec, RowModel, own_precision
from .progress import Progress, automatic, quiet
from .scores import Scores, read_out
from .scoring import Collected, ReadOut, plain_variants, plan_jobs, read_tails, score
from .support import row_model
from .tokens import Prompts, tokenise


def answer(
    model: HookedTransformer,
    prompts: Prompts,
    interventions: Interventions = (),
    *,
    max_new_tokens: int = 8,
    stop_at_newline: bool = True,
    is_open: Callable[[int, str], bool] | None = None,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
) -> list[list[str | None]]:
    """What the model writes greedily, unsteered and under each intervention.

    Args:
        model: any ``HookedTransformer``.
        prompts: see ``tokenise``.
        interventions: variants besides the unsteered model: one, several, or several by name. Under ``last`` each
            generated token is steered too.
        max_new_tokens: longest answer, in tokens.
        stop_at_newline: end an answer at the first line end that follows something that is not blank. ``end_tokens``
            always end it. See ``StopRule``.
        is_open: whether it matters how a text continues, from the index of its prompt and the text so far; where it
            does not, the answer ends early. By default it always matters.
        chat: use the model's chat template.
        memory_mb: working memory above the model, in MB.
        progress: wraps the batches.

    Returns:
        texts by variant and sample; variant 0 is unsteered. None where logits were NaN or infinite before the answer
        had ended: there is no most probable token.

    Raises:
        ValueError: see ``tokenise`` and ``check_interventions``; ``max_new_tokens`` below 1.

    Warns:
        RuntimeWarning: some texts are None.
    """
    check_length(max_new_tokens)
    rule = stop_rule(model, stop_at_newline=stop_at_newline)
    ready = tokenise(model, prompts, chat=chat, room=max_new_tokens)
    stop = rule if is_open is None else [while_open(rule, partial(is_open, index)) for index in range(len(ready))]
    written = decode(
        model, ready, interventions, max_new_tokens=max_new_tokens, stop=stop, memory_mb=memory_mb, progress=progress
    )
    return texts_of(rule, written)


def decode(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Interventions = (),
    *,
    max_new_tokens: int,
    stop: Stop | Sequence[Stop],
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> list[list[tuple[int, ...]]]:
    """``answer`` on tokens: greedy continuations by variant and sample; each ends with the token that stopped it.

    ``stop`` is one rule for all prompts, or one for each.

    Raises:
        ValueError: ``max_new_tokens`` below 1; see ``check_interventions``.
    """
    check_length(max_new_tokens)
    model, interventions = plain_model(model), as_interventions(interventions)
    check_interventions(model, interventions, len(prompts))
    stops = [stop] * len(prompts) if callable(stop) else list(stop)
    written: list[list[tuple[int, ...]]] = [[()] * len(prompts) for _ in range(len(interventions) + 1)]
    plain = plain_variants(model, interventions)
    every = [None, *interventions]
    for index, prompt in enumerate(progress(prompts, "answer (plain route)", len(prompts)) if plain else ()):
        for variant in plain:
            item = every[variant]
            own = None if item is None else item.of([index])
            tokens = reference.answer(model, prompt, own, max_new_tokens=max_new_tokens, stop=stops[index])
            written[variant][index] = tokens
    if 0 in plain:
        return written
    room: dict[str, Any] = {"memory_mb": memory_mb, "kept": cache_bytes(model), "new_tokens": max_new_tokens}
    with own_precision(model):
        jobs = list(plan_jobs(model, prompts, interventions, answers=False, **room))
        for members, chosen in progress(jobs, "answer", len(jobs)):
            items = [interventions[index].of(members) for index in chosen]
            own_stops = [stops[index] for index in members]
            rows = _decode(model, [prompts[index] for index in members], items, max_new_tokens, own_stops)
            for place, variant in enumerate([0, *(index + 1 for index in chosen)]):
                for column, index in enumerate(members):
                    written[variant][index] = rows[place][column]
    return written


@dataclass(slots=True)
class _Rows:
    """The rows that still write: one for each live (prompt, variant), those of a prompt together.

    ``own`` are keys and values of each row's own tokens by layer, [row, kv_head, own, d_head].
    """

    variant: Int[Tensor, " row"]
    prompt: Int[Tensor, " row"]
    own: list[tuple[Tensor, Tensor]]
    tokens: Int[Tensor, " row"]

    def keep(self, kept: list[int]) -> None:
        """Let the rows go that have ended."""
        if len(kept) < len(self.variant):
            self.variant, self.prompt = self.variant[kept], self.prompt[kept]
            for layer, (keys, values) in enumerate(self.own):  # one layer at a time: there is room for one twice
                self.own[layer] = keys[kept], values[kept]

    def paths(self, batch: Batch) -> list[tuple[slice, Path]]:
        """The rows of each prompt, and the trunk rows that they see."""
        prompts, counts = self.prompt.unique_consecutive(return_counts=True)
        stops = counts.cumsum(0).tolist()
        found = zip(prompts.tolist(), [0, *stops], stops, strict=False)
        return [(slice(start, stop), batch.tails[prompt].path) for prompt, start, stop in found]


def _decode(
    model: HookedTransformer,
    prompts: list[TokenPrompt],
    interventions: list[Steering],
    max_new_tokens: int,
    stops: Sequence[Stop],
) -> list[list[tuple[int, ...]]]:
    kernel = row_model(model)
    whole = bool(interventions) and interventions[0].position == "all"
    if whole and len({len(prompt.tokens) for prompt in prompts}) > 1:
        parts = [
            _decode(model, [prompt], [item.of([i]) for item in interventions], max_new_tokens, [stops[i]])
            for i, prompt in enumerate(prompts)
        ]
        return [[part[variant][0] for part in parts] for variant in range(len(interventions) + 1)]
    batch = build_batch(prompts, whole=whole, answers=False, device=model.cfg.device or "cpu")
    done = run_pass(kernel, batch, interventions, keep_cache=True)
    return write(model, batch, done, interventions, prompts, max_new_tokens, stops)


def write(
    model: HookedTransformer,
    batch: Batch,
    done: Pass,
    interventions: list[Steering],
    prompts: list[TokenPrompt],
    max_new_tokens: int,
    stops: Sequence[Stop],
    *,
    first: Int[Tensor, "variant sample"] | None = None,
) -> list[list[tuple[int, ...]]]:
    """Go on from a pass that kept its keys, which are used up: continuations by variant and sample.

    Args:
        model, batch, done, interventions, prompts: what ran.
        max_new_tokens: see ``decode``.
        stops: for each prompt, where its answers end.
        first: first tokens, where they have been read off the pass already.
    """
    kernel = row_model(model)
    rows = _first_rows(kernel, batch, done, first)
    owners = list(zip(rows.variant.tolist(), rows.prompt.tolist(), strict=True))
    lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=batch.tokens.device)
    assert done.cache is not None
    trunk = done.cache.trunk
    positions = lengths[rows.prompt]

    def step(kept: list[int], tokens: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        nonlocal positions
        rows.keep(kept)
        at = positions[kept]
        positions = at + 1
        return _step(kernel, batch, trunk, rows, tokens, interventions, at, lengths[rows.prompt] - 1)

    own = [stops[prompt] for _, prompt in owners]
    found = write_greedily(rows.tokens, step, max_new_tokens=max_new_tokens, stop=own)
    written: list[list[tuple[int, ...]]] = [[()] * len(prompts) for _ in range(len(interventions) + 1)]
    for (variant, prompt), tokens in zip(owners, found, strict=True):
        written[variant][prompt] = tokens
    return written


def _first_rows(kernel: RowModel, batch: Batch, done: Pass, first: Int[Tensor, "variant sample"] | None) -> _Rows:
    """The first token of each row, and the keys of its tail up to the last prompt token."""
    assert done.cache is not None
    n_variants, n_prompts = done.tails.shape[0], len(batch.tails)
    lasts = [offset + tail.last for tail, offset in zip(batch.tails, batch.offsets, strict=False)]
    device = batch.tokens.device
    variants, prompts = torch.arange(n_variants, device=device), torch.arange(n_prompts, device=device)
    place = torch.tensor(done.order, device=device).argsort()

    # Whole prompts that run together are of one length; the answers' chains follow the last token.
    columns = torch.tensor([range(last - batch.tails[0].last, last + 1) for last in lasts], device=device)

    def of_rows(x: Tensor) -> Tensor:
        return x[place][:, columns].permute(1, 0, 3, 2, 4).flatten(0, 1)

    own = done.cache.tails
    for layer, (keys, values) in enumerate(own):
        own[layer] = of_rows(keys), of_rows(values)
    return _Rows(
        variant=variants.repeat(n_prompts),
        prompt=prompts.repeat_interleave(n_variants),
        own=own,
        tokens=first.T.flatten().to(device) if first is not None else _read(kernel, done, lasts),
    )


def _read(kernel: RowModel, done: Pass, lasts: list[int]) -> Int[Tensor, " row"]:
    return read_out(kernel, kernel.norm_final(done.tails[:, lasts].transpose(0, 1).flatten(0, 1)))[1]


def _step(
    model: RowModel,
    batch: Batch,
    trunk: list[tuple[Tensor, Tensor]],
    rows: _Rows,
    tokens: Int[Tensor, " row"],
    interventions: list[Steering],
    positions: Int[Tensor, " row"],
    lasts: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """Feed each row's last token and return the next ones."""
    x, place = model.begin(tokens, positions, longest=int(positions.max()) + 1)
    paths = rows.paths(batch)
    steered = [
        (item, (edited_tokens(item.position, positions, lasts) & (rows.variant == variant)).nonzero().flatten())
        for variant, item in enumerate(interventions, start=1)
    ]
    for layer, spec in enumerate(model.attention):
        attend = _attention(spec, rows, layer, trunk[layer], paths)
        x = model.run_block(layer, x, place, attend)
        for item, mine in steered:
            if layer in item.layers and len(mine):
                x[mine] = item.edit(layer, x[mine], rows.prompt[mine])
    return read_out(model, model.norm_final(x))[1]


def _attention(
    spec: AttentionSpec, rows: _Rows, layer: int, trunk: tuple[Tensor, Tensor], paths: list[tuple[slice, Path]]
) -> Attend:
    """Attention of one block for decoded rows, which keep their new keys and values."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = rows.own[layer]
        rows.own[layer] = (torch.cat((keys, k[:, :, None]), 2), torch.cat((values, v[:, :, None]), 2))
        return attend_rows(spec, q, rows.own[layer], trunk, paths)

    return attend


def score_and_answer(
    model: HookedTransformer,
    prompts: Prompts,
    interventions: Interventions = (),
    *,
    max_new_tokens: int,
    stop_at_newline: bool = True,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
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
    model, interventions = plain_model(model), as_interventions(interventions)
    stop = stop_rule(model, stop_at_newline=stop_at_newline)
    ready = tokenise(model, prompts, chat=chat, room=max_new_tokens)
    check_interventions(model, interventions, len(ready))
    if stop_at_newline:
        _check_lines(ready, stop)
    if plain_variants(model, interventions) or any(item.position == "all" for item in interventions):
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
    room: dict[str, Any] = {"memory_mb": memory_mb, "kept": cache_bytes(model), "new_tokens": max_new_tokens}
    with own_precision(model):
        jobs = list(plan_jobs(model, ready, interventions, **room))
        for members, chosen in progress(jobs, "score and answer", len(jobs)):
            variants = [0, *(index + 1 for index in chosen)]
            items = [interventions[index].of(members) for index in chosen]
            own = [ready[index] for index in members]
            batch, done = _pass(model, own, items)
            read_tails(row_model(model), batch, done.tails, own, members, variants, collected, ReadOut())
            first = collected.first[variants][:, members]
            rows = write(model, batch, done, items, own, max_new_tokens, [stop] * len(own), first=first)
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


def _pass(model: HookedTransformer, prompts: list[TokenPrompt], interventions: list[Steering]) -> tuple[Batch, Pass]:
    batch = build_batch(prompts, device=model.cfg.device or "cpu")
    return batch, run_pass(row_model(model), batch, interventions, keep_cache=True)
