"""Where a named model is read from: the cache, a local folder, a GGUF file or the hub."""

from __future__ import annotations

import copy
import errno
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..hub import ADVICE, unasked
from .convert import Implementation, implementation_of, read_gguf
from .embedded import STORED_AS, embedded_folder, step, without_bars
from .identity import DEQUANTISED
from .list import EMBEDDED

_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, EOFError, ImportError, SafetensorError)


@dataclass(frozen=True, slots=True)
class Source:
    """A place that transformers can read, and what to advise when it cannot.

    Attributes:
        name: as it was given.
        where: what ``from_pretrained`` takes.
        options: of ``from_pretrained``.
        advice: the way out of an error.
        unasked: why the hub is not asked and only the cache is read; empty where it is.
    """

    name: str
    where: str
    options: dict[str, Any]
    advice: str
    unasked: str = ""


# Parameters up to which ``dtype="auto"`` is float32: rounding to half precision costs small models the most.
FLOAT32_UP_TO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model is read.

    Attributes:
        dtype: dtype of its weights; None for what ``automatic_dtype`` says.
        revision: on the hub.
        tokenizer: takes the place of the model's own.
        implementation: whose modules are to run it.
        device_map: which module goes where; see ``from_pretrained``.
        device: where it will run, without ``device_map``.
    """

    dtype: torch.dtype | None
    revision: str | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    implementation: Implementation | None = None
    device_map: str | Mapping[str, Any] | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    def dtype_for(self, config: PreTrainedConfig) -> torch.dtype:
        """The dtype of a model with this config."""
        if self.dtype is not None:
            return self.dtype
        stored = getattr(config, "dtype", None) or config.get_text_config().dtype
        if not isinstance(stored, torch.dtype) or stored == torch.float32:
            return torch.float32
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=stored)
        return automatic_dtype(model, self.device)

    def options(self) -> dict[str, Any]:
        """Of ``from_pretrained``, where they are not the usual ones."""
        return {} if self.device_map is None else {"device_map": self.device_map}


def automatic_dtype(hf_model: PreTrainedModel, device: torch.device) -> torch.dtype:
    """What ``dtype="auto"`` is for a model: its own dtype where it is large and the device is no slower in it, else
    float32.
    """
    own: torch.dtype = hf_model.dtype
    large = hf_model.num_parameters() > FLOAT32_UP_TO
    return own if large and computes_well(own, device.type) else torch.float32


@cache
def computes_well(dtype: torch.dtype, kind: str = "cpu") -> bool:
    """Whether a kind of device multiplies matrices of this dtype no slower than float32.

    Accelerators do. A processor without instructions for half precision takes fifty times as long, and which has them
    is not known everywhere, so a small product is timed.
    """
    if dtype == torch.float32 or kind != "cpu":
        return True
    return _product_seconds(dtype) <= _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(128, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        left @ right
        taken.append(time.perf_counter() - start)
    return min(taken)


def read_model(name: str, reading: Reading) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The Hugging Face model and tokenizer behind a name.

    Raises:
        ValueError: when nothing of that name can be read, or it is not a decoder that loads.
    """
    path = Path(name).expanduser()
    on_hub = name != EMBEDDED and not path.exists() and not _is_path(name)
    if on_hub:
        return _read(_hub(name, reading.revision), reading)
    if reading.revision is not None:
        raise ValueError(f"revision={reading.revision!r} applies to models on the hub, and {name!r} is local")
    if name == EMBEDDED:
        path = embedded_folder()
    if path.is_dir():
        with without_bars():
            model, own = _read(_folder(path), reading)
        if name == EMBEDDED:
            setattr(model.config, DEQUANTISED, STORED_AS)
        return model, own
    if path.suffix != ".gguf":
        found = "is neither a folder nor a .gguf file" if path.exists() else "does not exist"
        raise ValueError(f"{name!r} {found}; give a hub name, a folder with config.json and weights, or a .gguf file")
    if reading.device_map is not None:
        raise ValueError("a GGUF file is dequantised into memory as a whole; name one device, and no device_map")
    with step(f"Reading {path.name}, dequantising it"), without_bars():
        model, own = read_gguf(path, reading.dtype or torch.float32, reading.implementation)
    return model, own if reading.tokenizer is None else reading.tokenizer


def _is_path(name: str) -> bool:
    """Whether a name that does not exist was meant as a path: hub names are ``name`` or ``owner/name``."""
    written_so = name.startswith((".", "~")) or os.path.isabs(name) or "\\" in name or name.count("/") > 1
    return written_so or name.endswith(".gguf")


def _hub(name: str, revision: str | None) -> Source:
    reason = unasked()
    return Source(name, name, {"revision": revision or "main", "local_files_only": bool(reason)}, ADVICE, reason)


def _folder(path: Path) -> Source:
    if not (path / "config.json").is_file():
        raise ValueError(f"folder {path} has no config.json; give the folder that save_pretrained wrote")
    return Source(
        str(path), str(path), {"local_files_only": True}, "is the folder complete? Write it again if in doubt"
    )


def _read(source: Source, reading: Reading) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    # Code that a repository carries is never run.
    options = {**source.options, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(source.where, **options)
    except _UNREADABLE as error:
        raise _explained(source, "config", error) from error
    implementation_of(config, reading.implementation)  # refuses before gigabytes are read
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.where,
            dtype=reading.dtype_for(config),
            attn_implementation="eager",
            output_loading_info=True,
            **reading.options(),
            **options,
        )
    except _UNREADABLE as error:
        raise _explained(source, "weights", error) from error
    model, report = loaded
    _check_complete(source, report)
    tokenizer = reading.tokenizer
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.where, **options)
        except _UNREADABLE as error:
            raise _explained(source, "tokenizer (or pass tokenizer=)", error) from error
    return model, tokenizer


def _check_complete(source: Source, report: dict[str, Any]) -> None:
    """Transformers fills weights that a checkpoint lacks with random numbers; that is an error here."""
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ValueError(
            f"{source.name} lacks weights of its architecture ({', '.join(lacking[:3])} ...); {source.advice}"
        )


def _explained(source: Source, part: str, error: Exception) -> ValueError:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ValueError(f"no space left on the disk for {source.name}; free some, or set HF_HOME to another disk")
    reason = " ".join(str(error).split())
    if source.unasked and isinstance(error, OSError):
        reason = f"it is not in the cache, and {source.unasked}"
    return ValueError(f"cannot read {part} of {source.name!r}: {reason}. What to do: {source.advice}")
