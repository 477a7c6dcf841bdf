"""Log-probabilities of answers under many interventions at once, from one pass over each prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..interventions import Intervention, Interventions, Steering, SublayerEdit, as_interventions
from ..models.identity import check_interventions, plain_model
from ..models.lens import HookedTransformer
from . import reference
from .batching import DEFAULT_BUDGET_MB, plan_batches, warn_beyond
from .capture import rows_within
from .forward import run_pass
from .layout import END, Batch, TokenPrompt, build_batch
from .model import RowModel, own_precision
from .progress import Progress, automatic
from .scores import (
    OTHER,
    UNREAD,
    Keep,
    Scores,
    greedy_tokens,
    outdone,
    read_out,
    telling_lengths,
    warn_of_answers_alike,
    warn_of_overflow,
)
from .support import row_model, unsupported
from .tokens import Prompts, tokenise


def score(
    model: HookedTransformer,
    prompts: Prompts,
    interventions: Interventions = (),
    *,
    chat: bool = False,
    keep_logits: bool = False,
    labels_only: bool = False,
    normalised: bool = True,
    memory_mb: float = DEFAULT_BUDGET_MB,
    progress: Progress = automatic,
) -> Scores:
    """Score every admissible answer of every prompt, unsteered and under each intervention.

    The numbers equal those of one hooked forward pass per (prompt, answer, intervention), up to rounding. At position
    ``last`` the tokens of an answer are steered, as generated tokens are; at ``prompt_last`` they are not; at ``all``
    every token is steered, and variants share only the layers below the intervention.

    Args:
        model: any ``HookedTransformer``.
        prompts: see ``tokenise``.
        interventions: variants to run in addition to the unsteered model, ``Intervention`` or ``PromptVectors``: one,
            several, or a mapping of names to interventions (column ``name`` of frames).
        chat: use the model's chat template.
        keep_logits: keep the full-vocabulary logits of the first answer token.
        labels_only: unembed only the first tokens of the answers. ``answer_logprobs`` are then unnormalised logits,
            which rank single-token answers correctly, and ``first_token`` is -1.
        normalised: pass False if you only compare the answers of a prompt with each other: ``answer_logprobs`` are then
            correct up to a constant per prompt and variant, ``written`` is correct, and ``first_token`` is -1. This
            saves most of the unembedding when the model writes something other than an answer.
        memory_mb: working memory in MB, in addition to the model and the result; it limits how many prompts and
            variants run together. Attention takes at most 32 MB of it (48 if its scores are capped, have sinks or are
            in half precision). The rows of one prompt are never split; at position ``all`` they include a steered copy
            and one byte per pair of tokens. A prompt that exceeds the budget on its own causes a warning first.
        progress: wraps the batches.

    Raises:
        ValueError: see ``tokenise`` and ``check_interventions``.

    Warns:
        RuntimeWarning: logits are NaN or infinite; the warning names the interventions.
    """
    model, interventions = plain_model(model), as_interventions(interventions)
    ready = tokenise(model, prompts, chat=chat)
    check_interventions(model, interventions, len(ready))
    if labels_only and any(len(answer) > 1 for prompt in ready for answer in prompt.answers):
        raise ValueError("labels_only needs answers of one token each; leave it off for longer answers")
    read = ReadOut(labels_only=labels_only, normalised=normalised and not labels_only)
    collected = Collected(len(ready), len(interventions) + 1, keep_logits, int(model.cfg.d_vocab_out))
    plain = plain_variants(model, interventions)
    _score_plain(model, ready, interventions, plain, collected, progress)
    if 0 in plain:
        return collected.scores(interventions, ready)
    idle = [i for i, item in enumerate(interventions, 1) if isinstance(item, Intervention) and not item.strength]
    with own_precision(model):
        jobs = list(plan_jobs(model, ready, interventions, memory_mb=memory_mb, idle=idle))
        for batch, chosen in progress(jobs, "score", len(jobs)):
            _score_batch(model, ready, batch, interventions, chosen, collected, read)
        collected.repeat(idle)
    return collected.scores(interventions, ready)


def plain_variants(model: HookedTransformer, interventions: Sequence[Steering]) -> list[int]:
    """Variants that run through hooks, one prompt at a time: all (0 included), or those that need a pass each."""
    if unsupported(model) is not None:
        return list(range(len(interventions) + 1))
    return [index + 1 for index, item in enumerate(interventions) if not shares_pass(item)]


def shares_pass(item: Steering) -> bool:
    """Whether this intervention can run in one pass with others."""
    return not isinstance(item, SublayerEdit) or item.in_one_pass


def plan_jobs(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Steering],
    *,
    memory_mb: float,
    answers: bool = True,
    kept: float = 0,
    new_tokens: int = 0,
    idle: Sequence[int] = (),
) -> Iterator[tuple[list[int], list[int]]]:
    """Batches of prompts with the interventions that run with them, within the memory budget.

    Every job also runs the unsteered variant. Interventions at position ``all`` need whole prompts as tails and get
    jobs of their own. If the variants of a prompt do not fit together, the prompt runs several times with some of them
    each. Variants in ``idle`` are left out. For decoding, ``kept`` bytes per row remain in memory, and each variant
    writes up to ``new_tokens`` tokens.
    """
    max_rows = rows_within(model, memory_mb, kept=kept)
    shared = [(index, item) for index, item in enumerate(interventions) if shares_pass(item) and index + 1 not in idle]
    whole = [index for index, item in shared if item.position == "all"]
    tailed = [index for index, item in shared if item.position != "all"]
    for members, is_whole in ((tailed, False), (whole, True)):
        if not members and (is_whole or whole):
            continue
        beside = 1 + bool(members)
        warn_beyond(model, prompts, memory_mb, variants=beside, whole=is_whole, kept=kept, new_tokens=new_tokens)
        longest = (max(len(prompt.tokens) for prompt in prompts) if is_whole else 1) + new_tokens
        room = max(1, max_rows // (2 * longest) - 1)
        for start in range(0, max(1, len(members)), room):
            chosen = members[start : start + room]
            batches = plan_batches(
                prompts,
                max_rows=max_rows,
                variants=len(chosen) + 1,
                whole=is_whole,
                answers=answers,
                new_tokens=new_tokens,
            )
            yield from ((batch, chosen) for batch in batches)


class Collected:
    """Collects the results of batches."""

    def __init__(self, prompts: int, variants: int, keep_logits: bool, vocab: int) -> None:
        empty = torch.empty(variants, 0, dtype=torch.float32)
        self.logprobs: list[Tensor] = [empty] * prompts
        self.written: list[Tensor] = [empty] * prompts
        self.first = torch.full((variants, prompts), UNREAD, dtype=torch.long)
        shape = (variants, prompts, vocab)
        self.logits = torch.empty(shape, dtype=torch.float32) if keep_logits else None

    def add(
        self,
        prompt: int,
        variants: list[int],
        logprobs: Float[Tensor, "variant choice"],
        written: Float[Tensor, "variant choice"],
    ) -> None:
        """Store the scores of a prompt's answers for some variants; see ``Scores``."""
        if self.logprobs[prompt].shape[1] != logprobs.shape[1]:
            shape = (self.first.shape[0], logprobs.shape[1])
            self.logprobs[prompt] = torch.empty(shape, dtype=torch.float32)
            self.written[prompt] = torch.empty(shape, dtype=torch.float32)
        self.logprobs[prompt][variants] = logprobs
        self.written[prompt][variants] = written

    def repeat(self, variants: Sequence[int]) -> None:
        """Store the unsteered results for variants that do not change anything."""
        kept = [] if self.logits is None else [self.logits]
        for rows in (*self.logprobs, *self.written, self.first, *kept):
            for variant in variants:
                rows[variant] = rows[0]

    def keeper(self, members: list[int], variants: list[int], columns: int) -> Keep | None:
        """A callback that stores the logits of rows (variant, column), if logits are kept; members come first."""
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
        """The complete result, with a warning about outcomes that cannot be used."""
        found = Scores(
            tuple(self.logprobs), self.first, self.logits, tuple(interventions), tuple(prompts), tuple(self.written)
        )
        warn_of_answers_alike(prompts, stacklevel=4)
        warn_of_overflow(found, stacklevel=4)
        return found


