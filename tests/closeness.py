"""How close two routes to the same number must come: the one owner of tolerances for model arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

# Units in the last place of the largest number in sight. Two routes sum the same products in another order:
# one sum of a few hundred terms differs by some ulps, four layers of the tiny models' large random weights
# multiply that. Measured over every tiny architecture: at most 50 (float32).
ULPS = {torch.float64: 150.0, torch.float32: 150.0, torch.bfloat16: 24.0}


def assert_close(got: Tensor, expected: Tensor, *, precision: torch.dtype = torch.float32) -> None:
    """Equal up to rounding.

    Args:
        got, expected: of one shape; NaN only where both have it.
        precision: dtype that the numbers were computed in, whatever they are stored in.
    """
    largest = float(expected.detach().abs().nan_to_num().max()) if expected.numel() else 0.0
    atol = ULPS[precision] * torch.finfo(precision).eps * largest
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol, equal_nan=True, check_device=False)
