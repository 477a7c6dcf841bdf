"""What the numbers of a run say, in sentences that stay true when the gain is nil or negative."""

from __future__ import annotations

import pandas as pd

from ..plots.frames import in_order, points_interval
from .record import OWN, STEERED, RunRecord

UNCHANGED = 0.0005
"""Means closer to zero than 0.05 percentage points are called unchanged: they would be printed as 0.0."""


def split_summary(split: pd.DataFrame) -> tuple[str, str]:
    """The average gain in one sentence: how large, how much of it is format, how much choice. Then how sure.

    Pairs of different tasks only, when there are any; a task's own vector is no transfer.
    """
    rows = split[split["method"] == STEERED]
    kind = "another task's vector"
    if rows.empty:
        rows, kind = split[split["method"] == OWN], "a task's own vector"
    if rows.empty:
        return "No steered pair of tasks has a split into format and choice.", ""
    total, form, choice = (float(rows[part].mean()) for part in ("total", "format", "choice"))
    over = f"on average over {len(rows)} target–source pairs" if len(rows) > 1 else f"on {_pair(rows)}"
    amount = "" if abs(total) < UNCHANGED else f" by {abs(100 * total):.1f} percentage points"
    lead = (
        f"Adding {kind} {_verb(total)} exact match{'' if amount else ' unchanged'}{amount} {over}: {_exact(form)} from "
        f"the format of the answer (whether it is an admissible answer at all) and {_exact(choice)} from the choice of "
        f"it (which admissible answer). {_verdict(total, form, choice)}"
    )
    sure = f"{_counts(rows, 'format')}; {_counts(rows, 'choice', short=True)}. {_choosing(rows)}"
    return lead, sure


def _pair(rows: pd.DataFrame) -> str:
    row = rows.iloc[0]
    return f"{row['target']} with the vector of {row['source']}"


def _exact(value: float) -> str:
    """Percentage points with one decimal, so that two parts add up to their total for the reader too."""
    return "0.0" if abs(value) < UNCHANGED else f"{100 * value:+.1f}".replace("-", "−")


def _verb(total: float) -> str:
    if abs(total) < UNCHANGED:
        return "left"
    return "raised" if total > 0 else "lowered"


def _counts(rows: pd.DataFrame, part: str, *, short: bool = False) -> str:
    above, below, covers = interval_counts(rows, part)
    start = f"that of the {part} part" if short else f"The interval of the {part} part"
    if len(rows) == 1:
        row = rows.iloc[0]
        where = "lies above zero" if above else "lies below zero" if below else "covers zero"
        return f"{start} {points_interval(row[f'{part}_low'], row[f'{part}_high'])} {where}"
    told = [
        f"{what} for {f'all {count}' if count == len(rows) else count} pair{'' if count == 1 else 's'}"
        for what, count in (("lies above zero", above), ("lies below zero", below), ("covers zero", covers))
        if count
    ]
    return f"{start} {_listed(told)}"


def interval_counts(rows: pd.DataFrame, part: str) -> tuple[int, int, int]:
    """In how many rows the interval of a part lies above zero, below it, and over it."""
    above, below = int((rows[f"{part}_low"] > 0).sum()), int((rows[f"{part}_high"] < 0).sum())
    return above, below, len(rows) - above - below


def _verdict(total: float, form: float, choice: float) -> str:
    if abs(total) < UNCHANGED:
        return "There is no gain to explain on average."
    kind = "gain" if total > 0 else "loss"
    larger, name, other = (
        (form, "format", "choice") if form * total > choice * total else (choice, "choice", "format")
    )
    rest = total - larger
    if rest * total < 0 and abs(rest) >= UNCHANGED:
        return f"All of the {kind} is {name}; {other} went the other way."
    if abs(larger) >= 2 * abs(rest):
        return f"Most of the {kind} is {name}."
    return f"The {kind} is neither format nor choice alone."


def _choosing(rows: pd.DataFrame) -> str:
    """For how many pairs the model can be said to choose better or worse."""
    better, worse, _ = interval_counts(rows, "choice")
    if not better and not worse:
        return "For no pair can it be said that the model chooses better or worse than unsteered."
    if len(rows) == 1:
        return f"So the steered model chooses {'better' if better else 'worse'}."
    return f"So, each at 95 %, the steered model chooses better for {better} and worse for {worse}."


def placebo_summary(split: pd.DataFrame) -> str:
    """What placebos at the same layer and strength did to exact match on average; empty without placebos."""
    rows = split[split["method"].str.startswith("placebo") & (split["source"] != split["target"])]
    if rows.empty:
        return ""
    told = [
        f"{_exact(float(part['total'].mean()))} points for {_placebo_name(str(method))}"
        for method, part in rows.groupby("method", sort=False)
    ]
    return f"Placebos at the same layer and strength: {_listed(told)}."


def _placebo_name(method: str) -> str:
    names = {
        "placebo: random direction": "a random direction of the same length",
        "placebo: shuffled labels": "a vector from demonstrations with shuffled answers",
        "placebo: zero vector": "a vector of zeros",
    }
    return names.get(method, method.removeprefix("placebo: "))


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def left_out(record: RunRecord) -> str:
    """Which targets the split leaves out, and why; empty when none."""
    split, transfer = record.frames.get("split"), record.frames.get("transfer")
    if transfer is None:
        return ""
    known = set() if split is None else set(split["target"])
    free = [target for target in in_order(transfer["target"]) if target not in known]
    if not free:
        return ""
    verb = "is" if len(free) == 1 else "are"
    return f"Free answers have no set of admissible answers, so {_listed(free)} {verb} not split."


def parallelism_reading(frame: pd.DataFrame) -> str:
    """How parallel tasks of one family are, against tasks of different families."""
    if "family_a" not in frame or "family_b" not in frame:
        return f"Over all layers and pairs of tasks the cosine is {frame['cosine'].mean():.2f} on average."
    same = frame["family_a"] == frame["family_b"]
    within, across = frame[same], frame[~same]
    if within.empty or across.empty:
        kind = "one family" if across.empty else "different families"
        return f"All pairs here are of {kind}; over all layers their cosine is {frame['cosine'].mean():.2f} on average."
    gaps = within.groupby("layer")["cosine"].mean() - across.groupby("layer")["cosine"].mean()
    layer = int(gaps.abs().idxmax())
    at = [float(part.loc[part["layer"] == layer, "cosine"].mean()) for part in (within, across)]
    means = float(within["cosine"].mean()), float(across["cosine"].mean())
    comparison = "more parallel than" if means[0] > means[1] else "no more parallel than"
    return (
        f"Averaged over layers and pairs, the mean difference vectors of two tasks of one family have a cosine of "
        f"{means[0]:.2f}, those of two families {means[1]:.2f}: tasks of one answer format are {comparison} tasks of "
        f"different formats here. The two are furthest apart at layer {layer} ({at[0]:.2f} within, "
        f"{at[1]:.2f} across). {_against_null(frame)}"
    )


def _against_null(frame: pd.DataFrame) -> str:
    if "null_pairs_high" not in frame:
        return ""
    clear = int((frame["low"] > frame["null_pairs_high"]).sum())
    return (
        f"In {100 * clear / len(frame):.0f} % of all pairs and layers the whole interval lies above what random "
        "differences between zero-shot prompts give."
    )
