"""From prompts to tokens: the tokenizer's prefix once, answers as they follow the prompt, chat templates, limits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from transformer_lens import HookedTransformer

from ..models.tokens import ChatTemplate, control_tokens, prefix_ids, text_ids
from ..tasks.types import Prompt
from .layout import TokenPrompt

PromptLike = Prompt | str | TokenPrompt


def tokenise(
    model: HookedTransformer, prompts: Sequence[PromptLike], *, chat: bool = False, room: int = 0
) -> list[TokenPrompt]:
    """Tokenise prompts and their admissible answers.

    In front stands what the model's tokenizer puts there itself: BOS (``cfg.default_prepend_bos``), a language,
    ``[CLS]``. Prompts are data: a control token that a text spells is read as text (with a warning where the text
    was not made from a task). An answer is tokenised as part of prompt + blank + answer, with ``chat`` as the
    template joins them, so that its first token is the one that the model would write.

    Args:
        model: its tokenizer and context length are used.
        prompts: ``Prompt``, plain text (no answers), or ready ``TokenPrompt``.
        chat: render demonstrations and query as turns of the model's chat template.
        room: tokens to leave free behind prompt and answer, for decoding.

    Raises:
        ValueError: no prompts; an empty prompt; a prompt beyond the context (which one, by how much); an
            answer that tokenises to nothing; ``chat`` without a chat template; a model without tokenizer.
    """
    if not prompts:
        raise ValueError("prompts is empty; give at least one prompt")
    ready = [
        prompt if isinstance(prompt, TokenPrompt) else _tokenise(model, prompt, index, chat)
        for index, prompt in enumerate(prompts)
    ]
    limit = int(model.cfg.n_ctx)
    for index, prompt in enumerate(ready):
        name = prompt.name or f"prompt {index}"
        if not prompt.tokens:
            raise ValueError(f"{name} is empty: it has no tokens to read an activation from")
        empty = [number for number, answer in enumerate(prompt.answers) if not answer]
        if empty:
            raise ValueError(
                f"{name}: answer {empty[0]} tokenises to nothing; give it text that the tokenizer knows"
            )
        need = _length(prompt) + room
        if need > limit:
            raise ValueError(
                f"{name} needs {need} tokens ({len(prompt.tokens)} of prompt), {need - limit} more than the "
                f"model's context of {limit}; use fewer demonstrations or shorter examples"
            )
    return ready


def longest_prompt(model: HookedTransformer, prompts: Sequence[Prompt | str], *, chat: bool = False) -> int:
    """Tokens that the longest of the prompts takes with its longest answer.

    Raises:
        ValueError: an empty prompt; ``chat`` without a chat template; a model without tokenizer.
    """
    made = [_tokenise(model, prompt, index, chat) for index, prompt in enumerate(prompts)]
    return max((_length(prompt) for prompt in made), default=0)


def _length(prompt: TokenPrompt) -> int:
    return len(prompt.tokens) + max((len(answer) - 1 for answer in prompt.answers), default=0)


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
    # The tokenizer merges across the border (languages without blanks): what decoding could write is the
    # answer alone.
    return tuple(encode(answer))
