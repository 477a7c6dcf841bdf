"""Controls for a steering vector: the same shape, layers and norms, without its content.

A placebo is a ``SteeringVector`` like the one it controls for, so a control is one more entry in the same
call. The effect of a placebo is that of disturbing the model at that place and strength, whatever the
direction; only what goes beyond it is due to the vector. Which placebo answers what:

- ``random_direction``: does any direction of this norm do the same? ``random_like`` is its arithmetic, for any tensor;
- ``shuffled_coordinates``: does any direction with the same entries do the same? Residual streams have a few
  coordinates of outsize scale, which a Gaussian direction misses and a permuted one moves to others.
- ``zero``: does the code path alone change anything? It must equal the unsteered model;
- ``random_subsets``: does it matter which samples were averaged? Means of random samples of equal number.

Every source and draw needs placebos of its own: ``placebo_seed`` gives the seed. With one seed for all sources they
would share one direction, and a mean over sources would rest on a single draw.

``matched`` gives any other vector (of shuffled labels, of random text) the norms of the vector it is compared with.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from .vectors import DifferenceVectors, SteeringVector


def placebo_seed(*parts: object) -> int:
    """The seed of one placebo, from whatever identifies it: the source, the run's seed, the number of the draw."""
    return zlib.crc32(" ".join(str(part) for part in parts).encode())


def random_like(directions: Float[Tensor, "*row d_model"], *, seed: int = 0) -> Float[Tensor, "*row d_model"]:
    """A random direction for each row, uniform on the sphere of the row's own norm; same dtype, same device.

    Args:
        directions: of any number of rows.
        seed: seed of a local generator; the same seed gives the same directions.
    """
    rows = directions.double()
    noise = torch.randn(rows.shape, generator=_generator(seed), dtype=torch.float64, device="cpu").to(rows.device)
    scaled = noise / noise.norm(dim=-1, keepdim=True) * rows.norm(dim=-1, keepdim=True)
    return scaled.to(directions.dtype)


def random_direction(vector: SteeringVector, *, seed: int = 0) -> SteeringVector:
    """A random direction at each layer, uniform on the sphere of the vector's own norm there.

    Args:
        vector: what it is a placebo for.
        seed: seed of a local generator; the same seed gives the same directions (see ``placebo_seed``).

    >>> placebo = random_direction(vector, seed=1)
    >>> abs(placebo.norm()[2] - vector.norm()[2]) < 1e-3        # the same norm at every layer
    True
    """
    directions = random_like(vector.directions, seed=seed).float()
    return _placebo(vector, directions, f"random_direction({vector.provenance.task}, seed={seed})")


def shuffled_coordinates(vector: SteeringVector, *, seed: int = 0) -> SteeringVector:
    """The vector with its coordinates permuted: at each layer the same entries, so the same norm, in other places.

    One permutation is used at every layer, so that the layers stay related to each other as they were.

    Args:
        vector: what it is a placebo for.
        seed: seed of a local generator; the same seed gives the same permutation.
    """
    order = torch.randperm(vector.directions.shape[1], generator=_generator(seed))
    task = f"shuffled_coordinates({vector.provenance.task}, seed={seed})"
    return _placebo(vector, vector.directions[:, order], task)


def zero(vector: SteeringVector) -> SteeringVector:
    """The zero vector at the same layers."""
    return _placebo(vector, torch.zeros_like(vector.directions), f"zero({vector.provenance.task})")


def matched(vector: SteeringVector, *, like: SteeringVector) -> SteeringVector:
    """The vector's direction with the norm of another one at each layer, so that only directions differ.

    Args:
        vector: gives directions and provenance.
        like: gives norms; of the same layers, from the same model.

    Raises:
        ValueError: vectors of different layers, widths or models; a zero vector where ``like`` is none.
    """
    theirs, ours = like.provenance, vector.provenance
    if vector.layers != like.layers or vector.directions.shape != like.directions.shape:
        raise ValueError(
            f"the vector of {ours.task!r} {tuple(vector.directions.shape)} at layers {vector.layers} cannot take the "
            f"norms of {theirs.task!r} {tuple(like.directions.shape)} at {like.layers}; extract both alike"
        )
    if ours.fingerprint != theirs.fingerprint:
        raise ValueError(
            f"the vector of {ours.task!r} comes from {ours.model!r} and that of {theirs.task!r} from another model "
            f"({theirs.model!r}); extract both from one model"
        )
    own = vector.directions.double().norm(dim=-1, keepdim=True)
    wanted = like.directions.double().norm(dim=-1, keepdim=True)
    empty = ((own == 0) & (wanted > 0)).flatten()
    if bool(empty.any()):
        layer = vector.layers[int(empty.nonzero()[0])]
        raise ValueError(
            f"the vector of {ours.task!r} is zero at layer {layer} and has no direction to scale to the norm of "
            f"{theirs.task!r}; leave that layer out"
        )
    directions = vector.directions.double() / own.clamp_min(torch.finfo(torch.float64).tiny) * wanted
    note = f"{ours.note + '; ' if ours.note else ''}norms of {theirs.task}"
    return SteeringVector(directions.float(), vector.layers, replace(ours, note=note))


def random_subsets(
    differences: DifferenceVectors, size: int, *, count: int, seed: int = 0
) -> dict[str, SteeringVector]:
    """Mean vectors of random samples, each of the same number: what a selection of that many has to beat.

    Args:
        differences: the pool.
        size: samples averaged in each vector.
        count: vectors.
        seed: seed of a local generator; the same seed gives the same subsets.

    Returns:
        Vectors by name (``random 0``, ``random 1``, ...), as ``sweep`` takes them.

    Raises:
        ValueError: when the pool does not hold that many samples.
    """
    if not 1 <= size <= len(differences):
        raise ValueError(f"size={size} must be from 1 to {len(differences)}, the samples of {differences.task!r}")
    generator = _generator(seed)
    drawn = [torch.randperm(len(differences), generator=generator)[:size].tolist() for _ in range(count)]
    return {
        f"random {number}": differences.mean(sorted(rows), note=f"random subset {number} of {size}, seed={seed}")
        for number, rows in enumerate(drawn)
    }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _placebo(vector: SteeringVector, directions: Float[Tensor, "layer d_model"], task: str) -> SteeringVector:
    note = f"placebo for the vector of {vector.provenance.task}: made from its norms or entries alone"
    return SteeringVector(directions, vector.layers, replace(vector.provenance, task=task, sample_ids=(), note=note))
