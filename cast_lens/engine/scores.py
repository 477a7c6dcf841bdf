"""Reads scores from final residuals, and holds the result of scoring, also as a frame.

The unembedding is applied in blocks of the vocabulary, so that the full logits of many rows never exist at once.
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

# Rows and tokens whose logits exist at once: 8 MB in float32 for any vocabulary. With fewer rows the unembedding would
# be read more often; with more tokens the logits would leave the cache before they are summed.
UNEMBED_ROWS = 1024
BLOCK_TOKENS = {"cpu": 2048, "cuda": 32_768}
# Rows that are summed at once, so that they stay in a core's cache; an accelerator sums all rows together.
SUM_ROWS = {"cpu": 64}

# Marks an unknown token: it was not computed, or the logits were NaN or infinite.
UNREAD = -1
# Marks a token that is only known not to belong to any answer.
OTHER = -2

Keep = Callable[[int, int, Float[Tensor, "row token"]], None]


def read_out(
    kernel: RowModel, normed: Float[Tensor, "row d_model"], keep: Keep | None = None
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Normaliser (log-sum-exp of the logits) and most probable token of each row.

    If the logits of a row are NaN or infinite, its token is -1 and its normaliser is not finite.

    Args:
        kernel: gives the unembedding.
        normed: residuals after the final norm.
        keep: called for each block with its first row, its first token and its logits in float32.
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
    """Log-sum-exp of a block, which is overwritten; ``highest`` and ``tokens`` are updated in place."""
    top = logits.amax(dim=-1)
    # The argmax costs as much as all the sums, so it is only computed for rows with a higher logit than before.
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
    """Whether greedy decoding writes a token that is not among a row's own tokens.

    The vocabulary is read in blocks, and a row is dropped as soon as some other token beats its own. Most such rows are
    dropped early, because vocabularies usually list frequent tokens first. Only rows that write one of their own tokens
    are unembedded in full.

    Args:
        kernel: gives the unembedding.
        normed: residuals after the final norm.
        own: the row's own tokens, padded with -1.
        best: the highest logit among its own tokens, and the token that has it. Ties go to the smaller token.
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
        # Rows are compacted only if enough of them are gone.
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
    """Rows of a block in which another token has a higher logit than ``highest``."""
    rows, places = ((own >= first) & (own < first + logits.shape[1])).nonzero(as_tuple=True)
    logits[rows, own[rows, places] - first] = -torch.inf
    top = logits.amax(dim=-1)
    equal = (top == highest).nonzero().flatten()
    found = top > highest
    found[equal] = logits[equal].argmax(dim=-1) + first < token[equal]
    return found


def greedy_tokens(logits: Float[Tensor, "*rows vocab"]) -> Int[Tensor, "*rows"]:
    """The most probable token of each row; -1 if its logits are NaN or infinite, as in ``read_out``."""
    finite = logits.float().logsumexp(dim=-1).isfinite()
    return logits.argmax(dim=-1).masked_fill(~finite, -1)


# How many interventions or prompts a warning names before it only counts them.
NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of prompts × variants. Variant 0 is the unsteered model; the interventions follow in order.

    Attributes:
        answer_logprobs: for each prompt [variant, choice], the natural log of the probability of the whole answer,
            summed over its tokens (and its end, if one answer begins another; see ``tokenise``). With ``labels_only``
            it is an unnormalised logit; with ``normalised=False`` it is correct up to a constant per variant.
        first_token: [variant, sample], the greedy first token; -1 if the full vocabulary was not read, or the logits
            were NaN or infinite.
        logits: [variant, sample, vocab], float32 logits of the first answer token, if asked for.
        interventions: variant ``i`` is ``interventions[i - 1]``.
        prompts: the tokenised prompts.
        written: for each prompt [variant, choice], 1 if greedy decoding writes the answer up to the token that
            distinguishes it from every other answer, 0 if not, NaN if unknown. Empty if only first tokens were read,
            which then have to distinguish the answers.
    """

    answer_logprobs: tuple[Float[Tensor, "variant _"], ...]
    first_token: Int[Tensor, "variant sample"]
    logits: Float[Tensor, "variant sample vocab"] | None
    interventions: tuple[Steering, ...]
    prompts: tuple[TokenPrompt, ...]
    written: tuple[Float[Tensor, "variant _"], ...] = ()

    @property
    def overflowed(self) -> Bool[Tensor, "variant sample"]:
        """Whether logits were NaN or infinite, so that there is no outcome."""
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

        Columns: ``sample, name, layer, strength, operator, position`` (layer -1 for unsteered, the first of several
        layers), ``gold_logprob``, ``choice`` (index of the most probable admissible answer), ``choice_correct``,
        ``first_match`` (greedy decoding writes the gold answer up to the token that distinguishes it from every other
        answer, usually the first), ``first_valid`` (the same for any admissible answer), ``gold_margin`` (gold minus
        best other answer), ``overflowed`` (the logits were NaN or infinite). Outcomes are 0 or 1. They are NaN if the
        logits overflowed, or the prompt has no gold answer or no other answer; the two ``first_`` columns are also NaN
        if the full vocabulary was not read or no token distinguishes the answer.
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
        """Whether greedy decoding writes each answer of a prompt; from first tokens if nothing else was read."""
        if self.written:
            return self.written[index]
        prompt, first = self.prompts[index], self.first_token[:, index]
        opening = torch.tensor([answer[0] for answer in prompt.answers], dtype=torch.long)
        found = (first[:, None] == opening).float()
        told = torch.tensor([length == 1 for length in telling_lengths(prompt.scored)], dtype=torch.bool)
        return found.masked_fill(~told | (first == UNREAD)[:, None], torch.nan)


@lru_cache(maxsize=4096)
def telling_lengths(answers: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """How many tokens distinguish each answer from every other one; 0 if even all its tokens do not.

    Args:
        answers: ``TokenPrompt.scored``; an answer that begins another is distinguished by ``END``.
    """
    shared = [
        max((common_prefix((own, other)) for j, other in enumerate(answers) if j != i), default=0)
        for i, own in enumerate(answers)
    ]
    return tuple(n + 1 if n < len(own) else 0 for n, own in zip(shared, answers, strict=True))


def written(prompt: TokenPrompt, hits: Sequence[Sequence[bool | None]]) -> Float[Tensor, " choice"]:
    """Whether greedy decoding writes each answer of a prompt up to its distinguishing token; see ``Scores``.

    Args:
        prompt: the prompt with its answers.
        hits: for each token in ``prompt.scored``, whether it is the greedy choice after the tokens before it; None if
            unknown.
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
            # One written answer is enough, even if the others are unknown.
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
    """Warn (``RuntimeWarning``) of interventions under which logits were NaN or infinite."""
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
    """Warn of gold answers that no token distinguishes from the others, so that ``first_match`` is NaN."""
    alike = [p.name for p in prompts if p.answers and p.gold >= 0 and not telling_lengths(p.scored)[p.gold]]
    if alike:
        warnings.warn(
            f"the gold answers of {len(alike)} prompts ({', '.join(alike[:NAMED])}) have no distinguishing "
            "token, so first_match is NaN for them",
            UserWarning,
            stacklevel=stacklevel,
        )
