from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress, spearmanr

from cast_lens.stats import steerability, steerability_summary

STRENGTHS = np.linspace(-1.5, 1.5, 7)


def test_matches_a_regression_example_by_example() -> None:
    scores = np.random.default_rng(0).normal(size=(6, 7)) + 2 * STRENGTHS
    frame = steerability(scores, STRENGTHS)
    for row, values in zip(frame.itertuples(), scores, strict=True):
        line = linregress(STRENGTHS, values)
        assert (row.slope, row.intercept) == pytest.approx((line.slope, line.intercept))
        rest = values - line.slope * STRENGTHS - line.intercept
        assert row.residual == pytest.approx(np.sqrt(np.mean(rest**2)))
        assert row.spearman == pytest.approx(spearmanr(STRENGTHS, values).statistic)


def test_planted_slopes_come_out() -> None:
    slopes = np.array([2.0, -1.0, 0.0])
    frame = steerability(5 + slopes[:, None] * STRENGTHS, STRENGTHS)
    assert list(frame["slope"]) == pytest.approx(slopes)
    assert list(frame["intercept"]) == pytest.approx([5, 5, 5])
    assert list(frame["residual"]) == pytest.approx([0, 0, 0], abs=1e-12)
    assert list(frame["anti_steerable"]) == [False, True, False]
    assert frame["spearman"].to_numpy() == pytest.approx([1, -1, np.nan], nan_ok=True)


def test_order_of_strengths_does_not_matter() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 7))
    order = np.random.default_rng(1).permutation(7)
    pd.testing.assert_frame_equal(steerability(scores[:, order], STRENGTHS[order]), steerability(scores, STRENGTHS))


def test_summary_counts_and_averages() -> None:
    rng = np.random.default_rng(0)
    slopes = np.concatenate([np.full(30, 2.0), np.full(10, -1.0)])
    frame = steerability(slopes[:, None] * STRENGTHS + 0.1 * rng.normal(size=(40, 7)), STRENGTHS)
    summary = steerability_summary(frame).set_index("measure")
    assert summary.loc["slope", "value"] == pytest.approx(frame["slope"].mean())
    assert summary.loc["slope", "low"] < 1.25 < summary.loc["slope", "high"]
    assert summary.loc["anti_steerable", "value"] == 0.25
    assert (summary.loc["anti_steerable", "low"], summary.loc["anti_steerable", "high"]) == pytest.approx(
        (0.142, 0.402), abs=0.001
    )
    assert set(summary["n"]) == {40}


def test_summary_leaves_out_ranks_that_do_not_exist() -> None:
    summary = steerability_summary(steerability(np.array([STRENGTHS, 0 * STRENGTHS]), STRENGTHS)).set_index("measure")
    assert summary.loc["spearman", "n"] == 1
    flat = steerability_summary(steerability(np.zeros((3, 7)), STRENGTHS))
    assert "spearman" not in set(flat["measure"])


def test_errors() -> None:
    with pytest.raises(ValueError, match="two different values"):
        steerability(np.zeros((2, 2)), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"\[sample, strength=7\], got \(2, 3\)"):
        steerability(np.zeros((2, 3)), STRENGTHS)
    with pytest.raises(ValueError, match="missing columns"):
        steerability_summary(pd.DataFrame({"slope": [1.0]}))
