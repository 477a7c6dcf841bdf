from __future__ import annotations

import numpy as np
import pytest

from cast_lens.selection import similarity_graph
from cast_lens.selection.all_pairs import search_all_pairs
from cast_lens.selection.blocks import one_blas_thread
from cast_lens.selection.neighbours import exact_neighbours


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def noise(samples: int, width: int = 24) -> np.ndarray:
    return unit(np.random.default_rng(samples).normal(size=(samples, width)))


def found(rows: np.ndarray, k: int, *, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    best = np.full((len(rows), k), -np.inf, dtype=np.float32)
    which = np.full((len(rows), k), -1, dtype=np.int32)
    with one_blas_thread():
        search_all_pairs(rows, best, which, threads=threads)
    return best, which


def assert_exact(rows: np.ndarray, k: int) -> None:
    best, which = found(rows, k)
    _, cosine = exact_neighbours(rows.astype(np.float64), k)
    # float32 sums of 24 products: a few units of 6e-8.
    np.testing.assert_allclose(-np.sort(-best, axis=1), cosine, atol=1e-6)
    np.testing.assert_allclose(np.einsum("nkd,nd->nk", rows[which], rows), best, atol=1e-6)
    assert all(len(set(row)) == k and i not in row for i, row in enumerate(which.tolist()))


# 50 rows a block: one, two, three, four and five blocks, and last blocks of a single row.
@pytest.mark.parametrize("samples", [40, 51, 100, 101, 150, 200, 201, 249])
@pytest.mark.parametrize("k", [1, 7])
def test_every_pair_is_compared(samples: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cast_lens.selection.all_pairs.BLOCK_ROWS", 50)
    assert_exact(noise(samples), k)


@pytest.mark.parametrize("crowd_first", [False, True])
def test_a_block_that_beats_all_floors_is_cut_to_its_best(
    crowd_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cast_lens.selection.all_pairs.BLOCK_ROWS", 50)
    generator = np.random.default_rng(0)
    # Rows far from one another, and a crowd at their mean that is nearer to each of them than they are.
    apart = np.eye(50)
    crowd = np.ones((50, 50)) / 50 + 0.002 * generator.normal(size=(50, 50))
    assert_exact(unit(np.concatenate([crowd, apart] if crowd_first else [apart, crowd])), 3)


def test_any_number_of_threads_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cast_lens.selection.all_pairs.BLOCK_ROWS", 50)
    rows = noise(330)
    one = found(rows, 5)
    for threads in (2, 5):
        np.testing.assert_array_equal(found(rows, 5, threads=threads), one)


def test_cells_compare_every_pair_where_nothing_tells_cells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(
        "cast_lens.selection.cells.search_all_pairs",
        lambda rows, best, which, *, threads: called.append(
            search_all_pairs(rows, best, which, threads=threads)
        ),
    )
    assert similarity_graph(noise(1500, 100), search="cells").recall == 1.0
    assert len(called) == 1
    centres = np.random.default_rng(3).normal(size=(40, 24))
    clustered = centres[np.arange(1500) % 40] + 0.05 * np.random.default_rng(4).normal(size=(1500, 24))
    assert similarity_graph(clustered, search="cells").recall >= 0.95
    assert len(called) == 1
