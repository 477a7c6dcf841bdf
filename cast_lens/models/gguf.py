"""Models in GGUF files, dequantised."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .config import config_from_huggingface

MAGIC = b"GGUF"
# Vocabularies whose merges were learned on text with every digit apart, by llama.cpp's names
# (llama-vocab.cpp). transformers reads them as GPT-2's, which cuts "\n\n1" into other tokens than the model
# was trained on: the embedded model finds a numbered list of 35 tokens e**16 times as likely this way.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r"})
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, struct.error)


def read_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a GGUF file; the model's weights are plain ones of the dtype asked for.

    Raises:
        ValueError: when the file is no whole GGUF file, or its architecture cannot be represented.
    """
    check_gguf(path)
    where: dict[str, Any] = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    with _explained(path):
        config = AutoConfig.from_pretrained(**where)
    _forget_quantisation(config)
    config_from_huggingface(config)  # refuses before gigabytes are read
    with _explained(path):
        model = AutoModelForCausalLM.from_pretrained(
            **where, config=config, dtype=dtype, attn_implementation="eager", **_dequantise()
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
        _split_digits(tokenizer, path)
    _forget_quantisation(model.config)
    # save_pretrained would refuse what it takes for quantised.
    setattr(model, "hf_quantizer", None)  # noqa: B010
    return model, tokenizer


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} cannot be read as a GGUF model: {error}. Is it whole? Download it again if in doubt, "
            "or load the model in Hugging Face's format"
        ) from error


def check_gguf(path: Path) -> None:
    """Refuse what is no GGUF file before anything expensive is tried.

    Raises:
        ValueError: when the file is missing or does not begin as GGUF files do.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the path of a GGUF file")
    with path.open("rb") as file:
        begin = file.read(len(MAGIC))
    if begin != MAGIC:
        raise ValueError(
            f"{path} is not a GGUF file: it begins with {begin!r}, not {MAGIC!r}; was it downloaded whole?"
        )


def _dequantise() -> dict[str, Any]:
    """Ask for plain weights from the versions of transformers that could keep GGUF's blocks instead."""
    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _forget_quantisation(config: transformers.PretrainedConfig) -> None:
    """The weights are plain now, but the config still says how they were stored."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def _split_digits(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    field = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
