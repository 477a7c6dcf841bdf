"""The main experiment: difference vectors, their parallelism, where steering works, and its effect on every target.

Each source's contrastive mean is added at the layer and strength that the run's rule chooses for each target without
reading the target's labels; the rule may also decide not to steer, and the outcome is then the unsteered answer. On
every target the vector is compared, query by query, with zero-shot, with demonstrations of the target and of the
source, with random directions of the same norm, and with the vector of demonstrations whose answers were shuffled. Both
placebos go through the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ... import plots
from ...backends import BACKENDS, Backend, check_backend, open_backend
from ...geometry import alignment, cohesion, cosine_matrix, entropy_by_layer, parallelism, project_layers
from ...methods import (
    FIELD_METHODS,
    FIXED,
    RETRIEVALS,
    RULES,
    VECTOR_METHODS,
    AnyCondition,
    Condition,
    Setting,
    cross_task_condition,
    few_shot_condition,
    retrieved_condition,
)
from ...plots.clouds import projection_methods
from ...plots.layout import in_order
from ...vectors import DifferenceVectors
from .. import sentences
from ..cells import Cell
from ..choose_setting import CAST, RANDOM, choice_for, swept_placebo
from ..config import RunConfig, preset_sentences
from ..field_methods import check_methods, chosen, named_conditions, preparing_cells
from ..macro_f1 import f1_tables
from ..outcomes import contrast_table, pooled_table, split_rows
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, at_least_one, settings_first
from ..transfer_matrix import is_finding, with_families
from ..workspace import Workspace, named_values, test_examples

METHODS = ("cast", "placebo: shuffled labels", "placebo: random direction")
RETRIEVED = "retrieved few-shot"
CONDITIONS = ("zero-shot", *METHODS, "cross-task few-shot", RETRIEVED, "few-shot")
"In reading order: the effect of the vector, of placebos, and of demonstrations."
CHOICES = ("target", "source", "method", "number", "decision", "layer", "strength", "rule", "score", "reason")
METRIC, MACRO_F1 = "exact_match", "macro_f1"
LEADING = (METRIC, "choice_correct", MACRO_F1)
"""Outcomes that a report may lead with."""
PAIRWISE = ("parallelism", "cosines")
GEOMETRY = (*PAIRWISE, "alignment", "cohesion", "entropy", "projection")
"Tables about the geometry of the difference vectors; each is one cell."
# How many layers are projected for figures: enough for a slider, few enough for a page.
PROJECTED_LAYERS = 8
# UMAP needs more points than neighbours; with fewer points its picture would be meaningless.
UMAP_POINTS = 40


@dataclass(frozen=True, slots=True)
class Transfer(Experiment):
    """Do the vectors of tasks point the same way, and does one task's vector help another task?

    Attributes:
        umap: draw a UMAP projection beside the PCA; compiling UMAP takes half a minute.
        retrieval: how the source items of a vector are picked for each unlabelled query of the target: ``random``,
            ``top-k`` or ``dpp``; ``none`` draws them once per source. Needs a rule that reads no query, such as
            ``middle-layers``.
        queries: for how many unlabelled queries of a target items are retrieved, at most.
        metric: which outcome is listed first in the report: ``exact_match``, ``choice_correct`` or ``macro_f1``.
        methods: further methods to compare, keys of ``methods.STEERING_METHODS``, each at the setting that its source's
            validation split chose.
        backend: which engine answers the test queries of the targets: engine, hooks, easysteer or vllm-lens. Vectors
            and settings always come from the built-in engine.
        backend_arguments: arguments of ``vllm.LLM``, as ``name=value`` pairs such as ``tensor_parallel_size=4``; its
            own defaults if empty.
    """

    name = "transfer"
    title = "Transfer between tasks"
    compared = (
        "All conditions answered the same test queries of a target. The run's rule chose layer and strength for each "
        "pair, or decided not to steer; it read no label of the target. Where the rule stands aside, the outcome is "
        "the unsteered answer. Placebos have the same norm as the vector and go through the same rule: random "
        "directions, one per source and draw, and the vector of demonstrations with shuffled answers. Under rule "
        "`own` they use the setting of the vector that they are compared with."
    )
    limits = (
        f"{sentences.LIMITS} A high cosine between the vectors of two tasks does not mean that one helps the other, "
        "and a gain does not show that knowledge was transferred: compare format and choice, and the placebos."
    )
    shown = ("methods", "pairs", "choices", "split", "settings")

    umap: bool = True
    retrieval: str = "none"
    queries: int = 200
    metric: str = "exact_match"
    methods: tuple[str, ...] = ()
    backend: str = "engine"
    backend_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least_one(self, "queries")
        check_methods("methods", self.methods)
        if twice := [name for name in self.methods if name in METHODS]:
            raise ValueError(f"methods={twice} are in every main job; name others")
        for name, known in (("retrieval", ("none", *RETRIEVALS)), ("metric", LEADING), ("backend", BACKENDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; choose from {', '.join(known)}")
        named_values(self.backend_arguments, "backend_arguments")
        if self.methods and self.backend not in ("engine", "hooks"):
            raise ValueError(
                f"methods={list(self.methods)} edit in ways that {self.backend} cannot; give --backend engine"
            )

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """No UMAP, and few queries to retrieve for."""
        return {"umap": False, "queries": 10}

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Vectors and settings first; then the geometry, the sweeps with their placebo, and the targets.

        A rule that reads no query needs no sweep.

        Raises:
            ValueError: if retrieval is combined with a rule that measures vectors before the target is known, or a
                backend is not installed or cannot steer in this way.
        """
        check_backend(self.backend, operator=config.operator, position=config.position, strengths=config.strengths)
        fixed = config.rule in FIXED
        if self.retrieval != "none" and not fixed:
            raise ValueError(
                f"retrieval={self.retrieval!r} makes a vector for each target, and rule={config.rule!r} compares "
                f"vectors on several tasks; give --rule {', '.join(FIXED)} or --retrieval none"
            )
        cells = [Cell("vectors", source=name, prepares=True) for name in tasks]
        cells += [] if fixed else settings_first(config)
        needs_cast = fixed and any(name.startswith("placebo") for name in self.methods)
        cells += preparing_cells(config, [*((CAST,) if needs_cast else ()), *self.methods])
        cells += [Cell(name) for name in GEOMETRY if len(tasks) > 1 or name not in PAIRWISE]
        cells += [] if fixed else [Cell("sweep", source=source) for source in config.sources]
        cells += [Cell("choices", target) for target in config.targets]
        return cells + [Cell("outcomes", target) for target in config.targets]

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Rows of one cell: a table of the geometry, a sweep, or the outcomes on a target."""
        if cell.kind == "vectors":
            return saved_vectors(workspace, cell.source)
        if cell.kind == "fit":
            return chosen(workspace, cell.source, FIELD_METHODS[cell.variant])
        if cell.kind == "sweep":
            return swept_placebo(workspace, cell.source)
        if cell.kind == "outcomes":
            return target_outcomes(workspace, cell.target, self)
        if cell.kind == "choices":
            return choices(workspace, cell.target)
        return geometry(workspace, cell.kind, umap=self.umap)

    def opened(self, workspace: Workspace) -> Backend | None:
        """The backend that answers the test queries; None for the engine, which answers all conditions in one pass."""
        if self.backend == "engine":
            return None
        config, arguments = workspace.config, named_values(self.backend_arguments, "backend_arguments")
        return open_backend(
            self.backend,
            workspace.model,
            served=config.model,
            dtype=config.dtype,
            operator=config.operator,
            arguments=arguments,
        )

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """The tables of a run.

        Returns:
            ``result``: one row per pair, condition and metric; ``pairs``: the same with the conditions side by side;
            ``methods``: over all pairs; ``choices``: where each pair is steered, or that it stands aside; ``split``:
            format and choice; ``sweep`` and ``settings``: the sweeps on the sources and their best cells; and the
            tables of ``GEOMETRY``.
        """
        outcomes = rows.get("outcomes", pd.DataFrame())
        sweep = rows.get("sweep", pd.DataFrame())
        result = contrast_table(outcomes, tested=is_finding, **config.resampling)
        methods = pooled_table(outcomes, **config.resampling)
        if self.metric == MACRO_F1:
            by_pair, pooled = f1_tables(outcomes, tested=is_finding, **config.resampling)
            result, methods = _under(result, by_pair), _under(methods, pooled)
        result, methods = (_leading(frame, self.metric) for frame in (with_families(result, tasks), methods))
        return {
            "result": result,
            "pairs": side_by_side_pairs(result),
            "methods": methods,
            "choices": rows.get("choices", pd.DataFrame(columns=list(CHOICES))),
            "split": split_rows(outcomes, wanted=lambda name: name.startswith(("cast", "placebo"))),
            "sweep": sweep,
            "settings": chosen_cells(sweep),
            **{name: rows[name] for name in GEOMETRY if name in rows},
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The mean gain, its placebo, its parts; tasks without a split."""
        lead = self.metric if (frames["methods"]["metric"] == self.metric).any() else METRIC
        parts = [
            sentences.transfer(frames["methods"], frames["result"], metric=lead),
            "" if lead == METRIC else sentences.headline([sentences.gain(frames["methods"], CAST)]),
            aside_sentence(frames.get("choices", pd.DataFrame(columns=list(CHOICES))), config),
            split_sentence(frames["split"]),
        ]
        answered = in_order(frames["result"]["target"]) if len(frames["result"]) else []
        free = [name for name in answered if name not in set(frames["split"]["target"])]
        told = f"Free answers have no set of admissible answers, so {sentences.listed(free)} "
        left_out = (f"{told}{'is' if len(free) == 1 else 'are'} not split.",) if free else ()
        return Findings(" ".join(part for part in parts if part), left_out)

    def notes(self, config: RunConfig) -> tuple[str, ...]:
        """The preset, how samples were retrieved, and what macro-F1 is."""
        told = preset_sentences(config.preset, {**config.to_dict(), **self.options()})
        if self.retrieval != "none":
            told.append(
                f"For each of up to {self.queries} unlabelled queries of a target, {config.shots + 1} items of the "
                f"source are picked by {self.retrieval}: one is asked, the others are its demonstrations, and the mean "
                "over these queries is the vector that the target is steered with."
            )
        if self.methods:
            told.append(
                f"Further methods ({sentences.listed(self.methods)}) take layer and strength from the validation split "
                "of their source, or those of cast there where they are placebos; the run's rule is not asked."
            )
        if self.metric == MACRO_F1:
            told.append(
                "Macro-F1 is the mean over classes of F1 of the admissible answer that the model prefers; its interval "
                "comes from resampled queries, its test from exchanging the two answers to a query, and its p-values "
                "are corrected after Holm among themselves."
            )
        return tuple(told)

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Matrix, forest and split of the outcomes; sweeps; geometry."""
        yield from outcome_figures(frames, self.metric)
        for source in in_order(frames["sweep"]["source"]) if len(frames["sweep"]) else []:
            yield sweep_figure(frames["sweep"], source)
        yield from geometry_figures(frames)


EXPERIMENT = Transfer


def saved_vectors(workspace: Workspace, name: str) -> pd.DataFrame:
    """Save the difference vectors of a task; for a source also those of shuffled answers, and its steering vector."""
    found = workspace.differences(name)
    if name in workspace.config.sources:
        workspace.differences(name, "shuffled labels")
        workspace.vector(name).save(workspace.directory.vectors(f"steering.{name}"))
    return pd.DataFrame({"task": [name], "samples": [len(found)]})


def target_outcomes(workspace: Workspace, target: str, options: Transfer) -> pd.DataFrame:
    """Outcomes of all conditions on a target, on the same examples."""
    config, task, base = workspace.config, workspace.tasks[target], workspace.base(target)
    examples = test_examples(config, task)
    conditions: list[AnyCondition] = [base, few_shot_condition(task, examples, shots=config.shots, seed=config.seed)]
    conditions += [
        cross_task_condition(workspace.tasks[source], task, examples, shots=config.shots, seed=config.seed)
        for source in config.sources
        if source != target
    ]
    if options.retrieval == "top-k":
        conditions += [
            retrieved_condition(
                workspace.tasks[source], task, examples, shots=config.shots, embed=workspace.embed, seed=config.seed
            )
            for source in config.sources
            if source != target
        ]
    conditions += chosen_conditions(workspace, base, METHODS, options.retrieval, options.queries)
    conditions += named_conditions(workspace, base, options.methods)
    return workspace.outcomes(conditions, texts=True, backend=options.opened(workspace))


def chosen_conditions(
    workspace: Workspace, base: Condition, methods: Sequence[str], retrieval: str = "none", queries: int = 0
) -> list[Condition]:
    """Every source's vectors and placebos on the prompts of a target, each at the setting that the run's rule chooses.

    If the rule stands aside, the condition has no intervention. Under rule ``own``, placebos use the setting of
    ``cast``. With retrieval, the vectors are computed for this target.
    """
    target, found = base.prompts[0].task, []
    for source in workspace.config.sources:
        for name in methods:
            method = VECTOR_METHODS[name]
            for number in range(workspace.config.placebos if name == RANDOM else 1):
                choice = choice_for(workspace, source, target, method=name, number=number)
                if choice.setting is None:
                    shown = method.name_on(source=source, target=target)
                    found.append(Condition(shown, base.prompts, source=source, seed=number))
                else:
                    made = workspace.source(source, number=number)
                    if retrieval != "none":
                        made = workspace.retrieved(source, target, number=number, how=retrieval, queries=queries)
                    vector = method.fit(made)
                    found.append(method.condition(vector, base.prompts, choice.setting, source=source, seed=number))
    return found


def choices(workspace: Workspace, target: str) -> pd.DataFrame:
    """The setting at which each other source's vector and placebos steer a target, or that the rule stands aside."""
    rows = []
    for source in workspace.config.sources:
        for method in METHODS if source != target else ():
            for number in range(workspace.config.placebos if method == RANDOM else 1):
                choice = choice_for(workspace, source, target, method=method, number=number)
                at = choice.setting or Setting(-1, 0.0)
                named = (target, source, method, number, "steers" if choice.steers else "stands aside")
                rows.append((*named, at.layer, at.strength, choice.rule, choice.score, choice.reason))
    return pd.DataFrame(rows, columns=list(CHOICES))


