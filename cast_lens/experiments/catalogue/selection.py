"""Does choosing the source samples beat a random subset of the same size?

Every selection method, at every budget, is compared with random subsets of that size. All vectors of a source are added
at the layer and strength of the vector of all its samples, so that subsets differ in nothing else. Samples are compared
by their zero-shot residuals at the middle layer, as in a run. Besides the effect on targets, the experiment measures
how near a subset's mean is to the mean of all samples, how much that mean moves under resampling, and how much it
depends on the pool, by choosing again in random halves of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ... import plots
from ...methods import OUTCOMES, Condition, steered
from ...selection import METHODS, Selection, select, space_from_residuals
from ...stats import adjust_p_values, placebo_test, stratified_placebo_test
from ...vectors import DifferenceVectors
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, SIGNIFICANT, as_gains, gain_lines, once, pooled_table, side_by_side
from ..protocol import (
    Experiment,
    Findings,
    Frames,
    ReportFigure,
    Rows,
    Tasks,
    at_least_one,
    different_pairs,
    increasing,
)
from ..stability import mean_cosines, resampled_cosine
from ..workspace import NEED_CONFIDENCE, Workspace
from .scaling import reference

RESAMPLES = 200
ALL = "all"
RANDOM = "random"
PLACEBO = "placebo: random direction"
# Enough for a p-value to survive the correction over a table of a thousand tests.
RELABELLINGS = 99_999
# Ways to choose samples that need nothing but the difference vectors.
SELECTIONS = (
    "cast",
    "influence",
    "diversity",
    "vote-k",
    "ideal",
    "facility-location",
    "farthest-point",
    "k-means",
    "parallel",
    "random",
)


@dataclass(frozen=True, slots=True)
class Subset:
    """The samples that one method chose: name of the method, how many, the seed, and which rows."""

    selection: str
    budget: int
    seed: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SelectionExperiment(Experiment):
    """Does choosing the samples beat a random subset of the same size?

    Attributes:
        budgets: how many samples are chosen; numbers that are not below ``samples`` are left out.
        selections: the selection methods to compare, keys of ``selection.METHODS``.
        repeats: how many random subsets of each size are drawn.
    """

    name = "selection"
    title = "Selection"
    compared = (
        "Each chosen subset is compared with random subsets of the same size from the same samples, at the layer and "
        "strength of the vector of all samples, on the same test queries. Two tests are made, each Holm-adjusted "
        "over the table: one permutes the outcomes of examples, the other exchanges the choice with a random draw in "
        "each source. The verdict 'gain' or 'loss' means that both find a difference."
    )
    limits = (
        "These results are about one model, these sources and targets, pools of this size and one space of "
        "comparison; a pool of thousands, as in a high-resource task, may leave a selection more to choose from. "
        "Subsets near the size of the pool share most of their samples with every other subset and can hardly "
        "differ. Intervals are over test queries, with subsets and demonstrations as drawn. A difference that is not "
        "found may still exist."
    )
    shown = ("methods", "geometry", "gains")

    budgets: tuple[int, ...] = (4, 8, 16, 32, 64)
    selections: tuple[str, ...] = SELECTIONS
    repeats: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "repeats")
        increasing(self, "budgets")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Two small budgets, two selections and two random subsets."""
        return {"budgets": (4, 8), "selections": ("cast", "k-means", "random"), "repeats": 2}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings first; then the subsets, one cell per source, and their outcomes, one cell per pair.

        Raises:
            ValueError: if a selection needs more than difference vectors, ``random`` is the only one, no budget is
                below the number of samples, or there is no pair of different tasks.
        """
        self.check(config)
        whole, sources = reference(config), config.sources
        cells = [Cell("setting", source=source, variant=whole, prepares=True) for source in sources]
        cells += [Cell(kind, source=source) for source in sources for kind in ("subsets", "map")]
        return cells + [Cell("transfer", target, source) for target, source in different_pairs(config)]

    def check(self, config: RunConfig) -> None:
        """Refuse selections and budgets with which nothing can be compared."""
        usable = [name for name in METHODS if name not in (*NEED_CONFIDENCE, ALL)]
        unknown = [name for name in self.selections if name not in usable]
        if unknown:
            raise ValueError(f"selections={unknown} cannot be compared here; choose from {', '.join(usable)}")
        if not self.rivals:
            raise ValueError("selections holds nothing beside 'random'; add one of " + ", ".join(usable))
        if not self.smaller(config):
            raise ValueError(
                f"budgets={list(self.budgets)} has none below samples={config.samples}, so there is nothing to choose"
            )

    @property
    def rivals(self) -> list[str]:
        """The selections that are compared with random subsets."""
        return [name for name in self.selections if name != RANDOM]

    def smaller(self, config: RunConfig) -> list[int]:
        """Budgets below the number of samples."""
        return [budget for budget in self.budgets if budget < config.samples]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Outcomes of a pair, the subsets of a source, or a map of its samples."""
        if cell.kind == "transfer":
            return self.transfer(workspace, cell.target, cell.source)
        return (self.subset_rows if cell.kind == "subsets" else self.map_rows)(workspace, cell.source)

    def subsets(self, config: RunConfig, found: DifferenceVectors) -> list[Subset]:
        """Every subset of the experiment, random ones with every seed."""
        first = config.seed
        made = []
        for budget in self.smaller(config):
            for method in (*self.rivals, RANDOM):
                draws = self.repeats if method == RANDOM else 1
                for seed in range(first, first + draws):
                    indices = choose(found, method, budget, seed=seed).indices.tolist()
                    made.append(Subset(method, budget, seed, tuple(indices)))
        return made

    def transfer(self, workspace: Workspace, target: str, source: str) -> pd.DataFrame:
        """Outcomes on a target under the mean of every subset of a source."""
        config, found = workspace.config, workspace.differences(source)
        base, setting = workspace.base(target), workspace.setting(source, reference(config))
        whole = found.mean()
        made = [(whole, ALL, config.seed)]
        made += [(noise, PLACEBO, number) for number, noise in workspace.placebos(source, whole)]
        for one in self.subsets(config, found):
            made.append((found.mean(one.indices), named(one.selection, one.budget), one.seed))
        conditions: list[Condition] = [base]
        conditions += [
            steered(vector, base.prompts, setting, source=source, method=method, seed=seed)
            for vector, method, seed in made
        ]
        return workspace.outcomes(conditions)

    def subset_rows(self, workspace: Workspace, source: str) -> pd.DataFrame:
        """One row per subset: the position of its mean, without running the model on any target."""
        config, found = workspace.config, workspace.differences(source)
        layer = workspace.setting(source, reference(config)).layer
        values, full = found.at(layer).double().numpy(), found.mean().at(layer)[None]
        agreement = {
            (method, budget): halves_cosine(
                found, values, method, budget, seeds=range(config.seed, config.seed + self.repeats)
            )
            for budget in self.smaller(config)
            for method in (*self.rivals, RANDOM)
        }
        rows = []
        for one in [*self.subsets(config, found), Subset(ALL, len(found), config.seed, tuple(range(len(found))))]:
            mean = torch.from_numpy(values[list(one.indices)].mean(axis=0))[None]
            rows.append(
                {
                    "source": source,
                    "selection": one.selection,
                    "budget": one.budget,
                    "seed": one.seed,
                    "pool": len(found),
                    "layer": layer,
                    "cosine": float(mean_cosines(mean, full)[0]),
                    "resampled": resampled_cosine(values[list(one.indices)], replicates=RESAMPLES, seed=config.seed),
                    "halves": agreement.get((one.selection, one.budget), float("nan")),
                }
            )
        return pd.DataFrame(rows)

    def map_rows(self, workspace: Workspace, source: str) -> pd.DataFrame:
        """One row per sample: its position in the plane, its influence, and when ``cast`` chose it."""
        config, found = workspace.config, workspace.differences(source)
        half = [budget for budget in self.smaller(config) if budget <= len(found) // 2]
        made = choose(found, "cast", (half or self.smaller(config)[:1])[-1], seed=config.seed)
        rank = np.full(len(found), -1)
        rank[made.indices] = np.arange(len(made))
        space = space_from_residuals(found, found.layers[len(found.layers) // 2]).astype(np.float64)
        space = space - space.mean(axis=0)
        space /= np.linalg.norm(space, axis=1, keepdims=True).clip(np.finfo(np.float64).tiny)
        left, sizes, axes = np.linalg.svd(space - space.mean(axis=0), full_matrices=False)
        # The sign of an axis is arbitrary; its largest loading is made positive so that pictures are reproducible.
        signs = np.sign(axes[[0, 1], np.abs(axes[:2]).argmax(axis=1)])
        points = left[:, :2] * sizes[:2] * signs
        texts = {example.id: example.input for example in workspace.tasks[source].split(workspace.extraction().split)}
        return pd.DataFrame(
            {
                "source": source,
                "sample_id": found.sample_ids,
                "text": [texts[name] for name in found.sample_ids],
                "x": points[:, 0],
                "y": points[:, 1],
                "influence": made.influence,
                "rank": rank,
                "chosen": rank >= 0,
            }
        )

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """Chosen subsets beside random ones of the same size.

        Returns:
            ``result``: one row per pair, subset and metric; ``methods``: over all pairs; ``gains``: over zero-shot;
            ``geometry``: what needs no target; ``map``: what the figures show.
        """
        outcomes = once(rows.get("transfer", pd.DataFrame()))
        known = len(outcomes) > 0
        nothing = pd.DataFrame(columns=["target", "source", "method", "metric", "selection", "budget", "verdict"])
        geometry = rows.get("subsets", pd.DataFrame())
        return {
            "result": pairs_table(outcomes, config) if known else nothing,
            "methods": methods_table(outcomes, config) if known else nothing,
            "gains": gains_table(outcomes, config) if known else nothing,
            "geometry": geometry_table(geometry) if len(geometry) else pd.DataFrame(),
            "map": rows.get("map", pd.DataFrame()),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """How many combinations of method and budget beat random subsets, and the best of them."""
        rows = frames["methods"][frames["methods"]["metric"] == "exact_match"]
        if rows.empty:
            return Findings(sentences.NOTHING)
        best = rows.loc[rows["difference"].idxmax()].to_dict()
        told = sentences.tally(rows, "combinations of method and budget, against random subsets in exact match,")
        headline = f"{told}; the largest difference is that of {best['method']}, {sentences.change(best)}."
        least, tests = rows["draw_least"].min(), int(rows["n_tests"].max())
        short = (
            f"With {int(rows['sources'].max())} sources and so few draws the test over draws cannot give a p-value "
            f"below {least}, which is not significant after correction over {tests} tests: this run could not have "
            "found that a choice beats random draws."
        )
        return Findings(headline, (short,) if least * tests >= 0.05 else ())

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Differences to random subsets, gains by budget, and a map for each source."""
        methods, samples = frames["methods"], frames["map"]
        if len(methods):
            renamed = as_gains(methods)
            yield ReportFigure(
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
            )
            yield budget_figure(frames["gains"])
        for source, part in samples.groupby("source", sort=False) if len(samples) else ():
            yield map_figure(str(source), part)


EXPERIMENT = SelectionExperiment


def choose(
    found: DifferenceVectors, method: str, budget: int, *, seed: int, rows: Sequence[int] | None = None
) -> Selection:
    """A selection among all samples, or among some rows (indices then refer to these rows)."""
    layer = found.layers[len(found.layers) // 2]
    own = list(range(len(found))) if rows is None else list(rows)
    return select(
        space_from_residuals(found, layer)[own],
        budget,
        method=method,
        seed=seed,
        differences=found.at(layer).numpy()[own],
    )


def halves_cosine(
    found: DifferenceVectors, values: Float[np.ndarray, "sample d_model"], method: str, budget: int, *, seeds: range
) -> float:
    """Mean cosine between the means that a method selects in two halves of the pool; NaN if these are too small."""
    n = len(found)
    if budget > n // 2:
        return float("nan")
    cosines = []
    for seed in seeds:
        order = np.random.default_rng([seed, n]).permutation(n)
        means = []
        for half in (order[: n // 2], order[n // 2 :]):
            indices = choose(found, method, budget, seed=seed, rows=half.tolist()).indices
            means.append(torch.from_numpy(values[half[indices]].mean(axis=0))[None])
        cosines.append(float(mean_cosines(*means)[0]))
    return float(np.mean(cosines))


def named(selection: str, budget: int) -> str:
    """The method of a subset in frames: selection and number of samples."""
    return f"{selection}, {budget}"


def parsed(method: str) -> tuple[str, int]:
    """The parts that ``named`` joined; budget 0 for methods without one."""
    selection, _, budget = method.rpartition(", ")
    return (selection, int(budget)) if selection else (method, 0)


def _comparisons(outcomes: pd.DataFrame) -> list[tuple[str, str]]:
    """Every chosen subset against random ones of its size."""
    split = [(method, *parsed(method)) for method in dict.fromkeys(outcomes["method"])]
    return [(m, named(RANDOM, budget)) for m, selection, budget in split if budget and selection != RANDOM]


def pairs_table(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """One row per target, source, subset and metric.

    Columns of ``side_by_side`` with ``against`` random, and ``zero_shot``; ``rank`` (share of the random subsets that
    the choice exceeds, ties half), ``rank_p`` (of as good a rank by chance, one-sided), ``random_low, random_high``
    (worst and best random subset), ``draws``.
    """
    frame = side_by_side(
        outcomes[outcomes["method"] != BASELINE],
        _comparisons(outcomes),
        within=("target", "source"),
        seed=config.seed,
        metrics=_metrics(outcomes),
    )
    effects = _effects(outcomes, ["target", "source"])
    ranks = []
    for row in frame.to_dict("records"):
        own, draws = (effects[row["metric"], row[side]] for side in ("method", "against"))
        pair = (row["target"], row["source"])
        ranks.append(_ranked(own.loc[pair], draws.loc[pair]))
    zero = outcomes[outcomes["method"] == BASELINE].groupby("target")[_metrics(outcomes)].mean()
    return _with_subset(frame).assign(
        zero_shot=[zero.loc[row.target, row.metric] for row in frame.itertuples()],
        **{name: [rank[name] for rank in ranks] for name in ranks[0]},
    )


def methods_table(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """One row per subset and metric, over all pairs.

    Two tests, each Holm-adjusted over the table: ``p_adjusted`` (examples: would other queries show it?) and
    ``draw_p_adjusted`` (draws: would another random subset of each source do as well? see
    ``stats.stratified_placebo_test``), with ``draw_least``, the smallest p that the latter can give. ``verdict`` is
    ``gain`` or ``loss`` where both are below 0.05. ``rank`` is the mean over sources of the share of
    random subsets exceeded.
    """
    frame = side_by_side(outcomes, _comparisons(outcomes), seed=config.seed, metrics=_metrics(outcomes))
    effects = _effects(outcomes, ["source"])
    found: list[dict[str, Any]] = []
    for row in frame.to_dict("records"):
        own, draws = (effects[row["metric"], row[side]] for side in ("method", "against"))
        pools = [draws.loc[source].to_numpy() for source in own.index.unique("source")]
        observed = [float(own.loc[source].iloc[0]) for source in own.index.unique("source")]
        test = stratified_placebo_test(observed, pools, seed=config.seed, n_permutations=RELABELLINGS)
        least = 1.0
        for pool in pools:
            least /= len(pool) + 1
        least = max(least, 1 / (RELABELLINGS + 1))
        rank = sum(_rank(one, pool) for one, pool in zip(observed, pools, strict=True)) / len(pools)
        found.append({"rank": rank, "draw_p": test.p, "draw_least": least, "sources": len(pools)})
    frame = _with_subset(frame).assign(**{name: [one[name] for one in found] for name in found[0]})
    frame["draw_p_adjusted"] = adjust_p_values(frame, column="draw_p")["p_adjusted"]
    alike = frame["draw_p_adjusted"] >= SIGNIFICANT
    return frame.assign(verdict=frame["verdict"].where(~alike | (frame["verdict"] == ""), "not shown"))


def gains_table(outcomes: pd.DataFrame, config: RunConfig) -> pd.DataFrame:
    """``pooled_table`` over zero-shot, with ``selection`` and ``budget``; all samples have the pool's size."""
    frame = _with_subset(pooled_table(outcomes, **config.resampling))
    return frame.assign(budget=frame["budget"].where(frame["selection"] != ALL, config.samples))


def geometry_table(geometry: pd.DataFrame) -> pd.DataFrame:
    """One row per source, selection and budget; random subsets averaged over their seeds.

    ``cosine`` to the mean of all samples at the setting's layer, with ``random_cosine, random_low, random_high`` and
    ``rank``; ``resampled`` (cosine to bootstrap means of the same subset); ``halves`` (cosine between choices in two
    halves of the pool).
    """
    rows = []
    for (source, budget, selection), part in geometry.groupby(["source", "budget", "selection"], sort=False):
        rest = geometry[(geometry["source"] == source) & (geometry["budget"] == budget)]
        draws = rest.loc[rest["selection"] == RANDOM, "cosine"].to_numpy()
        own = float(part["cosine"].mean())
        row = {"source": source, "selection": selection, "budget": int(budget), "pool": int(part["pool"].iloc[0])}
        row |= {"layer": int(part["layer"].iloc[0]), "cosine": own}
        row |= {"resampled": part["resampled"].mean(), "halves": part["halves"].mean()}
        if len(draws):
            row |= {"random_cosine": draws.mean(), "random_low": draws.min(), "random_high": draws.max()}
            row["rank"] = _rank(own, draws) if selection != RANDOM else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def _metrics(outcomes: pd.DataFrame) -> list[str]:
    return [name for name in OUTCOMES if name in outcomes and outcomes[name].notna().any()]


def _effects(outcomes: pd.DataFrame, keys: list[str]) -> dict[tuple[str, str], pd.Series]:
    """Mean outcome of each draw by metric and method, with equal weight for all targets."""
    found = {}
    for metric in _metrics(outcomes):
        for method, part in outcomes.dropna(subset=[metric]).groupby("method", sort=False):
            means = part.groupby([*dict.fromkeys((*keys, "target")), "seed"], sort=False)[metric].mean()
            found[metric, str(method)] = means.groupby([*keys, "seed"], sort=False).mean()
    return found


def _ranked(own: pd.Series, draws: pd.Series) -> dict[str, Any]:
    one, pool = float(own.iloc[0]), draws.to_numpy()
    return {
        "rank": _rank(one, pool),
        "rank_p": placebo_test(one, pool).p,
        "random_low": pool.min(),
        "random_high": pool.max(),
        "draws": len(pool),
    }


def _rank(one: float, pool: Any) -> float:
    """Share of the pool below a value, up to rounding; ties count half."""
    tied = abs(pool - one) <= 1e-12
    return float((tied / 2 + ((pool < one) & ~tied)).mean())


def _with_subset(frame: pd.DataFrame) -> pd.DataFrame:
    split = [parsed(method) for method in frame["method"]]
    return frame.assign(selection=[name for name, _ in split], budget=[budget for _, budget in split])


def budget_figure(gains: pd.DataFrame) -> ReportFigure:
    """Gain in exact match by number of chosen samples."""
    rows = gains[(gains["metric"] == "exact_match") & (gains["budget"] > 0)]
    frame = gain_lines(rows, rows["budget"], rows["selection"])
    return ReportFigure(
        "budgets",
        "Gain by number of chosen samples",
        "Gain in exact match over zero-shot, over all pairs, with 95 % intervals over queries; random subsets are the "
        "mean over their draws.",
        "Lines of gain in exact match by number of chosen samples, one per selection.",
        plots.plot_scaling(frame, x_title="chosen samples", y_title="gain, percentage points", share=False),
        frame,
    )


def map_figure(source: str, samples: pd.DataFrame) -> ReportFigure:
    """The samples of a source in a plane, the chosen ones numbered."""
    budget = int(samples["chosen"].astype(bool).sum())
    return ReportFigure(
        f"map_{source}",
        f"What was chosen from {source}",
        "All samples in the plane of the first two principal components of their zero-shot residuals; larger marks "
        f"are more influential. The {budget} samples that cast chose are numbered in order.",
        f"Scatter of the samples of {source}; {budget} of them are ringed and numbered.",
        plots.plot_selection(samples),
        samples,
    )
