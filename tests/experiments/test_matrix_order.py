"""Clusters with and without planted order, silhouettes by hand, margins of a matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import silhouette_score

from cast_lens.experiments.transfer_matrix import clusters, hubs, row_distances
from cast_lens.stats import silhouette


def test_planted_clusters_are_found_and_beat_the_null() -> None:
    generator = np.random.default_rng(0)
    profile = np.array([[1.0, -1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, 1.0, -1.0]])
    matrix = profile[[0, 1, 0, 1, 0, 1, 0, 1]] + 0.05 * generator.normal(size=(8, 5))
    found = clusters(matrix, n_permutations=99, seed=0)
    assert found is not None
    assert len(set(found.labels[::2])) == len(set(found.labels[1::2])) == 1
    assert found.labels[0] != found.labels[1]
    assert found.p == pytest.approx(0.01)
    assert sorted(found.order) == list(range(8))


def test_noise_has_no_clusters_beyond_the_null() -> None:
    generator = np.random.default_rng(1)
    p = []
    for seed in range(30):
        found = clusters(generator.normal(size=(7, 4)), n_permutations=19, seed=seed)
        assert found is not None
        p.append(found.p)
    # 30 trials at 5 %: 6 or more have probability 0.3 %.
    assert sum(value <= 0.05 for value in p) <= 5
    assert 0.3 < np.mean(p) < 0.7


def test_silhouettes_are_those_of_scikit_learn() -> None:
    points = np.random.default_rng(2).normal(size=(9, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 0, 1])
    expected = silhouette_score(distances, labels, metric="precomputed")
    assert silhouette(distances, labels) == pytest.approx(expected)
    assert silhouette(distances, np.zeros(9, dtype=int)) == 0.0


def test_rows_are_compared_where_both_are_known() -> None:
    matrix = np.array([[1.0, np.nan, 3.0], [2.0, 5.0, 5.0], [np.nan, 1.0, np.nan]])
    distances = row_distances(matrix)
    assert distances[0, 1] == pytest.approx(np.sqrt((1 + 4) / 2))
    assert np.isnan(distances[0, 2])
    assert clusters(matrix) is None
    assert clusters(np.ones((5, 3))) is None


def test_margins_are_means_over_pairs() -> None:
    rows = [
        {"target": target, "source": source, "sample": f"{target}{i}", "change": change}
        for target, source, change in (("a", "x", 1.0), ("a", "y", 0.0), ("b", "x", 0.5))
        for i in range(3)
    ]
    found = hubs(pd.DataFrame(rows), n_bootstrap=50, seed=0).set_index(["role", "task"])
    assert found.loc[("source", "x"), ["gain", "gain_least", "gain_most", "pairs"]].tolist() == [0.75, 0.5, 1.0, 2]
    assert found.loc[("target", "a"), "gain"] == 0.5
