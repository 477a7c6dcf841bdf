"""The figures of a run: what is drawn from which frame, with the words that stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from .. import plots
from ..plots.clouds import projection_methods
from ..plots.frames import in_order
from ..plots.writing import Png
from .exhibit import Exhibit, file_name
from .record import RunRecord, read_run
from .tables import OUTCOMES


def write_figures(run_dir: Path, *, png: Png = "auto") -> list[Path]:
    """Write every figure of a run to its ``figures/``: html, csv, and png where a browser is found.

    Args:
        run_dir: a run directory, finished or not.
        png: see ``plots.write_figure``.

    Returns:
        the files written.

    Raises:
        ValueError: when the directory holds no run.
    """
    return write_exhibits(exhibits(read_run(run_dir)), run_dir, png=png)


def write_exhibits(shown: Sequence[Exhibit], run_dir: Path, *, png: Png = "auto") -> list[Path]:
    """Write figures that were drawn already; see ``write_figures``."""
    return plots.write_figures(
        {one.name: (one.figure, one.frame) for one in shown}, run_dir / "figures", png=png
    )


def exhibits(record: RunRecord) -> list[Exhibit]:
    """All figures whose frames are there, in the order of the page."""
    builders: tuple[tuple[str, Callable[[pd.DataFrame], Iterator[Exhibit]]], ...] = (
        ("transfer", _transfer),
        ("split", _split),
        ("parallelism", _parallelism),
        ("sweep", _sweeps),
        ("cosines", _cosines),
        ("projection", _projections),
        ("alignment", _alignment),
        ("cohesion", _cohesion),
        ("entropy", _entropy),
    )
    of_run = [one for name, build in builders if name in record.frames for one in build(record.frames[name])]
    return [*of_run, *(one for chapter in record.chapters for one in chapter.exhibits)]


def _transfer(frame: pd.DataFrame) -> Iterator[Exhibit]:
    metrics = [metric for metric in OUTCOMES if (frame["metric"] == metric).any()]
    steered = frame[frame["method"].str.startswith("steered")]
    if len(steered):
        gains = steered.loc[steered["metric"] == "exact_match", "gain"]
        yield Exhibit(
            "transfer_matrix",
            "answer",
            "What one task's vector does to another task",
            "Change against zero-shot in percentage points; a number is bold when its interval excludes zero. Exact "
            "match: the answer is right. Label validity: it is an admissible answer. Label-restricted accuracy: the "
            "right one is preferred when only admissible answers are compared. Gains in the first two without "
            "gains in the third mean that the vector mends the format and not the choice. Blank: free answers.",
            f"Heat maps of targets by sources for {len(metrics)} outcomes. Gains in exact match range from "
            f"{100 * gains.min():+.0f} to {100 * gains.max():+.0f} points; the tables below hold every number.",
            plots.plot_transfer_matrix(frame, metrics=metrics),
            steered,
        )
    yield Exhibit(
        "gain",
        "outcomes",
        "Every condition against zero-shot",
        "Gain in exact match over zero-shot with its 95 % interval. Hollow grey marks are placebos. "
        "Where a random direction gets as far as the vector, its direction did not matter; where the vector from "
        "shuffled answers does, the right answers in the examples did not.",
        "Forest plot of gains in exact match for each target, source and condition, placebos included; the tables "
        "above hold the same numbers.",
        plots.plot_gain(frame),
        frame[frame["metric"] == "exact_match"],
    )


def _split(frame: pd.DataFrame) -> Iterator[Exhibit]:
    if frame["method"].str.startswith("steered").any():
        yield Exhibit(
            "split",
            "split",
            "Format and choice",
            "Each bar is a gain in exact match, made of two parts that add up: more answers are admissible (format), "
            "and of the admissible ones more are right (choice). Lines are 95 % intervals.",
            "Stacked bars of the format part and the choice part of each gain in exact match, with intervals; the "
            "table below holds the same numbers.",
            plots.plot_split(frame),
            frame,
        )


def _parallelism(frame: pd.DataFrame) -> Iterator[Exhibit]:
    yield Exhibit(
        "parallelism",
        "parallelism",
        "Cosine between the mean difference vectors of two tasks",
        "One line a pair of tasks, shaded by its 95 % interval: above, two tasks of one family (the same kind of "
        "answer), below, of different families. Grey: where it would lie for random directions, and for differences "
        "between random zero-shot prompts.",
        f"Lines of cosine by layer for {len(frame.groupby(['task_a', 'task_b']))} pairs of tasks; averages stand in "
        "the text above.",
        plots.plot_parallelism(frame),
        frame,
    )


def _sweeps(frame: pd.DataFrame) -> Iterator[Exhibit]:
    for source in in_order(frame["source"]):
        rows = frame[frame["source"] == source]
        yield Exhibit(
            f"sweep_{file_name(source)}",
            "sweep",
            f"Sweep: {source}",
            "Above the vector, below a random direction of the same length, on the source's own validation split. The "
            "ring marks the chosen cell.",
            f"Heat maps of layer by strength for the vector of {source} and for a random direction; the chosen cell "
            "stands in the table above.",
            plots.plot_sweep(rows, source=source),
            rows,
        )


def _cosines(frame: pd.DataFrame) -> Iterator[Exhibit]:
    yield Exhibit(
        "cosines",
        "geometry",
        "All pairs at one layer",
        "Cosine between mean difference vectors; the slider changes the layer.",
        "Heat map of cosines between the mean difference vectors of all tasks, one layer at a time.",
        plots.plot_cosine_matrix(frame),
        frame,
    )


def _projections(frame: pd.DataFrame) -> Iterator[Exhibit]:
    words = {
        "pca": (
            "Activations in one plane (PCA)",
            "Each thin arrow is a sample, from its zero-shot to its few-shot activation; bold arrows join the centres. "
            "The plane is fitted on all tasks at once and is linear, so parallel vectors look parallel as far as its "
            "two axes reach.",
        ),
        "umap": (
            "Neighbourhoods (UMAP)",
            "Hollow: zero-shot; filled: few-shot. UMAP keeps neighbours together and nothing else: directions, lengths "
            "and distances in this picture mean nothing. For parallelism, look at the cosines.",
        ),
    }
    for method in in_order(projection_methods(frame)):
        title, caption = words[method]
        rows = frame[projection_methods(frame) == method]
        layers = rows["layer"].unique()
        yield Exhibit(
            f"projection_{method}",
            "geometry",
            title if len(layers) > 1 else f"{title}, layer {layers[0]}",
            caption,
            f"Arrows from zero-shot to few-shot activations of {rows['task'].nunique()} tasks in two dimensions.",
            plots.plot_projection(rows, method=method),
            rows,
        )


def _alignment(frame: pd.DataFrame) -> Iterator[Exhibit]:
    yield Exhibit(
        "alignment",
        "geometry",
        "Single samples against means",
        "Solid: how far a task's samples point along their own task's mean (made without them). Dotted: along other "
        "tasks' means.",
        "Lines of mean cosine by layer, of each task's samples to its own mean and to the means of other tasks.",
        plots.plot_alignment(frame),
        frame,
    )


def _cohesion(frame: pd.DataFrame) -> Iterator[Exhibit]:
    yield Exhibit(
        "cohesion",
        "geometry",
        "Agreement within a task",
        "Mean cosine between the difference vectors of two samples of one task, with its 95 % interval. Samples that "
        "disagree make a mean that steers unreliably.",
        "Lines of mean pairwise cosine by layer, one a task, with intervals.",
        plots.plot_cohesion(frame),
        frame,
    )


def _entropy(frame: pd.DataFrame) -> Iterator[Exhibit]:
    yield Exhibit(
        "entropy",
        "geometry",
        "Matrix entropy",
        "Over how many directions the activations of a layer spread, with (solid) and without (dotted) examples in the "
        "prompt.",
        "Lines of matrix entropy by layer, one a task and prompt.",
        plots.plot_entropy(frame),
        frame,
    )
