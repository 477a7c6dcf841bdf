"""How an adaptive task vector does: outcomes of every example, unsteered and steered, and their difference a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from ...engine import Progress, quiet
from ...evaluation import evaluate
from ...stats import paired_difference
from ...tasks import Split, Task, zero_shot_prompts
from ..conditions import OUTCOMES
from .data import draw, readings
from .vectors import ATV

if TYPE_CHECKING:
    import pandas as pd


def evaluate_atv(
    model: HookedTransformer,
    atv: ATV,
    tasks: Sequence[Task],
    *,
    split: Split = "test",
    examples: int = 1000,
    seed: int = 0,
    progress: Progress = quiet,
) -> pd.DataFrame:
    """Zero-shot prompts of some tasks, unsteered and under the ATV, in one pass of the engine.

    Args:
        model: the one that the ATV was trained for.
        atv: what writes the vectors.
        tasks: seen in training or not; ``seen`` tells.
        split: whose examples are asked.
        examples: of each task at most, balanced over the classes.
        seed: of the draw.
        progress: wraps the batches.

    Returns:
        the rows of ``evaluate`` with ``method`` (``zero-shot`` or ``atv``) and ``seen``.

    Raises:
        ValueError: another model; no tasks; see ``evaluate``.
    """
    atv.check(model)
    known = set(atv.provenance.task.split(" + "))
    drawn = [(task, draw(task, examples, seed=seed, split=split)) for task in tasks]
    prompts = [prompt for task, chosen in drawn for prompt in zero_shot_prompts(task, chosen)]
    texts = [text for task, chosen in drawn for text in readings(task, chosen, atv.design.reads)]
    frame = evaluate(model, prompts, [atv.intervention(texts)], progress=progress)
    method = frame["variant"].map({0: "zero-shot", 1: "atv"})
    return frame.assign(method=method, seen=frame["task"].isin(known))


def gains(frame: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What the ATV changes, with paired bootstrap intervals.

    Args:
        frame: from ``evaluate_atv``.
        seed: of the intervals.

    Returns:
        one row a task and outcome, then one over all seen and one over all unseen tasks: ``task, seen, outcome, n,
        zero_shot, atv, difference, low, high``. Outcomes that a task does not have are left out.
    """
    import pandas as pd

    rows = []
    groups = [(str(task), rows_of) for task, rows_of in frame.groupby("task", sort=False)]
    groups += [
        (f"all {'seen' if seen else 'unseen'} tasks", part)
        for seen, part in frame.groupby("seen", sort=False)
    ]
    for name, part in groups:
        for outcome in OUTCOMES:
            before, after = (
                part.loc[part["method"] == method, outcome].to_numpy(dtype=float)
                for method in ("zero-shot", "atv")
            )
            there = before == before
            if not there.any():
                continue
            found = paired_difference(before[there], after[there], seed=seed)
            rows.append(
                {
                    "task": name,
                    "seen": bool(part["seen"].iloc[0]),
                    "outcome": outcome,
                    "n": int(there.sum()),
                    "zero_shot": float(before[there].mean()),
                    "atv": float(after[there].mean()),
                    "difference": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(rows)
