"""What ``selection`` says and shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import wording
from ..legacy import Drawing, Frames, Reading
from ..outcomes import gain_lines
from ..settings import ExperimentConfig
from .selection_tables import ALL, PLACEBO, RANDOM

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "Does choosing the samples beat a random subset of the same size?"
LISTED = 3


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    methods, pairs, gains, geometry = (frames[name] for name in ("methods", "result", "gains", "geometry"))
    answer: list[str] = []
    if len(methods):
        answer += [verdict(methods, metric) for metric in wording.metrics(methods)]
        answer += [single_pairs(pairs), references(gains)]
    if len(geometry):
        answer.append(nearness(geometry))
    draws = int(pairs["draws"].max()) if len(pairs) else config.repeats
    return Reading(
        tuple(part for part in answer if part),
        f"Each chosen subset with {draws} random subsets of the same size from the same {config.samples} samples, at "
        "the layer and strength of the vector of all samples, on the same test queries. Two tests, each corrected "
        "after Holm over the table: exchanging outcomes of examples, and exchanging the choice with a random draw in "
        "each source. 'Beats' means that both find a difference.",
        limits(methods),
    )


def verdict(methods: pd.DataFrame, metric: str) -> str:
    """Whether selection beats chance in one metric, where, and by how much."""
    rows = methods[methods["metric"] == metric]
    better, worse = rows[rows["beats"]], rows[rows["loses"]]
    name, total = wording.NAMES[metric], len(rows)
    top = rows.loc[rows["difference"].idxmax()]
    if len(better):
        found = better.sort_values("difference", ascending=False)
        listed = "; ".join(_one(row) for row in found.head(LISTED).to_dict("records"))
        head = f"In {name}, {len(better)} of {total} combinations of method and budget beat random subsets: {listed}"
    else:
        head = (
            f"No: in {name}, none of {total} combinations of method and budget beats random subsets of the same size. "
            f"The largest difference is that of {_one(top.to_dict())}"
        )
    tail = "."
    if len(worse):
        low = worse.loc[worse["difference"].idxmin()]
        tail = f"; {len(worse)} are worse than random, the worst being {_one(low.to_dict())}."
    mean = rows["difference"].mean()
    return f"{head}{tail} On average over all combinations the difference is {wording.points(mean)} points."


def _one(row: dict[str, object]) -> str:
    low, high = (float(str(row[end])) for end in ("low", "high"))
    return (
        f"{row['selection']} with {row['budget']} samples, {wording.points(float(str(row['difference'])))} points "
        f"{wording.interval(low, high)}, adjusted p = {float(str(row['p_adjusted'])):.2g} over examples and "
        f"{float(str(row['draw_p_adjusted'])):.2g} over draws"
    )


def single_pairs(pairs: pd.DataFrame) -> str:
    """How many single pairs stand."""
    rows = pairs[pairs["metric"] == "exact_match"]
    if rows.empty:
        return ""
    sure = rows[rows["p_adjusted"] < 0.05]
    up = int((sure["difference"] > 0).sum())
    return (
        f"Of {len(rows)} single cases (target, source, method, budget; n = {rows['n'].max()} queries each), {up} "
        f"exceed the mean of the random subsets in exact match and {len(sure) - up} fall below it after Holm's "
        f"correction over {int(pairs['n_tests'].max())} tests. A choice exceeds {100 * rows['rank'].mean():.0f} % of "
        f"the random subsets on average (50 % if it were one of them)."
    )


def references(gains: pd.DataFrame) -> str:
    """All samples, the best and worst size of random subsets, and the placebo, over zero-shot."""
    rows = gains[gains["metric"] == "exact_match"].set_index("method")
    parts = []
    for method, name in ((ALL, "all samples"), (PLACEBO, "a random direction of that norm")):
        if method in rows.index:
            row = rows.loc[method]
            spread = wording.interval(row["gain_low"], row["gain_high"])
            parts.append(f"{name} {wording.points(row['gain'])} points {spread}")
    drawn = rows[rows["selection"] == RANDOM]
    for row in drawn.sort_values("budget").iloc[[0]].to_dict("records") if len(drawn) else []:
        spread = wording.interval(row["gain_low"], row["gain_high"])
        parts.append(f"{row['budget']} random samples {wording.points(row['gain'])} points {spread}")
    return "Over zero-shot in exact match: " + "; ".join(parts) + "." if parts else ""


def nearness(geometry: pd.DataFrame) -> str:
    """Whether choices lie nearer to the mean of all samples than random subsets do."""
    rows = geometry[geometry["rank"].notna()] if "rank" in geometry else geometry.head(0)
    if rows.empty:
        return ""
    nearer = int((rows["cosine"] > rows["random_high"]).sum())
    farther = int((rows["cosine"] < rows["random_low"]).sum())
    small = rows[rows["budget"] == rows["budget"].min()]
    halves = geometry.dropna(subset=["halves"])
    text = (
        f"Without any target: with {small['budget'].iloc[0]} samples the mean of a choice has cosine "
        f"{small['cosine'].min():.3f} to {small['cosine'].max():.3f} to the mean of all, that of random subsets "
        f"{small['random_cosine'].min():.3f} to {small['random_cosine'].max():.3f} on average; of {len(rows)} choices "
        f"{nearer} lie nearer to it than every random subset of their size and {farther} farther than every one."
    )
    if len(halves):
        chosen, drawn = (halves[(halves["selection"] == RANDOM) == side] for side in (False, True))
        text += (
            f" Chosen anew in two halves of the pool, the means have cosine {chosen['halves'].mean():.3f} "
            f"(random subsets {drawn['halves'].mean():.3f})."
        )
    return text


def limits(methods: pd.DataFrame) -> str:
    """What cannot be concluded."""
    text = (
        "This is about one model, these sources and targets, pools of this size and one space of comparison; a pool of "
        "thousands, as in a high-resource task, may leave a selection more to choose from. Subsets near the size of "
        "the pool share most of their samples with every other subset and can hardly differ. Intervals are over "
        "test queries, with subsets and demonstrations as drawn. A difference that is not found may still be "
        "there."
    )
    if len(methods):
        text += (
            f" With {int(methods['sources'].max())} sources and so many draws, the test over draws cannot give a p "
            f"below {methods['draw_least'].min():.2g}"
        )
        tests = int(methods["n_tests"].max())
        short = methods["draw_least"].min() * tests >= 0.05
        text += (
            f", which cannot stand correction over {tests} tests: this run could not have found that a choice beats "
            "random draws."
            if short
            else "."
        )
    return text


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Differences to random subsets, gains by budget, and a map for each source."""
    from ... import plots

    methods, gains = frames["methods"], frames["gains"]
    found: list[Drawing] = []
    if len(methods):
        renamed = methods.rename(columns={"difference": "gain", "low": "gain_low", "high": "gain_high"})
        found += [
            Drawing(
                "difference",
                "Chosen minus random",
                "Each choice against the mean of random subsets of the same size, over all pairs, with 95 % intervals "
                "over queries.",
                "Forest plot of the difference between each selection and random subsets of its size.",
                plots.plot_methods(
                    renamed.sort_values(["selection", "budget"], kind="stable"),
                    baseline="random subsets of the same size",
                    sort=False,
                ),
                renamed,
            ),
            _by_budget(gains),
        ]
    return found + [_map(source, part) for source, part in _by_source(frames["map"])]


def _by_budget(gains: pd.DataFrame) -> Drawing:
    from ... import plots

    rows = gains[(gains["metric"] == "exact_match") & (gains["budget"] > 0)]
    frame = gain_lines(rows, rows["budget"], rows["selection"])
    return Drawing(
        "budgets",
        "Gain by number of chosen samples",
        "Gain in exact match over zero-shot, over all pairs, with 95 % intervals over queries; random subsets are the "
        "mean over their draws.",
        "Lines of gain in exact match by number of chosen samples, one a selection.",
        plots.plot_scaling(frame, x_title="chosen samples", y_title="gain, percentage points", share=False),
        frame,
    )


def _by_source(samples: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(name), part) for name, part in samples.groupby("source", sort=False)] if len(samples) else []


def _map(source: str, samples: pd.DataFrame) -> Drawing:
    from ... import plots

    budget = int(samples["chosen"].astype(bool).sum())
    return Drawing(
        f"map_{source}",
        f"What was chosen from {source}",
        "All samples in the plane of the first two principal components of their zero-shot residuals, the larger the "
        f"more influential; the {budget} that cast chose are numbered in order.",
        f"Scatter of the samples of {source}; {budget} of them are ringed and numbered.",
        plots.plot_selection(samples),
        samples,
    )
