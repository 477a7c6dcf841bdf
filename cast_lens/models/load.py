"""``load_model``: the only way to load a model. Every load is checked: the logits must be those of Hugging Face.

A ``TransformerBridge`` (TransformerLens 3.9 or 4) keeps the Hugging Face model that it was made from and replaces its
layers, in place, with components that fire hooks and bypass transformers' attention interface. Each keeps the module
that it replaced; put together again, those modules are the model as it was, with the bridge's own parameters. Nothing
is copied, and the bridge stays usable.
"""

from __future__ import annotations

import copy
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .convert import Implementation, convert, implementation_of
from .decoder import HookedDecoder, check_causal
from .identity import is_quantised, model_name, record_checkpoint
from .lens import HookedTransformer
from .list import EMBEDDED
from .sources import Reading, automatic_dtype, read_model
from .tokens import attach_tokenizer, set_chat_arguments

PROBE = (
    "Question: which planet is the largest? Answer: Jupiter. In 1492 they sailed the ocean; "
    "2 + 2 = 4, and the quick brown fox jumps over the lazy dog.\n\nReview: a warm film. Sentiment:"
)
PROBE_IDS = 48  # tokens of the probe for a model that comes without a tokenizer

# float32: largest difference over largest |logit|. The embedded model shows 2e-6 and the worst random mixture
# of experts 4e-5, from summing in another order; a norm's epsilon ten times too small already shows 6e-4.
EXACT = {torch.float32: 2e-4}
# Half precision: rounding grows from layer to layer and flips the experts of single tokens, so the largest
# difference says little. Median over positions of |difference| / |logits|: random models reach 0.10 in
# bfloat16 and 0.008 in float16. This catches a grossly wrong conversion only: load in float32 once to be
# sure.
ROUNDED = {torch.float16: 0.03, torch.bfloat16: 0.15}

SPREAD = "spread"
"""As a device: layers are placed on all devices."""


