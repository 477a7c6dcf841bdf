"""Rules judged on hand-made pairs: what is gained, harmed and kept; gates cut where harm was learned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from cast_lens.experiments.catalogue.choosing import ORACLE, Choosing, curves, gates, headline, judged, ridge_left_out
from cast_lens.experiments.outcomes import contrast_table
from tests.experiments.small import SMALL, joined, outcomes, planned, right

KEYS = ("target", "method", "source", "rule")


def pair(target: str, source: str, rule: str, count: int, *, layer: int = 1) -> pd.DataFrame:
    return outcomes("cast", right(count), target=target, source=source, rule=rule).assign(layer=layer)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    frames = [outcomes("zero-shot", right(20), target=target, rule="") for target in "ab"]
    # ``own`` gains much on one target and loses as much on the other; ``both`` keeps half and stands aside.
    frames += [pair("a", "s", "own", 36), pair("b", "s", "own", 4)]
    frames += [pair("a", "s", "both", 28), pair("b", "s", "both", 20, layer=-1)]
    frames += [pair("a", "s", ORACLE, 40), pair("b", "s", ORACLE, 20, layer=-1)]
    return joined(frames)


def test_rules_are_judged_by_gain_harm_and_what_they_keep(rows: pd.DataFrame) -> None:
    options = {"n_bootstrap": 50, "seed": 0}
    pairs = contrast_table(rows, keys=KEYS, tested=lambda name: name == "cast", **options)  # type: ignore[arg-type]
    found = judged(rows, pairs, **options).set_index("rule")  # type: ignore[arg-type]
    assert found.loc["own", "gain"] == pytest.approx(0.0)
    assert found.loc["own", "harmed"] == 1
    assert found.loc["own", "worst"] == pytest.approx(-0.4)
    assert found.loc["both", "gain"] == pytest.approx(0.1)
    assert found.loc["both", "harmed"] == 0
    assert found.loc["both", "steered"] == 1
    assert found.loc["both", "kept"] == pytest.approx(0.5)
    text = headline(found.reset_index())
    assert text.startswith("rule both steers 1 of 2 pairs and changes exact match by +10.0 points")
    assert "harms 0 pairs" in text
    assert ORACLE not in text


def test_a_gate_steers_where_a_predictor_learned_on_other_tasks_says_so() -> None:
    rng = np.random.default_rng(0)
    names = [f"t{index}" for index in range(12)]
    gains = np.where(np.arange(12) < 6, 0.3, -0.3)
    pairs = pd.DataFrame(
        {"target": names, "source": "s", "method": "cast", "rule": "own", "metric": "exact_match", "gain": gains}
    )
    known = pairs[["target", "source", "method"]].assign(
        believed=gains + 0.01 * rng.normal(size=12),
        believed_lower=rng.normal(size=12),
        valid_before=np.nan,
        moved=np.nan,
        others_mean=np.nan,
        others_worst=np.nan,
        kl=np.nan,
    )
    curve = curves(pairs, known)
    table = gates(curve).set_index("predictor")
    assert set(table.index) == {"believed", "believed_lower", "together"}
    assert table.loc["together", "gain"] == pytest.approx(0.15)
    assert table.loc["together", "harm"] == 0
    assert table.loc["believed", "steered"] == 6
    assert table.loc["believed", "gain"] == pytest.approx(0.15)
    assert table.loc["believed", "always"] == pytest.approx(0.0)
    assert table.loc["believed", "harm"] == 0
    assert table.loc["believed_lower", "gain"] < 0.15


def test_the_joint_gate_is_ridge_regression_on_pairs_without_the_target() -> None:
    rng = np.random.default_rng(1)
    names = [f"t{index}" for index in range(8) for _ in range(2)]
    pairs = pd.DataFrame({"target": names, "source": ["s", "t0"] * 8, "gain": rng.normal(size=16)})
    values = rng.normal(size=(16, 3))
    values[3, 1] = np.nan
    found = ridge_left_out(pairs, values)
    held = np.array([name == "t2" for name in names])
    rows, gains = values[~held], pairs["gain"].to_numpy()[~held]
    mean, deviation = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    filled = [np.nan_to_num((one - mean) / deviation) for one in (rows, values[held])]
    expected = Ridge(alpha=len(rows)).fit(filled[0], gains).predict(filled[1])
    # scikit-learn centres rows once more, which a mean in place of the unknown one shifts by little.
    np.testing.assert_allclose(found.scores[held], expected, atol=0.01)
    assert (found.harmful == (found.scores <= 0)).all()
    # What the target itself gains changes nothing.
    other = pairs.assign(gain=pairs["gain"].where(pairs["target"] != "t2", 9.0))
    np.testing.assert_allclose(ridge_left_out(other, values).scores[held], found.scores[held])


def test_it_needs_three_tasks_and_known_rules() -> None:
    with pytest.raises(ValueError, match="give three tasks or more"):
        planned(Choosing(), SMALL)
    with pytest.raises(ValueError, match="rule='best' is unknown"):
        Choosing(rules=("best",))
