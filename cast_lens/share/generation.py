"""What evaluation harnesses need from a model: interventions, tokens of a text, and greedy answers up to a stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine import TokenPrompt
from ..engine.decoding import decode
from ..engine.greedy import StopRule
from ..engine.tokens import end_tokens
from ..interventions import Steering
from ..models.lens import HookedTransformer
from ..models.tokens import prefix_ids
from .imports import read_intervention


def steering_of(model: HookedTransformer, vector: str, **how: Any) -> list[Steering]:
    """The intervention in a file, for a harness; none for an empty name.

    Args:
        model: the model to be steered.
        vector: file of a vector or of an exported intervention.
        how: layer, strength, operator and position; None for those in the file.

    Raises:
        ValueError: for a vector that does not fit the model, or parameters without a vector.
    """
    if not vector and any(value is not None for value in how.values()):
        raise ValueError("vector is empty, so layer, strength, operator and position have nothing to steer with")
    return [read_intervention(vector, model=model, **how)] if vector else []


def tokens_of(model: HookedTransformer, text: str, *, special: bool | None = None) -> list[int]:
    """Tokens of a text whose control tokens count, after what the tokenizer puts in front.

    Args:
        model: its tokenizer.
        text: as a harness or a chat template wrote it.
        special: whether to put that in front; None to do so unless the text begins with it.
    """
    tokenizer: Any = model.tokenizer
    prefix = list(prefix_ids(model)) if special is not False else []
    if prefix and special is None and text.startswith(str(tokenizer.decode(prefix))):
        prefix = []
    return prefix + list(tokenizer.encode(text, add_special_tokens=False))


def greedy_texts(
    model: HookedTransformer,
    contexts: Sequence[Sequence[int]],
    steering: Sequence[Steering],
    *,
    until: Sequence[str],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers under the last intervention, or of the unsteered model without one.

    Args:
        model: any that ``load_model`` gives.
        contexts: tokens; those that leave no room for an answer lose their beginning.
        steering: no intervention or one.
        until: texts that end an answer and are not part of it.
        max_new_tokens: longest answer.

    Raises:
        ValueError: when the model's context has no room for a prompt and an answer.
    """
    room = int(model.cfg.n_ctx) - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in the model's context of {model.cfg.n_ctx}"
        )
    prompts = [TokenPrompt(tuple(tokens[-room:])) for tokens in contexts]
    stop = Until(StopRule(model.tokenizer, end_tokens(model), None), tuple(mark for mark in until if mark))
    written = decode(model, prompts, list(steering), max_new_tokens=max_new_tokens, stop=stop)[-1]
    return [stop.text(tokens) for tokens in written]


@dataclass(frozen=True, slots=True)
class Until:
    """Where an answer ends: an end token, or any of several texts.

    Attributes:
        ends: the rule of end tokens.
        marks: the texts.
    """

    ends: StopRule
    marks: tuple[str, ...]

    def __call__(self, written: Sequence[int]) -> bool:
        """Whether an answer of these tokens has ended."""
        return self.ends(written) or any(mark in (self.ends.text(written) or "") for mark in self.marks)

    def text(self, written: Sequence[int]) -> str:
        """The answer without what ended it."""
        text = self.ends.text(written) or ""
        for mark in self.marks:
            text = text.split(mark)[0]
        return text
