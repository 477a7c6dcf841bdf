"""Greedy search: gains kept up to date, lazy equal to full, ties, and the scores that are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cast_lens.selection import SelectionParameters, select, similarity_graph
from cast_lens.selection.greedy import (
    CoverageDiscount,
    DiversityMeasure,
    Farthest,
    GraphFacility,
    Steps,
    first_best,
    lazy_greedy,
    scaled,
)
from cast_lens.selection.spaces import unit_rows
from tests.selection import literal

Gain = Callable[[int, list[int]], float]
ROWS = np.random.default_rng(0).normal(size=(36, 4))


@pytest.mark.parametrize("kind", ["discount", "vote-k", "facility", "farthest"])
def test_gains_stay_right_until_everything_is_chosen(kind: str) -> None:
    cos = literal.cosines(ROWS)
    edges, graph = literal.nearest(cos, 9), similarity_graph(ROWS, k=9)
    pairs: dict[str, tuple[DiversityMeasure, Gain]] = {
        "discount": (CoverageDiscount(graph, 0.1), literal.discount(edges, 0.1)),
        "vote-k": (
            CoverageDiscount(graph, 0.1, own=False, retire=True),
            lambda v, chosen: literal.votes(edges, v, chosen, chosen, 10.0),
        ),
        "facility": (GraphFacility(graph), literal.graph_facility(cos, edges)),
        "farthest": (Farthest(unit_rows(ROWS, np.float64)[0]), literal.farthest(cos)),
    }
    measure, gain = pairs[kind]
    chosen: list[int] = []
    for sample in np.random.default_rng(1).permutation(36):
        expected = np.array([gain(v, chosen) for v in range(36)])
        # Relative, so that votes discounted ten times over (1e-10) still compare; cosines hold 10 decimals.
        rtol, atol = (1e-12, 0.0) if kind in ("discount", "vote-k") else (0.0, 1e-8)
        np.testing.assert_allclose(measure.gain, expected, rtol=rtol, atol=atol)
        measure.choose(int(sample))
        chosen.append(int(sample))


@pytest.mark.parametrize("seed", range(5))
def test_lazy_search_chooses_what_full_search_chooses(seed: int) -> None:
    covers = np.random.default_rng(seed).random((200, 40)) < 0.1  # which of 40 things each candidate covers
    done = np.zeros(40, dtype=bool)
    expected: list[int] = []
    for _ in range(12):
        gain = (covers & ~done).sum(axis=1).astype(float)
        gain[expected] = -1.0
        expected.append(int(gain.argmax()))
        done |= covers[expected[-1]]

    covered, scored = np.zeros(40, dtype=bool), 0

    def gains(candidates: np.ndarray) -> np.ndarray:
        nonlocal scored
        scored += len(candidates)
        return (covers[candidates] & ~covered).sum(axis=1).astype(float)

    def choose(sample: int) -> None:
        covered[:] |= covers[sample]

    steps = Steps(200, 12)
    lazy_greedy(steps, covers.sum(axis=1).astype(float), gains, choose)
    assert steps.indices == expected
    assert scored < 12 * 200


def test_first_best_takes_the_lowest_index_among_ties_that_is_free() -> None:
    scores = np.array([1.0, 3.0, 3.0 + 1e-12, 3.0])
    taken = np.zeros(4, dtype=bool)
    assert first_best(scores, taken) == 1
    taken[1] = True
    assert first_best(scores, taken) == 2
    assert first_best(np.array([-2.0, -1.0]), np.zeros(2, dtype=bool)) == 1
    tiny = np.array([1e-40, 3e-40])
    assert first_best(tiny, np.zeros(2, dtype=bool)) == 1
    assert first_best(tiny, np.zeros(2, dtype=bool), unit=1.0) == 0


def test_scaled() -> None:
    values, everyone = np.array([2.0, 4.0, 3.0]), np.ones(3, dtype=bool)
    assert scaled(values, everyone, "max").tolist() == [0.5, 1.0, 0.75]
    assert scaled(values, everyone, "minmax").tolist() == [0.0, 1.0, 0.5]
    assert scaled(values, everyone, "none").tolist() == [2.0, 4.0, 3.0]
    assert scaled(values, np.array([True, False, True]), "max")[2] == 1.0
    assert scaled(np.full(3, 7.0), everyone, "minmax").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("method", ["cast", "vote-k", "ideal", "facility-location", "farthest-point"])
def test_each_choice_has_the_best_recorded_score_of_its_step(method: str) -> None:
    got = select(ROWS, 8, method=method, parameters=SelectionParameters(k=4))
    start = 1 if method in ("ideal", "farthest-point") else 0  # their first sample is not the best-scored one
    trace = got.trace
    assert trace.combined.shape == trace.candidates.shape == trace.diversity.shape == (8, 36)
    for step in range(start, 8):
        row = trace.combined[step]
        assert np.isnan(row[got.indices[:step]]).all()
        assert np.nanmax(row) == pytest.approx(got.scores[step], rel=1e-6)  # the trace is float32
        assert row[got.indices[step]] == pytest.approx(got.scores[step], rel=1e-6)


def test_a_long_trace_keeps_the_best_of_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = select(ROWS, 6)
    monkeypatch.setattr("cast_lens.selection.greedy.KEPT_SCORES", 10)
    monkeypatch.setattr("cast_lens.selection.greedy.KEPT_CANDIDATES", 5)
    short = select(ROWS, 6)
    assert short.indices.tolist() == whole.indices.tolist()
    assert short.trace.combined.shape == (6, 5)
    assert short.trace.to_frame(best=5).equals(whole.trace.to_frame(best=5))


def test_trace_to_frame_ranks_the_candidates_of_a_step() -> None:
    got = select(ROWS, 3)
    frame = got.trace.to_frame(best=4)
    assert list(frame.columns) == ["step", "place", "index", "diversity", "combined"]
    assert frame.groupby("step").size().tolist() == [4, 4, 4]
    first = frame[frame["place"] == 0]
    assert first["index"].tolist() == got.indices.tolist()
    assert first["combined"].tolist() == pytest.approx(got.scores.tolist(), rel=1e-6)
