"""Greedy answers under many interventions at once, from the same shared keys and values.

After one pass over the prompts every (variant, prompt) row goes on alone, with its own few keys and the
prompt's shared ones. Rows that have written a stop token leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from ..interventions import Steering
from ..models.identity import check_interventions
from . import reference
from .attention import Path, attend_rows
from .batching import DEFAULT_BUDGET_MB, cache_bytes, row_bytes
from .forward import Pass, run_pass
from .layout import Batch, TokenPrompt, build_batch
from .model import Attend, AttentionSpec, RowModel
from .progress import Progress, quiet
from .scoring import plan_jobs
from .support import row_model, unsupported
from .tokens import PromptLike, tokenise
from .vocabulary import read_out

Stop = Callable[[int], bool]


def answer(
    model: HookedTransformer,
    prompts: Sequence[PromptLike],
    interventions: Sequence[Steering] = (),
    *,
    max_new_tokens: int = 8,
    stop_at_newline: bool = True,
    chat: bool = False,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> list[list[str]]:
    """What the model writes greedily, unsteered and under each intervention.

    Args:
        model: any ``HookedTransformer``.
        prompts: see ``tokenise``.
        interventions: variants beside the unsteered model. Under ``last`` each decoded token is steered too.
        max_new_tokens: longest answer, in tokens.
        stop_at_newline: end an answer after the first token that contains a newline; the end-of-text token
            always ends it.
        chat: use the model's chat template.
        memory_mb: working memory above the model, in MB.
        progress: wraps the batches.

    Returns:
        texts [variant][sample]; variant 0 is unsteered.

    Raises:
        ValueError: see ``tokenise`` and ``check_interventions``; ``max_new_tokens`` below 1.
    """
    stop = stop_rule(model, stop_at_newline=stop_at_newline)
    ready = tokenise(model, prompts, chat=chat, room=max_new_tokens)
    written = decode(
        model,
        ready,
        interventions,
        max_new_tokens=max_new_tokens,
        stop=stop,
        memory_mb=memory_mb,
        progress=progress,
    )
    return texts_of(model, written)


def texts_of(model: HookedTransformer, written: list[list[tuple[int, ...]]]) -> list[list[str]]:
    """What ``decode`` wrote, as text."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    return [[str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in row] for row in written]


def decode(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Steering] = (),
    *,
    max_new_tokens: int,
    stop: Stop,
    memory_mb: float = 4 * DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> list[list[tuple[int, ...]]]:
    """``answer`` on tokens: greedy continuations [variant][sample]; each ends with the token that stopped it.

    Raises:
        ValueError: ``max_new_tokens`` below 1; see ``check_interventions``.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    check_interventions(model, interventions, len(prompts))
    written: list[list[tuple[int, ...]]] = [[()] * len(prompts) for _ in range(len(interventions) + 1)]
    if unsupported(model) is not None:
        for index, prompt in enumerate(progress(prompts, "answer (plain route)", len(prompts))):
            for variant, item in enumerate([None, *interventions]):
                own = None if item is None else item.of([index])
                tokens = reference.answer(model, prompt, own, max_new_tokens=max_new_tokens, stop=stop)
                written[variant][index] = tokens
        return written
    extra = 3 * cache_bytes(model) + row_bytes(model)
    with torch.inference_mode():
        jobs = list(
            plan_jobs(
                model, prompts, interventions, memory_mb=memory_mb, answers=False, extra_row_bytes=extra
            )
        )
        for members, chosen in progress(jobs, "answer", len(jobs)):
            items = [interventions[index].of(members) for index in chosen]
            rows = _decode(model, [prompts[index] for index in members], items, max_new_tokens, stop)
            for place, variant in enumerate([0, *(index + 1 for index in chosen)]):
                for column, index in enumerate(members):
                    written[variant][index] = rows[place][column]
    return written


def stop_rule(model: HookedTransformer, *, stop_at_newline: bool) -> Stop:
    """Whether a token ends an answer: end of text, end of turn, or a token with a newline in it."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("decoding needs the model's tokenizer; load the model with load_model")
    ends = {tokenizer.eos_token_id, *(getattr(tokenizer, "all_special_ids", None) or [])}
    known: dict[int, bool] = {}

    def stop(token: int) -> bool:
        if token not in known:
            known[token] = token in ends or (stop_at_newline and "\n" in tokenizer.decode([token]))
        return known[token]

    return stop


