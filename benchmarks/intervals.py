"""How often intervals and tests of outcomes hold what they say, at rates from 0 to 1 (tables of docs/intervals.md).

    python -m benchmarks.intervals

Coverage of plain pairs is summed over all tables of gained and lost answers, without simulation; clusters, the split
of a gain and intervals over tasks are simulated. Takes about five minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import gammaln, xlogy
from scipy.stats import binom

from cast_lens.experiments.outcomes import BASELINE, pooled_table
from cast_lens.stats import gain_split, mcnemar_p_values, mean_interval, paired_difference, paired_proportions
from cast_lens.stats.bootstrap import bootstrap_means
from cast_lens.stats.intervals import difference_interval

RATES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
SIZES = (16, 48, 200)
TRIALS = 1000


@cache
def interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    found = difference_interval(np.repeat([1.0, -1.0, 0.0], [gained, lost, n - gained - lost]))
    return found.low, found.high


@cache
def bootstrapped(gained: int, lost: int, n: int) -> tuple[float, float]:
    values = np.repeat([1.0, -1.0, 0.0], [gained, lost, n - gained - lost])
    found = bootstrap_means(values[:, None], lambda means: means[..., :1], n_bootstrap=500)[0]
    # Without spread the bootstrap used to give an interval of no width.
    return (found.value, found.value) if np.isnan(found.low) else (found.low, found.high)


def summed(of_table: Callable[[int, int, int], tuple[float, float]], n: int, up: float, down: float) -> float:
    """Coverage of ``up - down`` where a share ``up`` of the answers is gained and ``down`` lost."""
    gained, lost = (counts.ravel() for counts in np.indices((n + 1, n + 1)))
    gained, lost = gained[gained + lost <= n], lost[gained + lost <= n]
    same = n - gained - lost
    logs = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(same + 1)
    chances = np.exp(logs + xlogy(gained, up) + xlogy(lost, down) + xlogy(same, max(0.0, 1 - up - down)))
    total = 0.0
    for i in np.flatnonzero(chances > 1e-7):
        low, high = of_table(int(gained[i]), int(lost[i]), n)
        total += float(chances[i]) * (low - 1e-9 <= up - down <= high + 1e-9)
    return total


def plain() -> Iterator[dict[str, object]]:
    """Three kinds of change at each rate: all gains, as many losses, and answers that are redrawn."""
    for rate in RATES:
        row: dict[str, object] = {"rate": f"{rate:.2f}"}
        for n in SIZES:
            row[f"0 to rate, n={n}"] = summed(interval, n, rate, 0.0)
            row[f"redrawn, n={n}"] = summed(interval, n, rate * (1 - rate), rate * (1 - rate))
            if n < 100:
                row[f"bootstrap, 0 to rate, n={n}"] = summed(bootstrapped, n, rate, 0.0)
        yield row


def clustered() -> Iterator[dict[str, object]]:
    """Queries under three seeds each: a seed shares its query's fate with the given chance."""
    generator = np.random.default_rng(0)
    for queries in (16, 48):
        codes = np.tile(np.arange(queries), 3)
        for dependence in (0.0, 0.5, 1.0):
            row: dict[str, object] = {"queries": queries, "dependence": dependence}
            for rate in (0.01, 0.05, 0.2, 0.5, 0.95):
                hits = 0
                for _ in range(TRIALS):
                    fate, fresh = generator.random(queries) < rate, generator.random(codes.size) < rate
                    after = np.where(generator.random(codes.size) < dependence, fate[codes], fresh).astype(float)
                    found = paired_difference(np.zeros(codes.size), after, clusters=codes)
                    means = paired_proportions(np.zeros(queries), after.reshape(3, queries).mean(axis=0))
                    level = mean_interval(after, clusters=codes)
                    hits += np.array([one.low <= rate <= one.high for one in (found, means, level)])
                row[f"rate {rate}"] = " / ".join(f"{hit / TRIALS:.3f}" for hit in hits)
            yield row


def split() -> Iterator[dict[str, object]]:
    """The choice part where few answers are valid before, with and without an effect on the choice."""
    generator = np.random.default_rng(0)
    for n in (16, 48, 200):
        for valid, effect in ((0.02, 0.0), (0.1, 0.0), (0.1, 0.2), (0.5, 0.2)):
            hits = np.zeros(3)
            choice = effect * (valid + 0.9) / 2
            form = (0.9 - valid) * (1 + effect) / 2
            for _ in range(TRIALS):
                sides = []
                for validity, right in ((valid, 0.5), (0.9, 0.5 + effect)):
                    is_valid, is_right = generator.random(n) < validity, generator.random(n) < right
                    columns = {"exact_match": is_valid & is_right, "valid": is_valid, "choice_correct": is_right}
                    sides.append(pd.DataFrame(columns).astype(float))
                frame = gain_split(*sides, on=())
                truth = np.array([form + choice, form, choice])
                hits += (frame["low"].to_numpy() <= truth) & (truth <= frame["high"].to_numpy())
            total, of_form, of_choice = hits / TRIALS
            yield {"n": n, "valid before": valid, "choice": f"0.5 to {0.5 + effect}"} | {
                "total": total,
                "format": of_form,
                "choice part": of_choice,
            }


def levels() -> Iterator[dict[str, object]]:
    """False positives of McNemar's tests at 5 %, summed over all tables."""
    for n in SIZES:
        for share in (0.02, 0.05, 0.1, 0.2, 0.5):
            row: dict[str, object] = {"n": n, "changed": share}
            for name, mid_p in (("exact", False), ("mid-p", True)):
                level = 0.0
                for changed in range(n + 1):
                    gained = np.arange(changed + 1)
                    below = mcnemar_p_values(gained, changed - gained, mid_p=mid_p) < 0.05
                    level += binom.pmf(changed, n, share) * binom.pmf(gained, changed, 0.5)[below].sum()
                row[name] = level
            yield row


def over_tasks() -> Iterator[dict[str, object]]:
    """Gains that differ from task to task: whether the interval covers these tasks' mean, or that of all tasks."""
    generator = np.random.default_rng(0)
    for tasks in (5, 8, 16):
        hits = np.zeros(3)
        for _ in range(TRIALS // 4):
            gains, rows = generator.uniform(0.0, 0.6, tasks), []
            for number, gain in enumerate(gains):
                named = {"target": f"t{number}", "source": "s", "sample": [str(i) for i in range(48)]}
                rows += [pd.DataFrame({**named, "method": BASELINE, "exact_match": 0.0})]
                outcome = (generator.random(48) < gain).astype(float)
                rows += [pd.DataFrame({**named, "method": "cast", "exact_match": outcome})]
            one = pooled_table(pd.concat(rows), n_bootstrap=2, seed=0, metrics=("exact_match",)).iloc[0]
            hits += [
                one["gain_low"] <= gains.mean() <= one["gain_high"],
                one["gain_low"] <= 0.3 <= one["gain_high"],
                one["gain_tasks_low"] <= 0.3 <= one["gain_tasks_high"],
            ]
        pooled, misread, between = hits / (TRIALS // 4)
        yield {"tasks": tasks, "pooled, these tasks": pooled, "pooled, all tasks": misread, "over tasks": between}


def printed(rows: Iterator[dict[str, object]]) -> str:
    frame = pd.DataFrame(list(rows))
    cells = frame.map(lambda one: f"{one:.3f}" if isinstance(one, float) else str(one))
    lines = [list(frame.columns), ["---"] * len(frame.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    for part in (levels, plain, clustered, split, over_tasks):
        print(f"\n{part.__doc__}\n\n{printed(part())}", flush=True)
