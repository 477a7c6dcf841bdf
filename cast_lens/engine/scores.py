"""What scoring reads off final residuals, and what it gives: outcomes of answers, and the same as a frame.

The vocabulary is read block by block, without holding the logits of many rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..interventions import Steering
from .layout import TokenPrompt, common_prefix
from .model import RowModel

# Rows and tokens whose logits are held at a time: 8 MB in float32, whatever the vocabulary. Fewer rows would read
# the unembedding more often; more tokens would not stay in the cache until they are summed.
UNEMBED_ROWS = 1024
BLOCK_TOKENS = {"cpu": 2048, "cuda": 32_768}
# Rows that are summed at a time, for the passes over them to stay in a core's cache; an accelerator takes them all.
SUM_ROWS = {"cpu": 64}

# In place of a token where none could be read: nothing was asked for, or the logits were NaN or infinite.
UNREAD = -1
# In place of a token of which is known only that it is no token of an answer.
OTHER = -2

Keep = Callable[[int, int, Float[Tensor, "row token"]], None]


def read_out(
    kernel: RowModel, normed: Float[Tensor, "row d_model"], keep: Keep | None = None
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Normaliser (log of the sum of exponentials of the logits) and most probable token of each row.

    The token of a row whose logits are NaN or infinite is -1, and so is its normaliser no finite number.

    Args:
        kernel: gives the unembedding.
        normed: residuals after the final norm.
        keep: called with first row, first token and the logits of each block, in float32.
    """
    normalisers, best = [], []
    for start in range(0, len(normed), UNEMBED_ROWS):
        rows = normed[start : start + UNEMBED_ROWS]
        sums = []
        highest = torch.full((len(rows),), -torch.inf, dtype=torch.float32, device=rows.device)
        tokens = torch.full((len(rows),), UNREAD, dtype=torch.long, device=rows.device)
        width = BLOCK_TOKENS.get(rows.device.type, BLOCK_TOKENS["cuda"])
        at_once = SUM_ROWS.get(rows.device.type, UNEMBED_ROWS)
        for first in range(0, int(kernel.d_vocab), width):
            logits = kernel.unembed(rows, slice(first, first + width)).float()
            if keep is not None:
                keep(start, first, logits)
            parts = (logits.split(at_once), highest.split(at_once), tokens.split(at_once))
            sums += [_log_sum(part, top, token, first) for part, top, token in zip(*parts, strict=True)]
        normalisers.append(torch.cat(sums).view(-1, len(rows)).logsumexp(dim=0))
        best.append(tokens)
    sums_of_all, tokens_of_all = torch.cat(normalisers), torch.cat(best)
    return sums_of_all, tokens_of_all.masked_fill(~sums_of_all.isfinite(), -1)


def _log_sum(
    logits: Float[Tensor, "row token"], highest: Float[Tensor, " row"], tokens: Int[Tensor, " row"], first: int
) -> Float[Tensor, " row"]:
    """Log of the sum of exponentials of a block, which is used up; a higher logit than before is noted, in place."""
    top = logits.amax(dim=-1)
    # Which token it is costs as much as all sums, and is asked of few rows.
    higher = (top > highest).nonzero().flatten()
    tokens[higher] = logits[higher].argmax(dim=-1) + first
    torch.maximum(highest, top, out=highest)
    shift = top.clamp(min=torch.finfo(top.dtype).min)
    return logits.sub_(shift[:, None]).exp_().sum(dim=-1).log_() + shift


def outdone(
    kernel: RowModel,
    normed: Float[Tensor, "row d_model"],
    own: Int[Tensor, "row own"],
    best: tuple[Float[Tensor, " row"], Int[Tensor, " row"]],
) -> Bool[Tensor, " row"]:
    """Whether greedy decoding writes another token than any of a row's own ones.

    The vocabulary is read block by block, and a row leaves as soon as some token outdoes its own: most of those that do
    leave early, since frequent tokens come first in usual vocabularies. Only a row that writes one of its own tokens is
    unembedded in full.

    Args:
        kernel: gives the unembedding.
        normed: residuals after the final norm.
        own: tokens of each row; -1 where it has fewer.
        best: the highest logit among its own tokens, and which token has it. Of equal logits the smaller token wins.
    """
    found = torch.zeros(len(normed), dtype=torch.bool, device=normed.device)
    alive, (highest, token) = torch.arange(len(normed), device=normed.device), best
    width = BLOCK_TOKENS.get(normed.device.type, BLOCK_TOKENS["cuda"])
    for first in range(0, int(kernel.d_vocab), width):
        beaten = torch.cat(
            [
                _beaten(kernel.unembed(part, slice(first, first + width)).float(), first, own[rows], values, tokens)
                for part, rows, values, tokens in zip(
                    *(x.split(UNEMBED_ROWS) for x in (normed, alive, highest, token)), strict=True
                )
            ]
        )
        found[alive[beaten]] = True
        # Rows are moved together when that pays.
        if int(beaten.sum()) > len(alive) // 16:
            kept = ~found[alive]
            normed, alive, highest, token = (x[kept] for x in (normed, alive, highest, token))
        if not len(alive):
            break
    return found


