"""Log-probabilities of answers under many interventions at once, from one pass over each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from ..interventions import Intervention
from . import reference
from .batching import DEFAULT_BUDGET_MB, plan_batches
from .capture import check_layers, rows_within
from .forward import run_pass
from .kernel import Kernel, kernel_for
from .layout import Batch, TokenPrompt, build_batch
from .progress import Progress, quiet
from .scores import Scores
from .support import unsupported
from .tokens import PromptLike, tokenise

# Rows that are unembedded at a time: 128 rows of a 50,000-token vocabulary are 25 MB in float32, which the
# allocator keeps for the next 128; beyond 32 MB glibc would hand them back and fault them in again.
UNEMBED_ROWS = 128
# Rows whose normaliser is taken at a time: 16 stay in the cache between the passes that it takes.
NORMALISE_ROWS = 16


def check_interventions(model: HookedTransformer, interventions: Sequence[Intervention]) -> None:
    """Refuse interventions that do not fit the model.

    Raises:
        ValueError: a layer out of range or a direction of the wrong width, by index and name.
    """
    width = int(model.cfg.d_model)
    for index, item in enumerate(interventions):
        check_layers(model, (item.layer,))
        if item.direction.shape != (width,):
            raise ValueError(
                f"intervention {index} ({item.name or 'unnamed'}) has a direction of width "
                f"{item.direction.shape[0]}, but d_model is {width}; was the vector taken from another model?"
            )


def score(
    model: HookedTransformer,
    prompts: Sequence[PromptLike],
    interventions: Sequence[Intervention] = (),
    *,
    chat: bool = False,
    keep_logits: bool = False,
    labels_only: bool = False,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> Scores:
    """Score every admissible answer of every prompt, unsteered and under each intervention.

    Exact: the same numbers as one hooked forward pass for each (prompt, answer, intervention), up to
        rounding.
    Under position ``last`` an answer's own tokens are steered as decoded tokens are; under ``prompt_last``
    they are not; under ``all`` every token is, and only the layers below the intervention are shared.

    Args:
        model: any ``HookedTransformer``.
        prompts: see ``tokenise``.
        interventions: variants to run beside the unsteered model.
        chat: use the model's chat template.
        keep_logits: keep the full-vocabulary logits of the first answer token.
        labels_only: unembed nothing but the answers' first tokens. ``answer_logprobs`` are then unnormalised
            logits, which order single-token answers correctly, and ``first_token`` is -1.
        memory_mb: working memory above the model, in MB, without the result.
        progress: wraps the batches.

    Raises:
        ValueError: see ``tokenise`` and ``check_interventions``.
    """
    check_interventions(model, interventions)
    ready = tokenise(model, prompts, chat=chat)
    if labels_only and any(len(answer) > 1 for prompt in ready for answer in prompt.answers):
        raise ValueError("labels_only needs answers of one token each; leave it off for longer answers")
    collected = _Collected(len(ready), len(interventions) + 1, keep_logits, int(model.cfg.d_vocab_out))
    if unsupported(model) is not None:
        _score_plain(model, ready, interventions, collected, progress)
        return collected.scores(interventions, ready)
    with torch.inference_mode():
        jobs = list(plan_jobs(model, ready, interventions, memory_mb=memory_mb))
        for batch, chosen in progress(jobs, "score", len(jobs)):
            _score_batch(model, ready, batch, interventions, chosen, collected, labels_only)
    return collected.scores(interventions, ready)


def plan_jobs(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Intervention],
    *,
    memory_mb: float,
    answers: bool = True,
    extra_row_bytes: int = 0,
) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of prompts with the interventions that run beside them, within the memory budget.

    Every job also runs the unsteered variant. Interventions at ``all`` positions need whole prompts as tails
    and go apart. A prompt whose variants do not fit together is run several times with a part of them.
    """
    max_rows = rows_within(model, memory_mb)
    if extra_row_bytes:
        max_rows = max(1, min(max_rows, int(memory_mb * 1e6 / extra_row_bytes)))
    whole = [index for index, item in enumerate(interventions) if item.position == "all"]
    tailed = [index for index, item in enumerate(interventions) if item.position != "all"]
    for members, is_whole in ((tailed, False), (whole, True)):
        if not members and (is_whole or whole):
            continue
        longest = max(len(prompt.tokens) for prompt in prompts) if is_whole else 1
        room = max(1, max_rows // (2 * longest) - 1)
        for start in range(0, max(1, len(members)), room):
            chosen = members[start : start + room]
            batches = plan_batches(
                prompts, max_rows=max_rows, variants=len(chosen) + 1, whole=is_whole, answers=answers
            )
            yield from ((batch, chosen) for batch in batches)


class _Collected:
    """Results as they come in."""

    def __init__(self, prompts: int, variants: int, keep_logits: bool, vocab: int) -> None:
        self.logprobs: list[Tensor | None] = [None] * prompts
        self.first = torch.full((variants, prompts), -1, dtype=torch.long)
        self.logits = torch.empty(variants, prompts, vocab) if keep_logits else None

    def add(self, prompt: int, variants: list[int], logprobs: Tensor) -> None:
        known = self.logprobs[prompt]
        if known is None:
            known = torch.empty(self.first.shape[0], logprobs.shape[1])
            self.logprobs[prompt] = known
        known[variants] = logprobs

    def scores(self, interventions: Sequence[Intervention], prompts: Sequence[TokenPrompt]) -> Scores:
        filled = tuple(torch.empty(self.first.shape[0], 0) if x is None else x for x in self.logprobs)
        return Scores(filled, self.first, self.logits, tuple(interventions), tuple(prompts))


def _score_plain(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Intervention],
    collected: _Collected,
    progress: Progress,
) -> None:
    for index, prompt in enumerate(progress(prompts, "score (plain route)", len(prompts))):
        for variant, item in enumerate([None, *interventions]):
            logprobs, logits = reference.score(model, prompt, item)
            collected.add(index, [variant], logprobs[None].cpu())
            collected.first[variant, index] = int(logits.argmax())
            if collected.logits is not None:
                collected.logits[variant, index] = logits.cpu()


