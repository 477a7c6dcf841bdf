"""Tiny random models of every architecture that loads, and a tokenizer made in memory: no network, no files.

Weights are large on purpose: with the usual small initial weights every prompt would give nearly the same
logits, and tests of prompts, positions and padding could not fail.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from cast_lens.models import HookedDecoder, load_model
from cast_lens.models.lens import HookedTransformer

VOCAB = 320
TEXT = (
    "Review: a warm and funny film. Sentiment: positive. Review: a dull, lifeless mess. Sentiment: negative. "
    "Question: which planet is the largest? (a) Mars (b) Jupiter (c) Venus (d) Earth Answer: (b) "
    "The capital of France is Paris. The opposite of hot is cold. yes no true false one two three four five"
)

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 2}
_GPT = {"vocab_size": VOCAB, "n_embd": 64, "n_inner": 256, "n_layer": 4, "n_head": 4, "n_positions": 512}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}
_LINEAR = {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}
# Eight tokens: short prompts reach beyond the window, so a lost window changes their logits.
_WINDOW = 8

_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**_GROUPED, "head_dim": 24}),
    "llama-tied": ("LlamaConfig", {**_SHAPE, "tie_word_embeddings": True}),
    "llama-biased": ("LlamaConfig", {**_GROUPED, "attention_bias": True}),
    "llama3": ("LlamaConfig", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "llama-yarn": ("LlamaConfig", {**_GROUPED, "rope_parameters": _YARN}),
    "llama-linear": ("LlamaConfig", {**_GROUPED, "rope_parameters": _LINEAR}),
    "mistral": ("MistralConfig", {**_GROUPED, "head_dim": 24, "sliding_window": _WINDOW}),
    "mixtral": (
        "MixtralConfig",
        {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    ),
    "qwen2": ("Qwen2Config", {**_GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-window": (
        "Qwen2Config",
        {**_GROUPED, "use_sliding_window": True, "sliding_window": _WINDOW, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", {**_GROUPED, "head_dim": 24}),
    "gemma": ("GemmaConfig", {**_GROUPED, "head_dim": 24}),
    "gemma2": (
        "Gemma2Config",
        {
            **_GROUPED,
            "head_dim": 24,
            "query_pre_attn_scalar": 10,
            "sliding_window": _WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_GROUPED,
            "head_dim": 24,
            "query_pre_attn_scalar": 10,
            "sliding_window": _WINDOW,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e3},
            },
        },
    ),
    "gpt2": ("GPT2Config", _GPT),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 8}),
    "gpt-neo": (
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "num_layers": 4,
            "num_heads": 4,
            "window_size": _WINDOW,
            "attention_types": [[["global", "local"], 2]],
            "max_position_embeddings": 512,
        },
    ),
    "neox": ("GPTNeoXConfig", _SHAPE),
    "neox-sequential": ("GPTNeoXConfig", {**_SHAPE, "use_parallel_residual": False}),
    "phi": ("PhiConfig", _SHAPE),
    "phi3": (
        "Phi3Config",
        {
            **_GROUPED,
            "sliding_window": _WINDOW,
            "pad_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
        },
    ),
    "olmo": ("OlmoConfig", {**_SHAPE, "clip_qkv": 1.5}),
    "olmo2": ("Olmo2Config", _GROUPED),
    "olmo3": ("Olmo3Config", {**_GROUPED, "sliding_window": _WINDOW}),
    "gpt-oss": (
        "GptOssConfig",
        {**_GROUPED, "head_dim": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": _WINDOW},
    ),
    "olmoe": ("OlmoeConfig", {**_GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "apertus": ("ApertusConfig", {**_GROUPED, "rope_parameters": _LLAMA3}),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "ffn_dim": 80,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
        },
    ),
    "bloom": ("BloomConfig", {"vocab_size": VOCAB, "hidden_size": 64, "n_layer": 4, "n_head": 4}),
}
ARCHITECTURES: tuple[str, ...] = tuple(_CONFIGS)


# Loaded once in a process, and never handed out: tests change the copies that they get.
_made: dict[tuple[object, ...], HookedTransformer] = {}


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
        tokenizer_object=Tokenizer.from_str(_backend(bos)), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def tiny_hf_model(
    architecture: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **config_overrides: Any
) -> PreTrainedModel:
    """A tiny Hugging Face model with random weights, norms and biases included."""
    config = tiny_config(architecture, **config_overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    randomise(model, seed=seed)
    return model.eval()


def tiny_config(architecture: str, **config_overrides: Any) -> PretrainedConfig:
    """The Hugging Face config of a tiny model."""
    kind, settings = _CONFIGS[architecture]
    config: PretrainedConfig = getattr(transformers, kind)(**{**copy.deepcopy(settings), **config_overrides})
    return config


@torch.no_grad()
def randomise(model: PreTrainedModel, *, seed: int) -> None:
    """Give every parameter, norms and biases included, random values that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(_random_like(name, parameter, noise, tied=model.config.tie_word_embeddings))
    model.tie_weights()


def _random_like(name: str, parameter: torch.Tensor, noise: torch.Tensor, *, tied: bool) -> torch.Tensor:
    if parameter.ndim < 2:
        return parameter + 0.3 * noise
    if any(part in name for part in ("embed_tokens", "embed_in", "wte", "word_embeddings.")):
        # A tied embedding reads as well as writes: at unit scale a model would only repeat its last token.
        return 0.15 * noise if tied else noise
    # Products keep about unit variance whichever axis is summed: depth neither kills nor blows up a residual.
    return noise * 1.5 / min(parameter.shape[-2:]) ** 0.5


def tiny_model(
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    bos: bool = False,
    **config_overrides: Any,
) -> HookedTransformer:
    """The same as a ``HookedTransformer`` with the tiny tokenizer, by the code path of every other model."""
    key = (architecture, seed, dtype, bos, repr(sorted(config_overrides.items())))
    found = _made.get(key)
    if found is None:
        hf_model = tiny_hf_model(architecture, seed=seed, dtype=dtype, **config_overrides)
        found = load_model(hf_model, tokenizer=tiny_tokenizer(bos=bos), dtype=dtype)
        if isinstance(found, HookedDecoder):  # its hooks hold the model that they were put on
            return found
        _made[key] = found
    return _copied(found)


def _copied(model: HookedTransformer) -> HookedTransformer:
    """A copy in which parameters that share their storage share one, too."""
    storages: dict[int, torch.UntypedStorage] = {}
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        own = parameter.untyped_storage()
        storage = storages.setdefault(own.data_ptr(), own.clone())
        place = parameter.storage_offset(), parameter.shape, parameter.stride()
        memo[id(parameter)] = torch.nn.Parameter(
            torch.empty(0, dtype=parameter.dtype).set_(storage, *place), requires_grad=parameter.requires_grad
        )
    return copy.deepcopy(model, memo)
