"""Diffusion and cascades against closed forms and plain simulation."""

from __future__ import annotations

import numpy as np
import pytest

from cast_lens.selection import cascade_influence, diffusion_influence, similarity_graph
from cast_lens.selection.graph import LiveEdges, expected_spread
from tests.selection import literal
from tests.selection.graphs import drawn


def test_one_step_of_diffusion_is_the_decayed_sum_of_cosines() -> None:
    graph = drawn([[1, 2], [0], []], [[0.5, 0.25], [-0.3], []])
    np.testing.assert_allclose(diffusion_influence(graph, steps=1, decay=0.4), [0.3, 0.0, 0.0])


def test_diffusion_along_a_chain_counts_the_steps_that_fit() -> None:
    chain = drawn([[1], [2], [3], []])
    got = diffusion_influence(chain, steps=2, decay=0.5)
    np.testing.assert_allclose(got, [0.5 + 0.25, 0.5 + 0.25, 0.5, 0.0])


def test_row_weights_give_everyone_the_same_influence() -> None:
    graph = similarity_graph(np.random.default_rng(0).normal(size=(40, 3)), k=5)
    got = diffusion_influence(graph, steps=3, decay=0.5, weights="row")
    np.testing.assert_allclose(got, 0.5 + 0.25 + 0.125)


def test_in_weights_put_the_hub_of_a_star_first() -> None:
    star = drawn([[1], [0], [0], [0], [0]])
    got = diffusion_influence(star, steps=1, decay=1.0, weights="in")
    np.testing.assert_allclose(got, [4, 1, 0, 0, 0])


def test_a_dense_cluster_has_more_influence_than_a_sparse_one() -> None:
    rng = np.random.default_rng(0)
    dense, sparse = rng.normal(size=(30, 20)) * 0.1, rng.normal(size=(30, 20)) * 0.6
    rows = np.concatenate([dense + np.eye(20)[0], sparse - np.eye(20)[0]])
    influence = diffusion_influence(similarity_graph(rows, k=6), steps=3, decay=0.5)
    assert influence[:30].min() > influence[30:].max()


def test_a_certain_cascade_runs_down_the_chain() -> None:
    np.testing.assert_allclose(cascade_influence(drawn([[1], [2], [3], []]), cascades=3, seed=0), [4, 3, 2, 1])


def test_a_certain_cascade_runs_round_a_cycle_once() -> None:
    loop = drawn([[1], [2], [0], [0]])
    np.testing.assert_allclose(cascade_influence(loop, cascades=2, seed=0), [3, 3, 3, 4])


def test_each_edge_carries_its_share_of_the_vote() -> None:
    fork = drawn([[1, 2], [], []], [[0.9, 0.3], [], []])
    share = LiveEdges.sample(fork, cascades=4000, seed=1)
    reached = [(share.component[:, leaf, None] == _reached(share)).any(axis=1).mean() for leaf in (1, 2)]
    # 4,000 draws: standard deviation of a share of 1/4 is 0.007; 4 of them.
    assert reached == pytest.approx([0.75, 0.25], abs=0.028)


def _reached(edges: LiveEdges) -> np.ndarray:
    """The components that sample 0 leads to, one row per cascade, padded with -1."""
    rows = [edges.successors[edges.offsets[c] : edges.offsets[c + 1]] for c in edges.component[:, 0]]
    padded = np.full((len(rows), 2), -1)
    for row, found in zip(padded, rows, strict=True):
        row[: len(found)] = found
    return padded


@pytest.mark.parametrize("seed", range(3))
def test_live_edges_spread_like_a_plain_simulation(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(60, 4))
    graph, chosen = similarity_graph(rows, k=5), [3, 17, 40]
    probability = graph.matrix("row").toarray()
    generator = np.random.default_rng(100 + seed)
    plain = [literal.simulated_cascade(probability, chosen, generator) for _ in range(1500)]
    mean, error = expected_spread(graph, chosen, cascades=1500, seed=seed)
    assert error == pytest.approx(np.std(plain) / 1500**0.5, rel=0.15)
    assert mean == pytest.approx(np.mean(plain), abs=4 * 2**0.5 * error)  # 4 standard errors of the difference


@pytest.mark.parametrize("seed", range(3))
def test_gains_are_reachable_sets_on_the_same_draws(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(50, 4))
    graph, cos = similarity_graph(rows, k=6), literal.cosines(rows)
    edges = literal.nearest(cos, 6)
    draws = literal.live_edges(literal.weights(cos, edges, "row"), edges, 7, seed)
    live = LiveEdges.sample(graph, cascades=7, seed=seed)
    chosen: list[int] = []
    for sample in (4, 30, 11):
        before = 7 * literal.spread(draws, chosen) if chosen else 0.0
        expected = [7 * literal.spread(draws, [*chosen, v]) - before for v in range(50)]
        np.testing.assert_allclose(live.gains(np.arange(50)), expected)
        live.choose(sample)
        chosen.append(sample)


def test_one_cascade_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="cascades=1 must be at least 2"):
        expected_spread(drawn([[1], [0]]), [0], cascades=1, seed=0)
