"""``load_model``: the one way a model comes into the house."""

from __future__ import annotations

import torch
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .convert import convert
from .embedded import NAME, embedded_folder
from .tokens import attach_tokenizer

EMBEDDED = NAME


def load_model(
    name: str | PreTrainedModel | HookedTransformer = EMBEDDED,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
) -> HookedTransformer:
    """Load a decoder as an unprocessed ``HookedTransformer`` in ``eval()`` mode."""
    if isinstance(name, HookedTransformer):
        return name.eval()
    if isinstance(name, PreTrainedModel):
        hf_model, label = name, name.config._name_or_path or type(name).__name__
    else:
        label = name
        folder = str(embedded_folder()) if name == EMBEDDED else name
        wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=wanted, revision=revision or "main")
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder)
    model = convert(hf_model, name=label, dtype=dtype, device=torch.device(device), copy=True)
    if tokenizer is not None:
        attach_tokenizer(model, tokenizer)
    return model