def _score_plain(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    interventions: Sequence[Steering],
    variants: Sequence[int],
    collected: Collected,
    progress: Progress,
) -> None:
    every = [None, *interventions]
    for index, prompt in enumerate(progress(prompts, "score (plain route)", len(prompts)) if variants else ()):
        for variant in variants:
            item = every[variant]
            found = reference.read(model, prompt, None if item is None else item.of([index]))
            collected.add(index, [variant], found.logprobs[None].cpu(), found.written(prompt)[None])
            collected.first[variant, index] = int(greedy_tokens(found.logits))
            if collected.logits is not None:
                collected.logits[variant, index] = found.logits.cpu()


def _score_batch(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    members: list[int],
    interventions: Sequence[Steering],
    chosen: list[int],
    collected: Collected,
    read: ReadOut,
) -> None:
    kernel = row_model(model)
    whole = bool(chosen) and interventions[chosen[0]].position == "all"
    own = [prompts[index] for index in members]
    batch = build_batch(own, whole=whole, device=model.cfg.device or "cpu")
    tails = run_pass(kernel, batch, [interventions[index].of(members) for index in chosen]).tails
    variants = [0, *(index + 1 for index in chosen)]
    read_tails(kernel, batch, tails, own, members, variants, collected, read)


@dataclass(frozen=True, slots=True)
class ReadOut:
    """What to compute from the final residuals; see ``score``."""

    labels_only: bool = False
    normalised: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Every token of every answer of a batch, answer after answer, prompt after prompt.

    Attributes:
        columns: columns of the tails that predict an answer token; the last tokens of the prompts come first.
        at: for each step, the index in ``columns`` of the column that predicts it.
        tokens: the token of each step, or several tokens if any of them ends the answer.
        answer: number of the answer that each step belongs to.
        telling: whether the step is needed to distinguish its answer from the others.
        untold: answers that no token distinguishes from the others.
        counts: how many answers each prompt has.
    """

    columns: list[int]
    at: Int[Tensor, " step"]
    tokens: list[tuple[int, ...]]
    answer: Int[Tensor, " step"]
    telling: Bool[Tensor, " step"]
    untold: Bool[Tensor, " answer"]
    counts: list[int]

    @classmethod
    def of(cls, batch: Batch, prompts: Sequence[TokenPrompt]) -> _Steps:
        lasts = [offset + tail.last for tail, offset in zip(batch.tails, batch.offsets, strict=False)]
        place = {column: index for index, column in enumerate(dict.fromkeys(lasts))}
        at, tokens, answers, telling = [], [], [], []
        untold: list[bool] = []
        for prompt, tail, offset in zip(prompts, batch.tails, batch.offsets, strict=False):
            for pairs, needed in zip(tail.scored, telling_lengths(prompt.scored), strict=True):
                for step, (row, token) in enumerate(pairs):
                    at.append(place.setdefault(offset + row, len(place)))
                    tokens.append(prompt.end if token == END else (token,))
                    answers.append(len(untold))
                    telling.append(step < needed)
                untold.append(needed == 0)
        return cls(
            list(place),
            torch.tensor(at, dtype=torch.long),
            tokens,
            torch.tensor(answers, dtype=torch.long),
            torch.tensor(telling, dtype=torch.bool),
            torch.tensor(untold, dtype=torch.bool),
            [len(tail.scored) for tail in batch.tails],
        )

    def logits(
        self, kernel: RowModel, normed: Float[Tensor, "variant column d_model"]
    ) -> Float[Tensor, "variant step"]:
        """Logits of the steps' tokens (log-sum-exp over several tokens), float32 on the CPU."""
        found = torch.empty(len(normed), len(self.tokens), dtype=torch.float32)
        singles: dict[int, list[int]] = {}
        for step, (column, tokens) in enumerate(zip(self.at.tolist(), self.tokens, strict=True)):
            if len(tokens) == 1:
                singles.setdefault(column, []).append(step)
            else:
                several = kernel.unembed(normed[:, column], torch.tensor(tokens, device=normed.device))
                found[:, step] = several.float().logsumexp(dim=-1).cpu()
        for column, mine in singles.items():
            wanted = torch.tensor([self.tokens[step][0] for step in mine], device=normed.device)
            found[:, mine] = kernel.unembed(normed[:, column], wanted).float().cpu()
        return found

    def first_answers(self, count: int) -> tuple[Int[Tensor, "column own"], Int[Tensor, "column own"]]:
        """For each of the first columns, the steps that it predicts and their tokens, padded with -1."""
        steps: list[list[int]] = [[] for _ in range(count)]
        for step, column in enumerate(self.at.tolist()):
            if column < count:
                steps[column].append(step)
        width = max(map(len, steps), default=0)
        places = torch.tensor([[*own, *[-1] * (width - len(own))] for own in steps], dtype=torch.long)
        tokens = torch.tensor([own[0] for own in self.tokens] or [0], dtype=torch.long)
        return places, tokens[places].masked_fill(places < 0, -1)

    def written(self, best: Int[Tensor, "variant column"]) -> Float[Tensor, "variant answer"]:
        """Whether the greedy tokens write each answer up to its distinguishing token; see ``Scores``."""
        greedy = best[:, self.at]
        hit = greedy == torch.tensor([tokens[0] for tokens in self.tokens], dtype=torch.long)
        for step, tokens in enumerate(self.tokens):
            if len(tokens) > 1:
                hit[:, step] = torch.isin(greedy[:, step], torch.tensor(tokens))
        missed = torch.where(greedy == UNREAD, torch.nan, (~hit).to(torch.float32))[:, self.telling]
        shape = (len(best), len(self.untold))
        sums = torch.zeros(shape, dtype=torch.float32).index_add_(1, self.answer[self.telling], missed)
        return torch.where(sums.isnan() | self.untold, torch.nan, (sums == 0).to(torch.float32))