def aside_sentence(choices: pd.DataFrame, config: RunConfig) -> str:
    """How often the rule stood aside, for vectors and for placebos; empty for a rule that never does."""
    if choices.empty or not RULES[config.rule].aside:
        return ""
    aside = choices["decision"] == "stands aside"
    counts = [
        (int(aside[rows].sum()), int(rows.sum())) for rows in (choices["method"] == CAST, choices["method"] != CAST)
    ]
    (own, pairs), (theirs, placebos) = counts
    return (
        f"Rule {config.rule} ({RULES[config.rule].about}) stands aside for {own} of {pairs} pairs; for placebos in "
        f"{theirs} of {placebos} cases."
    )


def _under(frame: pd.DataFrame, more: pd.DataFrame) -> pd.DataFrame:
    """The frame with further rows; a frame without rows adds neither rows nor columns."""
    return pd.concat([frame, more], ignore_index=True) if len(frame) and len(more) else frame


def _leading(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The frame with the rows of the leading metric first."""
    if metric == METRIC or "metric" not in frame:
        return frame
    return frame.sort_values("metric", key=lambda names: names != metric, kind="stable", ignore_index=True)


def side_by_side_pairs(result: pd.DataFrame) -> pd.DataFrame:
    """One row per target, source and metric with the values of all conditions, and the vector's gain and verdict.

    Returns:
        ``target, source, metric, n``, the value of each condition (own vectors in the columns of the others), and
        ``gain, gain_low, gain_high, p_adjusted, verdict`` of the vector.
    """
    named = result.assign(method=[str(name).removesuffix(" (own vector)") for name in result["method"]])
    keys = ["target", "metric", "method", "source"]
    values = dict(zip(named[keys].itertuples(index=False, name=None), named["value"], strict=True))
    rows, retrieved = [], bool((named["method"] == RETRIEVED).any())
    for row in named[named["method"] == "cast"].to_dict("records"):
        about = {name: row[name] for name in ("target", "source", "metric", "n")}
        for method in CONDITIONS:
            if method == RETRIEVED and not retrieved:
                continue
            place = (row["target"], row["metric"], method)
            about[method] = values.get((*place, row["source"]), values.get((*place, ""), float("nan")))
        gain = ("gain", "gain_low", "gain_high", "p_adjusted", "verdict")
        rows.append(about | {name: row[name] for name in gain})
    return pd.DataFrame(rows)


def chosen_cells(sweep: pd.DataFrame) -> pd.DataFrame:
    """The chosen layer and strength of each source, and its validation results there.

    Returns:
        ``source, layer, strength, n``, and ``first_match`` and ``exact_match`` of the vector with those of the
        unsteered model (``_unsteered``) and, where it was swept, of the random direction (``_placebo``).
    """
    found = []
    for source, part in sweep.groupby("source", sort=False) if len(sweep) else []:
        chosen = part[part["chosen"].astype(bool)].iloc[0]
        here = part[(part["layer"] == chosen["layer"]) & (part["strength"] == chosen["strength"])]
        base, noise = part[part["kind"] == "unsteered"], here[here["kind"].str.startswith("placebo")]
        row = {"source": source, **chosen[["layer", "strength", "n"]].to_dict()}
        for metric in ("first_match", "exact_match"):
            row |= {metric: chosen[metric], f"{metric}_unsteered": base[metric].mean()}
        found.append({**row, "first_match_placebo": noise["first_match"].mean()})
    return pd.DataFrame(found)


def split_sentence(split: pd.DataFrame) -> str:
    """How the mean gain splits into format and choice; empty without a split."""
    for method in ("cast", "cast (own vector)"):
        rows = split[split["method"] == method]
        if len(rows):
            total, form, choice = (rows[part].mean() for part in ("total", "format", "choice"))
            above, below = int((rows["choice_low"] > 0).sum()), int((rows["choice_high"] < 0).sum())
            return (
                f"Where answers have an admissible set, {sentences.points(form)} of {sentences.points(total)} points "
                f"are format and {sentences.points(choice)} choice; the interval of the choice part is above zero for "
                f"{above} and below for {below} of {len(rows)} pairs."
            )
    return ""


def geometry(workspace: Workspace, part: str, *, umap: bool) -> pd.DataFrame:
    """One table about the geometry of the difference vectors of all tasks."""
    config = workspace.config
    differences = [workspace.differences(name) for name in workspace.tasks]
    layers = projected_layers(differences[0].layers)
    if part == "parallelism":
        family = {name: task.family for name, task in workspace.tasks.items()}
        found = parallelism(differences, **config.resampling)
        return found.assign(family_a=found["task_a"].map(family), family_b=found["task_b"].map(family))
    if part == "cosines":
        matrices = [cosine_matrix(differences, layer) for layer in layers]
        return pd.concat(matrices, ignore_index=True)
    if part == "projection":
        return projection(workspace, differences, layers, umap=umap)
    if part == "entropy":
        return entropy_by_layer(differences)
    return {"alignment": alignment, "cohesion": cohesion}[part](differences, **config.resampling)


def projected_layers(layers: Sequence[int], count: int = PROJECTED_LAYERS) -> tuple[int, ...]:
    """Evenly spaced layers, the last one included."""
    if len(layers) <= count:
        return tuple(layers)
    step = (len(layers) - 1) / (count - 1)
    return tuple(layers[round(index * step)] for index in range(count))


def projection(
    workspace: Workspace, differences: Sequence[DifferenceVectors], layers: Sequence[int], *, umap: bool
) -> pd.DataFrame:
    """Samples in two dimensions, with their texts."""
    seed = workspace.config.seed
    frames = [project_layers(differences, layers=layers, seed=seed)]
    if umap and sum(len(one) for one in differences) >= UMAP_POINTS:
        middle = layers[len(layers) // 2]
        frames.append(project_layers(differences, layers=(middle,), method="umap", seed=seed))
    found = pd.concat(frames, ignore_index=True)
    text = {(name, example.id): example.input for name, task in workspace.tasks.items() for example in task.train}
    keys = zip(found["task"], found["sample_id"], strict=True)
    return found.assign(text=[text.get(key, "") for key in keys])


def outcome_figures(frames: Frames, lead: str = METRIC) -> Iterator[ReportFigure]:
    """Figures of the outcomes on the targets, beginning with the leading metric."""
    result, split = frames["result"], frames["split"]
    steered = result[result["method"].astype(str).str.startswith("cast")]
    if len(steered):
        yield ReportFigure(
            "matrix",
            "What one task's vector does to another task",
            "Change from zero-shot in percentage points, bold where the corrected p-value is below 0.05. Exact "
            "match: the answer is right. Label validity: the answer is admissible. Label-restricted accuracy: the "
            "right answer is preferred when only admissible answers are compared. A gain in the first two without a "
            "gain in the third means that the vector improves the format, not the choice. Blank: free answers.",
            "Heat maps of targets by sources, one per outcome; the tables below list every number.",
            plots.plot_transfer_matrix(result, metrics=sentences.metrics(steered, lead), method="cast"),
            steered,
        )
    lead = lead if (result["metric"] == lead).any() else METRIC
    if (result["metric"] == lead).any():
        yield ReportFigure(
            "gain",
            "Every condition against zero-shot",
            f"Gain in {sentences.NAMES[lead]} over zero-shot with its 95 % interval. Hollow grey marks are placebos. "
            "If a random direction gains as much as the vector, the vector's direction did not matter; if the vector "
            "from shuffled answers does, the right answers in the examples did not.",
            "Forest plot of gains per target, source and condition, including placebos.",
            plots.plot_gain(result, metric=lead),
            result[result["metric"] == lead],
        )
    if split["method"].astype(str).str.startswith("cast").any():
        yield ReportFigure(
            "split",
            "Format and choice",
            "Each bar is a gain in exact match, split into two parts that add up to it: more answers are admissible "
            "(format), and more of the admissible answers are right (choice). Lines are 95 % intervals.",
            "Stacked bars of the format part and the choice part of each gain in exact match, with intervals.",
            plots.plot_split(split, method="cast"),
            split,
        )


def sweep_figure(sweep: pd.DataFrame, source: str) -> ReportFigure:
    """Layers and strengths of one source."""
    rows = sweep[sweep["source"] == source]
    return ReportFigure(
        f"sweep_{source}",
        f"Sweep: {source}",
        "The vector (top) and a random direction of the same norm (bottom), on the source's own validation split. "
        "The ring marks the chosen cell.",
        f"Heat maps of layer by strength for the vector of {source} and for a random direction.",
        plots.plot_sweep(rows, source=source),
        rows,
    )


PICTURES = {
    "parallelism": (
        "Cosine between the mean difference vectors of two tasks",
        "One line per pair of tasks, with its 95 % interval. Top: two tasks of the same family (the same kind of "
        "answer). Bottom: tasks of different families. Grey: random directions, and differences between random "
        "zero-shot prompts.",
        "Lines of cosine by layer, one per pair of tasks.",
        plots.plot_parallelism,
    ),
    "cosines": (
        "All pairs at one layer",
        "Cosine between mean difference vectors; the slider changes the layer.",
        "Heat map of cosines between the mean difference vectors of all tasks, one layer at a time.",
        plots.plot_cosine_matrix,
    ),
    "alignment": (
        "Do samples point along their own task's mean?",
        "Solid: how well a task's samples align with their own task's mean (computed without the sample). Dotted: "
        "with other tasks' means.",
        "Lines of mean cosine by layer, of each task's samples to its own mean and to the means of other tasks.",
        plots.plot_alignment,
    ),
    "cohesion": (
        "Agreement within a task",
        "Mean cosine between the difference vectors of two samples of one task, with its 95 % interval. Where "
        "samples disagree, their mean steers unreliably.",
        "Lines of mean pairwise cosine by layer, one per task, with intervals.",
        plots.plot_cohesion,
    ),
    "entropy": (
        "Matrix entropy",
        "How many directions the activations of a layer spread over, with (solid) and without (dotted) examples in "
        "the prompt.",
        "Lines of matrix entropy by layer, one per task and prompt.",
        plots.plot_entropy,
    ),
}
CLOUDS = {
    "pca": (
        "Activations in one plane (PCA)",
        "Each thin arrow is a sample, from its zero-shot to its few-shot activation; bold arrows join the centroids. "
        "The plane is fitted to all tasks at once. It is linear, so parallel vectors appear parallel as far as they "
        "lie in it.",
    ),
    "umap": (
        "Neighbourhoods (UMAP)",
        "Hollow: zero-shot; filled: few-shot. UMAP preserves neighbourhoods and nothing else: directions, lengths "
        "and distances in this picture have no meaning. To judge parallelism, look at the cosines.",
    ),
}


AT_ONE_LAYER = ("parallelism", "cosines")
"""Pictures with a slider over layers."""


def _chosen_layer(frames: Frames, rows: pd.DataFrame) -> int | None:
    """The layer at which most sources steer, if the frame has it: the first one that a slider shows."""
    if "settings" not in frames or frames["settings"].empty:
        return None
    layer = int(frames["settings"]["layer"].mode().iloc[0])
    return layer if bool((rows["layer"] == layer).any()) else None


def geometry_figures(frames: Frames) -> Iterator[ReportFigure]:
    """Figures of the geometry of the difference vectors."""
    for name, (title, caption, alt, plot) in PICTURES.items():
        if name in frames and len(frames[name]):
            first = {"layer": _chosen_layer(frames, frames[name])} if name in AT_ONE_LAYER else {}
            yield ReportFigure(name, title, caption, alt, plot(frames[name], **first), frames[name])
    if "projection" not in frames:
        return
    frame = frames["projection"]
    for method in in_order(projection_methods(frame)):
        title, caption = CLOUDS[method]
        rows = frame[projection_methods(frame) == method]
        alt = f"Arrows from zero-shot to few-shot activations of {rows['task'].nunique()} tasks in two dimensions."
        figure = plots.plot_projection(rows, method=method, layer=_chosen_layer(frames, rows))
        yield ReportFigure(f"projection_{method}", title, caption, alt, figure, rows)
