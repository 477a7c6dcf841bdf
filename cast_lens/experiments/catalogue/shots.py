"""How many demonstrations should the few-shot side of the difference have?

The same queries follow 1, 2, 4, … demonstrations of one draw; each longer list contains the shorter ones. Geometry: how
far the vector turns from that of the longest list, compared with how far it would turn if other queries had been drawn;
how its norm grows; and how well its samples agree. Downstream: each vector at the layer of the run's own vector, with
its strength chosen on the source's validation split, because longer lists may give longer vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from ... import plots
from ...extraction import Extraction, difference_vectors, draw_samples
from ...geometry import cohesion
from ...interventions import Steering
from ...methods import Condition, steered
from ...tasks import Task, few_shot_prompts
from ...vectors import DifferenceVectors, SteeringVector
from .. import sentences
from ..cells import Cell
from ..choose_setting import best_strengths
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, gain_lines, once, pooled_table, side_by_side
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, increasing, settings_first
from ..stability import cosine_lines, mean_cosines, sampling_cosines, turns
from ..workspace import Workspace, fits

PLACEBO = "placebo: "


@dataclass(frozen=True, slots=True)
class Shots(Experiment):
    """How many demonstrations should the few-shot side have?

    Attributes:
        few_shots: how many demonstrations a prompt has, one or more numbers; prompts that do not fit the context are
            left out and named.
    """

    name = "shots"
    title = "Number of demonstrations"
    compared = (
        "Vectors of the same queries with lists of demonstrations of different lengths, each list containing the "
        "shorter ones, are compared on the same test queries. They are added at the layer of the run's own vector, "
        "each at its own strength from the source's validation split. Placebos are random directions of each "
        "vector's norm at its strength."
    )
    limits = (
        f"{sentences.LIMITS} One list of demonstrations was drawn per source: a longer list may do better because of "
        "the demonstrations that it adds rather than their number. The layer is that of the run's own number of "
        "demonstrations."
    )
    shown = ("steps", "methods", "turns")

    few_shots: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        increasing(self, "few_shots")

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """Short lists."""
        return {"few_shots": (1, 2, 4)}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings, vectors and strengths first; then geometry, one cell per source, and one cell per pair.

        Raises:
            ValueError: if a source's train split has too few examples for the samples and any of ``few_shots``.
        """
        for source in config.sources:
            if not enough(config, tasks[source], self.few_shots):
                raise ValueError(
                    f"few_shots={list(self.few_shots)}: the train split of {source!r} holds "
                    f"{len(tasks[source].train)} examples, too few beside samples={config.samples}; ask for fewer "
                    "samples"
                )
        cells = settings_first(config)
        cells += [Cell("vectors", source=source, prepares=True) for source in config.sources]
        cells += [Cell("geometry", source=source) for source in config.sources]
        return cells + [
            Cell("steered", target, source)
            for target in config.targets
            for source in config.sources
            if source != target
        ]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Chosen strengths, geometry of a source, or outcomes of a pair."""
        made = all_vectors(workspace, cell.source, self.few_shots)
        means = {k: one.mean() for k, one in made.items()}
        if cell.kind == "vectors":
            chosen = strengths(workspace, cell.source, means)
            return pd.DataFrame(chosen.items(), columns=["shots", "strength"])
        if cell.kind == "geometry":
            return geometry_rows(workspace, cell.source, made)
        return outcomes(workspace, cell, means)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What longer lists change.

        Returns:
            ``result``: one row per pair, number of demonstrations and metric; ``methods``: over all pairs; ``steps``:
            each number against the one before and against its placebo; ``geometry``: one row per source, number and
            layer; ``turns``: the same at the setting's layer, over sources.
        """
        found = once(rows.get("steered", pd.DataFrame()))
        geometry = rows.get("geometry", pd.DataFrame())
        names = list(dict.fromkeys(found["method"])) if len(found) else []
        order = sorted((name for name in names if name.startswith("cast")), key=parsed)
        comparisons = [*zip(order[1:], order, strict=False), *((name, PLACEBO + name) for name in order)]
        steered = found[found["method"] != BASELINE] if len(found) else found
        tables = {
            "result": contrast_table(found, tested=lambda name: name in order, **config.resampling),
            "methods": pooled_table(found, **config.resampling),
            "steps": side_by_side(steered, comparisons, seed=config.seed),
        }
        return {
            **{key: frame.assign(shots=[parsed(name) for name in frame["method"]]) for key, frame in tables.items()},
            "geometry": geometry,
            "turns": turned(geometry),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """How many steps to a longer list change the outcome; which lists were impossible."""
        steps, geometry = frames["steps"], frames["geometry"]
        rows = steps[steps["metric"] == "exact_match"]
        longer, placebos = (
            rows[rows["against"].astype(str).str.startswith("placebo") == placebo] for placebo in (False, True)
        )
        told = [
            sentences.tally(longer, "steps to a longer list", "in exact match"),
            sentences.tally(placebos, "vectors", "over random directions of their norm"),
        ]
        known = set(geometry.get("shots", ())) | set(steps["shots"])
        gone = [str(k) for k in self.few_shots if k not in known]
        left_out = f"Left out, beyond the train split or the context of every source: {', '.join(gone)}."
        return Findings(sentences.headline(told), (left_out,) if gone else ())

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Gain by number of demonstrations; cosine to the longest list by layer."""
        methods, geometry = frames["methods"], frames["geometry"]
        rows = methods[(methods["metric"] == "exact_match") & (methods["shots"] > 0)]
        if len(rows):
            frame = gain_lines(rows, rows["shots"], rows["method"].str.split(",").str[0])
            yield ReportFigure(
                "gain",
                "Gain by length of the list",
                "Gain in exact match over zero-shot over all pairs, with 95 % intervals over queries. Dotted: random "
                "directions of the same norms.",
                "Lines of the gain by number of demonstrations, of the vectors and of their placebos.",
                plots.plot_scaling(frame, x_title="demonstrations", y_title="gain, percentage points", share=False),
                frame,
            )
        if len(geometry):
            yield cosine_figure(geometry, config)


EXPERIMENT = Shots


def named(shots: int) -> str:
    """The name of the vector method with that many demonstrations."""
    return f"cast, k={shots}"


def parsed(method: str) -> int:
    """The number in a name; 0 without one."""
    number = method.rpartition("k=")[2]
    return int(number) if number.isdigit() else 0


def enough(config: RunConfig, task: Task, few_shots: tuple[int, ...]) -> list[int]:
    """Numbers of demonstrations that the train split has in addition to the samples."""
    found = []
    for shots in few_shots:
        try:
            draw_samples(task, Extraction(config.samples, shots, seed=config.seed))
        except ValueError:
            break
        found.append(shots)
    return found


def numbers(workspace: Workspace, source: str, few_shots: tuple[int, ...]) -> list[int]:
    """Numbers of demonstrations that the train split has and that fit the context."""
    config, task = workspace.config, workspace.tasks[source]
    possible = enough(config, task, few_shots)
    queries = draw_samples(task, replace(workspace.extraction(), shots=possible[-1]))
    pool = workspace.extraction().split
    return [
        k for k in possible if fits(workspace, few_shot_prompts(task, queries, shots=k, seed=config.seed, pool=pool))
    ]


def vectors(workspace: Workspace, source: str, shots: int, *, most: int) -> DifferenceVectors:
    """Difference vectors with that many demonstrations, of queries that are in none of the lists; saved."""
    path = workspace.directory.vectors(f"shots-{shots}-of-{most}.{source}")
    if path.is_file():
        return DifferenceVectors.load(path)
    task, how = workspace.tasks[source], replace(workspace.extraction(), shots=shots)
    queries = draw_samples(task, replace(how, shots=most))
    found = difference_vectors(workspace.model, task, how, examples=queries, progress=workspace.progress)
    found.save(path)
    return found


def all_vectors(workspace: Workspace, source: str, few_shots: tuple[int, ...]) -> dict[int, DifferenceVectors]:
    """Difference vectors by number of demonstrations."""
    possible = numbers(workspace, source, few_shots)
    return {k: vectors(workspace, source, k, most=possible[-1]) for k in possible}


def strengths(workspace: Workspace, source: str, means: dict[int, SteeringVector]) -> dict[int, float]:
    """The strength of each vector at the layer of the run's own."""
    setting = workspace.setting(source)

    def edit(vector: SteeringVector, strength: float, prompts: int) -> Steering:
        return replace(setting, strength=strength).edit(vector)

    edits = {named(k): partial(edit, vector) for k, vector in means.items()}
    return {parsed(name): s for name, s in best_strengths(workspace, source, edits, name="shots").items()}


def outcomes(workspace: Workspace, cell: Cell, means: dict[int, SteeringVector]) -> pd.DataFrame:
    """Zero-shot, every vector and its placebos on a target."""
    base = workspace.base(cell.target)
    chosen, setting = strengths(workspace, cell.source, means), workspace.setting(cell.source)
    conditions: list[Condition] = [base]
    for k, vector in means.items():
        place = replace(setting, strength=chosen[k])
        add = partial(steered, prompts=base.prompts, setting=place, source=cell.source)
        conditions.append(add(vector, method=named(k)))
        for number, noise in workspace.placebos(cell.source, vector):
            conditions.append(add(noise, method=PLACEBO + named(k), seed=number))
    return workspace.outcomes(conditions)


def geometry_rows(workspace: Workspace, source: str, made: dict[int, DifferenceVectors]) -> pd.DataFrame:
    """One row per number of demonstrations and layer."""
    config, most = workspace.config, max(made)
    last = made[most].mean().directions
    sampling = sampling_cosines(made[most], seed=config.seed)
    frames, before = [], None
    for k, one in made.items():
        mean = one.mean().directions
        agree = cohesion([one], **config.resampling)
        frames.append(
            agree[["layer", "pairwise_cosine", "low", "high", "separability", "n"]].assign(
                source=source,
                shots=k,
                most=most,
                cosine=mean_cosines(mean, last),
                step_cosine=float("nan") if before is None else mean_cosines(mean, before),
                sampling=sampling,
                norm=mean.double().norm(dim=-1).numpy(),
                residual_norm=one.zero_shot.double().norm(dim=-1).mean(dim=0).numpy(),
                at_setting=torch.tensor(one.layers).eq(workspace.setting(source).layer).numpy(),
            )
        )
        before = mean
    return pd.concat(frames, ignore_index=True)


def turned(geometry: pd.DataFrame) -> pd.DataFrame:
    """``stability.turns`` to the longest list, by number of demonstrations, with ``norm_ratio`` to its mean norm."""
    if geometry.empty:
        return pd.DataFrame()
    shorter = geometry["shots"] < geometry["most"]
    longest = geometry.loc[geometry["at_setting"] & ~shorter, "norm"].mean()
    norms = geometry[geometry["at_setting"] & shorter].groupby("shots")["norm"].mean()
    found = turns(geometry[shorter].sort_values("shots", kind="stable"), ("shots",))
    if found.empty:
        return found
    return found.drop(columns="further").assign(norm_ratio=found["shots"].map(norms) / longest)


def cosine_figure(geometry: pd.DataFrame, config: RunConfig) -> ReportFigure:
    """Cosine to the vector of the longest list, by layer."""
    rows = geometry[geometry["shots"] < geometry["most"]]
    rows = rows if len(rows) else geometry
    names = pd.Series([f"k = {shots}" for shots in rows["shots"]], index=rows.index)
    frame = cosine_lines(rows, names, samples=config.samples)
    return ReportFigure(
        "turning",
        "How far the vector turns",
        "Cosine to the vector of the longest list, mean and range over sources. Dotted: the cosine that another draw "
        "of samples would give. Vectors are means of n samples.",
        "Lines of cosine by layer, one per number of demonstrations, with the noise of sampling.",
        plots.plot_scaling(frame, x_title="layer", y_title="cosine to the longest list", share=False),
        frame,
    )
