"""Every selector against a slow transcription of its recipe, to the same indices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cast_lens.selection import METHODS, SEEDED, SelectionParameters, select
from tests.selection import literal

SAMPLES, BUDGET = 42, 9
SEEDS = range(2)


def points(seed: int) -> np.ndarray:
    """Gaussian rows; for odd seeds odd numbers and their negatives, of which many cosines are equal."""
    rows = np.random.default_rng(seed).normal(size=(SAMPLES, 5))
    odd = 2 * np.round(0.7 * rows[: SAMPLES // 2]) + 1
    return np.concatenate([odd, -odd]) + 8 if seed % 2 else rows + 3


def test_the_odd_rows_do_tie() -> None:
    cos = literal.cosines(points(1))
    upper = [round(cos[i][j], 9) for i in range(SAMPLES) for j in range(i)]
    assert len(set(upper)) < 0.3 * len(upper)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("weights", ["cosine", "row", "in"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_cast(seed: int, weights: str, alpha: float) -> None:
    settings = SelectionParameters(k=4, alpha=alpha, weights=weights, steps=2, decay=0.7, gamma=0.2)  # type: ignore[arg-type]
    cos = literal.cosines(points(seed))
    edges = literal.nearest(cos, 4)
    influence = literal.diffusion(literal.weights(cos, edges, weights), steps=2, decay=0.7)
    expected = literal.cast(influence, literal.discount(edges, 0.2), BUDGET, alpha=alpha, scaling="max", rescale="step")
    got = select(points(seed), BUDGET, parameters=settings)
    assert got.indices.tolist() == expected
    assert got.influence is not None
    np.testing.assert_allclose(
        got.influence, np.array(list(influence.values())), rtol=1e-8
    )  # cosines kept to 10 decimals


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("diversity", "scaling", "rescale"),
    list(itertools.product(["discount", "facility", "farthest"], ["max", "minmax", "none"], ["step", "start"])),
)
def test_cast_with_other_parts(seed: int, diversity: str, scaling: str, rescale: str) -> None:
    cos = literal.cosines(points(seed))
    edges = literal.nearest(cos, 4)
    gain = {
        "discount": literal.discount(edges, 0.1),
        "facility": literal.graph_facility(cos, edges),
        "farthest": literal.farthest(cos),
    }[diversity]
    influence = literal.diffusion(literal.weights(cos, edges, "cosine"), steps=3, decay=0.5)
    expected = literal.cast(influence, gain, BUDGET, alpha=0.4, scaling=scaling, rescale=rescale)
    settings = SelectionParameters(k=4, alpha=0.4, diversity=diversity, scaling=scaling, rescale=rescale)  # type: ignore[arg-type]
    assert select(points(seed), BUDGET, parameters=settings).indices.tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_cast_with_cascade_influence(seed: int) -> None:
    cos = literal.cosines(points(seed))
    edges = literal.nearest(cos, 4)
    drawn = literal.live_edges(literal.weights(cos, edges, "row"), edges, 6, seed)
    influence = {v: literal.spread(drawn, [v]) for v in range(SAMPLES)}
    expected = literal.cast(influence, literal.discount(edges, 0.1), BUDGET, alpha=0.5, scaling="max", rescale="step")
    settings = SelectionParameters(k=4, influence="cascade", cascades=6)
    assert select(points(seed), BUDGET, seed=seed, parameters=settings).indices.tolist() == expected


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("method", "alpha"), [("influence", 1.0), ("diversity", 0.0)])
def test_influence_and_diversity_alone_are_the_ends_of_cast(seed: int, method: str, alpha: float) -> None:
    ends = select(points(seed), BUDGET, parameters=SelectionParameters(alpha=alpha, k=4))
    alone = select(points(seed), BUDGET, method=method, parameters=SelectionParameters(k=4))
    assert alone.indices.tolist() == ends.indices.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [3, 7])
def test_vote_k(seed: int, k: int) -> None:
    edges = literal.nearest(literal.cosines(points(seed)), k)
    got = select(points(seed), SAMPLES, method="vote-k", parameters=SelectionParameters(vote_k=k))
    assert got.indices.tolist() == literal.vote_k(edges, SAMPLES, 10.0)


def test_vote_k_votes_for_150_of_3000_and_for_a_twentieth_of_less() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 4))
    assert select(rows, 3, method="vote-k").graph.k == 3  # type: ignore[union-attr]
    rows = np.random.default_rng(0).normal(size=(3200, 4))
    assert select(rows, 3, method="vote-k").graph.k == 150  # type: ignore[union-attr]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("budget", "share"), [(1, 0.1), (9, 0.1), (20, 0.1), (SAMPLES, 0.1), (32, 0.5)])
def test_two_phase_vote_k(seed: int, budget: int, share: float) -> None:
    edges = literal.nearest(literal.cosines(points(seed)), 6)
    confidence = np.random.default_rng(seed + 50).normal(size=SAMPLES)
    first = max(1, int(share * budget))
    asked: list[list[int]] = []

    def of_the_model(chosen: np.ndarray) -> np.ndarray:
        asked.append(chosen.tolist())
        return np.roll(confidence, int(chosen[0]))

    settings = SelectionParameters(vote_k=6, vote_share=share)
    rows, method = points(seed), "vote-k-two-phase"
    got = select(rows, budget, method=method, seed=seed, parameters=settings, confidence=of_the_model)
    expected = literal.vote_k_two_phase(
        edges, budget, 10.0, lambda chosen: np.roll(confidence, chosen[0]).tolist(), first_phase=first, seed=seed
    )
    assert got.indices.tolist() == expected
    assert asked == ([] if budget == 1 else [expected[:first]])
    assert np.isnan(got.scores).any() == (share > 0.1)  # empty buckets are filled at random, without a score
    fixed = select(rows, budget, method=method, seed=seed, parameters=settings, confidence=confidence)
    always = literal.vote_k_two_phase(edges, budget, 10.0, lambda _: confidence.tolist(), first_phase=first, seed=seed)
    assert fixed.indices.tolist() == always


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", ["out-degree", "greedy"])
def test_ideal(seed: int, start: str) -> None:
    cos = literal.cosines(points(seed))
    edges = literal.nearest(cos, 4)
    drawn = literal.live_edges(literal.weights(cos, edges, "row"), edges, 10, seed)
    settings = SelectionParameters(k=4, ideal_start=start)  # type: ignore[arg-type]
    got = select(points(seed), BUDGET, method="ideal", seed=seed, parameters=settings)
    assert got.indices.tolist() == literal.ideal(edges, drawn, BUDGET, start=start)
    assert got.scores.sum() == pytest.approx(literal.spread(drawn, got.indices.tolist()))


@pytest.mark.parametrize("seed", SEEDS)
def test_facility_location(seed: int) -> None:
    got = select(points(seed), BUDGET, method="facility-location").indices.tolist()
    assert got == literal.facility_location(literal.cosines(points(seed)), BUDGET)


@pytest.mark.parametrize("seed", SEEDS)
def test_farthest_point(seed: int) -> None:
    got = select(points(seed), BUDGET, method="farthest-point", seed=seed).indices.tolist()
    assert got == literal.farthest_point(literal.cosines(points(seed)), BUDGET, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_least_similar(seed: int) -> None:
    got = select(points(seed), BUDGET, method="least-similar", seed=seed).indices.tolist()
    assert got == literal.least_similar(literal.cosines(points(seed)), BUDGET, seed)


@pytest.mark.parametrize("seed", [0, 2])
def test_k_means(seed: int) -> None:
    got = select(points(seed), BUDGET, method="k-means", seed=seed).indices.tolist()
    assert got == literal.k_means(points(seed), BUDGET, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_parallel(seed: int) -> None:
    differences = np.random.default_rng(seed + 9).normal(size=(SAMPLES, 6)) + 1
    got = select(points(seed), BUDGET, method="parallel", differences=differences)
    assert got.indices.tolist() == literal.parallel(differences, BUDGET)
    assert (np.diff(got.scores) <= 0).all()


def test_confident() -> None:
    confidence = np.array([0.1, 0.9, 0.5, 0.9, 0.2])
    got = select(np.eye(5), 3, method="confident", confidence=confidence)
    assert got.indices.tolist() == [1, 3, 2]
    assert got.scores.tolist() == [0.9, 0.9, 0.5]


def test_random_is_uniform_and_nested() -> None:
    counts = np.zeros(12)
    for seed in range(600):
        counts[select(np.eye(12), 3, method="random", seed=seed).indices] += 1
    # 600 draws of 3 of 12: expected 150 each, standard deviation sqrt(600 * 1/4 * 3/4) = 10.6; 5 of them.
    assert np.abs(counts - 150).max() < 53
    small, large = (select(np.eye(12), size, method="random", seed=4).indices.tolist() for size in (4, 9))
    assert large[:4] == small


def test_all() -> None:
    got = select(np.eye(7), None, method="all")
    assert got.indices.tolist() == list(range(7))
    assert got.budget == 7


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_matters_exactly_where_it_should(method: str) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 6))
    confidence = np.linspace(0, 1, 80)
    choices = {
        tuple(select(rows, 30, method=method, seed=seed, differences=rows, confidence=confidence).indices)
        for seed in range(5)
    }
    assert (len(choices) > 1) == (method in SEEDED)
