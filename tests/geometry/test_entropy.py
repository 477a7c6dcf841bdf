from __future__ import annotations

import numpy as np
import pytest
import torch

from cast_lens.geometry import entropy_by_layer, matrix_entropy

from .planted import axis, planted


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, float("inf")])
@pytest.mark.parametrize(("n", "d_model"), [(5, 9), (9, 5), (6, 6)])
def test_equal_orthogonal_directions_reach_the_bound(order: float, n: int, d_model: int) -> None:
    activations = 3.0 * torch.eye(max(n, d_model))[:n, :d_model]
    assert matrix_entropy(activations, order) == pytest.approx(np.log(min(n, d_model)), abs=1e-12)


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.0, float("inf")])
def test_one_line_has_none(order: float) -> None:
    activations = torch.outer(torch.tensor([1.0, -2.0, 5.0]), torch.tensor([1.0, 2.0, 4.0, -1.0]))
    assert matrix_entropy(activations, order) == pytest.approx(0, abs=1e-9)


def test_known_spectrum() -> None:
    activations = torch.diag(torch.tensor([3.0, 1.0])) ** 0.5  # shares 3/4 and 1/4
    assert matrix_entropy(activations) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-7)
    assert matrix_entropy(activations, 2.0) == pytest.approx(-np.log(0.75**2 + 0.25**2), abs=1e-7)


def published_code(activations: np.ndarray) -> float:
    """The recipe of GLoRE's analysis_entropy.py, its absolute threshold included."""
    gram = activations @ activations.T
    eigenvalues = np.linalg.eigvalsh(gram)
    shares = eigenvalues[eigenvalues > 1e-10] / np.trace(gram)
    return float(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_agrees_with_the_published_recipe(shape: tuple[int, int]) -> None:
    activations = np.random.default_rng(0).normal(size=shape)
    assert matrix_entropy(torch.tensor(activations)) == pytest.approx(published_code(activations), abs=1e-10)


def test_unit_rotation_and_sample_order_change_nothing() -> None:
    rng = np.random.default_rng(0)
    activations = torch.tensor(rng.normal(size=(10, 7)) * np.arange(1, 8))
    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(7, 7)))[0])
    entropy = matrix_entropy(activations)
    assert matrix_entropy(1e-8 * activations) == pytest.approx(entropy, abs=1e-9)
    assert matrix_entropy(activations @ rotation) == pytest.approx(entropy, abs=1e-9)
    assert matrix_entropy(activations.flip(0)) == pytest.approx(entropy, abs=1e-9)


def test_higher_orders_are_lower() -> None:
    activations = torch.tensor(np.random.default_rng(0).normal(size=(10, 7)) * np.arange(1, 8))
    entropies = [matrix_entropy(activations, order) for order in (0.0, 0.5, 0.999999, 1.0, 1.000001, 2.0, float("inf"))]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[2] == pytest.approx(entropies[4], abs=1e-4)


def test_frame_holds_each_side_of_each_layer() -> None:
    tasks = [planted("a", axis(0), n=6, layers=2), planted("b", axis(1), n=8, layers=2)]
    frame = entropy_by_layer(tasks)
    assert len(frame) == 2 * 2 * 2
    row = frame.query("task == 'b' and layer == 1 and condition == 'few-shot'").iloc[0]
    assert row["entropy"] == matrix_entropy(tasks[1].few_shot[:, 1])
    assert row["n"] == 8
    assert (entropy_by_layer(tasks, order=2.0)["entropy"] < frame["entropy"]).all()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"order=-1\.0 must be 0 or more"):
        matrix_entropy(torch.eye(2), -1.0)
    with pytest.raises(ValueError, match="order=nan must"):
        matrix_entropy(torch.eye(2), float("nan"))
    with pytest.raises(ValueError, match="all zero"):
        matrix_entropy(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"finite matrix .* got \(2, 2\)"):
        matrix_entropy(torch.full((2, 2), float("inf")))
