"""A ``HookedTransformerConfig`` from a Hugging Face config alone, whatever the model is called."""

from __future__ import annotations

from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformers import PretrainedConfig

from .architectures import architecture_of


def config_from_huggingface(hf_config: PretrainedConfig) -> HookedTransformerConfig:
    """What TransformerLens must know to run a decoder as Hugging Face does.

    Raises:
        ValueError: when the architecture is unknown, or the config asks for something that TransformerLens cannot
            represent (the message names it).
    """
    facts = architecture_of(hf_config).facts(hf_config)
    return HookedTransformerConfig(
        **facts,
        original_architecture=architecture_of(hf_config).name,
        init_weights=False,
        device="cpu",
        default_prepend_bos=False,
        tokenizer_prepends_bos=False,
    )
