"""From outcomes, one row an example, to tables with intervals, tests and the split into format and choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..methods import OUTCOMES
from ..stats import (
    adjust_p_values,
    gain_split,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    paired_permutation_test,
    proportion_interval,
)
from ..tasks import Task
from .config import RunConfig
from .store import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

# Comparisons that a reader may take for findings; placebos and prompts are what they are compared with.
TESTED = ("steered", "steered (own vector)")


def write_summary(directory: RunDirectory, config: RunConfig, tasks: Mapping[str, Task]) -> None:
    """Write ``outcomes``, ``sweep``, ``transfer`` and ``split`` from the frames of single sources and targets."""
    import pandas as pd

    def joined(kind: str, names: tuple[str, ...]) -> pd.DataFrame:
        paths = [directory.path / "frames" / kind / f"{name}.parquet" for name in names]
        return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)

    outcomes = joined("outcomes", config.targets)
    directory.write_frame("outcomes", outcomes)
    directory.write_frame("sweep", joined("sweep", config.sources))
    families = {name: task.family for name, task in tasks.items()}
    options = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    directory.frame("transfer", lambda: transfer_table(outcomes, families, **options))
    directory.frame("split", lambda: split_table(outcomes, **options))


def transfer_table(
    outcomes: pd.DataFrame, families: Mapping[str, str], *, n_bootstrap: int, seed: int
) -> pd.DataFrame:
    """One row a target, source, method and metric, against zero-shot on the same examples.

    Columns: ``target, target_family, source, source_family, method, metric, n, value, low, high`` (Wilson's
    interval, or BCa where several placebo seeds are averaged), ``baseline`` (zero-shot), ``gain, gain_low,
    gain_high`` (paired BCa bootstrap), ``p_value`` (exact McNemar; paired permutation where seeds are averaged),
    ``p_adjusted, n_tests`` (Holm over all steered cells of the table), ``layer, strength``.
    """
    import pandas as pd

    rows = []
    for target, part in outcomes.groupby("target", sort=False):
        zero = part[part["method"] == "zero-shot"].set_index("sample")
        for (method, source), cell in part.groupby(["method", "source"], sort=False):
            for metric in OUTCOMES:
                if cell[metric].isna().all():
                    continue
                rows.append(
                    {
                        "target": target,
                        "target_family": families[str(target)],
                        "source": source,
                        "source_family": families.get(source, ""),
                        "method": method,
                        "metric": metric,
                        **_compare(zero[metric], cell, metric, n_bootstrap=n_bootstrap, seed=seed),
                        "layer": int(cell["layer"].iloc[0]),
                        "strength": float(cell["strength"].iloc[0]),
                    }
                )
    frame = pd.DataFrame(rows)
    tested = frame["p_value"].where(frame["method"].isin(TESTED))
    adjusted = adjust_p_values(frame.assign(p=tested), column="p")
    return frame.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"])


def _compare(
    zero: pd.Series, cell: pd.DataFrame, metric: str, *, n_bootstrap: int, seed: int
) -> dict[str, Any]:
    means = cell.groupby("sample", sort=False)[metric].mean()
    baseline, values = zero.loc[means.index].to_numpy(float), means.to_numpy(float)
    single = not cell["sample"].duplicated().any()
    if single:
        level = proportion_interval(int(values.sum()), len(values))
        p_value = mcnemar_exact(baseline, values).p
    else:
        level = mean_interval(values, n_bootstrap=n_bootstrap, seed=seed)
        p_value = paired_permutation_test(baseline, values, seed=seed, n_permutations=1999).p
    gain = paired_difference(baseline, values, n_bootstrap=n_bootstrap, seed=seed)
    return {
        "n": len(values),
        "value": level.value,
        "low": level.low,
        "high": level.high,
        "baseline": float(np.mean(baseline)),
        "gain": gain.value,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "p_value": p_value,
    }


def split_table(outcomes: pd.DataFrame, *, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """The exact-match gain over zero-shot of each steered cell, split into format and choice.

    Columns: ``target, source, method, n`` and ``total, format, choice`` with ``_low`` and ``_high`` each. Free
    answers have no admissible set and no row. See ``stats.gain_split`` (level ``examples``).
    """
    import pandas as pd

    rows = []
    admissible = outcomes.dropna(subset=["valid", "choice_correct"])
    for target, part in admissible.groupby("target", sort=False):
        zero = part[part["method"] == "zero-shot"]
        steered = part[part["method"].str.startswith(("steered", "placebo"))]
        for (method, source, rep), cell in steered.groupby(["method", "source", "seed"], sort=False):
            found = gain_split(
                zero, cell, level="examples", on=("sample",), n_bootstrap=n_bootstrap, seed=seed
            ).set_index("part")
            row: dict[str, Any] = {
                "target": target,
                "source": source,
                "method": method,
                "seed": rep,
                "n": len(cell),
            }
            for name in ("total", "format", "choice"):
                row |= {
                    name: found.loc[name, "value"],
                    f"{name}_low": found.loc[name, "low"],
                    f"{name}_high": found.loc[name, "high"],
                }
            rows.append(row)
    return pd.DataFrame(rows)
