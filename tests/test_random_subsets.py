from __future__ import annotations

import pytest
import torch

from cast_lens.placebos import random_subsets
from cast_lens.vectors import DifferenceVectors, Provenance


def _pool() -> DifferenceVectors:
    few = torch.arange(5.0)[:, None, None] * torch.ones(5, 2, 3)
    origin = Provenance("tiny", "0123456789abcdef", "antonym")
    return DifferenceVectors(few, torch.zeros_like(few), (0, 1), tuple("abcde"), origin)


def test_each_is_the_mean_of_that_many_different_samples() -> None:
    found = random_subsets(_pool(), 3, count=20, seed=0)
    assert list(found)[:2] == ["random 0", "random 1"]
    for vector in found.values():
        ids = vector.provenance.sample_ids
        assert len(set(ids)) == 3
        expected = sum("abcde".index(one) for one in ids) / 3
        torch.testing.assert_close(vector.directions, torch.full((2, 3), expected))
    assert len({vector.provenance.sample_ids for vector in found.values()}) > 5


def test_the_seed_decides() -> None:
    one, same, other = (
        [vector.provenance.sample_ids for vector in random_subsets(_pool(), 3, count=9, seed=seed).values()]
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_a_pool_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="size=6 must be from 1 to 5"):
        random_subsets(_pool(), 6, count=1, seed=0)
