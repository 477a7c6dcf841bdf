"""Ranks and groups against loops over all pairs, and where they are not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from cast_lens.stats import auroc, silhouette, spearman


@pytest.mark.parametrize("seed", range(5))
def test_spearman_is_the_correlation_of_ranks(seed: int) -> None:
    x, y = np.random.default_rng(seed).integers(0, 6, size=(2, 20)).astype(float)  # with ties
    left, right = (ranks - ranks.mean() for ranks in (rankdata(x), rankdata(y)))
    assert spearman(x, y) == pytest.approx(left @ right / np.sqrt(left @ left * (right @ right)), abs=1e-12)
    assert spearman(x, -x) == pytest.approx(-1)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, lost = generator.integers(0, 5, size=30).astype(float), generator.random(30) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[~lost] for b in scores[lost]]
    assert auroc(scores, lost) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(scores, lost) == pytest.approx(roc_auc_score(~lost, scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_silhouette_by_loops(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points, labels = generator.normal(size=(9, 2)), np.array([0, 0, 0, 1, 1, 1, 1, 2, 3])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    values = []
    for row, own in enumerate(labels):
        mates = (labels == own) & (np.arange(9) != row)
        if not mates.any():
            values.append(0.0)
            continue
        inside = distances[row, mates].mean()
        outside = min(distances[row, labels == name].mean() for name in range(4) if name != own)
        values.append((outside - inside) / max(inside, outside))
    assert silhouette(distances, labels) == pytest.approx(np.mean(values), abs=1e-12)


def test_where_they_are_not_defined() -> None:
    assert np.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    assert np.isnan(auroc(np.arange(3.0), np.array([True, True, True])))
    assert silhouette(np.zeros((3, 3)), np.array([0, 0, 0])) == 0
    assert silhouette(np.ones((3, 3)) - np.eye(3), np.array([0, 1, 2])) == 0
