"""Tiny random models of every architecture that loads, and a tokenizer made in memory: no network, no files.

Weights are large on purpose: with the usual small initial weights every prompt would give nearly the same logits, and
tests of prompts, positions and padding could not fail.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformer_lens import HookedTransformer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from cast_lens.models import load_model

VOCAB = 320
TEXT = (
    "Review: a warm and funny film. Sentiment: positive. Review: a dull, lifeless mess. Sentiment: negative. "
    "Question: which planet is the largest? (a) Mars (b) Jupiter (c) Venus (d) Earth Answer: (b) "
    "The capital of France is Paris. The opposite of hot is cold. yes no true false one two three four five"
)

_SHAPE: dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=80,
    num_hidden_layers=4,
    num_attention_heads=4,
    max_position_embeddings=512,
)


def _llama() -> PretrainedConfig:
    return LlamaConfig(**_SHAPE, num_key_value_heads=2, head_dim=24, tie_word_embeddings=False)


def _llama_tied() -> PretrainedConfig:
    return LlamaConfig(**_SHAPE, num_key_value_heads=4, tie_word_embeddings=True)


def _neox() -> PretrainedConfig:
    return GPTNeoXConfig(**_SHAPE)


def _gpt2() -> PretrainedConfig:
    return GPT2Config(vocab_size=VOCAB, n_embd=64, n_inner=80, n_layer=4, n_head=4, n_positions=512)


_CONFIGS = {"llama": _llama, "llama-tied": _llama_tied, "neox": _neox, "gpt2": _gpt2}
ARCHITECTURES: tuple[str, ...] = tuple(_CONFIGS)


@lru_cache(maxsize=2)
def _backend(bos: bool) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str()


def tiny_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with at most ``VOCAB`` tokens; ``bos`` makes it prepend ``<s>`` itself."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(bos)),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def tiny_hf_model(
    architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **config_overrides: Any
) -> PreTrainedModel:
    """A tiny Hugging Face model with random weights, norms and biases included."""
    config = _CONFIGS[architecture]()
    for key, value in config_overrides.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for name, parameter in model.named_parameters():
            parameter.data = _random_like(name, parameter)
    model.tie_weights()
    return model.to(dtype).eval()


def _random_like(name: str, parameter: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(parameter.shape)
    if parameter.ndim == 1:
        return parameter.detach() + 0.3 * noise
    if "embed" in name or "wte" in name:
        return noise
    # Keeps products near unit variance whichever axis is summed, so that depth neither kills nor blows up a residual.
    return noise * 1.5 / min(parameter.shape) ** 0.5


def tiny_model(
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    bos: bool = False,
    **config_overrides: Any,
) -> HookedTransformer:
    """The same as a ``HookedTransformer`` with the tiny tokenizer, by the code path of every other model."""
    hf_model = tiny_hf_model(architecture, seed=seed, dtype=dtype, **config_overrides)
    return load_model(hf_model, tokenizer=tiny_tokenizer(bos=bos), dtype=dtype)
