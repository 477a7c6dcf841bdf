"""Tables of ``selection``: chosen subsets beside random ones of the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...methods import OUTCOMES
from ...stats import adjust_p_values, placebo_test, stratified_placebo_test
from ..legacy import Tasks
from ..outcomes import BASELINE, once, pooled_table, side_by_side
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
RANDOM = "random"
PLACEBO = "placebo: random direction"
# Enough that a p-value can stand correction over a table of a thousand tests.
RELABELLINGS = 99_999


def named(selection: str, budget: int) -> str:
    """The method of a subset in frames: selection and number of samples."""
    return f"{selection}, {budget}"


def parsed(method: str) -> tuple[str, int]:
    """What ``named`` joined; budget 0 for methods without one."""
    selection, _, budget = method.rpartition(", ")
    return (selection, int(budget)) if selection else (method, 0)


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a pair, subset and metric against random subsets. ``methods``: over all pairs.

    ``gains`` is over zero-shot, ``geometry`` what needs no target, ``map`` what the figures show.
    """
    import pandas as pd

    outcomes = _part(rows, "transfer")
    outcomes = once(outcomes.assign(seed=outcomes["seed"].astype(int))) if len(outcomes) else outcomes
    geometry, samples = _part(rows, "subsets"), _part(rows, "map")
    known = len(outcomes) > 0
    return {
        "result": pairs_table(outcomes, config) if known else pd.DataFrame(),
        "methods": methods_table(outcomes, config) if known else pd.DataFrame(),
        "gains": gains_table(outcomes, config) if known else pd.DataFrame(),
        "geometry": geometry_table(geometry) if len(geometry) else pd.DataFrame(),
        "map": samples,
    }


def _part(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    found = rows[rows["part"] == part].drop(columns="part").reset_index(drop=True)
    return found.dropna(axis=1, how="all")


def _comparisons(outcomes: pd.DataFrame) -> list[tuple[str, str]]:
    """Every chosen subset against random ones of its size."""
    split = [(method, *parsed(method)) for method in dict.fromkeys(outcomes["method"])]
    return [(m, named(RANDOM, budget)) for m, selection, budget in split if budget and selection != RANDOM]


def pairs_table(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """One row a target, source, subset and metric.

    Columns of ``side_by_side`` with ``against`` random, and ``zero_shot``; ``rank`` (share of the random subsets that
    the choice exceeds, ties half), ``rank_p`` (of as good a rank by chance, one-sided), ``random_low, random_high``
    (worst and best random subset), ``draws``.
    """
    frame = side_by_side(
        outcomes[outcomes["method"] != BASELINE],
        _comparisons(outcomes),
        within=("target", "source"),
        n_bootstrap=config.bootstrap,
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


def methods_table(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """One row a subset and metric, over all pairs.

    Two tests, each Holm-adjusted over the table: ``p_adjusted`` (examples: would other queries show it?) and
    ``draw_p_adjusted`` (draws: would another random subset of each source do as well? see
    ``stats.stratified_placebo_test``), with ``draw_least``, the smallest p that the latter can give. ``beats`` and
    ``loses`` need both below 0.05. ``rank`` is the mean over sources of the share of random subsets exceeded.
    """
    frame = side_by_side(
        outcomes,
        _comparisons(outcomes),
        n_bootstrap=config.bootstrap,
        seed=config.seed,
        metrics=_metrics(outcomes),
    )
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
    sure = (frame["p_adjusted"] < 0.05) & (frame["draw_p_adjusted"] < 0.05)
    return frame.assign(beats=sure & (frame["difference"] > 0), loses=sure & (frame["difference"] < 0))


def gains_table(outcomes: pd.DataFrame, config: ExperimentConfig) -> pd.DataFrame:
    """``pooled_table`` over zero-shot, with ``selection`` and ``budget``; all samples have the pool's size."""
    frame = _with_subset(pooled_table(outcomes, n_bootstrap=config.bootstrap, seed=config.seed))
    return frame.assign(budget=frame["budget"].where(frame["selection"] != ALL, config.samples))


def geometry_table(geometry: pd.DataFrame) -> pd.DataFrame:
    """One row a source, selection and budget; random subsets averaged over their seeds.

    ``cosine`` to the mean of all samples at the setting's layer, with ``random_cosine, random_low, random_high`` and
    ``rank``; ``resampled`` (cosine to bootstrap means of the same subset); ``halves`` (cosine between choices in two
    halves of the pool).
    """
    import pandas as pd

    rows = []
    for (source, budget, selection), part in geometry.groupby(["source", "budget", "selection"], sort=False):
        rest = geometry[(geometry["source"] == source) & (geometry["budget"] == budget)]
        draws = rest.loc[rest["selection"] == RANDOM, "cosine"].to_numpy()
        own = float(part["cosine"].mean())
        row = {
            "source": source,
            "selection": selection,
            "budget": int(budget),
            "pool": int(part["pool"].iloc[0]),
        }
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
    """Mean outcome of each draw, by metric and method; targets count alike."""
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
    """Share of the pool below, ties half; rounding apart."""
    tied = abs(pool - one) <= 1e-12
    return float((tied / 2 + ((pool < one) & ~tied)).mean())


def _with_subset(frame: pd.DataFrame) -> pd.DataFrame:
    split = [parsed(method) for method in frame["method"]]
    return frame.assign(selection=[name for name, _ in split], budget=[budget for _, budget in split])
