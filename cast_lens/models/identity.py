"""Which model a vector belongs to, and whether an intervention fits a model: the one place that decides it."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import PreTrainedModel

from cast_lens.interventions import Intervention, PromptVectors, Steering, SublayerEdit
from cast_lens.vectors import UNKNOWN_MODEL, DifferenceVectors, SteeringVector

from .decoder import HookedDecoder, decoder_layers
from .lens import HookedTransformer

# Entries counted of the blocks together, and of embedding and unembedding each: all of a model of 600 M parameters,
# every second block of a larger one and so on, so that a fingerprint never takes longer than a second or two.
BLOCK_ENTRIES, VOCABULARY_ENTRIES = 1 << 29, 1 << 26
# Entries along each axis of a tensor that show whether an earlier fingerprint still holds.
EDGE = 6
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_KNOWN: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits that name a model's shape and weights, whatever their dtype and whoever runs them.

    SHA-256 over layers, width and vocabulary, and over the number of negative entries in each block, in the embedding
    and in the unembedding. Rounding to another dtype keeps every sign, so a checkpoint has one fingerprint in float32,
    bfloat16 and float16; reshaping, transposing, splitting and fusing keep the number, so a ``HookedTransformer`` and
    the Hugging Face model that it was made from have the same one. Norms are left out (their weights are shifted by
    one in some libraries), so models that differ in nothing but their norms, or in the size but not in the sign of
    their weights, are not distinguished.

    Args:
        model: a ``HookedTransformer``, or a decoder of Hugging Face; one that ``torch.compile`` wraps counts as itself.
    """
    whole = plain_model(model)
    whole = whole.hf_model if isinstance(whole, HookedDecoder) else whole
    state = _state(whole)
    known = _KNOWN.get(whole)
    if known is None or known[0] != state:
        known = _KNOWN[whole] = (state, _fingerprint(whole))
    return known[1]


def plain_model(model: Any) -> Any:
    """The model inside what ``torch.compile`` made of it; any other model is returned as it is."""
    return getattr(model, "_orig_mod", model)


def _state(model: nn.Module) -> str:
    """A quick look at the weights: a change of training, merging or editing shows in some of these entries."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        entries = plain_weight(parameter)[tuple(slice(None, None, -(-size // EDGE)) for size in parameter.shape)]
        digest.update(f"{parameter.dtype}{tuple(parameter.shape)}".encode())
        digest.update(entries.to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _fingerprint(model: nn.Module) -> str:
    blocks, embedding, unembedding = _parts(model)
    vocabulary, width = embedding.shape
    rows = max(1, VOCABULARY_ENTRIES // width)
    size = sum(parameter.numel() for parameter in blocks[0].parameters())
    step = max(1, -(-len(blocks) * size // BLOCK_ENTRIES))
    counts = [sum(map(_negatives, _weights(block))) for block in list(blocks)[::step]]
    counts += [_negatives(embedding[:rows]), _negatives(unembedding[:rows])]
    facts = f"{len(blocks)} layers, {width} wide, {vocabulary} tokens: {counts}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _parts(model: Any) -> tuple[nn.ModuleList, Tensor, Tensor]:
    """Blocks, embedding [token, d_model] and unembedding [token, d_model] of either library's model."""
    if isinstance(model, HookedTransformer):
        return model.blocks, model.embed.W_E.detach(), model.unembed.W_U.detach().T
    embedding, unembedding = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return decoder_layers(model), plain_weight(embedding), plain_weight(unembedding)


def _weights(block: nn.Module) -> Iterator[Tensor]:
    for part in block.modules():
        if "Norm" not in type(part).__name__:
            for parameter in part.parameters(recurse=False):
                yield plain_weight(parameter)