def probe_ids(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Int[Tensor, "1 position"]:
    """What both models read: the probe text, or ids spread over the vocabulary without a tokenizer.

    Raises:
        ValueError: when the tokenizer gives ids that the model has no embedding for.
    """
    size = int(hf_model.config.get_text_config().vocab_size)
    if tokenizer is None:
        return torch.linspace(0, size - 1, PROBE_IDS).long().unsqueeze(0)
    ids = torch.tensor([tokenizer(PROBE)["input_ids"]])
    if int(ids.max()) >= size:
        raise ValueError(
            f"tokenizer gives token {int(ids.max())}, but the model has {size} embeddings; "
            "it is not the tokenizer of this model"
        )
    return ids


@torch.no_grad()
def verify_logits(model: HookedTransformer, hf_model: PreTrainedModel, ids: Int[Tensor, "1 position"]) -> None:
    """Refuse a model whose logits are not those of the Hugging Face model.

    Raises:
        ValueError: when they differ beyond what rounding in the coarser of the two dtypes explains.
    """
    with _as_defined(hf_model):
        expected = hf_model(ids.to(hf_model.device), use_cache=False).logits.float().cpu()
    got = model(ids.to(model.cfg.device)).float().cpu()
    coarse = max((hf_model.dtype, model.cfg.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    exact = coarse in EXACT
    error = _worst(expected, got) if exact else _typical(expected, got)
    limit = EXACT[coarse] if exact else ROUNDED[coarse]
    if not error <= limit:  # NaN must fail too
        raise ValueError(
            f"logits of {model.cfg.model_name!r} differ from Hugging Face's by {error:.1e} of their size, "
            f"where rounding explains {limit:.0e}: {model.cfg.original_architecture} with this config is not "
            "represented faithfully, and vectors from it would be wrong"
        )


@contextmanager
def _as_defined(hf_model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, and with the attention that defines the model (fused kernels have no soft caps)."""
    training, attention = hf_model.training, hf_model.config._attn_implementation
    hf_model.eval()
    if attention != "eager":
        hf_model.set_attn_implementation("eager")
    try:
        yield
    finally:
        hf_model.train(training)
        if attention != "eager":
            hf_model.set_attn_implementation(attention)


def _worst(expected: Float[Tensor, "1 position vocab"], got: Float[Tensor, "1 position vocab"]) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def _typical(expected: Float[Tensor, "1 position vocab"], got: Float[Tensor, "1 position vocab"]) -> float:
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm(dim=-1)
    return float(((got - expected).norm(dim=-1) / spread).median())


_LOADING = threading.RLock()
_Arguments = ParamSpec("_Arguments")
_Loaded = TypeVar("_Loaded")


def one_at_a_time(load: Callable[_Arguments, _Loaded]) -> Callable[_Arguments, _Loaded]:
    """The same function, in one thread at a time.

    While transformers builds a model it switches the tying of weights, their initialisation and the default dtype for
    the whole process. Two threads that load at once would restore each other's changes, and leave tying off for good.
    """

    @wraps(load)
    def alone(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Loaded:
        with _LOADING:
            return load(*args, **kwargs)

    return alone


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@one_at_a_time
def load_model(
    name: str | os.PathLike[str] | torch.nn.Module = EMBEDDED,
    *,
    dtype: torch.dtype | str = "auto",
    device: str | torch.device = "cpu",
    device_map: str | Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    chat_arguments: Mapping[str, Any] | None = None,
    implementation: Implementation | None = None,
) -> HookedTransformer:
    """Load a decoder with unprocessed weights and hooks on its residual stream, in ``eval()`` mode.

    No norm is folded and nothing is centred, so a residual here is the residual in Hugging Face. The result is a
    ``HookedTransformer`` if TransformerLens 3.9 is installed and can represent the model; its logits are compared with
    the Hugging Face model's on a probe text first. Any other decoder, and every decoder under TransformerLens 4, is
    returned as a ``HookedDecoder``: transformers' own modules with hooks under the same names, which everything in this
    package accepts. ``cfg.default_prepend_bos`` says whether the tokenizer itself adds BOS.

    Args:
        name: the embedded model; a hub name (``"Qwen/Qwen2.5-0.5B"``); a folder that ``save_pretrained`` wrote; the
            path of a GGUF file (dequantised at every load); a Hugging Face model in memory, quantised or not (copied,
            or, as a ``HookedDecoder``, used in place with its own dtype and device, in ``eval()`` mode); a
            ``TransformerBridge``, whose Hugging Face model is used in the same way; or a ``HookedTransformer``, which
            is returned itself.
        dtype: ``float32``, ``bfloat16`` or ``float16``; ``auto`` is float32 up to a billion parameters, and the
            checkpoint's own dtype above where the device computes in it no slower than in float32 (a processor without
            AVX512-BF16, AMX or the like is fifty times slower in bfloat16). Ignored for a model that is used in place.
        device: a torch device, ``"auto"`` for the best available one, or ``"spread"``, which is ``device_map="auto"``;
            ignored for a model that is used in place.
        device_map: spreads the layers over devices, memory and disk (needs accelerate), as in ``from_pretrained``:
            ``"auto"`` or a mapping of modules to devices. ``device`` is then ignored.
        tokenizer: replaces the model's own; a Hugging Face model in memory has none without it.
        revision: branch, tag or commit on the hub.
        chat_arguments: further arguments of the chat template (``{"enable_thinking": False}``). A template that asks
            for the date gets 2024-07-26, which never changes, or that of ``{"today": "2026-01-31"}``.
        implementation: ``"transformers"`` for a ``HookedDecoder`` in any case, ``"transformer_lens"`` to refuse one;
            by default TransformerLens if it can represent the model.

    Raises:
        ValueError: when the model cannot be found, read or represented, or its logits differ; with the way out.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    >>> load_model(LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))).cfg.d_model
    8
    """
    tokenizer = copy.deepcopy(tokenizer)  # the caller's stays as it is
    if isinstance(name, HookedTransformer):
        return _finish(name.eval(), tokenizer, chat_arguments)
    if device == SPREAD:
        device, device_map = "auto", device_map or "auto"
    place = _device(device)
    reading = Reading(_dtype(dtype), revision, tokenizer, implementation, device_map, place)
    found = _read(name, reading, place)
    if _implementation(found.hf_model, found.implementation) == "transformers":
        return _finish(_adopted(found.hf_model, found.label), found.tokenizer, chat_arguments)
    model = _converted(found, reading.dtype, place, given=isinstance(name, PreTrainedModel))
    return _finish(model, found.tokenizer, chat_arguments)


def _converted(found: _Found, dtype: torch.dtype | None, place: torch.device, *, given: bool) -> HookedTransformer:
    """The model as a ``HookedTransformer`` whose logits were compared; a model that was given is copied."""
    precision = dtype or automatic_dtype(found.hf_model, place)
    model = convert(found.hf_model, name=found.label, dtype=precision, device=place, copy=given)
    verify_logits(model, found.hf_model, probe_ids(found.hf_model, found.tokenizer))
    record_checkpoint(model, found.hf_model)
    # Its end-of-text tokens end an answer; see engine.tokens.end_tokens.
    vars(model)["generation_config"] = copy.deepcopy(getattr(found.hf_model, "generation_config", None))
    return model


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """What ``name`` refers to: transformers' model, its tokenizer, its label, and whose modules run it."""

    hf_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    label: str
    implementation: Implementation | None


def _read(name: str | os.PathLike[str] | torch.nn.Module, reading: Reading, device: torch.device) -> _Found:
    """Read ``name`` of ``load_model``: a name or path from disk or the hub, or a model in memory."""
    if isinstance(name, (str, os.PathLike)):
        hf_model, tokenizer = read_model(os.fspath(name), reading)
        if reading.device_map is None:
            torch.nn.Module.to(hf_model, device)
        return _Found(hf_model, tokenizer, os.fspath(name), reading.implementation)
    if is_bridge(name):
        return _below_bridge(name, reading.tokenizer)
    if isinstance(name, PreTrainedModel):
        return _Found(name, reading.tokenizer, _label(name), reading.implementation)
    raise ValueError(
        f"name must be a name, a path, a PreTrainedModel, a TransformerBridge or a HookedTransformer, got "
        f"{type(name).__name__}; a PeftModel needs its adapter merged first: merge_and_unload()"
    )


def _below_bridge(bridge: Any, tokenizer: PreTrainedTokenizerBase | None) -> _Found:
    """The model below a TransformerBridge, once its logits were compared with the bridge's."""
    tokenizer = original_tokenizer(bridge) if tokenizer is None else tokenizer
    hf_model = bridged_model(bridge)
    verify_logits(bridge, hf_model, probe_ids(hf_model, tokenizer))
    return _Found(hf_model, tokenizer, _label(hf_model), "transformers")


def _label(hf_model: PreTrainedModel) -> str:
    return hf_model.config._name_or_path or type(hf_model).__name__


def _implementation(hf_model: PreTrainedModel, wanted: Implementation | None) -> Implementation:
    """Whose modules run a loaded model: transformers' own where it is quantised or spread over devices."""
    own = is_quantised(hf_model) or len(set((getattr(hf_model, "hf_device_map", None) or {}).values())) > 1
    return implementation_of(hf_model.config, "transformers" if own and wanted is None else wanted)


def _adopted(hf_model: PreTrainedModel, label: str) -> HookedDecoder:
    decoder = HookedDecoder(hf_model, name=label)
    check_causal(decoder)
    return decoder


def _finish(
    model: HookedTransformer, tokenizer: PreTrainedTokenizerBase | None, arguments: Mapping[str, Any] | None
) -> HookedTransformer:
    if tokenizer is not None:
        attach_tokenizer(model, tokenizer)
    if arguments is not None:
        set_chat_arguments(model, arguments)
    return model


def _dtype(dtype: torch.dtype | str) -> torch.dtype | None:
    """A dtype by its name; None for ``auto``."""
    if dtype == "auto":
        return None
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}, auto")
    return found


