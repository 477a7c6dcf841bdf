"""``load_model``: the one way in which a model comes into the house."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .config import Implementation, implementation_of
from .convert import convert
from .decoder import HookedDecoder, check_causal
from .identity import model_name
from .lens import HookedTransformer
from .list import EMBEDDED
from .sources import read_model
from .tokens import attach_tokenizer, set_chat_arguments
from .verify import probe_ids, verify_logits

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str | os.PathLike[str] | PreTrainedModel | HookedTransformer = EMBEDDED,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device = "cpu",
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    chat_arguments: Mapping[str, Any] | None = None,
    implementation: Implementation | None = None,
) -> HookedTransformer:
    """Load a decoder as a ``HookedTransformer`` with the weights as they were trained, in ``eval()`` mode.

    No norm is folded and nothing is centred, so a residual here is the residual in Hugging Face. The logits
    are compared with the Hugging Face model's on a probe text before the model is handed over.
    ``cfg.default_prepend_bos`` says whether the tokenizer itself adds BOS.

    A decoder that TransformerLens cannot represent comes as a ``HookedDecoder``: transformers' own modules, with hooks
    on the residual stream under the same names, and with everything in this package that needs no more.

    Args:
        name: the embedded model; a hub name (``"Qwen/Qwen2.5-0.5B"``); a folder that ``save_pretrained``
            wrote; the path of a GGUF file (dequantised at every load); a Hugging Face model that is already
            loaded (it is copied, and stays as it is; as a ``HookedDecoder`` it is adopted in ``eval()`` mode, in its
            own dtype and place, and nothing is copied); or a ``HookedTransformer``, returned as it is but for
            ``eval()`` and ``tokenizer``.
        dtype: of the weights, ``float32``, ``bfloat16`` or ``float16``; ignored for a ``HookedTransformer``.
        device: as torch names it, or ``"auto"`` for the best there is; ignored for a ``HookedTransformer``.
        tokenizer: in place of the model's own; a loaded Hugging Face model has none without it.
        revision: branch, tag or commit on the hub.
        chat_arguments: what the chat template is given beside the messages wherever ``chat=True``
            (``{"enable_thinking": False}``). A template that asks for today's date is told 2024-07-26, so that prompts
            do not change overnight; ``{"today": "2026-01-31"}`` names another day.
        implementation: ``"transformers"`` for a ``HookedDecoder`` of any decoder, ``"transformer_lens"`` to be refused
            one; by default TransformerLens where it can represent the model.

    Raises:
        ValueError: when the model cannot be found, read or represented, or its logits differ; the message
            says what to do.
    """
    tokenizer = copy.deepcopy(tokenizer)  # the caller's stays as it is
    if isinstance(name, HookedTransformer):
        return _finish(name.eval(), tokenizer, chat_arguments)
    wanted, place = _dtype(dtype), _device(device)
    given = isinstance(name, PreTrainedModel)
    if isinstance(name, PreTrainedModel):
        hf_model, label = name, name.config._name_or_path or type(name).__name__
    elif isinstance(name, (str, os.PathLike)):
        label = os.fspath(name)
        hf_model, tokenizer = read_model(
            label, dtype=wanted, revision=revision, tokenizer=tokenizer, implementation=implementation
        )
        torch.nn.Module.to(hf_model, place)
    else:
        raise ValueError(
            f"name must be a name, a path, a PreTrainedModel or a HookedTransformer, got "
            f"{type(name).__name__}; a PeftModel needs its adapter merged first: merge_and_unload()"
        )
    if implementation_of(hf_model.config, implementation) == "transformers":
        decoder = HookedDecoder(hf_model, name=label)
        check_causal(decoder)
        return _finish(decoder, tokenizer, chat_arguments)
    model = convert(hf_model, name=label, dtype=wanted, device=place, copy=given)
    verify_logits(model, hf_model, probe_ids(hf_model, tokenizer))
    # Its end-of-text tokens end an answer; see engine.tokens.end_tokens.
    vars(model)["generation_config"] = copy.deepcopy(getattr(hf_model, "generation_config", None))
    return _finish(model, tokenizer, chat_arguments)


def _finish(
    model: HookedTransformer,
    tokenizer: PreTrainedTokenizerBase | None,
    arguments: Mapping[str, Any] | None,
) -> HookedTransformer:
    if tokenizer is not None:
        attach_tokenizer(model, tokenizer)
    if arguments is not None:
        set_chat_arguments(model, arguments)
    return model


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}")
    return found


def _device(device: str | torch.device) -> torch.device:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; give cpu, cuda, cuda:1, mps or auto") from error
    if not present.get(found.type, False):
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ValueError(f"device={str(device)!r} is not available; this machine has {here}")
    return found


def load_huggingface(source: str | os.PathLike[str], *, like: HookedTransformer) -> PreTrainedModel:
    """The same model as Hugging Face has it, float32 and in ``eval()`` mode, on the device of the other one.

    Args:
        source: what ``load_model`` was given: the embedded model's name, a folder, a hub name or a .gguf file.
        like: the ``HookedTransformer``; logits of both are compared on a probe text.

    Raises:
        ValueError: when the source cannot be read, or is another model.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"source must be a name or a path, got {type(source).__name__}; save_pretrained writes a folder that "
            "can be given"
        )
    found, _ = read_model(os.fspath(source), dtype=torch.float32, revision=None, tokenizer=like.tokenizer)
    torch.nn.Module.to(found, like.cfg.device)
    try:
        if found.config.get_text_config().vocab_size > int(like.cfg.d_vocab):
            raise ValueError("their vocabularies differ")
        verify_logits(like, found.eval(), probe_ids(found, like.tokenizer))
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"source={os.fspath(source)!r} is not the model {model_name(like)!r} ({error}); give the name or path "
            "that load_model was given"
        ) from error
    return found
