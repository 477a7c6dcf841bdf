"""How far vectors turn: closed forms, and the stepped-up split-half cosine on planted noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.experiments.stability import (
    SAMPLING,
    cosine_lines,
    mean_cosines,
    resampled_cosine,
    sampling_cosines,
    turns,
)
from cast_lens.vectors import DifferenceVectors, Provenance


def planted(n: int, noise: float, *, width: int = 400, seed: int = 0) -> DifferenceVectors:
    """Differences of one direction of length 1 and noise of length ``noise``, at one layer."""
    generator = torch.Generator().manual_seed(seed)
    values = noise * torch.randn(n, 1, width, generator=generator) / width**0.5
    values[:, :, 0] += 1
    names = tuple(map(str, range(n)))
    return DifferenceVectors(values, torch.zeros_like(values), (0,), names, Provenance("m", "f", "t"))


def test_cosines_are_taken_layer_by_layer_and_a_zero_vector_has_none() -> None:
    left = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    right = torch.tensor([[0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    found = mean_cosines(left, right)
    np.testing.assert_allclose(found[:2], [0.0, 1.0], atol=1e-12)
    assert np.isnan(found[2])


def test_the_stepped_up_cosine_is_that_of_two_disjoint_draws() -> None:
    # Two means of n samples of noise s have squared length 1 + s²/n and inner product 1.
    expected = 1 / (1 + 4.0 / 40)
    found = sampling_cosines(planted(40, 2.0), seed=0)[0]
    # The spread of a cosine of 400 dimensions around it, over one draw of samples: below 0.02.
    assert found == pytest.approx(expected, abs=0.02)
    others = [planted(40, 2.0, seed=seed).mean().directions for seed in (1, 2)]
    assert mean_cosines(*others)[0] == pytest.approx(expected, abs=0.02)


def test_samples_without_noise_always_give_the_same_mean() -> None:
    found = planted(6, 0.0)
    assert sampling_cosines(found, seed=0)[0] == pytest.approx(1.0)
    assert resampled_cosine(found.at(0).double().numpy(), replicates=20, seed=0) == pytest.approx(1.0)


def test_too_few_samples_have_no_halves() -> None:
    assert np.isnan(sampling_cosines(planted(3, 1.0), seed=0)[0])


def test_the_resampled_cosine_is_the_mean_over_bootstrap_means() -> None:
    rows = planted(5, 1.0, width=30).at(0).double().numpy()
    counts = np.random.default_rng(7).multinomial(5, np.full(5, 1 / 5), size=50)
    mean = rows.mean(axis=0)
    drawn = [(count @ rows) / 5 for count in counts]
    naive = [own @ mean / np.linalg.norm(own) / np.linalg.norm(mean) for own in drawn]
    assert resampled_cosine(rows, replicates=50, seed=7) == pytest.approx(np.mean(naive))


def test_lines_average_a_method_and_end_with_the_noise_of_sampling() -> None:
    rows = [(0, 0.5, 0.9, "a"), (0, 0.7, 0.8, "a"), (1, 0.2, 1.0, "a"), (0, 0.1, 0.7, "b"), (1, 0.3, 0.6, "b")]
    geometry = pd.DataFrame(rows, columns=["layer", "cosine", "sampling", "who"], index=[7, 7, 3, 1, 0])
    found = cosine_lines(geometry, geometry["who"], samples=40)
    expected = [
        ("a", 0, 0.6, 0.5, 0.7),
        ("a", 1, 0.2, 0.2, 0.2),
        ("b", 0, 0.1, 0.1, 0.1),
        ("b", 1, 0.3, 0.3, 0.3),
        (SAMPLING, 0, 0.8, 0.7, 0.9),
        (SAMPLING, 1, 0.8, 0.6, 1.0),
    ]
    frame = pd.DataFrame(expected, columns=["method", "x", "y", "low", "high"])
    pd.testing.assert_frame_equal(found, frame.assign(n=40))


def test_turns_are_counted_at_the_layer_of_the_setting() -> None:
    cosines = {"cosine": [0.9, 0.5, 0.1], "sampling": [0.8, 0.8, 0.8], "at_setting": [True, True, False]}
    found = turns(pd.DataFrame({"shots": [1, 1, 1], "source": ["a", "b", "a"], **cosines}), ("shots",))
    assert found.to_dict("records") == [
        {
            "shots": 1,
            "sources": 2,
            "cosine": pytest.approx(0.7),
            "cosine_low": 0.5,
            "cosine_high": 0.9,
            "sampling": pytest.approx(0.8),
            "further": 1,
            "no_further": 1,
        }
    ]
    assert turns(pd.DataFrame(), ("shots",)).empty
