"""Log-probabilities of answers under many interventions at once, from one pass over each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from ..interventions import Steering
from ..models.identity import check_interventions
from . import reference
from .batching import DEFAULT_BUDGET_MB, plan_batches
from .capture import rows_within
from .forward import run_pass
from .layout import Batch, TokenPrompt, build_batch
from .model import RowModel
from .progress import Progress, quiet
from .scores import Scores
from .support import row_model, unsupported
from .tokens import PromptLike, tokenise
from .vocabulary import Keep, read_out


def score(
    model: HookedTransformer,
    prompts: Sequence[PromptLike],
    interventions: Sequence[Steering] = (),
    *,
    chat: bool = False,
    keep_logits: bool = False,
    labels_only: bool = False,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = quiet,
) -> Scores:
    """Score every admissible answer of every prompt, unsteered and under each intervention.

    Exact: the same numbers as one hooked forward pass for each (prompt, answer, intervention), up to rounding.
    Under position ``last`` an answer's own tokens are steered as decoded tokens are; under ``prompt_last``
    they are not; under ``all`` every token is, and only the layers below the intervention are shared.

    Args:
        model: any ``HookedTransformer``.
        prompts: see ``tokenise``.
        interventions: variants to run beside the unsteered model: ``Intervention`` or ``PromptVectors``.
        chat: use the model's chat template.
        keep_logits: keep the full-vocabulary logits of the first answer token.
        labels_only: unembed nothing but the answers' first tokens. ``answer_logprobs`` are then unnormalised
            logits, which order single-token answers correctly, and ``first_token`` is -1.
        memory_mb: working memory above the model, in MB, without the result.
        progress: wraps the batches.

    Raises:
        ValueError: see ``tokenise`` and ``check_interventions``.
    """
    check_interventions(model, interventions, len(prompts))
    ready = tokenise(model, prompts, chat=chat)
    if labels_only and any(len(answer) > 1 for prompt in ready for answer in prompt.answers):
        raise ValueError("labels_only needs answers of one token each; leave it off for longer answers")
    collected = Collected(len(ready), len(interventions) + 1, keep_logits, int(model.cfg.d_vocab_out))
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
    interventions: Sequence[Steering],
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


class Collected:
    """Results as they come in."""

    def __init__(self, prompts: int, variants: int, keep_logits: bool, vocab: int) -> None:
        self.logprobs: list[Tensor | None] = [None] * prompts
        self.first = torch.full((variants, prompts), -1, dtype=torch.long)
        self.logits = torch.empty(variants, prompts, vocab) if keep_logits else None

    def add(self, prompt: int, variants: list[int], logprobs: Float[Tensor, "variant choice"]) -> None:
        """Put down a prompt's log-probabilities under some variants."""
        known = self.logprobs[prompt]
        if known is None:
            known = torch.empty(self.first.shape[0], logprobs.shape[1])
            self.logprobs[prompt] = known
        known[variants] = logprobs

    def keeper(self, members: list[int], variants: list[int], columns: int) -> Keep | None:
        """Where logits of rows (variant, column) go, when they are kept; the first columns are the members'."""
        if self.logits is None:
            return None
        logits, owners, kinds = self.logits, torch.tensor(members), torch.tensor(variants)

        def keep(first_row: int, first_token: int, block: Tensor) -> None:
            rows = torch.arange(first_row, first_row + len(block))
            rows = rows[rows % columns < len(owners)]
            tokens = slice(first_token, first_token + block.shape[1])
            kept = block[(rows - first_row).to(block.device)].cpu()
            logits[kinds[rows // columns], owners[rows % columns], tokens] = kept

        return keep

    def scores(self, interventions: Sequence[Steering], prompts: Sequence[TokenPrompt]) -> Scores:
        """Everything, when all of it is there."""
        filled = tuple(torch.empty(self.first.shape[0], 0) if x is None else x for x in self.logprobs)
        return Scores(filled, self.first, self.logits, tuple(interventions), tuple(prompts))


def _score_plain(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Steering],
    collected: Collected,
    progress: Progress,
) -> None:
    for index, prompt in enumerate(progress(prompts, "score (plain route)", len(prompts))):
        for variant, item in enumerate([None, *interventions]):
            logprobs, logits = reference.score(model, prompt, None if item is None else item.of([index]))
            collected.add(index, [variant], logprobs[None].cpu())
            collected.first[variant, index] = int(logits.argmax())
            if collected.logits is not None:
                collected.logits[variant, index] = logits.cpu()


def _score_batch(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    members: list[int],
    interventions: Sequence[Steering],
    chosen: list[int],
    collected: Collected,
    labels_only: bool,
) -> None:
    kernel = row_model(model)
    whole = bool(chosen) and interventions[chosen[0]].position == "all"
    batch = build_batch([prompts[index] for index in members], whole=whole, device=model.cfg.device or "cpu")
    tails = run_pass(kernel, batch, [interventions[index].of(members) for index in chosen]).tails
    variants = [0, *(index + 1 for index in chosen)]
    read_tails(kernel, batch, tails, members, variants, collected, labels_only)


def read_tails(
    kernel: RowModel,
    batch: Batch,
    tails: Float[Tensor, "variant column d_model"],
    members: list[int],
    variants: list[int],
    collected: Collected,
    labels_only: bool,
) -> None:
    """From final residuals to log-probabilities."""
    steps = [
        (offset + row, token, index, number)
        for index, (tail, offset) in enumerate(zip(batch.tails, batch.offsets, strict=False))
        for number, pairs in enumerate(tail.scored)
        for row, token in pairs
    ]
    lasts = [offset + tail.last for tail, offset in zip(batch.tails, batch.offsets, strict=False)]
    # The last prompt tokens first, in the order of ``members``.
    columns = list(dict.fromkeys([*lasts, *(column for column, *_ in steps)]))
    place = {column: index for index, column in enumerate(columns)}
    by_variant = (tails.shape[0], len(columns))
    normed = kernel.norm_final(tails[:, columns].flatten(0, 1))
    values = _wanted_logits(
        kernel, normed.unflatten(0, by_variant), [(place[c], token) for c, token, *_ in steps]
    )
    if not labels_only:
        at = [place[column] for column, *_ in steps]
        normaliser, best = read_out(kernel, normed, collected.keeper(members, variants, len(columns)))
        values -= normaliser.cpu().view(by_variant)[:, at]
        first = best.cpu().view(by_variant)[:, : len(members)]
        collected.first[torch.tensor(variants)[:, None], torch.tensor(members)[None]] = first
    counts = [len(tail.scored) for tail in batch.tails]
    starts = [sum(counts[:index]) for index in range(len(counts))]
    answer = torch.tensor([starts[index] + number for _, _, index, number in steps], dtype=torch.long)
    sums = torch.zeros(by_variant[0], sum(counts)).index_add_(1, answer, values)
    for member, mine in zip(members, sums.split(counts, dim=1), strict=True):
        collected.add(member, variants, mine)


def _wanted_logits(
    kernel: RowModel,
    normed: Float[Tensor, "variant column d_model"],
    steps: list[tuple[int, int]],
) -> Float[Tensor, "variant step"]:
    """Logits of the answers' tokens for steps (column that predicts, token); on the CPU."""
    found = torch.empty(len(normed), len(steps))
    by_column: dict[int, list[int]] = {}
    for step, (column, _) in enumerate(steps):
        by_column.setdefault(column, []).append(step)
    for column, mine in by_column.items():
        tokens = torch.tensor([steps[step][1] for step in mine], device=normed.device)
        found[:, mine] = kernel.unembed(normed[:, column], tokens).float().cpu()
    return found
