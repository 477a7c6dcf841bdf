"""The tokenizer on a model: what it puts in front of a text, how it reads data, and how its chat template writes.

Text is data: a control token that an example happens to spell ("</s>" in a review) is read as the characters that
it is made of. Only the tokenizer itself, and the chat template around the turns, write control tokens.
"""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from .lens import HookedTransformer

# What a template that asks for today's date gets: the date that Llama 3's template falls back on. A prompt must not
# change overnight; ``chat_arguments={"today": "2026-01-31"}`` names another day.
CHAT_DATE = datetime.date(2024, 7, 26)
# Around control tokens that a message spells, while a template writes around the messages: private-use characters.
_START, _END = "\U000f0000", "\U000f0001"
_ARGUMENTS = "cast_lens_chat_arguments"
_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "chat_template", "tokenize"})


def prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts its BOS token before a text."""
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def prefix_ids(model: HookedTransformer) -> tuple[int, ...]:
    """Tokens in front of every text: all that the tokenizer adds by itself (BOS, a language, ``[CLS]``).

    ``cfg.default_prepend_bos`` adds BOS where the tokenizer does not, or takes it away where it does, as
    ``model.to_tokens`` does.
    """
    tokenizer: Any = model.tokenizer
    whole, plain = list(tokenizer("a")["input_ids"]), text_ids(tokenizer, "a")
    own = whole[: len(whole) - len(plain)] if whole[len(whole) - len(plain) :] == plain else []
    bos = tokenizer.bos_token_id
    if bos is not None and bool(model.cfg.default_prepend_bos) != (own[:1] == [bos]):
        own = [*own, bos] if model.cfg.default_prepend_bos else own[1:]
    return tuple(own)


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of a text alone: nothing is added, and control tokens that it spells are read as text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The special tokens of a tokenizer as they are spelled, longest first."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return tuple(sorted({*added, *tokenizer.all_special_tokens}, key=lambda token: (-len(token), token)))


def attach_tokenizer(model: HookedTransformer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model its tokenizer, with a padding token (set on it), and record whether it adds BOS.

    ``HookedTransformer.set_tokenizer`` is not used: it rebuilds the tokenizer with ``add_bos_token=True``,
    from the hub where it has to, and so forgets what the model was trained with. Here
    ``cfg.default_prepend_bos`` and ``cfg.tokenizer_prepends_bos`` are both what the tokenizer does by
    itself, so that ``model.to_tokens(text)`` is ``tokenizer(text)``.

    Raises:
        ValueError: when the tokenizer ends a text with a special token, which no prompt may end with.
    """
    _check_end(tokenizer)
    _ensure_padding(tokenizer, model.cfg.d_vocab)
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = prepends_bos(tokenizer)


def set_chat_arguments(model: HookedTransformer, arguments: Mapping[str, Any]) -> None:
    """Fix what the chat template of a model is given besides the messages, for every prompt with ``chat=True``.

    Args:
        model: with a tokenizer that has a chat template.
        arguments: of the template, as JSON values (``enable_thinking=False``, ``date_string="26 Jul 2024"``), and
            ``today``, an ISO date, for a template that reads the clock.

    Raises:
        ValueError: when there is no chat template, or it does not read an argument of that name.
    """
    tokenizer: Any = model.tokenizer
    template = _template_of(tokenizer)
    for name, value in arguments.items():
        if name == "today" and _reads_clock(template):
            _day(value)
        elif name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", template):
            raise ValueError(
                f"chat_arguments has {name!r}, which the chat template of this model does not read; check the "
                "spelling against tokenizer.chat_template"
            )
        if json.loads(json.dumps(value, default=repr)) != value:
            raise ValueError(f"chat_arguments[{name!r}]={value!r} must be a string, number, boolean, list or None")
    setattr(tokenizer, _ARGUMENTS, dict(arguments))


