"""The tokenizer on the model, with its own BOS behaviour kept and recorded."""

from __future__ import annotations

from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerBase


def prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts its BOS token before a text."""
    ids = list(tokenizer("a")["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


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
    choices = (
        tokenizer.eos_token,
        tokenizer.bos_token,
        tokenizer.unk_token,
        tokenizer.convert_ids_to_tokens(0),
    )
    tokenizer.pad_token = next(token for token in choices if token is not None)