def _device(device: str | torch.device) -> torch.device:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is unknown; give cpu, cuda, cuda:1, mps, auto or spread") from error
    if not present.get(found.type, False):
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ValueError(f"device={str(device)!r} is not available; this machine has {here}")
    return found


@one_at_a_time
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
    found, _ = read_model(os.fspath(source), Reading(torch.float32, tokenizer=like.tokenizer))
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


_REPLACED = "_original_component"


def is_bridge(model: Any) -> bool:
    """Whether something is a ``TransformerBridge``; imports nothing."""
    loaded = sys.modules.get("transformer_lens.model_bridge")
    return loaded is not None and isinstance(model, loaded.TransformerBridge)


@torch.no_grad()
def bridged_model(bridge: Any) -> PreTrainedModel:
    """The Hugging Face model below a bridge, without the bridge's components, sharing its parameters.

    Raises:
        ValueError: a bridge that is not a wrapped ``PreTrainedModel``, whose weights were processed, or that has hooks.
    """
    if bridge._weights_processed:
        raise ValueError(
            "the bridge's weights are processed (enable_compatibility_mode folds and centres them), so its residual "
            "stream is not the model's; boot it without, or call enable_compatibility_mode(no_processing=True)"
        )
    below = getattr(bridge, "original_model", None)
    if not isinstance(below, PreTrainedModel):
        raise ValueError(f"the bridge wraps a {type(below).__name__}, not a Hugging Face decoder in this process")
    points = bridge.hook_dict.items()
    # The bridge itself has permanent ones.
    hooked = [name for name, point in points if any(not h.is_permanent for h in (*point.fwd_hooks, *point.bwd_hooks))]
    if hooked:
        raise ValueError(f"hooks are attached to the bridge ({hooked[0]}), and would be lost: bridge.reset_hooks()")
    found: PreTrainedModel = _restored(below, {})
    return found


def original_tokenizer(bridge: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a bridge was given, loaded again: a bridge makes one of its own that puts BOS before each
    text.

    Raises:
        ValueError: when it is no longer where it came from.
    """
    if bridge.tokenizer is None:
        return None
    where = bridge.tokenizer.name_or_path
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the bridge has changed its tokenizer (it puts BOS before each text), and the original cannot be read "
            f"from {where!r}; pass it as tokenizer="
        ) from error
    return found


def _restored(module: nn.Module, done: dict[int, nn.Module]) -> Any:
    """A module with the modules that its components replaced back in their places; its tensors are shared."""
    while _REPLACED in module._modules:
        replaced = module._modules[_REPLACED]
        assert replaced is not None
        module = replaced
    if id(module) in done:
        return done[id(module)]
    found = done[id(module)] = copy.copy(module)
    # ``copy.copy`` shares the dictionaries of parameters and hooks, too.
    for name, value in vars(module).items():
        if isinstance(value, dict) and name.startswith("_"):
            vars(found)[name] = copy.copy(value)
    for name, child in module._modules.items():
        found._modules[name] = None if child is None else _restored(child, done)
    return found