def chat_arguments(model: HookedTransformer) -> dict[str, Any]:
    """What the chat template of a model is given besides the messages, the pinned date included; for provenance."""
    tokenizer: Any = model.tokenizer
    given = dict(getattr(tokenizer, _ARGUMENTS, {}))
    return {**({"today": str(CHAT_DATE)} if _reads_clock(_template_of(tokenizer)) else {}), **given}


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The control token that the chat template writes after an answer; None without a template or such a token."""
    if not tokenizer.chat_template:
        return None
    behind = ChatTemplate.of(tokenizer).end
    known = tokenizer.added_tokens_decoder
    ids = tokenizer.encode(behind, add_special_tokens=False)
    return next((token for token in ids if token in known and known[token].content.strip()), None)


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A model's chat template with its arguments, and what it writes around an answer.

    Attributes:
        tokenizer: renders and encodes.
        template: its text, the clock stopped.
        arguments: passed to it besides the messages.
        opening: what it writes between the prompt and an answer, up to the last character that is not blank (a channel
            header, say): part of the prompt, since no answer begins before it.
        joiner: the blanks after that (``" "`` in the Llama 2 family): part of the answer, since the model writes them.
        end: what it writes after an answer.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    arguments: str
    opening: str = ""
    joiner: str = ""
    end: str = ""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate:
        """The template of a tokenizer.

        Raises:
            ValueError: when it has none.
        """
        given = dict(getattr(tokenizer, _ARGUMENTS, {}))
        template = _pinned(_template_of(tokenizer), _day(given.pop("today", str(CHAT_DATE))))
        return _observed(cls(tokenizer, template, json.dumps(given, sort_keys=True)))

    def prompt(self, turns: Sequence[tuple[str, str]], query: str) -> str:
        """The text that an answer to ``query`` follows, after (question, answer) turns; for ``encode``."""
        messages = [_message(role, text) for turn in turns for role, text in zip(_ROLES, turn, strict=True)]
        return self._render([*messages, _message("user", query)], open_turn=True) + self.opening

    def answer(self, text: str) -> str:
        """An answer as it follows a prompt; for ``encode``."""
        return self.joiner + self._marked(text)

    def encode(self, text: str) -> list[int]:
        """Tokens of rendered text: control tokens of the template are tokens, those that a message spells are text."""
        if _START not in text:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        spelled = "|".join(map(re.escape, control_tokens(self.tokenizer)))
        ids: list[int] = []
        known, plain, end = self.tokenizer.get_vocab(), "", 0
        for found in re.finditer(f"{_START}({spelled}){_END}|{spelled}", text):
            plain += text[end : found.start()]
            end = found.end()
            if found[1]:  # spelled by a message
                plain += found[1]
            else:
                ids += self._text_ids(plain, first=not ids)
                ids.append(known[found[0]])
                plain = ""
        return ids + self._text_ids(plain + text[end:], first=not ids)

    def _text_ids(self, text: str, *, first: bool) -> list[int]:
        text = text.replace(_START, "").replace(_END, "")
        if first or not text:
            return text_ids(self.tokenizer, text)
        # Behind a line end, or a tokenizer of the SentencePiece kind would begin the text with a blank.
        line, whole = text_ids(self.tokenizer, "\n"), text_ids(self.tokenizer, "\n" + text)
        return whole[len(line) :] if whole[: len(line)] == line else text_ids(self.tokenizer, text)

    def _marked(self, text: str) -> str:
        plain = text.replace(_START, "").replace(_END, "")
        names = "|".join(map(re.escape, control_tokens(self.tokenizer)))
        return re.sub(names, lambda found: f"{_START}{found[0]}{_END}", plain) if names else plain

    def _render(self, messages: Sequence[Mapping[str, str]], *, open_turn: bool) -> str:
        marked = [{**message, "content": self._marked(message["content"])} for message in messages]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    marked,
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=open_turn,
                    **json.loads(self.arguments),
                )
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the model's chat template refuses these turns: {error}; leave chat off") from error


_ROLES = ("user", "assistant")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@lru_cache(maxsize=8)
def _observed(template: ChatTemplate) -> ChatTemplate:
    """The same with what it writes around an answer, read off a conversation that it is given to write."""
    reply = "Zqvreply"
    asked = [_message("user", "first"), _message("assistant", reply)]
    opened = template._render(asked[:1], open_turn=True)
    # As demonstrations are shown: templates drop an earlier turn's reasoning, and open the last one otherwise.
    before, _, _ = template._render([*asked, _message("user", "second")], open_turn=False).partition(reply)
    lead = before[len(opened) :] if before.startswith(opened) else ""
    opening = lead.rstrip()
    _, _, end = template._render(asked, open_turn=False).partition(reply)
    return ChatTemplate(template.tokenizer, template.template, template.arguments, opening, lead[len(opening) :], end)


def _template_of(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("chat=True, but the model's tokenizer has no chat template; leave chat off for base models")
    return str(tokenizer.get_chat_template())


def _reads_clock(template: str) -> bool:
    return "strftime_now" in template


def _day(value: Any) -> datetime.date:
    try:
        return datetime.date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"today={value!r} must be a date such as {str(CHAT_DATE)!r}") from error


def _pinned(template: str, day: datetime.date) -> str:
    """The template with the clock stopped: ``strftime_now`` becomes a table of the formats that it is asked for."""
    if not _reads_clock(template):
        return template
    strings = [value for _, kind, value in jinja2.Environment().lex(template) if kind == "string"]
    formats = sorted({text for text in map(ast.literal_eval, strings) if "%" in text})
    noon = datetime.datetime.combine(day, datetime.time(12))
    table = json.dumps({text: noon.strftime(text) for text in formats}, ensure_ascii=False)
    # The line end after the macro is taken away with it (trim_blocks), so the template begins as it did.
    return f"{{% macro strftime_now(format) %}}{{{{ {table}[format] }}}}{{% endmacro %}}\n{template}"


def _check_end(tokenizer: PreTrainedTokenizerBase) -> None:
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    last = tokenizer("a")["input_ids"][-1:]
    if last != plain[-1:]:
        raise ValueError(
            f"tokenizer ends a text with {tokenizer.convert_ids_to_tokens(last)}, so a prompt would not end "
            "where its answer begins; load it with add_eos_token=False and pass it as tokenizer="
        )


def _ensure_padding(tokenizer: PreTrainedTokenizerBase, d_vocab: int) -> None:
    """A padding token within the embedding; padded positions are masked, so any token will do."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < d_vocab:
        return
    choices = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token, tokenizer.convert_ids_to_tokens(0))
    tokenizer.pad_token = next(token for token in choices if token is not None)
