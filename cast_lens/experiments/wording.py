"""Sentences on tables of contrasts that stay true whatever came out: numbers, intervals, n, placebos."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "exact_match": "exact match",
    "valid": "label validity",
    "choice_correct": "label-restricted accuracy",
}
FORMAT_OR_CHOICE = (
    "A gain in exact match alone may be a matter of format; only a gain in label-restricted accuracy that the placebos "
    "do not share speaks for better answers."
)
LIMITS = (
    "These numbers hold for one model, these tasks, one template each and one draw of demonstrations; intervals are "
    f"over test queries and do not cover another draw of tasks, samples or demonstrations. {FORMAT_OR_CHOICE}"
)
DRAWN_LIMITS = (
    "These numbers hold for one model, these tasks and one template each. Intervals are over test queries, for the "
    "average of these draws of samples and demonstrations, unless they say that they are over draws; neither covers "
    f"other tasks. {FORMAT_OR_CHOICE}"
)


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign; none where it rounds to zero, and "unknown" for NaN."""
    if value != value:
        return "unknown"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def points(value: float) -> str:
    """A share as signed percentage points."""
    return signed(100 * value)


def interval(low: float, high: float) -> str:
    """A 95 % interval in percentage points; says so where there is none."""
    return "[no interval]" if low != low or high != high else f"[{points(low)}, {points(high)}]"


def verdict(row: pd.Series, above: str, below: str, neither: str) -> str:
    """What a difference may be called after correction for the number of tests."""
    if row["p_adjusted"] < 0.05:
        return above if row["difference"] > 0 else below
    return neither  # also where no test was possible


def metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics that a table has, in reading order."""
    return [name for name in NAMES if (frame["metric"] == name).any()]


def row_of(methods: pd.DataFrame, method: str, metric: str) -> pd.Series | None:
    """The row of a pooled table, or None."""
    rows = methods[(methods["method"] == method) & (methods["metric"] == metric)]
    return None if rows.empty else rows.iloc[0]


def pooled(methods: pd.DataFrame, method: str, *, metric: str = "exact_match") -> str:
    """The mean gain of a method over all pairs."""
    row = row_of(methods, method, metric)
    if row is None:
        return ""
    boost = "" if row["boost"] != row["boost"] else f", {signed(100 * row['boost'], 0)} % of it"
    return (
        f"{NAMES[metric].capitalize()} under {method}: {points(row['gain'])} points "
        f"{interval(row['gain_low'], row['gain_high'])} against zero-shot's {100 * row['baseline']:.1f} %{boost}, over "
        f"{row['pairs']} pairs and {row['n']} answers; {100 * row['negative']:.0f} % of the pairs fall below zero-shot."
    )


def over_draws(draws: pd.DataFrame, method: str, *, metric: str = "exact_match") -> str:
    """What another draw of samples and demonstrations changes of the mean gain of a method."""
    row = row_of(draws, method, metric)
    if row is None:
        return ""
    return (
        f"{NAMES[metric].capitalize()} under {method}, over {row['n']} draws: {points(row['gain'])} points "
        f"{interval(row['gain_low'], row['gain_high'])}, from {points(row['least'])} to {points(row['most'])}."
    )


def split(frame: pd.DataFrame, method: str) -> str:
    """How the mean gain divides into format and choice."""
    rows = frame[frame["method"] == method] if len(frame) else frame
    if rows.empty:
        return ""
    form, choice = rows["format"].mean(), rows["choice"].mean()
    above = int((rows["choice_low"] > 0).sum())
    below = int((rows["choice_high"] < 0).sum())
    return (
        f"Of the exact-match gain of {method} where answers have an admissible set, {points(form)} points are format "
        f"and {points(choice)} choice; the interval of the choice part lies above zero for {above} of {len(rows)} "
        f"pairs and below for {below}."
    )


def against_placebos(methods: pd.DataFrame, method: str, *, metric: str = "exact_match") -> str:
    """The placebo that comes closest, by name."""
    own = row_of(methods, method, metric)
    rest = methods[methods["method"].str.startswith("placebo") & (methods["metric"] == metric)]
    if own is None or rest.empty:
        return ""
    best = rest.loc[rest["gain"].idxmax()]
    verdict = "less than" if best["gain"] < own["gain"] else "as much as, or more than,"
    return (
        f"The strongest placebo, {best['method'].removeprefix('placebo: ')}, reaches {points(best['gain'])} points "
        f"{interval(best['gain_low'], best['gain_high'])}: {verdict} {method}."
    )


def best_prompting(methods: pd.DataFrame, *, metric: str = "exact_match") -> str:
    """The best prompt with demonstrations."""
    rows = methods[
        (methods["metric"] == metric) & methods["method"].str.contains("few-shot,|cross-task|retrieved")
    ]
    if rows.empty:
        return ""
    best = rows.loc[rows["gain"].idxmax()]
    return (
        f"The best prompting method, {best['method']}, reaches {points(best['gain'])} points "
        f"{interval(best['gain_low'], best['gain_high'])}."
    )


def significant(result: pd.DataFrame, method: str, *, metric: str = "exact_match") -> str:
    """How many cells stand after correction for the number of tests."""
    rows = result[(result["method"] == method) & (result["metric"] == metric)]
    if rows.empty:
        return ""
    sure = rows[rows["p_adjusted"] < 0.05]
    up = int((sure["gain"] > 0).sum())
    tests = int(result["n_tests"].max())
    return (
        f"After Holm's correction over {tests} tests, {up} of {len(rows)} pairs gain and {len(sure) - up} lose in "
        f"{NAMES[metric]} (p < 0.05)."
    )


def detectable(methods: pd.DataFrame, method: str) -> str:
    """What a single pair could have shown."""
    row = row_of(methods, method, "exact_match")
    if row is None or row["detectable"] != row["detectable"]:
        return ""
    return (
        f"With {row['queries']} queries a target, a single pair would have to gain about "
        f"{100 * row['detectable']:.0f} points to be found with 80 % power."
    )
