from __future__ import annotations

from itertools import product
from math import comb
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from cast_lens.stats import (
    McNemar,
    adjust_p_values,
    common_direction_test,
    correlation_test,
    cosine_test,
    mcnemar_exact,
    mcnemar_mid_p,
    mcnemar_p_values,
    mcnemar_power,
    minimal_detectable_effect,
    paired_permutation_test,
)


def plausible(hits: int, trials: int, level: float = 0.05) -> bool:
    """Whether a false-positive count lies in the central 99.9 % of its binomial."""
    low, high = binom.ppf([0.0005, 0.9995], trials, level)
    return bool(low <= hits <= high)


def test_mcnemar_by_hand() -> None:
    baseline = [0] * 6 + [1] * 1 + [1] * 2 + [0] * 3
    treated = [1] * 6 + [0] * 1 + [1] * 2 + [0] * 3
    found = mcnemar_exact(baseline, treated)
    # Of 7 changed, at most 1 the other way: 2 * (1 + 7) / 2^7.
    assert found == McNemar(p=found.p, gained=6, lost=1, n=12)
    assert found.p == pytest.approx(2 * 8 / 128)
    assert found.difference == pytest.approx(5 / 12)
    assert found.discordance == pytest.approx(7 / 12)


def test_mcnemar_edges() -> None:
    assert mcnemar_exact([0, 1], [0, 1]).p == 1
    assert mcnemar_exact([0, 1], [1, 0]).p == 1
    assert mcnemar_exact(np.array([True, False]), np.array([True, True])).p == 1
    assert mcnemar_exact([0] * 10, [1] * 10).p == pytest.approx(2 / 2**10)
    with pytest.raises(ValueError, match="baseline must hold 0 or 1"):
        mcnemar_exact([0.5, 1], [0, 1])


def test_mcnemar_is_no_more_liberal_than_it_says() -> None:
    rng = np.random.default_rng(0)
    changed = rng.binomial(100, 0.3, size=4000)
    gained = rng.binomial(changed, 0.5)
    p = {
        pair: mcnemar_exact([0] * pair[0] + [1] * pair[1], [1] * pair[0] + [0] * pair[1]).p
        for pair in {(int(up), int(both - up)) for up, both in zip(gained, changed, strict=True)}
    }
    hits = sum(p[int(up), int(both - up)] < 0.05 for up, both in zip(gained, changed, strict=True))
    assert 0.01 < hits / 4000 < 0.055  # discrete, so below 5 %; never above but for chance


def test_mid_p_of_a_published_example() -> None:
    # Cavo et al. 2012 in Fagerland, Lydersen and Laake, chapter 8: exact 0.052479, mid-p 0.034690.
    before, after = [0] * 6 + [1] * 16 + [1] * 139, [1] * 6 + [0] * 16 + [1] * 139
    assert mcnemar_exact(before, after).p == pytest.approx(0.052479, abs=5e-7)
    assert mcnemar_mid_p(before, after).p == pytest.approx(0.034690, abs=5e-7)
    flipped = paired_permutation_test(before, after, mid_p=True)
    assert flipped.p == pytest.approx(mcnemar_mid_p(before, after).p)
    for tied in ([0, 1], [1, 0]), ([0, 1], [0, 1]):
        assert mcnemar_mid_p(*tied).p == 1
        assert paired_permutation_test(*tied, mid_p=True).p == 1


def test_mid_p_holds_its_level_and_is_less_conservative() -> None:
    """False positives summed over all tables: what the null gives at each share of changed answers."""
    n = 100
    changed = np.arange(n + 1)
    for share, least in ((0.02, 0.001), (0.1, 0.02), (0.3, 0.035), (1.0, 0.035)):
        weight = binom.pmf(changed, n, share)
        level = {}
        for mid_p in (False, True):
            rejected = [
                binom.pmf(np.arange(m + 1), m, 0.5)[
                    mcnemar_p_values(np.arange(m + 1), m - np.arange(m + 1), mid_p=mid_p) < 0.05
                ].sum()
                for m in changed
            ]
            level[mid_p] = float(weight @ np.array(rejected))
        assert level[False] < 0.05
        assert least < level[True] < 0.06
        assert level[True] >= level[False]


