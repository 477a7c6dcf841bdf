"""Which model a vector belongs to."""

from __future__ import annotations

import hashlib

import torch
from transformer_lens import HookedTransformer

from cast_lens.vectors import DifferenceVectors, SteeringVector

SAMPLE = 64  # entries a tensor: enough to tell fine-tunes apart, few enough to take under 0.1 s


def fingerprint(model: HookedTransformer) -> str:
    """Sixteen hex digits that name a model's shape and weights.

    SHA-256 over every parameter's name and shape, and over evenly spaced entries rounded to bfloat16, so
    that a float32 and a bfloat16 load of one checkpoint agree (a float16 load, which has fewer exponents,
    may not).
    """
    digest = hashlib.sha256()
    for key, parameter in sorted(model.named_parameters()):
        digest.update(f"{key}{tuple(parameter.shape)}".encode())
        if not _is_derived(model, key):
            digest.update(_sample(parameter.detach()))
    return digest.hexdigest()[:16]


def _is_derived(model: HookedTransformer, key: str) -> bool:
    """Gemma's scaled embedding and shifted norms: computed on loading, so bfloat16 rounds them twice."""
    return str(model.cfg.original_architecture).startswith("Gemma") and (
        key == "embed.W_E" or key.endswith(".w")
    )


def _sample(parameter: torch.Tensor) -> bytes:
    count = parameter.numel()
    flat = torch.linspace(0, count - 1, min(SAMPLE, count), dtype=torch.float64).long()
    entries = parameter[torch.unravel_index(flat.to(parameter.device), parameter.shape)]
    return entries.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes()


def model_name(model: HookedTransformer) -> str:
    """The name that the model was loaded by."""
    return str(model.cfg.model_name)


def check_vector(model: HookedTransformer, vector: SteeringVector | DifferenceVectors) -> None:
    """Refuse a vector that was taken from another model: it would steer at random, and say nothing.

    Raises:
        ValueError: when width, layers or fingerprint do not fit.
    """
    stack = vector.directions if isinstance(vector, SteeringVector) else vector.few_shot
    origin = f"the vector of {vector.provenance.task!r}, taken from {vector.provenance.model!r},"
    target = f"the model {model_name(model)!r}"
    if stack.shape[-1] != model.cfg.d_model:
        raise ValueError(
            f"{origin} has width {stack.shape[-1]}, but {target} has d_model={model.cfg.d_model}"
        )
    if vector.layers and vector.layers[-1] >= model.cfg.n_layers:
        raise ValueError(
            f"{origin} holds layer {vector.layers[-1]}, but {target} has {model.cfg.n_layers} layers"
        )
    found = fingerprint(model)
    if vector.provenance.fingerprint != found:
        raise ValueError(
            f"{origin} has model fingerprint {vector.provenance.fingerprint!r}, but {target} has {found!r}: "
            "other weights (another checkpoint, processing or quantisation); extract a vector from this model"
        )
