"""Tokenises prompts and answers, with the tokenizer's prefix, chat templates and checks of the context length."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

from ..models.lens import HookedTransformer
from ..models.tokens import ChatTemplate, control_tokens, end_of_turn, prefix_ids, text_ids
from ..tasks.types import Prompt
from .layout import TokenPrompt

PromptLike = Prompt | str | TokenPrompt
# One prompt or several.
Prompts = PromptLike | Sequence[PromptLike]


def as_prompts(prompts: Prompts) -> list[PromptLike]:
    """A list of prompts, from a single prompt (such as a text) or several.

    Raises:
        ValueError: if there are no prompts, or one of them (named by its index) is not a prompt.
    """
    if isinstance(prompts, PromptLike):
        return [prompts]
    found = list(prompts)
    if not found:
        raise ValueError("prompts is empty; give at least one prompt")
    for index, prompt in enumerate(found):
        if not isinstance(prompt, PromptLike):
            raise ValueError(f"prompt {index} is a {type(prompt).__name__}; give text, Prompt or TokenPrompt objects")
    return found


def tokenise(model: HookedTransformer, prompts: Prompts, *, chat: bool = False, room: int = 0) -> list[TokenPrompt]:
    """Tokenise prompts and their admissible answers.

    Tokens begin with the prefix that the model's tokenizer adds: BOS (``cfg.default_prepend_bos``), a language token or
    ``[CLS]``. Prompts are data: a control token that is spelled out in a text is read as text, with a warning if the
    text does not come from a task. An answer is tokenised together with its prompt, joined by a blank (or, with
    ``chat``, by the template), so that its first token is the one that the model would write.

    If the tokens of one admissible answer begin those of another (``non`` and ``non-toxic``), the sum of
    log-probabilities could only prefer the shorter one. All answers of such a prompt are scored with their end: the
    probability that one of ``answer_ends`` follows (``TokenPrompt.end``).

    Args:
        model: its tokenizer and context length are used.
        prompts: ``Prompt`` objects, plain texts (without answers) or ``TokenPrompt`` objects.
        chat: render demonstrations and query as turns of the model's chat template.
        room: how many tokens to leave free after prompt and answer, for decoding.

    Raises:
        ValueError: no prompts; an empty prompt; a prompt that exceeds the context (the message says which one and by
            how much); an answer without tokens, or with the tokens of another answer; a token without an embedding in
            the model; ``chat`` without a chat template; a model without a tokenizer.
    """
    ready = [
        prompt if isinstance(prompt, TokenPrompt) else _tokenise(model, prompt, index, chat)
        for index, prompt in enumerate(as_prompts(prompts))
    ]
    for index, prompt in enumerate(ready):
        _check(model, prompt, prompt.name or f"prompt {index}", room)
    return [_with_end(model, prompt) for prompt in ready]


def _check(model: HookedTransformer, prompt: TokenPrompt, name: str, room: int) -> None:
    limit, vocabulary = int(model.cfg.n_ctx), int(model.cfg.d_vocab)
    if not prompt.tokens:
        raise ValueError(f"{name} is empty: it has no tokens to read an activation from")
    empty = [number for number, answer in enumerate(prompt.answers) if not answer]
    if empty:
        raise ValueError(f"{name}: answer {empty[0]} tokenises to nothing; give it text that the tokenizer knows")
    first = {answer: number for number, answer in reversed(list(enumerate(prompt.answers)))}
    twins = [(first[answer], number) for number, answer in enumerate(prompt.answers) if first[answer] < number]
    if twins:
        raise ValueError(
            f"{name}: answers {twins[0][0]} and {twins[0][1]} are the same tokens, so no score can distinguish them; "
            "give answers that the tokenizer distinguishes"
        )
    strange = [token for token in (*prompt.tokens, *sum(prompt.answers, ())) if not 0 <= token < vocabulary]
    if strange:
        text = "" if model.tokenizer is None else f" ({model.tokenizer.convert_ids_to_tokens(strange[0])!r})"
        raise ValueError(
            f"{name} holds token {strange[0]}{text}, but the model has embeddings for {vocabulary} tokens; load the "
            "tokenizer that belongs to the model, or leave out tokens that were added to it"
        )
    need = _length(prompt) + room
    if need > limit:
        raise ValueError(
            f"{name} needs {need} tokens ({len(prompt.tokens)} of prompt), {need - limit} more than the "
            f"model's context of {limit}; use fewer demonstrations or shorter examples"
        )


def _with_end(model: HookedTransformer, prompt: TokenPrompt) -> TokenPrompt:
    """The prompt; with the tokens that end an answer, if one answer begins another."""
    answers = sorted(prompt.answers)
    nested = any(longer[: len(shorter)] == shorter for shorter, longer in pairwise(answers))
    if not nested or prompt.end:
        return prompt
    ends = answer_ends(model)
    if not ends:
        raise ValueError(
            f"{prompt.name or 'a prompt'}: one answer is the beginning of another, and without a tokenizer it is not "
            "known what ends an answer; give the TokenPrompt its end= tokens"
        )
    return replace(prompt, end=ends)


def end_tokens(model: HookedTransformer) -> frozenset[int]:
    """Tokens at which decoding stops.

    These are the tokenizer's end-of-text token, every ``eos_token_id`` of the checkpoint's generation config, and the
    token that the chat template writes after an assistant's turn.
    """
    tokenizer: Any = model.tokenizer
    generation = getattr(model, "generation_config", None)
    listed = getattr(generation, "eos_token_id", None)
    found = list(listed) if isinstance(listed, list | tuple | set) else [listed]
    if tokenizer is not None:
        found += [tokenizer.eos_token_id, end_of_turn(tokenizer)]
    return frozenset(int(token) for token in found if token is not None)


def answer_ends(model: HookedTransformer) -> tuple[int, ...]:
    """Tokens that end an answer which is scored with its end.

    These are ``end_tokens`` and every token whose text starts with a line end, after any blanks. Empty for a model
    without a tokenizer.
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        return ()
    lines = _line_ends(tokenizer, min(len(tokenizer), int(model.cfg.d_vocab_out)))
    return tuple(sorted({*lines, *(token for token in end_tokens(model) if token < int(model.cfg.d_vocab_out))}))