def test_paired_permutation_is_exact_for_few_examples() -> None:
    differences = np.array([0.5, 1.0, -0.25, 2.0, 0.75])
    found = paired_permutation_test(np.zeros(5), differences)
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=5)]
    assert found.p == pytest.approx(np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12))
    assert found.statistic == pytest.approx(differences.mean())


def test_paired_permutation_agrees_with_mcnemar_on_outcomes() -> None:
    # Exchanging outcomes of unchanged examples does nothing: the two tests are one on 0 and 1.
    baseline, treated = [0] * 9 + [1] * 2 + [1] * 4, [1] * 9 + [0] * 2 + [1] * 4
    found = paired_permutation_test(baseline, treated, n_permutations=2**15)
    assert found.p == pytest.approx(mcnemar_exact(baseline, treated).p, abs=1e-9)


def test_paired_permutation_holds_its_level_and_finds_effects() -> None:
    rng = np.random.default_rng(0)
    trials = 300
    p = [
        paired_permutation_test(rng.normal(size=30), rng.standard_t(3, size=30), n_permutations=199, seed=trial).p
        for trial in range(trials)
    ]
    assert plausible(sum(value <= 0.05 for value in p), trials)
    assert paired_permutation_test(np.zeros(30), 1 + rng.normal(size=30)).p < 0.001


def test_clusters_are_exchanged_together() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 6)
    trials, hits = 150, {"clustered": 0, "naive": 0}
    for trial in range(trials):
        treated = rng.normal(size=12)[labels] + 0.1 * rng.normal(size=72)
        for name, clusters in (("clustered", labels), ("naive", None)):
            found = paired_permutation_test(np.zeros(72), treated, clusters=clusters, n_permutations=199, seed=trial)
            hits[name] += found.p <= 0.05
    assert plausible(hits["clustered"], trials)
    assert hits["naive"] > 0.3 * trials


def test_no_difference_at_all_has_p_one() -> None:
    assert paired_permutation_test([1, 0, 1], [1, 0, 1]).p == 1


def test_cosine_test_holds_its_level_and_finds_a_planted_direction() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=20)
    trials = 300
    p = [cosine_test(direction, rng.normal(size=(25, 20)), n_permutations=199, seed=trial).p for trial in range(trials)]
    assert plausible(sum(value <= 0.05 for value in p), trials)
    rows = rng.normal(size=(25, 20)) + 0.3 * direction
    found = cosine_test(direction, rows)
    assert found.p < 0.001
    mean = rows.mean(0)
    assert found.statistic == pytest.approx(mean @ direction / np.linalg.norm(mean) / np.linalg.norm(direction))
    assert cosine_test(-direction, rows).statistic == pytest.approx(-found.statistic)
    assert cosine_test(-direction, rows).p == pytest.approx(found.p)


def test_cosine_test_finds_what_has_no_noise() -> None:
    # Nine samples along the direction: only all signs alike reach it, 2 of 2^9.
    assert cosine_test(np.array([1.0, 0.0]), np.tile([2.0, 0.0], (9, 1))).p == pytest.approx(2 / 2**9)
    assert cosine_test(np.array([1.0, 0.0]), np.tile([0.0, 2.0], (9, 1))).p == 1


def test_common_direction_is_kept_where_true_and_refused_where_not() -> None:
    rng = np.random.default_rng(0)
    mean = 2 * np.eye(16)[0]
    trials = 300
    p = []
    for trial in range(trials):
        left, right = mean + rng.normal(size=(12, 16)), 3 * (mean + rng.normal(size=(20, 16)))
        p.append(common_direction_test(left, right, n_permutations=199, seed=trial).p)
    assert plausible(sum(value <= 0.05 for value in p), trials)
    other = 2 * np.eye(16)[1] + rng.normal(size=(20, 16))
    assert common_direction_test(left, other, n_permutations=999).p == pytest.approx(1 / 1000)  # never 0


