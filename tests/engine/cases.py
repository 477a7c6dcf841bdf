"""Prompts and interventions that reach every branch of the engine, and the plain loop that it must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cast_lens.engine.layout import TokenPrompt
from cast_lens.interventions import Intervention
from cast_lens.models.lens import HookedTransformer
from tests.tiny import VOCAB

D_MODEL = 64
PAD = 2
# One token; two tokens; three that share their first token, two of which share two.
ANSWERS = ((11,), (12, 13), (14, 15, 16), (14, 15, 17, 18), (14, 19))


def tokens(length: int, seed: int) -> tuple[int, ...]:
    """Random tokens without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist())


def few_shot_prompts(answers: tuple[tuple[int, ...], ...] = ANSWERS) -> list[TokenPrompt]:
    """Prompts whose beginnings form a trie of three levels, with the awkward cases among them."""
    root, left, right = tokens(14, 1), tokens(9, 2), tokens(10, 3)
    sequences = [
        root + left + tokens(5, 4),
        root + left + tokens(7, 5),
        root + right + tokens(9, 6) + tokens(3, 7),
        root + right + tokens(9, 6) + tokens(4, 8),
        root + tokens(2, 9),
        root + left + tokens(5, 4),  # a duplicate
        root + left,  # the beginning of others
        root[:5] + tokens(6, 10),  # shares too little to be shared
        tokens(1, 11),  # nothing before the last token
        tokens(20, 12),  # shares nothing
    ]
    gold = min(2, len(answers) - 1)
    return [TokenPrompt(sequence, answers, gold, f"prompt {i}") for i, sequence in enumerate(sequences)]


def direction(seed: int, *, size: float = 6.0) -> Tensor:
    """A random direction, long enough that a wrong layer, position or strength shows."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(D_MODEL, generator=generator)
    return size * vector / vector.norm()


def all_kinds() -> list[Intervention]:
    """Every operator and every position, over all layers of the tiny models; not sorted by layer."""
    return [
        Intervention(direction(0), 2, 1.0, "add", "last"),
        Intervention(direction(1), 0, -1.5, "add", "last"),
        Intervention(direction(2), 3, 2.0, "add", "last"),
        Intervention(direction(3), 1, 1.0, "norm_preserving_add", "last"),
        Intervention(direction(4), 0, 1.0, "ablate", "last"),
        Intervention(direction(5), 2, 0.7, "replace", "last"),
        Intervention(direction(6), 1, 1.0, "add", "prompt_last"),
        Intervention(direction(7), 3, 0.5, "replace", "prompt_last"),
        Intervention(direction(8), 1, 1.0, "add", "all"),
        Intervention(direction(9), 2, 1.0, "ablate", "all"),
    ]


def some_kinds(d_model: int, n_layers: int) -> list[Intervention]:
    """One of each position, and an operator that is not a sum, for a model of any shape."""
    first, second, third, fourth = (
        6.0 * torch.randn(d_model, generator=torch.Generator().manual_seed(i)) / d_model**0.5 for i in range(4)
    )
    return [
        Intervention(first, n_layers - 1, 1.0, "add", "last"),
        Intervention(second, 0, 0.7, "replace", "last"),
        Intervention(third, 1 % n_layers, -1.5, "add", "prompt_last"),
        Intervention(fourth, n_layers // 2, 1.0, "add", "all"),
    ]


def padded_logits(
    model: HookedTransformer,
    sequences: Sequence[tuple[int, ...]],
    prompt_lengths: Sequence[int],
    intervention: Intervention | None,
) -> list[Tensor]:
    """Logits [position, vocab] of sequences from one left-padded ``run_with_hooks``, or one by one where it must be."""
    if len(sequences) > 1 and not getattr(model, "takes_left_padding", True):
        pairs = zip(sequences, prompt_lengths, strict=True)
        return [padded_logits(model, [one], [length], intervention)[0] for one, length in pairs]
    width = max(map(len, sequences))
    ids = torch.tensor([(PAD,) * (width - len(sequence)) + sequence for sequence in sequences])
    mask = torch.tensor([[0] * (width - len(sequence)) + [1] * len(sequence) for sequence in sequences])
    edited = torch.zeros_like(mask, dtype=torch.bool)
    for row, (sequence, length) in enumerate(zip(sequences, prompt_lengths, strict=True)):
        last = width - len(sequence) + length - 1
        if intervention is not None:
            stop = last + 1 if intervention.position == "prompt_last" else width
            edited[row, 0 if intervention.position == "all" else last : stop] = True

    def steer(residual: Tensor, hook: object) -> Tensor:
        assert intervention is not None
        return torch.where(edited[..., None], intervention(residual), residual)

    hooks: list[Any] = [] if intervention is None else [(f"blocks.{intervention.layer}.hook_resid_post", steer)]
    with torch.no_grad():
        logits = model.run_with_hooks(ids, attention_mask=mask, fwd_hooks=hooks)
    return [row[width - len(sequence) :].float() for row, sequence in zip(logits, sequences, strict=True)]


def padded_scores(
    model: HookedTransformer, prompts: Sequence[TokenPrompt], intervention: Intervention | None
) -> tuple[list[Tensor], Tensor]:
    """Log-probability of each answer, and first-token logits [sample, vocab], from one padded batch.

    An answer's last token is read, not run, and answers that differ in it alone are read from one sequence.
    """
    pairs = list(dict.fromkeys((prompt.tokens, answer[:-1]) for prompt in prompts for answer in prompt.answers))
    sequences, lengths = [tokens + begun for tokens, begun in pairs], [len(tokens) for tokens, _ in pairs]
    rows = padded_logits(model, sequences, lengths, intervention)
    first = {pair: row[length - 1] for pair, row, length in zip(pairs, rows, lengths, strict=True)}
    read = {pair: row[length - 1 :].log_softmax(dim=-1) for pair, row, length in zip(pairs, rows, lengths, strict=True)}
    sums = [
        torch.stack(
            [read[prompt.tokens, answer[:-1]][range(len(answer)), list(answer)].sum() for answer in prompt.answers]
        )
        for prompt in prompts
    ]
    return sums, torch.stack([first[prompt.tokens, prompt.answers[0][:-1]] for prompt in prompts])
