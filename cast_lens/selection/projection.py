"""A pool of samples as a map: where each one is, how far its influence reaches, and which were chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Num

from .result import Selection
from .spaces import as_rows


def selection_plane(
    selection: Selection, space: Num[Any, "sample d_space"], *, texts: Sequence[str] = ()
) -> pd.DataFrame:
    """The whole pool in the plane of its first two principal components, as ``plots.plot_selection`` takes it.

    Two axes show part of the space: samples close together here may be far apart in it.

    Args:
        selection: made from this space.
        space: [sample, d_space].
        texts: shown on hover, one per sample; none when empty.

    Returns:
        One row per sample: ``sample, x, y, influence`` (0 for methods without it), ``chosen, rank`` (place in the
        choice, from 0; -1 for the others), ``explained_x, explained_y`` (shares of variance), and ``text`` when given.

    Raises:
        ValueError: when the space does not have the selection's samples, or the texts are not one per sample.
    """
    rows = as_rows("space", space).astype(np.float64)
    influence = np.zeros(len(rows)) if selection.influence is None else selection.influence
    if len(influence) != len(rows) or int(selection.indices.max()) >= len(rows):
        raise ValueError(f"space has {len(rows)} samples, but the selection was made from another number of them")
    if len(texts) not in (0, len(rows)):
        raise ValueError(f"texts holds {len(texts)} entries; give one for each of the {len(rows)} samples")
    left, lengths, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    # A pool on one line, or of one sample, has no second axis.
    points = np.pad(left * lengths, ((0, 0), (0, 2)))[:, :2]
    shares = np.pad(lengths**2, (0, 2))[:2] / max(float((lengths**2).sum()), np.finfo(np.float64).tiny)
    rank = np.full(len(rows), -1)
    rank[selection.indices] = np.arange(len(selection))
    frame = pd.DataFrame(
        {
            "sample": np.arange(len(rows)),
            "x": points[:, 0],
            "y": points[:, 1],
            "influence": influence,
            "chosen": rank >= 0,
            "rank": rank,
            "explained_x": shares[0],
            "explained_y": shares[1],
        }
    )
    return frame.assign(text=list(texts)) if texts else frame