def test_common_direction_statistic_by_hand() -> None:
    left, right = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 3.0]])
    assert common_direction_test(left, right).statistic == pytest.approx(np.sqrt(0.5))
    # Three groupings of one against two: cosines sqrt(1/2), sqrt(1/2), 0 with which the observed is shared by
    # 2/3.
    found = common_direction_test(left, right, n_permutations=6000)
    assert found.p == pytest.approx(1.0, abs=1e-9)
    found = common_direction_test(right, np.array([[1.0, 0.0], [1.0, 0.0]]), n_permutations=6000)
    assert found.p == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_correlation_matches_scipy_and_enumerates_small_cases(method: Literal["pearson", "spearman"]) -> None:
    from scipy.stats import pearsonr, spearmanr

    x, y = np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    found = correlation_test(x, y, method=method)
    expected = {"pearson": pearsonr, "spearman": spearmanr}[method](x, y).statistic
    assert found.statistic == pytest.approx(expected)
    perfect = correlation_test(x, x**3, method="spearman")
    assert perfect.statistic == pytest.approx(1)
    assert perfect.p == pytest.approx(2 / 120)  # both perfect orders of 5! = 120


def test_correlation_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    trials = 300
    p = [
        correlation_test(rng.normal(size=15), rng.exponential(size=15), n_permutations=199, seed=trial).p
        for trial in range(trials)
    ]
    assert plausible(sum(value <= 0.05 for value in p), trials)


