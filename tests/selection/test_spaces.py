"""Where a space comes from, and what centring does to it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from cast_lens.selection import space_from_residuals, space_from_texts
from cast_lens.selection.spaces import count_duplicates, unit_rows
from cast_lens.vectors import DifferenceVectors, Provenance


def captured() -> DifferenceVectors:
    few, zero = torch.randn(2, 6, 3, 4, generator=torch.Generator().manual_seed(0))
    return DifferenceVectors(few, zero, (2, 5, 9), tuple("abcdef"), Provenance("m", "f", "t"))


def test_residuals_at_a_layer() -> None:
    vectors = captured()
    for of, expected in (
        ("zero_shot", vectors.zero_shot[:, 1]),
        ("few_shot", vectors.few_shot[:, 1]),
        ("difference", vectors.at(5)),
    ):
        got = space_from_residuals(vectors, 5, of=of)  # type: ignore[arg-type]
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, expected.numpy())
    np.testing.assert_array_equal(space_from_residuals(vectors, 5), vectors.zero_shot[:, 1].numpy())


def test_residuals_at_a_layer_that_is_not_held_or_of_an_unknown_side() -> None:
    with pytest.raises(ValueError, match="layer=3 is not in this difference vectors"):
        space_from_residuals(captured(), 3)
    with pytest.raises(ValueError, match="of='zero' is unknown; choose one of zero_shot, difference, few_shot"):
        space_from_residuals(captured(), 5, of="zero")  # type: ignore[arg-type]


class Counter:
    """An encoder that counts letters."""

    def encode(self, sentences: list[str], **options: Any) -> list[list[float]]:
        assert options == {"batch_size": 16, "convert_to_numpy": True, "show_progress_bar": False}
        return [[float(text.count(letter)) for letter in "abc"] for text in sentences]


def test_texts_through_an_encoder() -> None:
    got = space_from_texts(("aab", "c"), encoder=Counter(), batch_size=16)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[2, 1, 0], [0, 0, 1]])


def test_texts_need_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"needs the package sentence-transformers: pip install 'cast-lens\[embed\]'"):
        space_from_texts(["a text"])


def test_bad_texts() -> None:
    with pytest.raises(ValueError, match="texts must be a non-empty sequence of strings"):
        space_from_texts([])
    with pytest.raises(ValueError, match="texts must be a non-empty sequence of strings"):
        space_from_texts("one text")
    with pytest.raises(ValueError, match="texts: rows 1, 2 are blank"):
        space_from_texts(["a", "", "  "], encoder=Counter(), batch_size=16)

    class Flat:
        def encode(self, sentences: list[str], **_: Any) -> np.ndarray:
            return np.ones(len(sentences))

    with pytest.raises(ValueError, match=r"encoder returned shape \(2,\) for 2 texts"):
        space_from_texts(["a", "b"], encoder=Flat())


def test_unit_rows_are_centred_and_of_length_one() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 5)) + 100
    units, located = unit_rows(rows, np.float64)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(units, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-12)
    assert located.all()


def test_a_row_on_the_mean_has_no_direction() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
    units, located = unit_rows(rows, np.float64)
    assert located.tolist() == [True, True, False]
    assert units[2].tolist() == [0.0, 0.0]


def test_count_duplicates() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    assert count_duplicates(rows) == 2