@lru_cache(maxsize=8)
def _line_ends(tokenizer: Any, count: int) -> tuple[int, ...]:
    texts = tokenizer.batch_decode([[token] for token in range(count)])
    return tuple(token for token, text in enumerate(texts) if text.lstrip(" \t\r").startswith("\n"))


def longest_prompt(
    model: HookedTransformer, prompts: str | Prompt | Sequence[Prompt | str], *, chat: bool = False
) -> int:
    """How many tokens the longest prompt has, together with its longest answer.

    Raises:
        ValueError: an empty prompt; ``chat`` without a chat template; a model without tokenizer.
    """
    given = [prompts] if isinstance(prompts, str | Prompt) else prompts
    made = [_tokenise(model, prompt, index, chat) for index, prompt in enumerate(given)]
    return max((_length(_with_end(model, prompt)) for prompt in made), default=0)


def _length(prompt: TokenPrompt) -> int:
    return len(prompt.tokens) + max((len(answer) - 1 for answer in prompt.scored), default=0)


def _tokenise(model: HookedTransformer, prompt: Prompt | str, index: int, chat: bool) -> TokenPrompt:
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise ValueError("the model has no tokenizer; pass TokenPrompt objects or load it with load_model")
    if isinstance(prompt, str):
        _warn_of_control_tokens(tokenizer, prompt, index)
        prompt = Prompt((), prompt, "", (), "", f"prompt {index}")
    name = f"{prompt.task} {prompt.sample_id}".strip()
    candidates = prompt.choices or ((prompt.gold,) if prompt.gold else ())
    prefix = list(prefix_ids(model))
    encode: Callable[[str], list[int]] = partial(text_ids, tokenizer)
    text, endings = prompt.text, [f" {answer}" for answer in candidates]
    if chat:
        template = ChatTemplate.of(tokenizer)
        encode, text = template.encode, template.prompt(prompt.demonstrations, prompt.query)
        endings = [template.answer(answer) for answer in candidates]
        if prefix and text.startswith(tokenizer.convert_ids_to_tokens(prefix[0])):
            prefix = []  # the template writes it
    if not text.strip():
        raise ValueError(f"{name} is empty: it has no tokens to read an activation from")
    tokens = tuple(prefix + encode(text))
    answers = tuple(_continuation(encode, prefix, tokens, text, ending) for ending in endings)
    gold = candidates.index(prompt.gold) if prompt.gold in candidates else -1
    return TokenPrompt(tokens, answers, gold, name)


def _warn_of_control_tokens(tokenizer: Any, text: str, index: int) -> None:
    spelled = next((token for token in control_tokens(tokenizer) if token in text), None)
    if spelled is not None:
        warnings.warn(
            f"prompt {index} spells the control token {spelled!r}, which is read as text because prompts are data; use "
            "chat=True for a conversation, or a TokenPrompt for control tokens",
            stacklevel=4,
        )


def _continuation(
    encode: Callable[[str], list[int]], prefix: list[int], tokens: tuple[int, ...], text: str, answer: str
) -> tuple[int, ...]:
    joint = tuple(prefix + encode(text + answer))
    if joint[: len(tokens)] == tokens:
        return joint[len(tokens) :]
    # The tokenizer merges across the border (languages without blanks), so decoding would write the answer's own
    # tokens.
    return tuple(encode(answer))
