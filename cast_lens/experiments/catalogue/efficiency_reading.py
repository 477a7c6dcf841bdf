"""What ``efficiency`` found, in sentences and figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..legacy import Drawing, Frames, Reading
from ..settings import ExperimentConfig

if TYPE_CHECKING:
    import pandas as pd

ZERO_ENGINE, ZERO_HOOKS = "zero-shot, engine", "zero-shot, hooks"
CAST_ENGINE, CAST_HOOKS = "cast, engine", "cast, hooks"
BATCHED, RETRIEVED = "batched", "retrieved few-shot"


def read(frames: Frames, config: ExperimentConfig) -> Reading:
    """What came out, whatever it is."""
    result, timings = frames["result"], frames["timings"]
    answer = [*_queries(result, timings), _once(result), _memory(timings)]
    return Reading(
        tuple(part for part in answer if part),
        f"Every method answered the same {config.queries} test queries of each of {result['targets'].max()} targets, "
        "with greedy answers of the same greatest length; demonstrations and vector come from one source.",
        "Operations are counted from the architecture and the prompts, and repeat; they are those of the matrix "
        "products, with a key-value cache, each prompt run from its start unless its common beginning is said to be "
        "kept. Latency was measured on one machine among whatever else ran on it, and will differ on the next run; so "
        "may memory, with the threads. The engine's steered answer comes with an unsteered one, and its cost holds "
        "both. Queries of equal cost are not equally well answered: what they are worth is said by cross-domain. The "
        "cost of preparing a vector leaves out the finalists' whole answers and, for all methods, the choice of a "
        "prompt.",
    )


def _at(frame: pd.DataFrame, method: str) -> pd.Series | None:
    rows = frame[frame["method"] == method]
    return None if rows.empty else rows.iloc[0]


def _queries(result: pd.DataFrame, timings: pd.DataFrame) -> list[str]:
    """Tokens, operations and latency of a query, a sentence a method."""
    zero = _at(result, ZERO_ENGINE)
    if zero is None:
        return []
    head = (
        f"A zero-shot query takes {zero['gflops']:.2f} GFLOP where its prompt runs from its start, which is the 1.00 "
        f"below (n = {zero['n']}). Milliseconds were measured here: median [quartiles] of single queries, and the mean "
        "in one batch."
    )
    told = []
    for row in result.itertuples():
        kept = f" ({row.cached_ratio:.2f} with the prompts' common beginning kept)" if _differs(row) else ""
        text = f"{row.method}: {row.tokens:.0f} tokens, {row.flops_ratio:.2f} times the operations{kept}"
        timed = _at(timings, str(row.method))
        if timed is not None:
            low, high = timed["quartile_low_ms"], timed["quartile_high_ms"]
            text += f"; {timed['median_ms']:.0f} [{low:.0f}, {high:.0f}] ms, {timed['batch_ms']:.0f} ms in a batch"
        told.append(f"{text}.")
    return [head, *told]


def _differs(row: object) -> bool:
    return abs(row.flops_ratio - row.cached_ratio) >= 0.01  # type: ignore[attr-defined]


def _once(result: pd.DataFrame) -> str:
    """What a vector costs before its first query, and when that is earned."""
    cast = _at(result, CAST_HOOKS)
    cast = _at(result, CAST_ENGINE) if cast is None else cast
    if cast is None:
        return ""
    few = result[result["method"].str.startswith("few-shot")]
    if few.empty:
        return ""
    return (
        f"Making the vector and choosing its layer and strength takes {cast['once_gflops']:.0f} GFLOP once, as much as "
        f"{cast['once_gflops'] / cast['gflops']:.0f} steered queries. In operations that is earned against "
        f"{_earned(few, cast, 'gflops')} where prompts run in full, and against {_earned(few, cast, 'cached_gflops')} "
        "where the common beginning of both is kept."
    )


def _earned(few: pd.DataFrame, cast: pd.Series, column: str) -> str:
    """After how many queries the vector has cost less than each few-shot prompt."""
    parts = []
    for row in few.to_dict("records"):
        saved = row[column] - cast[column]
        after = f"after {cast['once_gflops'] / saved:.0f} queries" if saved > 0 else "never"
        parts.append(f"{row['method']} {after}")
    return ", ".join(parts)


def _memory(timings: pd.DataFrame) -> str:
    known = timings.dropna(subset=["megabytes"])
    if known.empty:
        return "Memory could not be measured on this machine."
    most = known.loc[known["megabytes"].idxmax()]
    zero = _at(known, ZERO_ENGINE)
    beside = f" (zero-shot: {zero['megabytes']:.0f} MB)" if zero is not None else ""
    return (
        f"Most memory that tensors take above the model for all queries at once: {most['method']}, "
        f"{most['megabytes']:.0f} MB{beside}."
    )


def draw(frames: Frames, config: ExperimentConfig) -> list[Drawing]:
    """Operations a query, by method."""
    from ...plots.comparisons import plot_costs

    result = frames["result"]
    return [
        Drawing(
            "flops",
            "Operations a query",
            "Counted from the architecture for the same queries; the second bar of a method keeps the keys and values "
            "of what all its prompts begin with.",
            "Bars of the operations a query under each method.",
            plot_costs(result),
            result,
        )
    ]