def _beaten(
    logits: Float[Tensor, "row token"],
    first: int,
    own: Int[Tensor, "row own"],
    highest: Float[Tensor, " row"],
    token: Int[Tensor, " row"],
) -> Bool[Tensor, " row"]:
    """Rows of a block in which a token that is not their own has more than ``highest``."""
    rows, places = ((own >= first) & (own < first + logits.shape[1])).nonzero(as_tuple=True)
    logits[rows, own[rows, places] - first] = -torch.inf
    top = logits.amax(dim=-1)
    equal = (top == highest).nonzero().flatten()
    found = top > highest
    found[equal] = logits[equal].argmax(dim=-1) + first < token[equal]
    return found


def greedy_tokens(logits: Float[Tensor, "*rows vocab"]) -> Int[Tensor, "*rows"]:
    """The most probable token of each row; -1 where logits are NaN or infinite, as ``read_out`` has it."""
    finite = logits.float().logsumexp(dim=-1).isfinite()
    return logits.argmax(dim=-1).masked_fill(~finite, -1)


# Interventions and prompts that a warning names before it only counts.
NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What prompts × variants gave. Variant 0 is the unsteered model, then the interventions in their order.

    Attributes:
        answer_logprobs: for each prompt [variant, choice], natural log of the probability of the whole answer,
            summed over its tokens (and its end, where one answer is the beginning of another; see ``tokenise``);
            an unnormalised logit when only labels were asked for; up to a constant of each variant without
            ``normalised``.
        first_token: [variant, sample], the greedy first token; -1 where no full vocabulary was asked for, or the
            logits were NaN or infinite.
        logits: [variant, sample, vocab] of the first answer token, float32, when asked for.
        interventions: what was done; variant ``i`` is ``interventions[i - 1]``.
        prompts: the tokenised prompts.
        written: for each prompt [variant, choice], 1 where greedy decoding writes the answer as far as the token
            that distinguishes it from every other answer, 0 where it does not, NaN where that is not known. Empty when
            only first tokens were read: those then have to distinguish the answers.
    """

    answer_logprobs: tuple[Float[Tensor, "variant _"], ...]
    first_token: Int[Tensor, "variant sample"]
    logits: Float[Tensor, "variant sample vocab"] | None
    interventions: tuple[Steering, ...]
    prompts: tuple[TokenPrompt, ...]
    written: tuple[Float[Tensor, "variant _"], ...] = ()

    @property
    def overflowed(self) -> Bool[Tensor, "variant sample"]:
        """Where logits were NaN or infinite: such a row holds no outcome."""
        rows = [logprobs.isnan().any(dim=1) | (logprobs == torch.inf).any(dim=1) for logprobs in self.answer_logprobs]
        bad = torch.stack(rows, dim=1) if rows else torch.zeros_like(self.first_token, dtype=torch.bool)
        read = (self.first_token != UNREAD).any()
        return bad | (self.first_token == UNREAD) if bool(read) else bad

    def __repr__(self) -> str:
        names = list(dict.fromkeys(one.name or "unnamed" for one in self.interventions))
        shown = ", ".join(["unsteered", *names[:3], *(["…"] if len(names) > 3 else [])])
        kept = ", logits kept" if self.logits is not None else ""
        return f"Scores({len(self.prompts)} prompts × {len(self.interventions) + 1} variants: {shown}{kept})"

    def to_frame(self) -> pd.DataFrame:
        """One row per variant and sample.

        Columns: ``sample, name, layer, strength, operator, position`` (layer -1: unsteered; of several
        layers the first), ``gold_logprob``, ``choice`` (index of the most probable admissible answer),
        ``choice_correct``, ``first_match`` (greedy decoding writes the gold answer as far as the token that
        distinguishes it from every other answer; mostly that is the first), ``first_valid`` (the same for any
        admissible answer), ``gold_margin`` (gold minus best other answer), ``overflowed`` (the logits were NaN or
        infinite). Outcomes are 0 or 1, and NaN where there is no gold answer, no other answer, (the two ``first_``
        columns) no full vocabulary or no such token, or where the logits overflowed.
        """
        columns: dict[str, list[object]] = {}
        overflowed = self.overflowed
        for index, prompt in enumerate(self.prompts):
            outcomes = _outcomes(prompt, self.answer_logprobs[index], self._written(index), overflowed[:, index])
            for name, values in outcomes.items():
                columns.setdefault(name, []).extend(values)
        what = [(-1, 0.0, "none", "none", "unsteered")]
        what += [(i.layer, i.strength, i.operator, i.position, i.name) for i in self.interventions]
        layers, strengths, operators, positions, names = (
            list(column) * len(self.prompts) for column in zip(*what, strict=True)
        )
        return pd.DataFrame(
            {
                "sample": [prompt.name for prompt in self.prompts for _ in what],
                "name": names,
                "layer": layers,
                "strength": strengths,
                "operator": operators,
                "position": positions,
                **columns,
            }
        )

    def _written(self, index: int) -> Float[Tensor, "variant choice"]:
        """Whether each answer of a prompt is written; from first tokens alone where no more was read."""
        if self.written:
            return self.written[index]
        prompt, first = self.prompts[index], self.first_token[:, index]
        opening = torch.tensor([answer[0] for answer in prompt.answers], dtype=torch.long)
        found = (first[:, None] == opening).float()
        told = torch.tensor([length == 1 for length in telling_lengths(prompt.scored)], dtype=torch.bool)
        return found.masked_fill(~told | (first == UNREAD)[:, None], torch.nan)


@lru_cache(maxsize=4096)
def telling_lengths(answers: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """How many tokens of each answer are needed to distinguish it from every other one; 0 where all of them do not.

    Args:
        answers: ``TokenPrompt.scored``: with ``END`` an answer that is the beginning of another is distinguished by its
            end.
    """
    shared = [
        max((common_prefix((own, other)) for j, other in enumerate(answers) if j != i), default=0)
        for i, own in enumerate(answers)
    ]
    return tuple(n + 1 if n < len(own) else 0 for n, own in zip(shared, answers, strict=True))


def written(prompt: TokenPrompt, hits: Sequence[Sequence[bool | None]]) -> Float[Tensor, " choice"]:
    """Whether each answer of a prompt is written greedily up to its distinguishing token; see ``Scores``.

    Args:
        prompt: whose answers they are.
        hits: for each token of each of ``prompt.scored``, whether it is the greedy one after those before it; None
            where that could not be read.
    """
    found = []
    for own, needed in zip(hits, telling_lengths(prompt.scored), strict=True):
        known = needed and None not in own[:needed]
        found.append(float(all(own[:needed])) if known else float("nan"))
    return torch.tensor(found, dtype=torch.float32)


def _outcomes(
    prompt: TokenPrompt,
    logprobs: Float[Tensor, "variant choice"],
    written: Float[Tensor, "variant choice"],
    overflowed: Bool[Tensor, " variant"],
) -> dict[str, list[object]]:
    unknown = torch.full((len(overflowed),), torch.nan, dtype=torch.float32)
    names = ("gold_logprob", "choice", "choice_correct", "first_match", "first_valid", "gold_margin")
    found = dict.fromkeys(names, unknown)
    has_gold, several = prompt.gold >= 0, len(prompt.answers) > 1
    if prompt.answers:
        choice = logprobs.argmax(dim=1)
        found["choice"] = choice.float()
        if several:
            # Any answer that is written makes it valid, whatever is known of the others.
            best = written.nan_to_num(nan=-1.0).amax(dim=1)
            found["first_valid"] = torch.where((best < 1) & written.isnan().any(dim=1), torch.nan, best)
    if prompt.answers and has_gold:
        found["gold_logprob"] = logprobs[:, prompt.gold]
        found["first_match"] = written[:, prompt.gold]
        if several:
            others = [index for index in range(len(prompt.answers)) if index != prompt.gold]
            found["choice_correct"] = (choice == prompt.gold).float()
            found["gold_margin"] = logprobs[:, prompt.gold] - logprobs[:, others].amax(dim=1)
    masked = {name: column.masked_fill(overflowed, torch.nan).tolist() for name, column in found.items()}
    if prompt.answers and not bool(overflowed.any()):
        masked["choice"] = choice.tolist()
    return {**masked, "overflowed": overflowed.tolist()}


def warn_of_overflow(scores: Scores, *, stacklevel: int = 3) -> None:
    """Name the interventions under which logits were NaN or infinite, in a ``RuntimeWarning``."""
    overflowed = scores.overflowed
    if not bool(overflowed.any()):
        return
    counts = overflowed.sum(dim=1).tolist()
    cells = [_cell(scores.interventions, variant, count) for variant, count in enumerate(counts) if count]
    more = f", and {len(cells) - NAMED} more" if len(cells) > NAMED else ""
    warnings.warn(
        f"logits were NaN or infinite for some of {overflowed.shape[1]} prompts: {', '.join(cells[:NAMED])}{more}; "
        "their outcomes are NaN (lower the strengths, or load the model in float32)",
        RuntimeWarning,
        stacklevel=stacklevel,
    )


def _cell(interventions: Sequence[Steering], variant: int, count: int) -> str:
    prompts = f"{count} prompt{'s' if count > 1 else ''}"
    if not variant:
        return f"unsteered ({prompts})"
    item = interventions[variant - 1]
    return f"{item.name or 'unnamed'} at layer {item.layer}, strength {item.strength:g} ({prompts})"


def warn_of_answers_alike(prompts: Sequence[TokenPrompt], *, stacklevel: int = 3) -> None:
    """Warn of gold answers that no token distinguishes from the other answers: ``first_match`` is NaN for them."""
    alike = [p.name for p in prompts if p.answers and p.gold >= 0 and not telling_lengths(p.scored)[p.gold]]
    if alike:
        warnings.warn(
            f"the gold answers of {len(alike)} prompts ({', '.join(alike[:NAMED])}) have no distinguishing "
            "token, so first_match is NaN for them",
            UserWarning,
            stacklevel=stacklevel,
        )
