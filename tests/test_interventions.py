"""Each operator against its formula, at every dtype, and what an intervention refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cast_lens.interventions import OPERATORS, POSITIONS, Intervention

# Float64 on both sides: what is left is rounding.
EXACT: Any = dict(rtol=1e-12, atol=1e-12)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _add(h: Tensor, v: Tensor, s: float) -> Tensor:
    return h + s * v


def _norm_preserving_add(h: Tensor, v: Tensor, s: float) -> Tensor:
    rows = [(row + s * v) * math.sqrt(row @ row) / math.sqrt((row + s * v) @ (row + s * v)) for row in h]
    return torch.stack(rows)


def _ablate(h: Tensor, v: Tensor, s: float) -> Tensor:
    return torch.stack([row - s * (row @ v) / (v @ v) * v for row in h])


def _replace(h: Tensor, v: Tensor, s: float) -> Tensor:
    return (1 - s) * h + s * v


FORMULAS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "add": _add,
    "norm_preserving_add": _norm_preserving_add,
    "ablate": _ablate,
    "replace": _replace,
}


def test_every_operator_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(OPERATORS)


@pytest.mark.parametrize("strength", [-1.5, 0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_is_its_formula(operator: str, strength: float) -> None:
    residual, direction = _randn(7, 16), _randn(16, seed=1)
    got = Intervention(direction, 0, strength, operator)(residual)  # type: ignore[arg-type]
    torch.testing.assert_close(got, FORMULAS[operator](residual, direction, strength), **EXACT)


@pytest.mark.parametrize("operator", OPERATORS)
def test_leading_axes_do_not_matter(operator: str) -> None:
    residual, edit = _randn(2, 3, 5, 16), Intervention(_randn(16, seed=1), 0, 2.0, operator)  # type: ignore[arg-type]
    torch.testing.assert_close(edit(residual)[1, 2, 3], edit(residual[1, 2, 3]), **EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", OPERATORS)
def test_strength_zero_is_the_identity_bit_for_bit(operator: str, dtype: torch.dtype) -> None:
    residual = (1e3 * _randn(5, 16)).to(dtype)
    got = Intervention(_randn(16, seed=1).float(), 0, 0.0, operator)(residual)  # type: ignore[arg-type]
    assert torch.equal(got, residual)
    assert got.data_ptr() != residual.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_argument_is_left_alone_and_its_dtype_kept(operator: str, dtype: torch.dtype) -> None:
    residual = _randn(5, 16).to(dtype)
    before, direction = residual.clone(), _randn(16, seed=1).float()
    kept = direction.clone()
    got = Intervention(direction, 0, 2.0, operator)(residual)  # type: ignore[arg-type]
    assert got.dtype == dtype
    assert torch.equal(residual, before)
    assert torch.equal(direction, kept)
    # The result is rounded to the residual's dtype once or twice: two units in its last place.
    bound = 2 * torch.finfo(dtype).eps * 8
    expected = FORMULAS[operator](residual.double(), direction.double(), 2.0)
    torch.testing.assert_close(got.double(), expected, rtol=bound, atol=max(bound, 1e-6))


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_norm_preserving_add_keeps_every_norm(strength: float) -> None:
    residual = _randn(9, 32)
    got = Intervention(_randn(32, seed=1), 0, strength, "norm_preserving_add")(residual)
    torch.testing.assert_close(got.norm(dim=-1), residual.norm(dim=-1), **EXACT)


def test_norm_preserving_add_that_cancels_a_residual_stays_finite() -> None:
    direction = torch.full((16,), 25.0)
    got = Intervention(direction, 0, -1.0, "norm_preserving_add")(direction[None])
    assert torch.equal(got, torch.zeros(1, 16))


def test_ablate_removes_the_direction_and_nothing_else() -> None:
    residual, direction = _randn(9, 32), _randn(32, seed=1)
    got = Intervention(direction, 0, 1.0, "ablate")(residual)
    torch.testing.assert_close(got @ direction, torch.zeros(9, dtype=torch.float64), **EXACT)
    across = torch.linalg.qr(torch.cat((direction[:, None], _randn(32, 31, seed=2)), dim=1))[0][:, 1:]
    torch.testing.assert_close(got @ across, residual @ across, **EXACT)
    torch.testing.assert_close(Intervention(direction, 0, 1.0, "ablate")(got), got, **EXACT)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ablate_does_not_depend_on_the_length_of_the_direction(scale: float, dtype: torch.dtype) -> None:
    residual, direction = _randn(4, 16).to(dtype), _randn(16, seed=1).float()
    expected = Intervention(direction, 0, 1.0, "ablate")(residual)
    got = Intervention(direction * scale, 0, 1.0, "ablate")(residual)
    # One rounding of the direction (float32) and one of the result (dtype).
    torch.testing.assert_close(got, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_replace_at_strength_one_is_the_direction() -> None:
    direction = _randn(16, seed=1)
    assert torch.equal(Intervention(direction, 0, 1.0, "replace")(_randn(3, 16)), direction.expand(3, 16))


def test_half_precision_products_are_rounded_once() -> None:
    direction = torch.tensor([1.0 / 3.0])
    got = Intervention(direction, 0, 3.0)(torch.zeros(1, 1, dtype=torch.bfloat16))
    # Rounded to bfloat16 before the product, 1/3 would give 1.0078.
    assert got.item() == 1.0


def test_gradients_reach_the_direction() -> None:
    direction = torch.ones(8, requires_grad=True)
    Intervention(direction, 0, 2.0)(torch.zeros(3, 8)).sum().backward()
    assert direction.grad is not None
    assert torch.equal(direction.grad, torch.full((8,), 6.0))


def test_layers_and_strengths_from_arrays_become_plain_numbers() -> None:
    edit = Intervention(torch.ones(4), np.int64(3), np.float32(0.5))  # type: ignore[arg-type]
    assert (type(edit.layer), type(edit.strength)) == (int, float)
    assert (edit.layer, edit.strength) == (3, 0.5)


def test_it_is_frozen() -> None:
    edit = Intervention(torch.ones(4), 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        edit.strength = 2.0  # type: ignore[misc]


def test_defaults_are_those_of_the_paper() -> None:
    edit = Intervention(torch.ones(4), 0)
    assert (edit.strength, edit.operator, edit.position, edit.name) == (1.0, "add", "last", "")
    assert POSITIONS == ("last", "prompt_last", "all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(direction=torch.ones(2, 4)), r"direction must be one floating-point vector.*\(2, 4\)"),
        (dict(direction=torch.ones(4, dtype=torch.long)), r"direction must be one floating.*torch\.int64"),
        (dict(direction=torch.tensor([1.0, math.nan])), r"direction of shape \(2,\) has NaN"),
        (dict(direction=torch.tensor([1.0, math.inf])), r"direction of shape \(2,\) has NaN or infinite"),
        (dict(layer=-1), r"layer=-1 is negative; layers count from 0"),
        (dict(strength=math.nan), r"strength=nan must be a finite number"),
        (dict(strength=-math.inf), r"strength=-inf must be a finite number"),
        (dict(operator="multiply"), r"operator='multiply' is unknown; choose one of add, norm_preserving_add"),
        (dict(position="first"), r"position='first' is unknown; choose one of last, prompt_last, all"),
        (dict(direction=torch.zeros(4), operator="ablate"), r"zero direction cannot be ablated"),
    ],
)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Intervention(**{"direction": torch.ones(4), "layer": 0, **change})