def plain_weight(weight: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """A weight as numbers, dequantised where it is a quantised tensor; never a copy of a plain one."""
    found: Tensor = weight.dequantize() if _is_packed(weight) else weight
    return found.detach()


def _is_packed(weight: Tensor) -> bool:
    return type(weight) not in (Tensor, nn.Parameter) and hasattr(weight, "dequantize")


def is_quantised(model: Any) -> bool:
    """Whether a Hugging Face model holds quantised weights."""
    return quantisation(model) is not None


def quantisation(model: Any) -> str | None:
    """How the weights of a model are quantised, in a few words for a report; None where they are plain."""
    hf_model = model.hf_model if isinstance(model, HookedDecoder) else model
    packed = {type(p).__name__ for p in hf_model.parameters() if _is_packed(p)}
    config = getattr(getattr(hf_model, "config", None), "quantization_config", None)
    if config is None and not packed:
        return None
    method = config.get("quant_method") if isinstance(config, dict) else getattr(config, "quant_method", None)
    names = [str(getattr(method, "value", method))] if method is not None else []
    return " ".join([*names, *sorted(packed)])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a model was before it was loaded.

    Attributes:
        parameters: how many weights it has; tied ones count once, and no bias counts that it lacks.
        dequantised_from: the file format and the block formats of its matrices (``GGUF Q4_1``), most weights first;
            empty where weights were stored as plain numbers.
    """

    parameters: int
    dequantised_from: str = ""

    @classmethod
    def of(cls, hf_model: PreTrainedModel) -> Checkpoint:
        """That of a Hugging Face model."""
        return cls(hf_model.num_parameters(), getattr(hf_model.config, DEQUANTISED, ""))


DEQUANTISED = "dequantised_from"
"""Where a config says how its weights were stored; ``save_pretrained`` keeps it."""
_CHECKPOINT = "checkpoint"


def record_checkpoint(model: HookedTransformer, hf_model: PreTrainedModel) -> None:
    """Remember with a loaded model what it was made from."""
    vars(model)[_CHECKPOINT] = Checkpoint.of(hf_model)


def checkpoint(model: HookedTransformer) -> Checkpoint:
    """What a model was made from; of one that ``load_model`` did not make, what can be seen of it."""
    found = vars(model).get(_CHECKPOINT)
    if isinstance(found, Checkpoint):
        return found
    if isinstance(model, HookedDecoder):
        return Checkpoint.of(model.hf_model)
    total = sum(parameter.numel() for parameter in model.parameters())
    tied = model.W_E.shape == model.W_U.T.shape and bool((model.W_E == model.W_U.T).all())
    return Checkpoint(total - (model.W_U.numel() if tied else 0))


def _negatives(weights: Tensor) -> int:
    # The sign is the highest bit of a number of any size; NumPy counts five times as fast as torch on a CPU.
    negative = weights.view(_INTEGERS[weights.element_size()]) < 0
    return int(np.count_nonzero(negative.numpy()) if negative.device.type == "cpu" else negative.count_nonzero())


def model_name(model: HookedTransformer) -> str:
    """The name that the model was loaded by."""
    return str(model.cfg.model_name)


def check_layers(model: HookedTransformer, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, all of them when None.

    Raises:
        ValueError: when a layer does not exist or is not an integer, or the choice is empty or unordered.
    """
    n_layers = int(model.cfg.n_layers)
    given = list(range(n_layers)) if layers is None else [*layers]
    whole = all(isinstance(layer, int | np.integer) and not isinstance(layer, bool) for layer in given)
    if not whole or not given or given != sorted(set(given)) or not 0 <= given[0] <= given[-1] < n_layers:
        raise ValueError(
            f"layers={given} must be increasing block indices from 0 to {n_layers - 1} "
            "(layer l is the output of block l)"
        )
    return tuple(int(layer) for layer in given)


def check_vector(model: HookedTransformer, vector: SteeringVector | DifferenceVectors) -> None:
    """Refuse a vector that was taken from another model: it would steer at random, and say nothing.

    A vector that does not say which model it was taken from (an imported one) passes with a warning.

    Raises:
        ValueError: when width, layers or fingerprint do not fit.
    """
    stack = vector.directions if isinstance(vector, SteeringVector) else vector.few_shot
    origin = f"the vector of {vector.provenance.task!r}, taken from {vector.provenance.model!r},"
    target = f"the model {model_name(model)!r}"
    if stack.shape[-1] != model.cfg.d_model:
        raise ValueError(f"{origin} has width {stack.shape[-1]}, but {target} has d_model={model.cfg.d_model}")
    if vector.layers and vector.layers[-1] >= model.cfg.n_layers:
        raise ValueError(f"{origin} holds layer {vector.layers[-1]}, but {target} has {model.cfg.n_layers} layers")
    if not vector.provenance.fingerprint:
        _warn_of_unknown(origin, target)
        return
    found = fingerprint(model)
    if vector.provenance.fingerprint != found:
        raise ValueError(
            f"{origin} has model fingerprint {vector.provenance.fingerprint!r}, but {target} has {found!r}: "
            "other weights (another checkpoint, processing or quantisation); extract a vector from this model"
        )


def check_interventions(
    model: HookedTransformer, interventions: Sequence[Steering], samples: int | None = None
) -> None:
    """Refuse interventions that do not fit the model or the prompts, by index and name.

    A direction made by hand says nothing of a model and passes. One of a vector that should say it but does not (an
    imported one) passes with a warning.

    Args:
        model: what is to be steered.
        interventions: what is to be done.
        samples: number of prompts; None when it is not known yet.

    Raises:
        ValueError: something that is not an intervention, a layer out of range, a direction of the wrong width, vectors
            for another number of prompts, vectors of another model, or a strength beyond what the dtype can hold.
    """
    target, n_layers = f"the model {model_name(model)!r}", int(model.cfg.n_layers)
    unknown = []
    for index, item in enumerate(interventions):
        name = f"intervention {index}" + (f" ({item.name})" if getattr(item, "name", "") else "")
        if not isinstance(item, Intervention | PromptVectors | SublayerEdit):
            raise ValueError(
                f"{name} is a {type(item).__name__}; steering takes interventions: "
                "vector.intervention(layer, strength=...) makes one from a steering vector"
            )
        if isinstance(item, SublayerEdit) and isinstance(model, HookedDecoder):
            _check_sites(model, item, name)
        if item.layers[-1] >= n_layers:
            raise ValueError(
                f"{name} is at layer {item.layers[-1]}, but {target} has layers 0 ... {n_layers - 1}: "
                f"layers={list(item.layers)} must be increasing block indices from 0 to {n_layers - 1}"
            )
        if item.width != model.cfg.d_model:
            raise ValueError(
                f"{name} has a direction of width {item.width}, but the residual stream is {model.cfg.d_model} wide "
                f"(d_model) in {target}; use a vector that was taken from this model"
            )
        if samples is not None and item.samples not in (None, samples):
            raise ValueError(
                f"{name} has vectors for {item.samples} prompts, but there are {samples}; make them for these "
                "prompts, in this order"
            )
        _check_strength(model, item, name)
        if item.fingerprint == UNKNOWN_MODEL:
            unknown.append(name)
        elif item.fingerprint and item.fingerprint != fingerprint(model):
            raise ValueError(
                f"{name} has a vector that was taken from another model than {model_name(model)!r} (fingerprint "
                f"{item.fingerprint}, not {fingerprint(model)}): other weights (another checkpoint, processing or "
                "quantisation); extract a vector from this model"
            )
    if unknown:
        _warn_of_unknown(f"{', '.join(unknown[:3])}{' ...' if len(unknown) > 3 else ''}", target)


def _check_sites(model: HookedDecoder, item: SublayerEdit, name: str) -> None:
    """Refuse what edits parts of a block that were not found in the model."""
    points = {"heads": "attn.hook_z", "attention": "hook_attn_out", "mlp": "hook_mlp_out"}
    missing = [site for site in item.sites if f"blocks.0.{points[site]}" not in model.hook_dict]
    if missing:
        raise ValueError(
            f"{name} edits {', '.join(missing)} inside blocks, which could not be found in "
            f"{type(model.hf_model).__name__}; load the model by the hooked route, or steer the residual stream"
        )


def _check_strength(model: HookedTransformer, item: Steering, name: str) -> None:
    """Refuse a strength whose vectors, or the squares that a norm takes of them, overflow the model's dtype."""
    limit = strength_limit(model)
    # A direction that is projected out takes the residual stream's own entries with it, not the direction's.
    entry = 1.0 if item.operator == "ablate" else item.largest
    largest = abs(item.strength) * entry
    if largest > limit:
        raise ValueError(
            f"{name} has strength {item.strength:g}, which takes the residual stream to {largest:.1e}, beyond what "
            f"{str(model.cfg.dtype).removeprefix('torch.')} can hold and square ({limit:.1e}); give a strength of at "
            f"most {limit / entry:.1e}"
        )


def strength_limit(model: HookedTransformer) -> float:
    """The largest entry of a residual that the model's dtype can hold, and its norms can square and sum."""
    exact = torch.finfo(torch.promote_types(model.cfg.dtype, torch.float32))
    limit: float = min(torch.finfo(model.cfg.dtype).max, (exact.max / int(model.cfg.d_model)) ** 0.5)
    return limit


def _warn_of_unknown(what: str, target: str) -> None:
    warnings.warn(
        f"{what} does not say which weights it was taken from (it has no fingerprint), so nothing but layers and "
        f"width could be compared with {target}: make sure that it was made for this model",
        stacklevel=4,
    )
