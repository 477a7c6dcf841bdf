"""Neighbours, edge weights and summaries against naive loops and closed forms."""

from __future__ import annotations

import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from cast_lens.selection import SimilarityGraph, similarity_graph
from cast_lens.selection.graph import exact_neighbours, measured_recall
from cast_lens.selection.spaces import available_threads, map_blocks, row_blocks, single_threaded, unit_rows
from tests.selection import literal


def clustered(samples: int, *, seed: int = 0, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, width))
    return centres[rng.integers(20, size=samples)] + 0.4 * rng.normal(size=(samples, width))


def out_edges(graph: SimilarityGraph) -> list[list[int]]:
    return [part.tolist() for part in np.split(graph.indices, graph.offsets[1:-1])]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 6])
def test_exact_neighbours_are_those_of_a_naive_search(seed: int, k: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(50, 6)) + 5
    graph, cos = similarity_graph(rows, k=k), literal.cosines(rows)
    assert out_edges(graph) == literal.nearest(cos, k)
    named = [cos[i][j] for i, j in zip(graph.sources, graph.indices, strict=True)]
    np.testing.assert_allclose(graph.cosine, named, atol=1e-10)  # cosines are kept to 10 decimals


def test_ties_go_to_the_lower_index() -> None:
    # Centred, each row's cosine to all rows of the other two axes is the same.
    rows = np.concatenate([np.eye(3), -np.eye(3)])
    assert out_edges(similarity_graph(rows, k=2)) == [[1, 2], [0, 2], [0, 1], [1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize("width", [3, 200])
def test_candidates_in_single_precision_lose_no_neighbour(width: int) -> None:
    rng = np.random.default_rng(width)
    rows = rng.normal(size=(300, width)) + 5
    # Nearer to each other than float32 can say, forty of them the very same: more than the spare candidates.
    rows[:40] = rows[0]
    rows[40:120] = rows[40] + 1e-7 * rng.normal(size=(80, width))
    graph, cos = similarity_graph(rows, k=10), literal.cosines(rows)
    assert out_edges(graph) == literal.nearest(cos, 10)


def test_blocks_do_not_change_the_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    units, _ = unit_rows(clustered(200), np.float64)
    whole = exact_neighbours(units, 5)
    monkeypatch.setattr("cast_lens.selection.graph.EXACT_ENTRIES", 7 * 200)  # seven rows
    for got, expected in zip(exact_neighbours(units, 5), whole, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_no_n_by_n_matrix_is_held() -> None:
    units, _ = unit_rows(np.random.default_rng(0).normal(size=(6000, 8)), np.float64)
    tracemalloc.start()
    with single_threaded():
        exact_neighbours(units, 10, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 8 * 6000**2  # a block of 32 MB, its partitioned copy and masks, against 288 MB


def test_the_graph_does_not_depend_on_the_number_of_threads() -> None:
    rows = clustered(1200, width=64).astype(np.float32)
    one, *others = (similarity_graph(rows, k=8, threads=threads) for threads in (1, 2, 5))
    for other in others:
        np.testing.assert_array_equal(other.indices, one.indices)
        np.testing.assert_array_equal(other.cosine, one.cosine)


class FakeDescent:
    """Stands in for pynndescent, which compiles for half a minute: true neighbours, some spoilt."""

    spoilt = 0.0
    threads: int | None = None

    def __init__(self, data: np.ndarray, *, metric: str, n_neighbors: int, random_state: int, n_jobs: int) -> None:
        assert metric == "cosine"
        FakeDescent.threads = n_jobs
        found = np.argsort(-(data @ data.T), axis=1)[:, :n_neighbors]
        lost = np.random.default_rng(random_state).random(len(data)) < self.spoilt
        found[lost, 1:] = np.arange(n_neighbors - 1)[None] + len(data) // 2
        self.neighbor_graph = (found.astype(np.int32), None)


@pytest.fixture
def fake_descent(monkeypatch: pytest.MonkeyPatch) -> type[FakeDescent]:
    monkeypatch.setitem(sys.modules, "pynndescent", SimpleNamespace(NNDescent=FakeDescent))
    monkeypatch.setattr(FakeDescent, "spoilt", 0.0)
    return FakeDescent


def test_pynndescent_runs_on_one_thread_and_drops_the_row_itself(fake_descent: type[FakeDescent]) -> None:
    rows = clustered(300)
    graph = similarity_graph(rows, k=5, search="pynndescent")
    assert fake_descent.threads == 1
    assert out_edges(graph) == out_edges(similarity_graph(rows, k=5))
    assert (graph.search, graph.recall) == ("pynndescent", 1.0)


def test_a_poor_approximate_graph_says_so(fake_descent: type[FakeDescent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_descent, "spoilt", 0.4)
    with pytest.warns(UserWarning, match="of the true neighbours, not 95%; search='exact'"):
        graph = similarity_graph(clustered(300), k=5, search="pynndescent")
    # Two rows in five lose their neighbours; 300 rows give a standard deviation of 0.03.
    assert graph.recall == pytest.approx(0.6, abs=0.12)


def test_measured_recall_counts_a_planted_loss() -> None:
    units, _ = unit_rows(clustered(300), np.float64)
    _, cosine = exact_neighbours(units, 4)
    cosine[:, 3] = -1.0
    assert measured_recall(units, cosine, generator=np.random.default_rng(0)) == 0.75


def test_weights() -> None:
    rows = np.random.default_rng(3).normal(size=(30, 4))
    graph, cos = similarity_graph(rows, k=6), literal.cosines(rows)
    edges = literal.nearest(cos, 6)
    for name in ("cosine", "row", "in"):
        expected = literal.weights(cos, edges, name)
        np.testing.assert_allclose(graph.matrix(name).toarray(), expected, atol=1e-9)


def test_negative_cosines_weigh_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 2))
    graph = similarity_graph(rows, k=7)
    assert graph.cosine.min() < 0
    assert graph.matrix("cosine").toarray().min() == 0
    np.testing.assert_allclose(graph.matrix("row").sum(axis=1), 1.0)


def test_the_nearest_few_of_a_wider_graph_are_a_graph_of_few() -> None:
    rows = clustered(120)
    cut, built = similarity_graph(rows, k=20).nearest(5), similarity_graph(rows, k=5)
    np.testing.assert_array_equal(cut.indices, built.indices)
    np.testing.assert_array_equal(cut.offsets, built.offsets)
    assert cut.summary() == built.summary()
    with pytest.raises(ValueError, match="graph holds the 5 nearest, 6 were asked for; build it with k=6"):
        built.nearest(6)


def test_summary_of_two_far_clusters_with_a_copy_and_a_sample_on_the_mean() -> None:
    near = np.random.default_rng(0).normal(scale=0.05, size=(6, 3)) + np.array([5.0, 0, 0])
    rows = np.concatenate([near, near[:1], -near, -near[:1], np.zeros((1, 3))]) + 1
    summary = similarity_graph(rows, k=3).summary()
    assert (summary.samples, summary.edges, summary.k) == (15, 42, 3)
    assert (summary.components, summary.isolated, summary.duplicates) == (3, 1, 2)
    assert summary.mean_cosine > 0.99


def test_fewer_samples_than_neighbours_connects_all() -> None:
    graph = similarity_graph(np.random.default_rng(0).normal(size=(5, 3)), k=10)
    assert (graph.k, graph.k_asked, len(graph.indices)) == (4, 10, 20)
    assert graph.nearest(7).k == 4
    alone = similarity_graph(np.ones((1, 3)), k=10)
    assert (len(alone), alone.k, len(alone.indices)) == (1, 0, 0)


def test_to_frame_has_one_row_per_edge() -> None:
    frame = similarity_graph(clustered(40), k=3).to_frame()
    assert list(frame.columns) == ["source", "target", "cosine"]
    assert frame.groupby("source").size().tolist() == [3] * 40


def test_auto_turns_approximate_above_a_limit(fake_descent: type[FakeDescent], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clustered(400)
    assert similarity_graph(rows).search == "exact"
    monkeypatch.setattr("cast_lens.selection.graph.EXACT_UP_TO", 300)
    assert similarity_graph(rows).search == "pynndescent"


def test_blocks_cover_all_rows_once_and_threads_keep_order() -> None:
    blocks = row_blocks(103, 10, entries=70)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(103))
    assert max(block.stop - block.start for block in blocks) == 7
    assert map_blocks(lambda item: item * item, range(50), threads=4) == [item * item for item in range(50)]
    assert available_threads(3) == 3
    assert available_threads(None) >= 1
