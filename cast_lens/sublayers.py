"""Edits inside blocks: of what heads, attention and MLP write, before it reaches the residual stream.

- ``HeadOutputs``: heads are given other outputs than they computed (activation patching; state vectors);
- ``MixedOutputs``: outputs of attention and MLP are scaled and context vectors added to them (arXiv 2405.14660);
- ``RotatedOutputs``: outputs of the MLP are turned towards a direction and keep their length (arXiv 2311.06668).

Each goes wherever an ``Intervention`` goes. Heads that are patched at the last prompt token share one pass of the
engine, however many variants there are; the others run through hooks, prompt by prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .interventions import Site, SublayerEdit


def _finite(name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} must be finite floating-point numbers")


@dataclass(frozen=True, slots=True, eq=False)
class HeadOutputs(SublayerEdit):
    """Heads write what they are given, not what they computed: ``(1 - strength) z + strength value``.

    A head's output is what it hands to the output projection: one row of the projection's input.

    Attributes:
        values: [layer, head, d_head], one row per entry of ``layers``.
        chosen: [layer, head], which heads are edited.
        d_model: width of the residual stream of their model.

    Raises:
        ValueError: shapes that do not fit each other; see ``SublayerEdit``.
    """

    values: Float[Tensor, "layer head d_head"]
    chosen: Bool[Tensor, "layer head"]
    d_model: int

    def __post_init__(self) -> None:
        SublayerEdit.__post_init__(self)
        _finite("values", self.values)
        shape = tuple(self.values.shape)
        if len(shape) != 3 or shape[0] != len(self.layers) or tuple(self.chosen.shape) != shape[:2]:
            raise ValueError(
                f"values {shape} must be [layer, head, d_head] and chosen {tuple(self.chosen.shape)} [layer, head] of "
                f"{len(self.layers)} layers"
            )

    @property
    def sites(self) -> tuple[Site, ...]:
        """Heads."""
        return ("heads",)

    @property
    def width(self) -> int:
        """``d_model``."""
        return self.d_model

    @property
    def largest(self) -> float:
        """Largest absolute entry of the values."""
        return float(self.values.abs().max())

    def edit_output(
        self, site: Site, layer: int, rows: Float[Tensor, "row head d_head"]
    ) -> Float[Tensor, "row head d_head"]:
        """The outputs of all heads with the chosen ones exchanged.

        Raises:
            ValueError: for a model with other heads.
        """
        place = self.layers.index(layer)
        values = self.values[place]
        if rows.shape[1:] != values.shape:
            raise ValueError(
                f"head outputs {tuple(values.shape)} [head, d_head] do not fit the model's {tuple(rows.shape[1:])}; "
                "use those of this model"
            )
        given = values.to(device=rows.device, dtype=rows.dtype)
        mixed = given.expand_as(rows) if self.strength == 1 else torch.lerp(rows, given.expand_as(rows), self.strength)
        return torch.where(self.chosen[place].to(rows.device)[None, :, None], mixed, rows)


@dataclass(frozen=True, slots=True, eq=False)
class MixedOutputs(SublayerEdit):
    """``beta * out + alpha * context`` for the outputs of attention and MLP (arXiv 2405.14660, section 3.2).

    At a strength other than 1 outputs move that part of the way. The differentiable form is used in calibration.

    Attributes:
        context: [site, layer, d_model]: context vectors of attention (0) and MLP (1).
        alpha, beta: [site, layer].
    """

    context: Float[Tensor, "site layer d_model"]
    alpha: Float[Tensor, "site layer"]
    beta: Float[Tensor, "site layer"]

    def __post_init__(self) -> None:
        SublayerEdit.__post_init__(self)
        shape = tuple(self.context.shape)
        for name in ("context", "alpha", "beta"):
            _finite(name, getattr(self, name).detach())
        if shape[:2] != (2, len(self.layers)) or not tuple(self.alpha.shape) == tuple(self.beta.shape) == shape[:2]:
            raise ValueError(
                f"context {shape} must be [2, {len(self.layers)}, d_model], alpha {tuple(self.alpha.shape)} and beta "
                f"{tuple(self.beta.shape)} [2, {len(self.layers)}]: attention and MLP at each layer"
            )

    @property
    def sites(self) -> tuple[Site, ...]:
        """Attention and MLP."""
        return ("attention", "mlp")

    @property
    def width(self) -> int:
        """``d_model``."""
        return int(self.context.shape[2])

    @property
    def largest(self) -> float:
        """Largest absolute entry of what is added."""
        return float((self.alpha[..., None] * self.context).detach().abs().max())

    def edit_output(self, site: Site, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """Outputs of one site, scaled and with its context vector."""
        if self.strength == 0:
            return rows.clone()
        place = (self.sites.index(site), self.layers.index(layer))
        exact = torch.promote_types(rows.dtype, torch.float32)
        alpha, beta, context = (
            x[place].to(device=rows.device, dtype=exact) for x in (self.alpha, self.beta, self.context)
        )
        out = rows.to(exact)
        mixed = beta * out + alpha * context
        return (mixed if self.strength == 1 else torch.lerp(out, mixed, self.strength)).to(rows.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class RotatedOutputs(SublayerEdit):
    """``|h| * unit(unit(h) + strength * (1 + max(0, cos(h, -v))) * unit(v))`` for outputs of the MLP (2311.06668).

    Attributes:
        directions: [vector, layer, d_model], several in-context vectors; what they add is averaged.
    """

    directions: Float[Tensor, "vector layer d_model"]

    def __post_init__(self) -> None:
        SublayerEdit.__post_init__(self)
        _finite("directions", self.directions)
        shape = tuple(self.directions.shape)
        if len(shape) != 3 or shape[1] != len(self.layers):
            raise ValueError(f"directions {shape} must be [vector, layer, d_model] of {len(self.layers)} layers")

    @property
    def sites(self) -> tuple[Site, ...]:
        """The MLP."""
        return ("mlp",)

    @property
    def width(self) -> int:
        """``d_model``."""
        return int(self.directions.shape[2])

    @property
    def largest(self) -> float:
        """Directions are scaled to length 1."""
        return 1.0

    def edit_output(self, site: Site, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """The outputs turned, as long as they were."""
        if self.strength == 0:
            return rows.clone()
        exact = torch.promote_types(rows.dtype, torch.float32)
        out = rows.to(exact)
        added = torch.zeros_like(out)
        for vector in self.directions[:, self.layers.index(layer)].to(device=rows.device, dtype=exact):
            push = 1 + F.cosine_similarity(out, -vector[None], dim=-1).clamp_min(0)
            added = added + self.strength * push[:, None] * F.normalize(vector, dim=-1)
        turned = F.normalize(F.normalize(out, dim=-1) + added / len(self.directions), dim=-1)
        return (turned * out.norm(dim=-1, keepdim=True)).to(rows.dtype)
