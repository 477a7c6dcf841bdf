"""From prompts to tokens: BOS exactly once, answers tokenised as they follow the prompt, chat templates,
limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_lens import HookedTransformer

from ..tasks.types import Prompt
from .layout import TokenPrompt

PromptLike = Prompt | str | TokenPrompt


def tokenise(
    model: HookedTransformer, prompts: Sequence[PromptLike], *, chat: bool = False, room: int = 0
) -> list[TokenPrompt]:
    """Tokenise prompts and their admissible answers.

    BOS is put in front exactly when the model's tokenizer does so itself (``cfg.default_prepend_bos``). An
    answer is tokenised as part of prompt + blank + answer, so that its first token is the one that the model
    would write.

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
        prompt = Prompt((), prompt, "", (), "", f"prompt {index}")
    name = f"{prompt.task} {prompt.sample_id}".strip()
    text = _chat_text(tokenizer, prompt) if chat else prompt.text
    if not text.strip():
        raise ValueError(f"{name} is empty: it has no tokens to read an activation from")
    bos = _bos(model, tokenizer, text)
    tokens = tuple(bos + _encode(tokenizer, text))
    candidates = prompt.choices or ((prompt.gold,) if prompt.gold else ())
    joiner = "" if chat else " "
    answers = tuple(_continuation(tokenizer, bos, tokens, text, joiner + answer) for answer in candidates)
    gold = candidates.index(prompt.gold) if prompt.gold in candidates else -1
    return TokenPrompt(tokens, answers, gold, name)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _bos(model: HookedTransformer, tokenizer: Any, text: str) -> list[int]:
    """BOS when the model wants one and the text (a chat template's, say) does not begin with it already."""
    token = tokenizer.bos_token
    wanted = bool(model.cfg.default_prepend_bos) and token is not None and not text.startswith(token)
    return [tokenizer.bos_token_id] if wanted else []


def _continuation(
    tokenizer: Any, bos: list[int], tokens: tuple[int, ...], text: str, answer: str
) -> tuple[int, ...]:
    joint = tuple(bos + _encode(tokenizer, text + answer))
    if joint[: len(tokens)] == tokens:
        return joint[len(tokens) :]
    # The tokenizer merges across the border (languages without blanks): what decoding could write is the
    # answer alone.
    return tuple(_encode(tokenizer, answer))


def _chat_text(tokenizer: Any, prompt: Prompt) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "chat=True, but the model's tokenizer has no chat template; leave chat off for base models"
        )
    turns = []
    for body, answer in prompt.demonstrations:
        turns += [{"role": "user", "content": body}, {"role": "assistant", "content": answer}]
    turns.append({"role": "user", "content": prompt.query})
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