def test_permutation_errors() -> None:
    with pytest.raises(ValueError, match="3 rows or more and vary"):
        correlation_test([1, 1, 1], [1, 2, 3])
    # TypeError where types are checked at run time, which is before ours.
    with pytest.raises((ValueError, TypeError), match=r"direction \(3,\) and differences \(4, 2\)|sample d_model"):
        cosine_test(np.ones(3), np.ones((4, 2)))
    with pytest.raises(ValueError, match="is zero, so the cosine is undefined"):
        cosine_test(np.zeros(2), np.ones((4, 2)))
    with pytest.raises(ValueError, match="difference 2 of left and right is zero"):
        common_direction_test(np.ones((2, 3)), np.zeros((1, 3)))
    with pytest.raises((ValueError, TypeError), match=r"of one width|sample_b d_model"):
        common_direction_test(np.ones((2, 3)), np.ones((2, 4)))


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    frame = pd.DataFrame({"pair": list("abcd"), "p": [0.01, 0.04, 0.03, 0.005]})
    holm = adjust_p_values(frame)
    assert list(holm["p_adjusted"]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert list(holm["rejected"]) == [True, False, False, True]
    hochberg = adjust_p_values(frame, method="benjamini-hochberg")
    assert list(hochberg["p_adjusted"]) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert hochberg["rejected"].all()
    assert set(holm["tests"]) == {4}
    assert set(holm["correction"]) == {"holm"}
    assert "p_adjusted" not in frame


def test_untested_rows_are_not_counted() -> None:
    frame = pd.DataFrame({"p": [0.01, np.nan, 0.04]}, index=[7, 8, 9])
    found = adjust_p_values(frame)
    assert found["p_adjusted"].to_numpy() == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert set(found["tests"]) == {2}
    assert not found["rejected"].loc[8]
    assert adjust_p_values(frame.iloc[1:2])["tests"].iloc[0] == 0


def test_corrections_hold_under_the_null(monkeypatch: pytest.MonkeyPatch) -> None:
    # statsmodels collects garbage in every Holm correction, a tenth of a second each with torch loaded.
    monkeypatch.setattr("gc.collect", lambda: 0)
    rng = np.random.default_rng(0)
    trials = 400
    any_hit = {
        method: sum(
            adjust_p_values(pd.DataFrame({"p": rng.random(20)}), method=method)["rejected"].any() for _ in range(trials)
        )
        for method in ("holm", "benjamini-hochberg")
    }
    assert all(plausible(hits, trials) for hits in any_hit.values())


def test_adjustment_errors() -> None:
    frame = pd.DataFrame({"p": [0.5, 1.5]})
    with pytest.raises(ValueError, match="p-values between 0 and 1"):
        adjust_p_values(frame)
    with pytest.raises(ValueError, match="column='q' is not in the frame"):
        adjust_p_values(frame, column="q")
    # TypeError where types are checked at run time, which is before ours.
    with pytest.raises((ValueError, TypeError), match="bonferroni"):
        adjust_p_values(frame, method="bonferroni")  # type: ignore[arg-type]


def naive_power(n: int, discordance: float, effect: float, alpha: float, mid_p: bool) -> float:
    up, down = (discordance + effect) / 2, (discordance - effect) / 2
    power = 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            changed = gained + lost
            tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
            tail -= comb(changed, min(gained, lost)) / 2**changed / 2 * mid_p
            if min(1.0, 2 * tail) <= alpha:
                ways = comb(n, gained) * comb(n - gained, lost)
                power += ways * up**gained * down**lost * (1 - discordance) ** (n - changed)
    return power


@pytest.mark.parametrize("mid_p", [False, True])
@pytest.mark.parametrize(("n", "discordance", "effect", "alpha"), [(20, 0.6, 0.4, 0.05), (12, 0.9, 0.0, 0.125)])
def test_power_matches_a_sum_over_all_outcomes(
    n: int, discordance: float, effect: float, alpha: float, mid_p: bool
) -> None:
    found = mcnemar_power(n, discordance=discordance, effect=effect, alpha=alpha, mid_p=mid_p)
    assert found == pytest.approx(naive_power(n, discordance, effect, alpha, mid_p), abs=1e-12)


def test_minimal_detectable_effect_is_found_as_often_as_promised() -> None:
    n, discordance = 200, 0.3
    effect = minimal_detectable_effect(n, discordance=discordance)
    rng = np.random.default_rng(0)
    changed = rng.binomial(n, discordance, size=3000)
    gained = rng.binomial(changed, (1 + effect / discordance) / 2)
    found = [2 * binom.cdf(np.minimum(gained, changed - gained), changed, 0.5) <= 0.05]
    assert np.mean(found) == pytest.approx(0.8, abs=0.025)  # standard error 0.7 %
    # The usual approximation (Connor 1987) comes close: (z_a sqrt(d) + z_b sqrt(d - e^2)) / sqrt(n).
    assert effect == pytest.approx((1.96 + 0.8416) * np.sqrt(discordance / n), rel=0.1)


def test_more_examples_see_smaller_effects() -> None:
    effects = [minimal_detectable_effect(n, discordance=0.4) for n in (30, 100, 300, 1000)]
    assert effects == sorted(effects, reverse=True)
    assert np.isnan(minimal_detectable_effect(5, discordance=0.4))


def test_power_errors() -> None:
    with pytest.raises(ValueError, match="no larger than the discordance"):
        mcnemar_power(10, discordance=0.2, effect=0.3)
    with pytest.raises(ValueError, match=r"power=1\.0 must"):
        minimal_detectable_effect(10, discordance=0.2, power=1.0)
    with pytest.raises(ValueError, match="must exceed alpha"):
        minimal_detectable_effect(10, discordance=0.2, power=0.01)


@pytest.mark.parametrize(("method", "theirs"), [("holm", "holm"), ("benjamini-hochberg", "fdr_bh")])
@pytest.mark.parametrize("n", [0, 1, 2, 25])
def test_adjusted_p_values_are_those_of_statsmodels(
    method: Literal["holm", "benjamini-hochberg"], theirs: str, n: int
) -> None:
    p = np.round(np.random.default_rng(n).random(n) ** 3, 2)
    found = adjust_p_values(pd.DataFrame({"p": [*p, np.nan]}), method=method)
    rejected, adjusted = multipletests(p, alpha=0.05, method=theirs)[:2] if n else (p, p)
    np.testing.assert_allclose(found["p_adjusted"][:n], adjusted, rtol=1e-12)
    assert found["rejected"][:n].tolist() == list(rejected)
    assert np.isnan(found["p_adjusted"].iloc[n])
    assert not found["rejected"].iloc[n]
