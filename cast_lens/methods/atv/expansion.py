"""From a state of the small model to one vector a layer: a linear map, full or of low rank."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .design import Start


class Expansion(nn.Module):
    """``v = W (s - shift) / scale + b``, with ``W = U D`` for a rank.

    Args:
        d_small: width of a state; 0 leaves the bias alone.
        layers: number of vectors.
        d_model: width of a vector.
        rank: of ``W``; None for a full one.
        start: ``zero`` vectors, or torch's default for a linear layer.
        seed: of the start.
        shift, scale: what states are standardised by; 0 and 1 when None.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        d_small: int,
        layers: int,
        d_model: int,
        *,
        rank: int | None = None,
        start: Start = "zero",
        seed: int = 0,
        shift: Float[Tensor, " d_small"] | None = None,
        scale: Float[Tensor, " d_small"] | None = None,
    ) -> None:
        super().__init__()
        self.shape = (layers, d_model)
        generator = torch.Generator().manual_seed(seed)
        wide = layers * d_model
        inner = d_small if rank is None else rank
        self.down = None if rank is None else nn.Parameter(_uniform((rank, d_small), d_small, generator))
        if start == "zero":
            self.up = nn.Parameter(torch.zeros(wide, inner))
            self.bias = nn.Parameter(torch.zeros(wide))
        else:
            self.up = nn.Parameter(_uniform((wide, inner), inner, generator))
            self.bias = nn.Parameter(_uniform((wide,), inner, generator))
        self.register_buffer("shift", torch.zeros(d_small) if shift is None else shift.clone())
        self.register_buffer("scale", torch.ones(d_small) if scale is None else scale.clone())

    def forward(self, states: Float[Tensor, "sample d_small"]) -> Float[Tensor, "sample layer d_model"]:
        """One vector a layer for each state."""
        inner = (states.to(self.bias) - self.shift) / self.scale
        if self.down is not None:
            inner = F.linear(inner, self.down)
        return F.linear(inner, self.up, self.bias).unflatten(-1, self.shape)

    @property
    def n_parameters(self) -> int:
        """Numbers that are learned."""
        return sum(parameter.numel() for parameter in self.parameters())


def standards(
    states: Float[Tensor, "sample d_small"],
) -> tuple[Float[Tensor, " d_small"], Float[Tensor, " d_small"]]:
    """Mean and standard deviation of each coordinate; 1 where it does not vary."""
    exact = states.detach().double()
    mean = exact.mean(dim=0)
    deviation = (exact - mean).square().mean(dim=0).sqrt()
    # Below this a deviation is rounding, and dividing by it would make noise of it.
    varies = deviation > 1e-6 * mean.abs()
    return mean.to(states.dtype), torch.where(varies, deviation, 1.0).to(states.dtype)


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    """Torch's default for a linear layer: uniform within one over the root of the inputs."""
    bound = 1 / math.sqrt(max(1, fan_in))
    return (2 * torch.rand(shape, generator=generator) - 1) * bound
