"""The decoder architectures that load, in or out of TransformerLens' table of names, and the list that users see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from . import facts
from .facts import Facts
from .lens import HookedTransformerConfig

EMBEDDED = "smollm2-135m-instruct"
State = dict[str, Tensor]
Converter = Callable[[PreTrainedModel, HookedTransformerConfig], State]


def with_attention_biases(converter: Converter) -> Converter:
    """``converter``, then the biases of q, k, v and o where the model has them (``attention_bias=True``)."""

    def convert(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
        state = converter(model, cfg)
        for index, layer in enumerate(model.get_decoder().layers):
            state |= _attention_biases(layer.self_attn, f"blocks.{index}.attn", cfg)
        return state

    return convert


def converter(name: str) -> Converter:
    """TransformerLens' own converter of an architecture; TransformerLens 4 has none, and is never asked for one."""

    def convert(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
        from transformer_lens.pretrained import weight_conversions

        state: State = getattr(weight_conversions, f"convert_{name}_weights")(model, cfg)
        return state

    return convert


def bloom_weights(model: PreTrainedModel, cfg: HookedTransformerConfig) -> State:
    """BLOOM's weights; TransformerLens makes a position table that ALiBi never reads, so it is zero."""
    state = converter("bloom")(model, cfg)
    return {**state, "pos_embed.W_pos": torch.zeros(cfg.n_ctx, cfg.d_model)}


def _attention_biases(attention: object, prefix: str, cfg: HookedTransformerConfig) -> State:
    mark = "" if cfg.n_key_value_heads is None else "_"
    names = {"q_proj": "b_Q", "k_proj": f"{mark}b_K", "v_proj": f"{mark}b_V", "o_proj": "b_O"}
    biases: State = {}
    for source, target in names.items():
        bias = getattr(attention, source).bias
        if bias is not None:
            biases[f"{prefix}.{target}"] = bias if target == "b_O" else bias.view(-1, cfg.d_head)
    return biases


@dataclass(frozen=True, slots=True)
class Architecture:
    """One Hugging Face class of decoders.

    Attributes:
        name: the class, as ``architectures`` in a ``config.json`` has it.
        known_for: models that it is known for.
        facts: from its config to fields of a ``HookedTransformerConfig``.
        weights: from its weights to a state dict of ``HookedTransformer``.
    """

    name: str
    known_for: str
    facts: Callable[[PretrainedConfig], Facts]
    weights: Converter


def _biased(name: str) -> Converter:
    return with_attention_biases(converter(name))


_ENTRIES = (
    Architecture("ApertusForCausalLM", "Apertus", facts.apertus, _biased("apertus")),
    Architecture("BloomForCausalLM", "BLOOM", facts.bloom, bloom_weights),
    Architecture("GPT2LMHeadModel", "GPT-2", facts.gpt2, converter("gpt2")),
    Architecture("GPTJForCausalLM", "GPT-J", facts.gptj, converter("gptj")),
    Architecture("GPTNeoForCausalLM", "GPT-Neo, TinyStories", facts.gpt_neo, converter("neo")),
    Architecture("GPTNeoXForCausalLM", "Pythia, GPT-NeoX", facts.neox, converter("neox")),
    Architecture("Gemma2ForCausalLM", "Gemma 2", facts.gemma2, _biased("gemma")),
    Architecture("Gemma3ForCausalLM", "Gemma 3, 270M and 1B", facts.gemma3, _biased("gemma")),
    Architecture(
        "Gemma3ForConditionalGeneration", "Gemma 3, its text decoder", facts.gemma3_multimodal, _biased("gemma")
    ),
    Architecture("GemmaForCausalLM", "Gemma", facts.gemma, _biased("gemma")),
    Architecture("GptOssForCausalLM", "gpt-oss, dequantised", facts.gpt_oss, converter("gpt_oss")),
    Architecture("LlamaForCausalLM", "Llama, SmolLM, Yi", facts.llama, _biased("llama")),
    Architecture("MistralForCausalLM", "Mistral", facts.grouped, converter("mistral")),
    Architecture("MixtralForCausalLM", "Mixtral", facts.mixture("num_local_experts"), converter("mixtral")),
    Architecture("OPTForCausalLM", "OPT", facts.opt, converter("opt")),
    # TransformerLens' OLMo 2 converter knows no grouped keys; its OLMo 3 converter reads the same weights.
    Architecture("Olmo2ForCausalLM", "OLMo 2", facts.grouped, _biased("olmo3")),
    Architecture("Olmo3ForCausalLM", "OLMo 3", facts.grouped, _biased("olmo3")),
    Architecture("OlmoForCausalLM", "OLMo", facts.olmo, _biased("olmo")),
    Architecture("OlmoeForCausalLM", "OLMoE", facts.mixture("num_experts"), _biased("olmoe")),
    Architecture("Phi3ForCausalLM", "Phi-3, Phi-4", facts.phi3, converter("phi3")),
    Architecture("PhiForCausalLM", "Phi-1, 1.5, 2", facts.phi, converter("phi")),
    Architecture("Qwen2ForCausalLM", "Qwen 1.5, 2, 2.5", facts.grouped, converter("qwen2")),
    Architecture("Qwen3ForCausalLM", "Qwen 3", facts.qwen3, _biased("qwen3")),
)
ARCHITECTURES = {entry.name: entry for entry in _ENTRIES}


def architecture_of(hf_config: PretrainedConfig) -> Architecture:
    """The entry for a config.

    Raises:
        ValueError: when the architecture is not one of ``ARCHITECTURES``; the message lists them.
    """
    by_type = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(hf_config.model_type)
    name = (getattr(hf_config, "architectures", None) or [by_type or f"of model type {hf_config.model_type!r}"])[0]
    if getattr(hf_config, "is_encoder_decoder", False):
        raise ValueError(f"architecture {name} is an encoder-decoder; {_supported()}")
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture {name} is not supported; {_supported()}")
    return ARCHITECTURES[name]


def _supported() -> str:
    return f"decoders that load are {', '.join(ARCHITECTURES)}"


@dataclass(frozen=True, slots=True)
class LoadableModel:
    """One line of ``cast-lens models``.

    Attributes:
        name: what to give ``load_model``, or which models of an architecture are meant.
        architecture: the Hugging Face class.
        note: where it comes from.
    """

    name: str
    architecture: str
    note: str


def list_models() -> list[LoadableModel]:
    """The embedded model, then every architecture that loads from the hub, a folder or a GGUF file."""
    embedded = LoadableModel(
        EMBEDDED, "LlamaForCausalLM", "embedded: fetched from PyPI once (93 MB), 135 M parameters, Apache-2.0"
    )
    note = "hub name, local folder, GGUF file or loaded model"
    return [embedded, *(LoadableModel(entry.known_for, entry.name, note) for entry in ARCHITECTURES.values())]
