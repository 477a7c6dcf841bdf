"""The tokenizer on the model, with its own BOS behaviour kept and recorded."""

from __future__ import annotations

from transformer_lens import HookedTransformer
from transformers import PreTrainedTokenizerBase


def prepends_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts its BOS token before a text."""
    ids = list(tokenizer("a")["input_ids"])
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id] and ids[1:] == plain


def attach_tokenizer(model: HookedTransformer, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model its tokenizer without ``set_tokenizer``, which would rebuild it with a BOS it may not want."""
    model.tokenizer = tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = prepends_bos(tokenizer)
