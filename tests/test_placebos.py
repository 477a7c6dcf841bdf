"""A placebo has the vector's layers and norms, comes from its seed alone, and says what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from cast_lens.placebos import matched, placebo_seed, random_direction, random_like, shuffled_coordinates, zero
from cast_lens.vectors import Provenance, SteeringVector

D_MODEL = 256
ORIGIN = Provenance("tiny", "0123456789abcdef", "antonym", template="word", sample_ids=("a", "b"))
SEEDED = (random_direction, shuffled_coordinates)
Placebo = Callable[..., SteeringVector]


def _vector() -> SteeringVector:
    noise = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    noise[:, 7] *= 50  # An outsize coordinate, as residual streams have.
    return SteeringVector(noise * torch.tensor([[0.1], [1.0], [40.0]]), (2, 5, 6), ORIGIN)


def _cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@pytest.mark.parametrize("placebo", SEEDED)
def test_norms_are_those_of_the_vector(placebo: Placebo) -> None:
    vector = _vector()
    torch.testing.assert_close(
        placebo(vector, seed=3).directions.norm(dim=-1), vector.directions.norm(dim=-1), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("placebo", SEEDED)
def test_the_seed_decides_and_the_global_generator_is_left_alone(placebo: Placebo) -> None:
    before = torch.get_rng_state()
    one, same, other = (placebo(_vector(), seed=seed).directions for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("placebo", [*SEEDED, zero])
def test_it_stands_in_the_vectors_place_and_says_so(placebo: Placebo) -> None:
    vector = _vector()
    made = placebo(vector) if placebo is zero else placebo(vector, seed=3)
    assert made.layers == vector.layers
    assert made.directions.dtype == torch.float32
    origin = made.provenance
    call = f"{placebo.__name__}(antonym" + (")" if placebo is zero else ", seed=3)")
    assert origin.task == call
    assert made.intervention(5).name == call
    assert "placebo for the vector of antonym" in origin.note
    assert (origin.fingerprint, origin.sample_ids, origin.template) == (ORIGIN.fingerprint, (), "word")
    assert torch.equal(vector.directions, _vector().directions)


def test_random_directions_are_uniform_on_the_sphere() -> None:
    vector = _vector()
    draws = torch.stack([random_direction(vector, seed=seed).directions for seed in range(200)])
    unit = draws / draws.norm(dim=-1, keepdim=True)
    # Cosines with any fixed direction have mean 0 and variance 1 / d_model; 200 draws, 5 standard errors.
    cosines = _cosines(draws, vector.directions)
    assert float(cosines.mean(dim=0).abs().max()) < 5 / (200 * D_MODEL) ** 0.5
    assert float((cosines.var(dim=0) * D_MODEL - 1).abs().max()) < 5 * (2 / 200) ** 0.5
    # No coordinate is favoured: each carries 1 / d_model of the squared length.
    assert float((unit.square().mean(dim=0) * D_MODEL).max()) < 2.0
    # Layers are drawn apart.
    assert float(_cosines(draws[:, 0], draws[:, 1]).abs().max()) < 0.3


def test_sources_and_draws_share_no_direction() -> None:
    vector = _vector()
    seeds = [placebo_seed(source, 0, number) for source in ("a", "b", "c", "d") for number in range(2)]
    assert len(set(seeds)) == 8
    drawn = torch.stack([random_direction(vector, seed=seed).directions[0] for seed in seeds]).double()
    cosines = torch.corrcoef(drawn) - torch.eye(8)
    assert float(cosines.abs().max()) < 5 / D_MODEL**0.5
    assert placebo_seed("a", 0, 1) == placebo_seed("a", 0, 1)


def test_random_like_keeps_shape_dtype_and_norms() -> None:
    rows = torch.randn(5, 3, D_MODEL, generator=torch.Generator().manual_seed(1)).to(torch.float16)
    made = random_like(rows, seed=2)
    assert (made.shape, made.dtype) == (rows.shape, torch.float16)
    torch.testing.assert_close(made.double().norm(dim=-1), rows.double().norm(dim=-1), rtol=2e-3, atol=0)
    assert torch.equal(made, random_like(rows, seed=2))


def test_a_shuffled_vector_has_the_same_entries_at_every_layer_in_one_order() -> None:
    vector = _vector()
    shuffled = shuffled_coordinates(vector, seed=3).directions
    assert torch.equal(shuffled.sort(dim=-1).values, vector.directions.sort(dim=-1).values)
    assert not torch.equal(shuffled, vector.directions)
    torch.testing.assert_close(shuffled @ shuffled.T, vector.directions @ vector.directions.T, rtol=1e-5, atol=1e-3)


def test_zero_is_zero() -> None:
    assert torch.equal(zero(_vector()).directions, torch.zeros(3, D_MODEL))


def test_a_zero_layer_stays_zero() -> None:
    empty = SteeringVector(torch.zeros(1, D_MODEL), (0,), ORIGIN)
    assert torch.equal(random_direction(empty, seed=0).directions, torch.zeros(1, D_MODEL))


def test_matched_keeps_directions_and_takes_norms() -> None:
    vector = _vector()
    other = SteeringVector(7 * vector.directions.flip(0), vector.layers, replace(ORIGIN, task="capital"))
    found = matched(other, like=vector)
    torch.testing.assert_close(found.directions.norm(dim=-1), vector.directions.norm(dim=-1), rtol=1e-6, atol=0)
    assert float(_cosines(found.directions, other.directions).min()) > 1 - 1e-6
    assert (found.provenance.task, found.provenance.note) == ("capital", "norms of antonym")
    empty = SteeringVector(torch.zeros(3, D_MODEL), vector.layers, ORIGIN)
    assert torch.equal(matched(vector, like=empty).directions, empty.directions)


def test_what_cannot_be_matched_is_refused() -> None:
    vector = _vector()
    holed = vector.directions.clone()
    holed[1] = 0
    with pytest.raises(ValueError, match="'antonym' is zero at layer 5 and has no direction to scale"):
        matched(SteeringVector(holed, vector.layers, ORIGIN), like=vector)
    with pytest.raises(ValueError, match=r"at layers \(1, 2, 3\) cannot take the norms of 'antonym'"):
        matched(SteeringVector(vector.directions, (1, 2, 3), ORIGIN), like=vector)
    foreign = replace(ORIGIN, fingerprint="f" * 16, model="other")
    with pytest.raises(ValueError, match="comes from 'other' and that of 'antonym' from another model"):
        matched(SteeringVector(vector.directions, vector.layers, foreign), like=vector)
