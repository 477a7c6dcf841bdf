"""The Hugging Face model behind a ``HookedTransformer``, for methods that change what hooks cannot reach."""

from __future__ import annotations

import os

import torch
from transformer_lens import HookedTransformer
from transformers import PreTrainedModel

from .identity import model_name
from .sources import read_model
from .verify import probe_ids, verify_logits


def load_huggingface(source: str | os.PathLike[str], *, like: HookedTransformer) -> PreTrainedModel:
    """The same model as Hugging Face has it, float32 and in ``eval()`` mode, on the device of the other one.

    Args:
        source: what ``load_model`` was given: the embedded model's name, a folder, a hub name or a .gguf file.
        like: the ``HookedTransformer``; logits of both are compared on a probe text.

    Raises:
        ValueError: when the source cannot be read, or is another model.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"source must be a name or a path, got {type(source).__name__}; save_pretrained writes a folder that "
            "can be given"
        )
    found, _ = read_model(os.fspath(source), dtype=torch.float32, revision=None, tokenizer=like.tokenizer)
    torch.nn.Module.to(found, like.cfg.device)
    try:
        if found.config.get_text_config().vocab_size > int(like.cfg.d_vocab):
            raise ValueError("their vocabularies differ")
        verify_logits(like, found.eval(), probe_ids(found, like.tokenizer))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"source={os.fspath(source)!r} is not the model {model_name(like)!r} ({error}); give the name or path "
            "that load_model was given"
        ) from error
    return found