@dataclass(slots=True)
class _Rows:
    """The rows that still write: one for each live (prompt, variant), those of a prompt together.

    ``own`` are keys and values of each row's own tokens by layer, [row, kv_head, own, d_head].
    """

    variant: Int[Tensor, " row"]
    prompt: Int[Tensor, " row"]
    own: list[tuple[Tensor, Tensor]]
    tokens: Int[Tensor, " row"]

    def keep(self, alive: Tensor) -> None:
        """Let the rows go that have ended."""
        if not bool(alive.all()):
            self.variant, self.prompt, self.tokens = (
                self.variant[alive],
                self.prompt[alive],
                self.tokens[alive],
            )
            self.own = [(k[alive], v[alive]) for k, v in self.own]

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
    stop: Stop,
) -> list[list[tuple[int, ...]]]:
    kernel = row_model(model)
    whole = bool(interventions) and interventions[0].position == "all"
    if whole and len({len(prompt.tokens) for prompt in prompts}) > 1:
        parts = [
            _decode(model, [prompt], [item.of([i]) for item in interventions], max_new_tokens, stop)
            for i, prompt in enumerate(prompts)
        ]
        return [[part[variant][0] for part in parts] for variant in range(len(interventions) + 1)]
    batch = build_batch(prompts, whole=whole, answers=False, device=model.cfg.device or "cpu")
    done = run_pass(kernel, batch, interventions, keep_cache=True)
    return write(model, batch, done, interventions, prompts, max_new_tokens, stop)


def write(
    model: HookedTransformer,
    batch: Batch,
    done: Pass,
    interventions: list[Steering],
    prompts: list[TokenPrompt],
    max_new_tokens: int,
    stop: Stop,
    *,
    first: Int[Tensor, "variant sample"] | None = None,
) -> list[list[tuple[int, ...]]]:
    """Go on from a pass that kept its keys, which are used up: continuations [variant][sample].

    Args:
        model, batch, done, interventions, prompts: what ran.
        max_new_tokens, stop: see ``decode``.
        first: first tokens, where they have been read off the pass already.
    """
    kernel = row_model(model)
    written: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(len(interventions) + 1)]
    rows = _first_rows(kernel, batch, done, first)
    lengths = torch.tensor([len(prompt.tokens) for prompt in prompts], device=batch.tokens.device)
    for step in range(max_new_tokens):
        alive = []
        for variant, prompt, token in zip(
            rows.variant.tolist(), rows.prompt.tolist(), rows.tokens.tolist(), strict=True
        ):
            written[variant][prompt].append(token)
            alive.append(not stop(token))
        if step + 1 == max_new_tokens or not any(alive):
            break
        rows.keep(torch.tensor(alive, device=batch.tokens.device))
        assert done.cache is not None
        rows.tokens = _step(kernel, batch, done.cache.trunk, rows, interventions, lengths[rows.prompt] + step)
    return [[tuple(tokens) for tokens in row] for row in written]


def _first_rows(
    kernel: RowModel, batch: Batch, done: Pass, first: Int[Tensor, "variant sample"] | None
) -> _Rows:
    """The first token of each row, and the keys of its tail up to the last prompt token."""
    assert done.cache is not None
    n_variants, n_prompts = done.tails.shape[0], len(batch.tails)
    lasts = [offset + tail.last for tail, offset in zip(batch.tails, batch.offsets, strict=False)]
    device = batch.tokens.device
    variants, prompts = torch.arange(n_variants, device=device), torch.arange(n_prompts, device=device)
    place = torch.tensor(done.order, device=device).argsort()

    # Whole prompts that run together are of one length; behind the last token stand the answers' chains.
    columns = torch.tensor([range(last - batch.tails[0].last, last + 1) for last in lasts], device=device)

    def of_rows(x: Tensor) -> Tensor:
        return x[place][:, columns].permute(1, 0, 3, 2, 4).flatten(0, 1)

    own = [(of_rows(k), of_rows(v)) for k, v in done.cache.tails]
    done.cache.tails.clear()
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
    interventions: list[Steering],
    positions: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """Feed each row's last token and return the next ones."""
    x, place = model.begin(rows.tokens, positions, longest=int(positions.max()) + 1)
    paths = rows.paths(batch)
    steered = [
        (item, (rows.variant == variant).nonzero().flatten())
        for variant, item in enumerate(interventions, start=1)
        if item.position != "prompt_last"
    ]
    for layer, spec in enumerate(model.attention):
        attend = _attention(spec, rows, layer, trunk[layer], paths)
        x = model.run_block(layer, x, place, attend)
        for item, mine in steered:
            if layer in item.layers:
                x[mine] = item.edit(layer, x[mine], rows.prompt[mine])
    return read_out(model, model.norm_final(x))[1]


def _attention(
    spec: AttentionSpec,
    rows: _Rows,
    layer: int,
    trunk: tuple[Tensor, Tensor],
    paths: list[tuple[slice, Path]],
) -> Attend:
    """Attention of one block for decoded rows, which keep their new keys and values."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = rows.own[layer]
        rows.own[layer] = (torch.cat((keys, k[:, :, None]), 2), torch.cat((values, v[:, :, None]), 2))
        return attend_rows(spec, q, rows.own[layer], trunk, paths)

    return attend
