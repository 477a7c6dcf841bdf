"""Tables against closed forms: gains, boosts, negative transfer, splits, on rows made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.outcomes import contrast_table, detectable, pooled_table, split_rows
from cast_lens.stats import mcnemar_mid_p, minimal_detectable_effect, t_interval

OPTIONS = {"n_bootstrap": 200, "seed": 0}


def rows(target: str, method: str, source: str, exact: list[int], *, valid: int = 1, seed: int = 0) -> pd.DataFrame:
    n = len(exact)
    return pd.DataFrame(
        {
            "target": target,
            "sample": [f"{target}-{i}" for i in range(n)],
            "method": method,
            "source": source,
            "layer": 3,
            "strength": 1.0,
            "seed": seed,
            "exact_match": np.array(exact, float),
            "valid": float(valid),
            "choice_correct": np.array(exact, float),
        }
    )


@pytest.fixture
def outcomes() -> pd.DataFrame:
    return pd.concat(
        [
            rows("t", "zero-shot", "", [1, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            rows("t", "cast", "a", [1, 1, 1, 1, 1, 1, 1, 0, 1, 0]),
            rows("t", "cast", "b", [0, 0, 0, 0, 0, 0, 0, 0, 1, 0]),
            rows("t", "placebo: random direction", "a", [1, 0, 0, 0, 0, 0, 0, 0, 1, 0], seed=0),
            rows("t", "placebo: random direction", "a", [1, 1, 0, 0, 0, 0, 0, 0, 1, 0], seed=1),
            rows("u", "zero-shot", "", [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
            rows("u", "cast", "a", [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]),
        ],
        ignore_index=True,
    )


def test_a_contrast_is_paired_tested_and_corrected_over_the_tested_methods_only(outcomes: pd.DataFrame) -> None:
    found = contrast_table(outcomes, tested="cast".__eq__, n_bootstrap=200, seed=0)
    one = found[(found["method"] == "cast") & (found["source"] == "a") & (found["target"] == "t")]
    one = one[one["metric"] == "exact_match"].iloc[0]
    assert one["gain"] == pytest.approx(0.6)
    assert one["baseline"] == pytest.approx(0.2)
    assert one["gain_low"] <= 0.6 <= one["gain_high"]
    before = outcomes[(outcomes["method"] == "zero-shot") & (outcomes["target"] == "t")]["exact_match"]
    after = outcomes[(outcomes["method"] == "cast") & (outcomes["source"] == "a")].head(10)["exact_match"]
    assert one["p_value"] == mcnemar_mid_p(before, after).p
    # Three cast cells by three metrics, but validity never varies: every p-value counts as a test all the same.
    assert one["n_tests"] == 9
    assert one["p_adjusted"] == pytest.approx(9 * one["p_value"])
    assert found.loc[found["method"] != "cast", "p_adjusted"].isna().all()


def test_draws_of_a_placebo_are_averaged_a_sample(outcomes: pd.DataFrame) -> None:
    found = contrast_table(outcomes, tested="cast".__eq__, n_bootstrap=200, seed=0)
    one = found[(found["method"].str.startswith("placebo")) & (found["metric"] == "exact_match")].iloc[0]
    assert one["n"] == 10
    assert one["gain"] == pytest.approx(0.05)


def test_pooled_numbers_are_over_pairs(outcomes: pd.DataFrame) -> None:
    found = pooled_table(outcomes, n_bootstrap=200, seed=0)
    one = found[(found["method"] == "cast") & (found["metric"] == "exact_match")].iloc[0]
    assert (one["pairs"], one["n"]) == (3, 30)
    assert one["gain"] == pytest.approx((0.6 - 0.1 + 0.1) / 3)
    assert one["baseline"] == pytest.approx((0.2 + 0.2 + 0.4) / 3)
    assert one["boost"] == pytest.approx((0.8 + 0.1 + 0.5) / (0.2 + 0.2 + 0.4) - 1)
    assert one["negative"] == pytest.approx(1 / 3)
    assert "zero-shot" not in set(found["method"])


def test_pooled_intervals_resample_examples_with_all_that_was_done_to_them() -> None:
    # One source copied ten times over adds rows and no information: the interval must not shrink.
    base = [0] * 20
    gained = [1] * 6 + [0] * 14
    once = pd.concat([rows("t", "zero-shot", "", base), rows("t", "cast", "a", gained)])
    often = pd.concat([rows("t", "zero-shot", "", base), *(rows("t", "cast", f"s{i}", gained) for i in range(10))])
    narrow, wide = (
        pooled_table(one, n_bootstrap=2000, seed=0, metrics=("exact_match",)).iloc[0] for one in (often, once)
    )
    assert narrow["gain_high"] - narrow["gain_low"] == pytest.approx(wide["gain_high"] - wide["gain_low"])


def test_unknown_outcomes_are_left_out_and_counted(outcomes: pd.DataFrame) -> None:
    cast = (outcomes["method"] == "cast") & (outcomes["target"] == "t") & (outcomes["source"] == "a")
    lost = outcomes.index[cast][[1, 9]]
    outcomes.loc[lost, "exact_match"] = np.nan
    found = contrast_table(outcomes, tested="cast".__eq__, n_bootstrap=200, seed=0)
    one = found[(found["method"] == "cast") & (found["metric"] == "exact_match")].iloc[0]
    assert (one["n"], one["excluded"]) == (8, 2)
    assert one["gain"] == pytest.approx(5 / 8)
    pooled = pooled_table(outcomes, n_bootstrap=200, seed=0).set_index(["method", "metric"])
    assert tuple(pooled.loc[("cast", "exact_match"), ["n", "excluded"]]) == (28, 2)
    split = split_rows(outcomes, wanted="cast".__eq__)
    assert list(split["excluded"]) == [2, 0, 0]
    assert list(split["n"]) == [8, 10, 10]


def test_a_condition_that_overflowed_everywhere_has_a_baseline_that_did_not(outcomes: pd.DataFrame) -> None:
    outcomes.loc[(outcomes["method"] == "zero-shot") & (outcomes["target"] == "u"), "exact_match"] = np.nan
    found = contrast_table(outcomes, tested="cast".__eq__, n_bootstrap=200, seed=0)
    assert "exact_match" not in set(found.loc[found["target"] == "u", "metric"])
    assert {"valid", "choice_correct"} <= set(found.loc[found["target"] == "u", "metric"])


def test_nothing_that_changed_nothing_has_an_interval_of_no_width(outcomes: pd.DataFrame) -> None:
    still = outcomes.assign(exact_match=1.0, valid=1.0, choice_correct=1.0)
    for found in (
        contrast_table(still, tested="cast".__eq__, n_bootstrap=200, seed=0),
        pooled_table(still, n_bootstrap=200, seed=0),
    ):
        assert (found["gain"] == 0).all()
        assert (found["gain_low"] < 0).all()
        assert (found["gain_high"] > 0).all()


def test_the_interval_over_tasks_counts_each_target_once() -> None:
    generator = np.random.default_rng(0)
    gains = [0, 1, 2, 3, 4, 8]
    parts = []
    for number, gain in enumerate(gains):
        base = [0] * 16
        parts += [rows(f"t{number}", "zero-shot", "", base)]
        parts += [rows(f"t{number}", "cast", one, [1] * gain + [0] * (16 - gain)) for one in ("a", "b")]
    made = pd.concat(parts, ignore_index=True).sample(frac=1, random_state=generator)
    one = pooled_table(made, n_bootstrap=200, seed=0, metrics=("exact_match",)).iloc[0]
    expected = t_interval(np.array(gains) / 16)
    assert one["tasks"] == 6
    assert (one["gain_tasks_low"], one["gain_tasks_high"]) == pytest.approx((expected.low, expected.high))
    few = made[made["target"].isin(["t0", "t1", "t2", "t3"])]
    assert np.isnan(pooled_table(few, n_bootstrap=200, seed=0)["gain_tasks_low"]).all()


def test_the_interval_over_tasks_covers_the_mean_over_all_tasks() -> None:
    """Twelve tasks drawn at random, each with its own gain: where the interval for these tasks falls far short."""
    generator = np.random.default_rng(0)
    zero, cast = (
        pd.concat([rows(f"t{number}", method, source, [0] * 24) for number in range(12)])
        for method, source in (("zero-shot", ""), ("cast", "a"))
    )
    trials, covered = 60, {"gain": 0, "gain_tasks": 0}
    for _ in range(trials):
        gained = generator.random((12, 24)) < generator.uniform(0.0, 0.6, (12, 1))
        made = pd.concat([zero, cast.assign(exact_match=gained.ravel().astype(float))])
        one = pooled_table(made, n_bootstrap=50, seed=0, metrics=("exact_match",)).iloc[0]
        for name in covered:
            covered[name] += one[f"{name}_low"] <= 0.3 <= one[f"{name}_high"]
    assert covered["gain_tasks"] / trials >= 0.86  # three standard errors below 95 %
    assert covered["gain"] / trials <= 0.85


def test_the_split_adds_up_and_leaves_free_answers_out(outcomes: pd.DataFrame) -> None:
    free = rows("f", "zero-shot", "", [0, 1]).assign(valid=np.nan, choice_correct=np.nan)
    found = split_rows(pd.concat([outcomes, free]), wanted="cast".__eq__)
    np.testing.assert_allclose(found["format"] + found["choice"], found["total"], atol=1e-12)
    assert set(found["target"]) == {"t", "u"}
    # All answers were admissible before and after: nothing of it is format.
    np.testing.assert_allclose(found["format"], 0, atol=1e-12)


def test_the_detectable_effect_is_that_of_the_discordance_seen() -> None:
    before, after = np.zeros(100), np.r_[np.ones(30), np.zeros(70)]
    assert detectable(before, after, 100) == minimal_detectable_effect(100, discordance=0.3, mid_p=True)
    assert np.isnan(detectable(before, before, 100))
