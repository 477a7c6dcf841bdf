"""What holds for every method: bad input is named, threads do not matter, and planted structure is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cast_lens.selection import METHODS, WITHOUT_SPACE, SelectionParameters, select, similarity_graph

ROWS = np.random.default_rng(0).normal(size=(60, 12))
INPUTS: dict[str, Any] = {"differences": ROWS + 1, "confidence": np.linspace(1, 0, 60)}
COMPARING = sorted(set(METHODS) - WITHOUT_SPACE)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [1, 7, 60])
def test_every_method_gives_the_budget_without_repetition(method: str, budget: int) -> None:
    got = select(ROWS, budget, method=method, **INPUTS)
    size = 60 if method == "all" else budget
    assert (len(got), got.budget, got.method) == (size, size, method)
    assert len(set(got.indices.tolist())) == size
    assert set(got.indices.tolist()) <= set(range(60))
    assert got.scores.shape == got.diversity.shape == (size,)
    frame = got.to_frame()
    columns = ["method", "seed", "budget", "rank", "index", "influence", "diversity", "score"]
    assert list(frame.columns) == columns
    assert frame["index"].tolist() == got.indices.tolist()
    assert frame["rank"].tolist() == list(range(size))


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_does_not_matter(method: str) -> None:
    rows = np.random.default_rng(1).normal(size=(500, 48)).astype(np.float32)
    inputs: dict[str, Any] = {"differences": rows, "confidence": rows[:, 0]}
    one, three = (
        select(rows, 20, method=method, parameters=SelectionParameters(threads=threads), **inputs) for threads in (1, 3)
    )
    np.testing.assert_array_equal(one.indices, three.indices)
    np.testing.assert_array_equal(one.scores, three.scores)


@pytest.mark.parametrize("method", METHODS)
def test_scale_shift_type_and_layout_of_the_space_do_not_matter(method: str) -> None:
    whole = np.round(8 * ROWS)  # exact in half precision
    expected = select(whole, 9, method=method, **INPUTS).indices.tolist()
    changed: list[Any] = [
        whole * 2.0**-600,
        whole * 2.0**600,
        whole + 64.0,
        whole.astype(np.float16),
        whole.astype(np.int32),
        np.asfortranarray(whole),
        torch.tensor(whole, dtype=torch.bfloat16),
    ]
    for space in changed:
        assert select(space, 9, method=method, **INPUTS).indices.tolist() == expected


@pytest.mark.parametrize("method", ["cast", "influence", "vote-k", "ideal"])
def test_a_given_graph_spares_building_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = select(ROWS, 9, method=method)
    graph = similarity_graph(ROWS, k=20)

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("the graph was built again")

    monkeypatch.setattr("cast_lens.selection.selectors.graph_of_units", not_again)
    given = select(ROWS, 9, method=method, graph=graph)
    assert given.indices.tolist() == built.indices.tolist()
    assert given.graph == built.graph


def test_the_arguments_are_left_alone() -> None:
    rows, given = ROWS.copy(), {name: value.copy() for name, value in INPUTS.items()}
    for method in METHODS:
        select(rows, 10, method=method, **given)
    np.testing.assert_array_equal(rows, ROWS)
    np.testing.assert_array_equal(given["confidence"], INPUTS["confidence"])


def two_clusters() -> np.ndarray:
    """40 samples in a tight cluster, then 20 in a looser one on the far side."""
    rng = np.random.default_rng(5)
    side = 4 * np.eye(10)[0]
    return np.concatenate([rng.normal(size=(40, 10)) * 0.3 + side, rng.normal(size=(20, 10)) * 0.8 - side])


def test_influence_alone_stays_in_the_tight_cluster_and_cast_does_not() -> None:
    influence = select(two_clusters(), 10, method="influence").indices
    assert (influence < 40).all()
    cast = select(two_clusters(), 10).indices
    assert 0 < (cast < 40).sum() < 10


@pytest.mark.parametrize("method", ["cast", "diversity", "vote-k", "ideal", "facility-location", "k-means"])
def test_both_parts_of_a_disconnected_graph_are_covered(method: str) -> None:
    got = select(two_clusters(), 10, method=method, parameters=SelectionParameters(k=5, vote_k=5))
    assert 0 < (got.indices < 40).sum() < 10
    if got.graph is not None:
        assert got.graph.components >= 2


@pytest.mark.parametrize("method", ["cast", "diversity", "facility-location", "farthest-point", "k-means"])
def test_copies_are_not_chosen_while_there_is_something_else(method: str) -> None:
    groups = 4 * np.eye(6) + 0.01 * np.random.default_rng(0).normal(size=(6, 6))
    rows = np.repeat(groups, 5, axis=0)
    got = select(rows, 6, method=method, parameters=SelectionParameters(k=4))
    assert sorted(index // 5 for index in got.indices.tolist()) == list(range(6))


@pytest.mark.parametrize("method", COMPARING)
def test_copies_can_fill_a_budget(method: str) -> None:
    rows = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 5, axis=0)
    got = select(rows, 20, method=method, confidence=np.arange(20.0), parameters=SelectionParameters(k=4))
    assert sorted(got.indices.tolist()) == list(range(20))


@pytest.mark.parametrize("method", COMPARING)
def test_a_sample_on_the_mean_is_an_ordinary_last_choice(method: str) -> None:
    rows = np.concatenate([ROWS[:10], -ROWS[:10], np.zeros((1, 12))]) + 5
    got = select(rows, 21, method=method, confidence=np.arange(21.0))
    assert sorted(got.indices.tolist()) == list(range(21))


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_is_chosen(method: str) -> None:
    inputs: dict[str, Any] = {"differences": np.ones((1, 3)), "confidence": np.ones(1)}
    assert select(np.ones((1, 3)), 1, method=method, **inputs).indices.tolist() == [0]


@pytest.mark.parametrize("budget", [0, -3, 61, 2.5, None, True, "all"])
def test_bad_budget(budget: Any) -> None:
    with pytest.raises(ValueError, match=r"budget=.* must be a whole number from 1 to 60"):
        select(ROWS, budget)


def test_bad_method_and_seed() -> None:
    with pytest.raises(ValueError, match="method='votek' is unknown; choose one of cast, influence"):
        select(ROWS, 3, method="votek")
    for seed in (-1, 0.5, None):
        with pytest.raises(ValueError, match=r"seed=.* must be a whole number of at least 0"):
            select(ROWS, 3, seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_named(method: str, bad: float) -> None:
    rows = ROWS.copy()
    rows[[4, 17], [0, 3]] = bad
    with pytest.raises(ValueError, match="space: rows 4, 17 are NaN or infinite"):
        select(rows, 3, method=method, **INPUTS)


def test_many_bad_rows_are_counted() -> None:
    rows = ROWS.copy()
    rows[:20] = np.nan
    with pytest.raises(ValueError, match=r"space: rows 0, 1, 2, 3, 4, 5, 6, 7 \(and 12 more\) are NaN"):
        select(rows, 3)


@pytest.mark.parametrize("method", COMPARING)
def test_zero_rows_are_named(method: str) -> None:
    rows = ROWS.copy()
    rows[8] = 0.0
    with pytest.raises(ValueError, match="space: row 8 is zero; a zero vector has no direction"):
        select(rows, 3, method=method, confidence=INPUTS["confidence"])


@pytest.mark.parametrize("method", COMPARING)
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e30])
def test_identical_samples_are_refused(method: str, value: float) -> None:
    with pytest.raises(ValueError, match=r"all 7 rows are identical.*use method='random'"):
        select(np.full((7, 3), value, dtype=np.float32), 3, method=method, confidence=np.ones(7))


@pytest.mark.parametrize("method", sorted(WITHOUT_SPACE))
def test_methods_that_do_not_compare_take_identical_samples(method: str) -> None:
    differences, confidence = np.random.default_rng(0).normal(size=(7, 3)), np.arange(7.0)
    inputs: dict[str, Any] = {"differences": differences, "confidence": confidence}
    assert len(select(np.ones((7, 3)), 7, method=method, **inputs)) == 7


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (np.ones(5), r"space must be a non-empty \[sample, d_model\] array, got shape \(5,\)"),
        (np.ones((0, 4)), r"got shape \(0, 4\)"),
        (np.ones((4, 0)), r"got shape \(4, 0\)"),
        (np.array([["a", "b"]]), "space must hold real numbers, got dtype <U1"),
        (np.ones((3, 2), dtype=complex), "must hold real numbers, got dtype complex128"),
    ],
)
def test_bad_space(space: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(space, 1)


def test_missing_or_unfitting_differences() -> None:
    def chosen(differences: Any) -> object:
        return select(ROWS, 3, method="parallel", differences=differences)

    with pytest.raises(ValueError, match=r"needed by method='parallel': give DifferenceVectors.at\(layer\)"):
        chosen(None)
    with pytest.raises(ValueError, match="differences has 59 rows, the space has 60"):
        chosen(ROWS[:59])
    with pytest.raises(ValueError, match="differences: row 2 is zero"):
        chosen(np.where(np.arange(60)[:, None] == 2, 0.0, ROWS))
    with pytest.raises(ValueError, match="differences: row 2 is NaN or infinite"):
        chosen(np.where(np.arange(60)[:, None] == 2, np.nan, ROWS))
    with pytest.raises(ValueError, match="differences average to zero"):
        chosen(np.concatenate([ROWS[:30], -ROWS[:30]]))


@pytest.mark.parametrize("method", ["confident", "vote-k-two-phase"])
def test_missing_or_unfitting_confidence(method: str) -> None:
    with pytest.raises(ValueError, match="confidence is needed by this method: give one number per sample"):
        select(ROWS, 3, method=method)
    with pytest.raises(ValueError, match=r"confidence must be 60 finite numbers, one per sample, got shape \(59,\)"):
        select(ROWS, 3, method=method, confidence=np.ones(59))
    with pytest.raises(ValueError, match=r"with NaN or infinity at \[5\]"):
        select(ROWS, 3, method=method, confidence=np.where(np.arange(60) == 5, np.nan, 1.0))


def test_a_graph_of_another_space() -> None:
    with pytest.raises(ValueError, match="graph has 30 samples, the space has 60; build it from this space"):
        select(ROWS, 3, graph=similarity_graph(ROWS[:30]))
    with pytest.raises(ValueError, match="graph holds the 4 nearest, 10 were asked for"):
        select(ROWS, 3, graph=similarity_graph(ROWS, k=4))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", 0, "k=0 must be a whole number of at least 1"),
        ("steps", 1.5, "steps=1.5 must be a whole number"),
        ("cascades", 0, "cascades=0 must be"),
        ("vote_k", 0, "vote_k=0 must be"),
        ("threads", 0, "threads=0 must be"),
        ("decay", 0.0, "decay=0.0 must lie between 0 and 1"),
        ("alpha", 1.1, "alpha=1.1 must lie between 0 and 1"),
        ("alpha", float("nan"), "alpha=nan must lie between 0 and 1"),
        ("gamma", 1.0, "gamma=1.0 must lie between 0 and 1"),
        ("vote_share", 0.0, "vote_share=0.0 must lie between"),
        ("recall", 0.0, "recall=0.0 must lie between"),
        ("vote_rho", 1.0, "vote_rho=1.0 must be above 1"),
        ("weights", "rows", "weights='rows' is unknown; choose one of cosine, row, in"),
        ("influence", "hub", "influence='hub' is unknown"),
        ("diversity", "far", "diversity='far' is unknown"),
        ("scaling", "rank", "scaling='rank' is unknown"),
        ("rescale", "never", "rescale='never' is unknown"),
        ("ideal_start", "first", "ideal_start='first' is unknown"),
        ("search", "hnsw", "search='hnsw' is unknown; choose one of auto, exact, pynndescent"),
    ],
)
def test_bad_parameters(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionParameters(**{name: value})


def test_bad_graph_arguments() -> None:
    with pytest.raises(ValueError, match="k=0 must be at least 1 neighbour"):
        similarity_graph(ROWS, k=0)
    with pytest.raises(ValueError, match="search='fast' is unknown"):
        similarity_graph(ROWS, search="fast")  # type: ignore[arg-type]
