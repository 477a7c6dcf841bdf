"""Which model a vector belongs to."""

from __future__ import annotations

import hashlib

import torch
from transformer_lens import HookedTransformer

from cast_lens.vectors import DifferenceVectors, SteeringVector

SAMPLE = (
    64  # entries a tensor: enough to tell two checkpoints apart, few enough to read every tensor in no time
)


def fingerprint(model: HookedTransformer) -> str:
    """Sixteen hex digits that name a model's shape and weights.

    SHA-256 over every parameter's name, shape and evenly spaced entries rounded to bfloat16, so that a float32 and a
    bfloat16 load of one checkpoint agree.
    """
    digest = hashlib.sha256()
    for key, parameter in sorted(model.named_parameters()):
        digest.update(f"{key}{tuple(parameter.shape)}".encode())
        where = torch.linspace(
            0, parameter.numel() - 1, min(SAMPLE, parameter.numel()), dtype=torch.float64
        ).long()
        index = torch.unravel_index(where.to(parameter.device), parameter.shape)
        entries = parameter.detach()[index].cpu().to(torch.bfloat16)
        digest.update(entries.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def model_name(model: HookedTransformer) -> str:
    """The name that the model was loaded by."""
    return str(model.cfg.model_name)


def check_vector(model: HookedTransformer, vector: SteeringVector | DifferenceVectors) -> None:
    """Refuse a vector that was taken from another model.

    Raises:
        ValueError: when width, layers or fingerprint do not fit.
    """
    stack = vector.directions if isinstance(vector, SteeringVector) else vector.few_shot
    if stack.shape[-1] != model.cfg.d_model:
        raise ValueError(
            f"vector has width {stack.shape[-1]}, the model {model_name(model)!r} {model.cfg.d_model}"
        )
    if vector.layers and vector.layers[-1] >= model.cfg.n_layers:
        raise ValueError(f"vector holds layer {vector.layers[-1]}, the model has {model.cfg.n_layers} layers")
    if vector.provenance.fingerprint != fingerprint(model):
        raise ValueError(f"vector comes from {vector.provenance.model!r}, which is not {model_name(model)!r}")