def read_tails(
    kernel: RowModel,
    batch: Batch,
    tails: Float[Tensor, "variant column d_model"],
    prompts: Sequence[TokenPrompt],
    members: list[int],
    variants: list[int],
    collected: Collected,
    read: ReadOut,
) -> None:
    """Turn final residuals into log-probabilities; ``members`` are the indices of the batch's ``prompts``."""
    steps = _Steps.of(batch, prompts)
    by_variant = (tails.shape[0], len(steps.columns))
    normed = kernel.norm_final(tails[:, steps.columns].flatten(0, 1))
    values = steps.logits(kernel, normed.unflatten(0, by_variant))
    written = torch.full((by_variant[0], len(steps.untold)), torch.nan, dtype=torch.float32)
    # In float16 logits can overflow even if all residuals are finite; only reading all of them shows it.
    if (not read.labels_only and normed.dtype == torch.float16) or read.normalised or collected.logits is not None:
        keep = collected.keeper(members, variants, len(steps.columns))
        normaliser, best = (x.cpu().view(by_variant) for x in read_out(kernel, normed, keep))
        first = best[:, : len(members)]
        collected.first[torch.tensor(variants)[:, None], torch.tensor(members)[None]] = first
    elif not read.labels_only:
        normaliser, best = _read_answers(kernel, steps, normed.unflatten(0, by_variant), values, len(members))
    if not read.labels_only:
        values -= normaliser[:, steps.at]
        written = steps.written(best)
    sums = torch.zeros(written.shape, dtype=torch.float32).index_add_(1, steps.answer, values)
    for member, own, told in zip(
        members, sums.split(steps.counts, dim=1), written.split(steps.counts, dim=1), strict=True
    ):
        collected.add(member, variants, own, told)


