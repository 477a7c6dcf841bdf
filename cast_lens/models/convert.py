"""Hugging Face configs, weights and GGUF files into a ``HookedTransformer``, unprocessed: a residual here is the
residual there.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..gguf import GGUFFile, read_gguf_file
from .identity import DEQUANTISED
from .lens import HookedTransformer, HookedTransformerConfig, has_hooked_transformer
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
        hf_config: configuration of the model.
        wanted: by the caller, None for what suits.

    Raises:
        ValueError: a name that is neither of the two, an encoder-decoder, or what neither can run as asked for.
    """
    if wanted not in (None, "transformer_lens", "transformers"):
        raise ValueError(f"implementation={wanted!r} is neither 'transformer_lens' nor 'transformers'")
    if wanted == "transformer_lens" and not has_hooked_transformer():
        raise ValueError(
            "implementation='transformer_lens' needs a HookedTransformer, which TransformerLens 4 has dropped; install "
            "'transformer-lens<4', or leave implementation out"
        )
    if (wanted == "transformers" or not has_hooked_transformer()) and not hf_config.is_encoder_decoder:
        return "transformers"
    try:
        config_from_huggingface(hf_config)
    except ValueError:
        decoder = hf_config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not hf_config.is_encoder_decoder
        if wanted is not None or not decoder:
            raise
        return "transformers"
    return "transformer_lens"


@torch.no_grad()
def convert(
    hf_model: PreTrainedModel, *, name: str, dtype: torch.dtype, device: torch.device, copy: bool
) -> HookedTransformer:
    """The same model as a ``HookedTransformer``, in ``eval()`` mode.

    Where TransformerLens keeps the numbers of Hugging Face in another order, its weights are views of theirs:
    that costs no memory, and its products (which put the order back) no copy per call. A tied embedding and
    unembedding share their storage, as they do there.

    Args:
        hf_model: source of the weights.
        name: recorded as ``cfg.model_name``.
        dtype: dtype of the result.
        device: device of the result.
        copy: own every weight, so that a later change of ``hf_model`` does not reach the result.

    Raises:
        ValueError: when the architecture or its config cannot be represented, or a weight is missing.
    """
    cfg = config_from_huggingface(hf_model.config)
    cfg.model_name, cfg.dtype, cfg.device = name, hf_model.dtype, str(hf_model.device)
    state = architecture_of(hf_model.config).weights(hf_model, cfg)
    cfg.dtype, cfg.device = dtype, str(device)
    model = unfilled_model(cfg)
    _fill(model, {key: weight.detach().to(device, dtype, copy=copy) for key, weight in state.items()})
    return model.to(device, print_details=False).eval()


def _fill(model: HookedTransformer, state: dict[str, Tensor]) -> None:
    known = set(model.state_dict())
    # Some converters spell out zero biases that the model has no place for.
    stray = [key for key in state.keys() - known if state[key].any()]
    given = {key: weight for key, weight in state.items() if key in known}
    missing, _ = model.load_state_dict(given, strict=False, assign=True)
    parameters = {key for key, _ in model.named_parameters()}
    absent = sorted(key for key in parameters.intersection(missing) if not _is_bias(key))
    if absent or stray:
        raise ValueError(
            f"the weights of {model.cfg.model_name!r} do not fit {model.cfg.original_architecture}: "
            f"missing {absent[:4]}, without a place {stray[:4]}; is this the config it was trained with?"
        )


def _is_bias(key: str) -> bool:
    """Whether a parameter may stay at the zeros it was made with: a bias that an architecture lacks."""
    return key.rsplit(".", 1)[-1].lstrip("_").startswith("b_")


def unfilled_model(cfg: HookedTransformerConfig) -> HookedTransformer:
    """A model of the right shape whose parameters are still to be assigned.

    TransformerLens 3.9 warns at every construction that 4.0 drops this class. We pin ``<4``, because only
    this class can re-enter at a layer and reuse a KV cache; a user can do nothing about the warning, so it
    is silenced here and nowhere else.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        return HookedTransformer(cfg, tokenizer=None, move_to_device=False)


# Vocabularies whose merges were learned on text with every digit apart, by llama.cpp's names
# (llama-vocab.cpp). transformers reads them as GPT-2's, which cuts "\n\n1" into other tokens than the model
# was trained on: the embedded model finds a numbered list of 35 tokens e**16 times as likely this way.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r"})
# Weights that a config may ask for beyond those that a file holds: a layout may leave out zeros (biases).
SPARE = 1.1
PLAIN = ("F64", "F32", "F16", "BF16")


def read_gguf(
    path: Path, dtype: torch.dtype, implementation: Implementation | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file; the model's weights are plain ones of the dtype asked for.

    Raises:
        ValueError: when the file is not a whole GGUF file of a model that can be represented.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a GGUF file")
    file = read_gguf_file(path)
    where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with _explained(path):
        config = AutoConfig.from_pretrained(**where)
        _forget_quantisation(config)
        _check_size(config, file)
    with _explained(path, passing=ValueError):
        implementation_of(config, implementation)  # refuses before gigabytes are read
    with _explained(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where, config=config, dtype=dtype, attn_implementation="eager", output_loading_info=True, **_dequantise()
        )
        model, report = loaded
        lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
        if lacking:
            raise ValueError(f"it lacks weights of its architecture ({', '.join(lacking[:3])} ...)")
        tokenizer = AutoTokenizer.from_pretrained(**where)
        if file.text("tokenizer.ggml.pre") in DIGITS_APART:
            _split_digits(tokenizer)
    _forget_quantisation(model.config)
    # save_pretrained would refuse what it takes for quantised.
    setattr(model, "hf_quantizer", None)  # noqa: B010
    setattr(model.config, DEQUANTISED, dequantised_from(file))
    return model, tokenizer


def dequantised_from(file: GGUFFile) -> str:
    """The block formats of a file's matrices, most weights first; empty where they are plain numbers."""
    entries = Counter[str]()
    for tensor in file.tensors:
        if len(tensor.shape) > 1:
            entries[tensor.kind] += tensor.entries
    packed = [kind for kind, _ in entries.most_common() if kind not in PLAIN]
    return f"GGUF {', '.join(packed)}" if packed else ""


@contextmanager
def _explained(path: Path, *, passing: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Whatever a reader makes of damaged metadata (KeyError, TypeError, ZeroDivisionError, ...) in one message."""
    try:
        yield
    except passing:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"{path} cannot be read as a GGUF model ({reason}). Is it whole? Download it again if in doubt, "
            "or load the model in Hugging Face's format"
        ) from error


def _check_size(config: transformers.PretrainedConfig, file: GGUFFile) -> None:
    """Refuse metadata that announce another size than the tensors have, before memory of that size is asked for."""
    layers = int(config.get_text_config().num_hidden_layers)
    blocks = {tensor.name.split(".")[1] for tensor in file.tensors if tensor.name.startswith("blk.")}
    if blocks != {str(layer) for layer in range(min(layers, len(file.tensors)))} or layers != len(blocks):
        raise ValueError(f"its metadata announce {layers} layers, but it holds tensors of {len(blocks)}")
    held = sum(tensor.entries for tensor in file.tensors)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    if size > SPARE * held:
        raise ValueError(f"its metadata describe a model of {size} weights, but its tensors hold {held}")


def _dequantise() -> dict[str, Any]:
    """Ask for plain weights from the versions of transformers that could keep GGUF's blocks instead."""
    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _forget_quantisation(config: transformers.PretrainedConfig) -> None:
    """The weights are plain now, but the config still says how they were stored."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
