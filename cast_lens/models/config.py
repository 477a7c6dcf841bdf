"""A ``HookedTransformerConfig`` from a Hugging Face config alone, whatever the model is called."""

from __future__ import annotations

from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformers import PretrainedConfig

from .architectures import architecture_of


def config_from_huggingface(hf_config: PretrainedConfig) -> HookedTransformerConfig:
    """What TransformerLens must know to run a decoder as Hugging Face does.

    Raises:
        ValueError: when the architecture is unknown, or the config asks for something that TransformerLens
            cannot represent (the message names it).
    """
    architecture = architecture_of(hf_config)
    if getattr(hf_config, "quantization_config", None):
        raise ValueError(
            "the weights are quantised, which TransformerLens cannot run; load the unquantised checkpoint, "
            "a GGUF file (it is dequantised), or a Hugging Face model after its dequantize()"
        )
    return HookedTransformerConfig(
        **architecture.facts(hf_config),
        original_architecture=architecture.name,
        init_weights=False,
        device="cpu",
        default_prepend_bos=False,
        tokenizer_prepends_bos=False,
    )
