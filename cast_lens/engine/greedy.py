"""Greedy decoding, once for everything that decodes: which token comes next, where an answer ends, and its text."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Int
from torch import Tensor

from ..models.lens import HookedTransformer
from .scores import UNREAD
from .tokens import end_tokens

Stop = Callable[[Sequence[int]], bool]
"""Whether an answer has ended, from the tokens written so far."""
Step = Callable[[list[int], Int[Tensor, " row"]], Int[Tensor, " row"]]
"""From the rows that go on (places among the rows before) and their last tokens to their next tokens."""


def stop_rule(model: HookedTransformer, *, stop_at_newline: bool) -> StopRule:
    """The rule by which the answers of a model end.

    Raises:
        ValueError: a model without tokenizer.
    """
    return StopRule.of(model, "\n" if stop_at_newline else None)


@dataclass(frozen=True, slots=True)
class StopRule:
    """Where a greedy answer ends, whoever writes it: ``answer``, ``generate``, or an adapter.

    It ends with a token of ``ends``, and before ``mark`` wherever that follows something that is not blank: a model
    may begin its answer on a new line. What it has written counts, so the rule is asked with all of an answer's tokens.

    Attributes:
        tokenizer: gives the text.
        ends: tokens that end a text; see ``end_tokens``.
        mark: text that ends an answer and is not part of it; None for none.
    """

    tokenizer: Any
    ends: frozenset[int]
    mark: str | None
    _marked: dict[int, bool] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, model: HookedTransformer, mark: str | None) -> StopRule:
        """The rule for a model.

        Raises:
            ValueError: a model without tokenizer, an empty ``mark``.
        """
        if model.tokenizer is None:
            raise ValueError("decoding needs the model's tokenizer; load the model with load_model")
        if mark == "":
            raise ValueError("stop is empty, which every text contains; give the text that ends an answer, or None")
        return cls(model.tokenizer, end_tokens(model), mark)

    def __call__(self, written: Sequence[int]) -> bool:
        """Whether an answer of these tokens has ended."""
        if written[-1] in self.ends:
            return True
        return self.mark is not None and self._may_mark(written[-1]) and self._cut(written) is not None

    def text(self, written: Sequence[int]) -> str | None:
        """The answer's text; None where a token could not be read."""
        if UNREAD in written:
            return None
        cut = self._cut(written)
        return self._decode(written) if cut is None else cut

    def _may_mark(self, token: int) -> bool:
        """Whether a token may complete the mark: for one character only a token that contains it."""
        if self.mark is None or len(self.mark) != 1:
            return True
        if token not in self._marked:
            self._marked[token] = self.mark in self.tokenizer.decode([token])
        return self._marked[token]

    def _cut(self, written: Sequence[int]) -> str | None:
        """The text before the mark; None without it."""
        text = self._decode(written)
        blank = len(text) - len(text.lstrip())
        at = -1 if self.mark is None else text.find(self.mark, blank)
        return None if at < 0 else text[:at]

    def _decode(self, written: Sequence[int]) -> str:
        ended = next((place for place, token in enumerate(written) if token in self.ends), len(written))
        return str(self.tokenizer.decode(list(written[:ended]), skip_special_tokens=True))


def write_greedily(
    first: Int[Tensor, " row"], step: Step, *, max_new_tokens: int, stop: Stop | Sequence[Stop]
) -> list[tuple[int, ...]]:
    """Greedy decoding: each row continues until it stops, is full, or has no most probable token (-1, its last).

    Args:
        first: first token of each row.
        step: gives the next tokens; see ``Step``.
        max_new_tokens: longest answer.
        stop: see ``Stop``; one for all rows, or one for each.
    """
    stops = [stop] * len(first) if callable(stop) else list(stop)
    written: list[list[int]] = [[] for _ in first]
    rows, tokens = list(range(len(first))), first
    for count in range(1, max_new_tokens + 1):
        for row, token in zip(rows, tokens.tolist(), strict=True):
            written[row].append(token)
        kept = [place for place, row in enumerate(rows) if written[row][-1] != UNREAD and not stops[row](written[row])]
        if not kept or count == max_new_tokens:
            break
        rows = [rows[place] for place in kept]
        tokens = step(kept, tokens[kept])
    return [tuple(row) for row in written]


def while_open(rule: StopRule, is_open: Callable[[str], bool]) -> Stop:
    """Stop where ``rule`` does, and as soon as the text so far is not ``is_open``: what follows would not matter."""

    def stop(written: Sequence[int]) -> bool:
        return rule(written) or not is_open(rule.text(written) or "")

    return stop


def texts_of(stop: StopRule, written: list[list[tuple[int, ...]]]) -> list[list[str | None]]:
    """What ``decode`` wrote, as text; None, with a warning, where it could not continue."""
    texts = [[stop.text(ids) for ids in row] for row in written]
    lost = sum(text is None for row in texts for text in row)
    if lost:
        warnings.warn(
            f"{lost} of {sum(map(len, texts))} answers were not written: the logits were NaN or infinite, so there is "
            "no most probable token (lower the strengths, or load the model in float32)",
            RuntimeWarning,
            stacklevel=3,
        )
    return texts


def check_length(max_new_tokens: int) -> None:
    """Refuse an answer of no tokens.

    Raises:
        ValueError: with the number.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