def _score_batch(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    members: list[int],
    interventions: Sequence[Intervention],
    chosen: list[int],
    collected: _Collected,
    labels_only: bool,
) -> None:
    kernel = kernel_for(model)
    whole = bool(chosen) and interventions[chosen[0]].position == "all"
    batch = build_batch([prompts[index] for index in members], whole=whole, device=model.cfg.device or "cpu")
    tails = run_pass(kernel, batch, [interventions[index] for index in chosen]).tails
    variants = [0, *(index + 1 for index in chosen)]
    read_tails(kernel, batch, tails, members, variants, collected, labels_only)


def read_tails(
    kernel: Kernel,
    batch: Batch,
    tails: Float[Tensor, "variant column d_model"],
    members: list[int],
    variants: list[int],
    collected: _Collected,
    labels_only: bool,
) -> None:
    """From final residuals to log-probabilities; unembeds a few hundred rows at a time."""
    steps = [
        (offset + row, token, index, number)
        for index, (tail, offset) in enumerate(zip(batch.tails, batch.offsets, strict=False))
        for number, pairs in enumerate(tail.scored)
        for row, token in pairs
    ]
    lasts = [offset + tail.last for tail, offset in zip(batch.tails, batch.offsets, strict=False)]
    columns = sorted({*lasts, *(column for column, *_ in steps)})
    place = {column: row for row, column in enumerate(columns)}
    n_variants = tails.shape[0]
    normed = kernel.norm_final(tails[:, columns].reshape(n_variants * len(columns), -1))
    at = torch.tensor([place[column] for column, *_ in steps], dtype=torch.long, device=normed.device)
    wanted = torch.tensor([token for _, token, *_ in steps], dtype=torch.long, device=normed.device)
    values = torch.empty(n_variants, len(steps))
    greedy = torch.full((n_variants, len(columns)), -1, dtype=torch.long)
    size = max(1, UNEMBED_ROWS // len(columns)) * len(columns)
    for start in range(0, len(normed), size):
        block = slice(start // len(columns), (start + size) // len(columns))
        chunk = normed[start : start + size]
        if labels_only:
            tokens, inverse = wanted.unique(return_inverse=True)
            logits = kernel.unembed(chunk, tokens).float().view(-1, len(columns), len(tokens))
            values[block] = logits[:, at, inverse].cpu()
            continue
        logits = kernel.unembed(chunk).float().view(-1, len(columns), kernel.cfg.d_vocab_out)
        normaliser, best = _normalise(logits)
        values[block] = (logits[:, at, wanted] - normaliser[:, at]).cpu()
        greedy[block] = best.cpu()
        if collected.logits is not None:
            rows = torch.tensor(variants)[block]
            collected.logits[rows[:, None], torch.tensor(members)[None]] = logits[
                :, [place[c] for c in lasts]
            ].cpu()
    collected.first[torch.tensor(variants)[:, None], torch.tensor(members)[None]] = greedy[
        :, [place[c] for c in lasts]
    ]
    counts = [len(tail.scored) for tail in batch.tails]
    starts = [sum(counts[:index]) for index in range(len(counts))]
    answer = torch.tensor([starts[index] + number for _, _, index, number in steps], dtype=torch.long)
    sums = torch.zeros(n_variants, sum(counts)).index_add_(1, answer, values)
    for member, mine in zip(members, sums.split(counts, dim=1), strict=True):
        collected.add(member, variants, mine)


def _normalise(
    logits: Float[Tensor, "variant column vocab"],
) -> tuple[Float[Tensor, "variant column"], Int[Tensor, "variant column"]]:
    """Log of the sum of exponentials over the vocabulary, and the most probable token."""
    parts = [
        (rows.logsumexp(-1), rows.max(-1).indices) for rows in logits.flatten(0, 1).split(NORMALISE_ROWS)
    ]
    sums, best = zip(*parts, strict=True)
    return torch.cat(sums).view(logits.shape[:2]), torch.cat(best).view(logits.shape[:2])
