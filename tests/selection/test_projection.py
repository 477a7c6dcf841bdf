from __future__ import annotations

import numpy as np
import pytest

from cast_lens.selection import select, selection_plane


def test_the_map_holds_the_pool_and_the_choice() -> None:
    space = np.random.default_rng(0).normal(size=(20, 6)) + 3
    chosen = select(space, 4, method="cast")
    frame = selection_plane(chosen, space, texts=[f"text {i}" for i in range(20)])
    assert chosen.influence is not None
    np.testing.assert_array_equal(frame["influence"], chosen.influence)
    ranked = frame[frame["chosen"]].sort_values("rank")
    assert ranked["sample"].tolist() == chosen.indices.tolist()
    assert frame["text"][7] == "text 7"
    assert (frame["rank"] == -1).sum() == 16


def test_a_plane_is_shown_as_it_is() -> None:
    flat = np.random.default_rng(1).normal(size=(12, 2)) * [5, 1]
    turned = flat @ np.linalg.qr(np.random.default_rng(2).normal(size=(7, 2)))[0].T
    frame = selection_plane(select(turned, 3, method="farthest-point"), turned)
    points = frame[["x", "y"]].to_numpy()
    expected = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), expected, atol=1e-9)
    assert frame[["explained_x", "explained_y"]].iloc[0].sum() == pytest.approx(1)
    assert (frame["influence"] == 0).all()


def test_another_pool_is_refused() -> None:
    space = np.random.default_rng(0).normal(size=(20, 6))
    chosen = select(space, 4, method="cast")
    with pytest.raises(ValueError, match="space has 12 samples"):
        selection_plane(chosen, space[:12])
    with pytest.raises(ValueError, match="texts holds 2 entries"):
        selection_plane(chosen, space, texts=["a", "b"])
