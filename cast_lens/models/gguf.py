"""Models in GGUF files, dequantised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..gguf import GGUFFile, read_gguf_file
from .config import config_from_huggingface

# Vocabularies whose merges were learned on text with every digit apart, by llama.cpp's names
# (llama-vocab.cpp). transformers reads them as GPT-2's, which cuts "\n\n1" into other tokens than the model
# was trained on: the embedded model finds a numbered list of 35 tokens e**16 times as likely this way.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r"})
# Weights that a config may ask for beyond those that a file holds: a layout may leave out zeros (biases).
SPARE = 1.1


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file; the model's weights are plain ones of the dtype asked for.

    Raises:
        ValueError: when the file is no whole GGUF file of a model that can be represented.
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
        config_from_huggingface(config)  # refuses before gigabytes are read
    with _explained(path):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **where,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            **_dequantise(),
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
    return model, tokenizer


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
