"""A ``HookedTransformerConfig`` from a Hugging Face config alone, whatever the model is called."""

from __future__ import annotations

from typing import Literal

from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .lens import HookedTransformerConfig
from .list import architecture_of

Implementation = Literal["transformer_lens", "transformers"]


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


def implementation_of(hf_config: PretrainedConfig, wanted: Implementation | None = None) -> Implementation:
    """Whose modules run a decoder: TransformerLens' where they can represent it, else transformers' own.

    Args:
        hf_config: of the model.
        wanted: by the caller, None for what suits.

    Raises:
        ValueError: a name that is none of the two, an encoder-decoder, or what neither can run as asked for.
    """
    if wanted not in (None, "transformer_lens", "transformers"):
        raise ValueError(f"implementation={wanted!r} is neither 'transformer_lens' nor 'transformers'")
    if wanted == "transformers" and not hf_config.is_encoder_decoder:
        return wanted
    try:
        config_from_huggingface(hf_config)
    except ValueError:
        decoder = hf_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not hf_config.is_encoder_decoder
        if wanted is not None or not decoder or getattr(hf_config, "quantization_config", None):
            raise
        return "transformers"
    return "transformer_lens"