def _read_answers(
    kernel: RowModel,
    steps: _Steps,
    normed: Float[Tensor, "variant column d_model"],
    values: Float[Tensor, "variant step"],
    count: int,
) -> tuple[Float[Tensor, "variant column"], Int[Tensor, "variant column"]]:
    """As much of ``read_out`` as a comparison of answers needs.

    The first ``count`` columns are shared by all answers of a prompt, so they keep a normaliser of 0, and their greedy
    token is only determined if it begins an answer.
    """
    normaliser = torch.zeros(normed.shape[:2], dtype=torch.float32)
    best = torch.full(normed.shape[:2], UNREAD, dtype=torch.long)
    if normed.shape[1] > count:
        chains = read_out(kernel, normed[:, count:].flatten(0, 1))
        normaliser[:, count:], best[:, count:] = (x.cpu().view(len(normed), -1) for x in chains)
    places, own = steps.first_answers(count)
    asked = (own >= 0).any(dim=1).nonzero().flatten()
    places, own = places[asked], own[asked]
    if not len(asked):
        return normaliser, best
    highest, which = values[:, places].masked_fill(own < 0, -torch.inf).max(dim=-1)
    token = own.expand(len(values), *own.shape).gather(-1, which[..., None])[..., 0]
    rows = normed[:, asked.to(normed.device)].flatten(0, 1)
    given = (own.repeat(len(values), 1), highest.flatten(), token.flatten())
    own_rows, *top = (x.to(normed.device) for x in given)
    beaten = outdone(kernel, rows, own_rows, (top[0], top[1])).cpu().view(highest.shape)
    finite = highest.isfinite()
    best[:, asked] = torch.where(finite, torch.where(beaten, OTHER, token), UNREAD)
    normaliser[:, asked] = torch.where(finite, 0.0, torch.nan)
    return normaliser, best
