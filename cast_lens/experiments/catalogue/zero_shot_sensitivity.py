"""How far do vectors turn when the zero-shot prompt is worded differently, and what happens downstream?

Five other wordings are tried, and the chat template if the tokenizer has one, each in two places: on the zero-shot side
of the difference alone (``zero-shot side``, the few-shot prompts stay as they are), and on both sides (``both sides``).
Downstream all vectors get the norms of the default one and are added at its layer and strength, so that only directions
differ: once under the default prompts of the target, once under the wording itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from ... import plots
from ...engine import capture
from ...extraction import draw_samples, shown_prompts
from ...methods import Condition, steered, zero_shot_condition
from ...placebos import matched
from ...tasks import Prompt, Task, zero_shot_prompts
from ...vectors import DifferenceVectors, SteeringVector
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, holm, pooled_table, side_by_side, with_verdicts
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, settings_first
from ..stability import cosine_lines, mean_cosines, sampling_cosines, turns
from ..workspace import Workspace, fits, test_examples

DEFAULT = "default"
SIDES = ("zero-shot side", "both sides")
PLACEBO = "placebo: random direction"


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to word prompts.

    Attributes:
        reword: the task with another template or instruction.
        chat: whether the chat template is turned on where it was off, and off where it was on.
    """

    reword: Callable[[Task], Task]
    chat: bool = False


def opened(definition: str) -> Callable[[Task], Task]:
    """The instruction opened in another way; tasks without one stay as they are."""

    def reword(task: Task) -> Task:
        used = definition if task.template.definition else ""
        return replace(task, template=replace(task.template, definition=used))

    return reword


def spaced(task: Task) -> Task:
    """Every line break between the parts of a query doubled."""
    body = task.template.body.replace("\n", "\n\n")
    return replace(task, template=replace(task.template, body=body))


def quoted(task: Task) -> Task:
    """Every part of a query in quotation marks, options left as they are."""
    body = re.sub(r"\{(?!options\})(\w+)\}", r'"{\1}"', task.template.body)
    return replace(task, template=replace(task.template, body=body))


WORDINGS: dict[str, Wording] = {
    "no instruction": Wording(lambda task: replace(task, instruction="")),
    "Task for Definition": Wording(opened("Task: {instruction}\n")),
    "instruction as a paragraph": Wording(opened("{instruction}\n\n")),
    "blank lines": Wording(spaced),
    "quotation marks": Wording(quoted),
    "chat template": Wording(lambda task: task, chat=True),
}


@dataclass(frozen=True, slots=True)
class ZeroShotSensitivity(Experiment):
    """How far do vectors turn when the zero-shot prompt is worded differently?"""

    name = "zero-shot-sensitivity"
    title = "Sensitivity to the zero-shot prompt"
    compared = (
        "Vectors of the same samples under other wordings are compared with the default vector. Geometry: their "
        "directions, and how far another draw of as many samples would turn the default vector. Downstream: their "
        "effect on targets at the default vector's norm, layer and strength, once under the default prompts and once "
        "under the wording itself, each against zero-shot under the same prompts. P-values are Holm-adjusted over "
        "the table of comparisons."
    )
    limits = (
        f"{sentences.LIMITS} A handful of wordings is not a sample of what people would write. Layer and strength "
        "were chosen for the default wording, so a loss elsewhere may be due to the setting. At equal norm nothing "
        "is seen of how wordings change a vector's length; the table of turns shows it."
    )
    shown = ("turns", "methods", "versus")

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings and vectors first; then geometry by source, and targets by the wording of their prompts."""
        cells = settings_first(config)
        cells += [Cell("vectors", source=source, prepares=True) for source in config.sources]
        cells += [Cell("geometry", source=source) for source in config.sources]
        for target in config.targets:
            cells.append(Cell("steered", target, variant=DEFAULT))
            cells += [Cell("steered", target, variant=name) for name in changing(tasks[target])]
        return cells

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Usable wordings, geometry of a source, or outcomes of a target under one wording of its prompts."""
        if cell.kind == "vectors":
            names = dict.fromkeys(wording for wording, _ in reworded(workspace, cell.source))
            return pd.DataFrame({"wording": list(names)})
        if cell.kind == "geometry":
            return geometry_rows(workspace, cell.source)
        if cell.variant != DEFAULT and not usable(workspace, [cell.variant]):
            return pd.DataFrame()
        config, target = workspace.config, worded(cell.variant, workspace.tasks[cell.target])
        base = zero_shot_condition(target, test_examples(config, target))
        chat = is_chat(workspace, cell.variant)
        if not fits(workspace, base.prompts):
            return pd.DataFrame()
        conditions = [base]
        for source in config.sources:
            if source != cell.target:
                conditions += steered_conditions(workspace, base, source, cell.variant)
        return workspace.outcomes(conditions, chat=chat).assign(prompt=cell.variant)

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What wordings change. Gains under a wording are over zero-shot under that wording.

        Returns:
            ``result``: one row per pair, prompt, vector and metric; ``methods``: over all pairs, for each wording of
            the prompts; ``versus``: each vector against the default one and the placebo, for each wording of the
            prompts; ``geometry``: see ``geometry_rows``; ``turns``: the same at the setting's layer, over sources.
        """
        found, geometry = rows.get("steered", pd.DataFrame()), rows.get("geometry", pd.DataFrame())
        names = [name for name in dict.fromkeys(found["method"]) if is_vector(name)] if len(found) else []
        comparisons = [(name, named(DEFAULT)) for name in names if name != named(DEFAULT)]
        comparisons += [(name, PLACEBO) for name in names]
        vectors = found[found["method"] != BASELINE] if len(found) else found
        return {
            "result": tested_together(by_prompt(found, contrast_table, tested=is_vector, **config.resampling)),
            "methods": by_prompt(found, pooled_table, **config.resampling),
            "versus": side_by_side(vectors, comparisons, within=("prompt",), seed=config.seed),
            "geometry": geometry,
            "turns": turned(geometry),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """How many vectors turn further than sampling noise, and how many differ downstream."""
        found, versus = frames["turns"], frames["versus"]
        told = []
        if len(found):
            further, total = int(found["further"].sum()), int(found["sources"].sum())
            told.append(
                f"{further} of {total} reworded vectors turn further than another draw of samples would turn them"
            )
        rows = versus[(versus["prompt"] == DEFAULT) & (versus["metric"] == "exact_match")]
        own = rows[rows["against"] == named(DEFAULT)]
        told.append(sentences.tally(own, "reworded vectors, against the default one in exact match,"))
        return Findings(sentences.headline(told))

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """Cosine by layer, and gains under the default prompts."""
        methods, geometry = frames["methods"], frames["geometry"]
        if len(geometry):
            yield from (cosine_figure(geometry, side, config) for side in SIDES)
        rows = methods[methods["prompt"] == DEFAULT]
        if len(rows):
            yield ReportFigure(
                "vectors",
                "Vectors of other wordings on the default prompts",
                "Mean gain over zero-shot over all pairs at one norm, layer and strength, with 95 % intervals over "
                "queries.",
                "Forest plot of the gain under the default vector, those of other wordings, and a placebo.",
                plots.plot_methods(rows, sort=False),
                rows,
            )


EXPERIMENT = ZeroShotSensitivity


def named(name: str, side: str = "") -> str:
    """The method of a vector: wording, and the side of the difference that is worded so."""
    return f"{name}, {side}" if side else f"{name} vector"


def changing(task: Task) -> list[str]:
    """Wordings that change a task's prompts: one without an instruction cannot lose it."""
    example = (task.train or task.test)[:1]
    plain = zero_shot_prompts(task, example)
    return [
        name
        for name, wording in WORDINGS.items()
        if wording.chat or zero_shot_prompts(wording.reword(task), example) != plain
    ]


def usable(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """Wordings that the tokenizer has; the chat template may be missing."""
    tokenizer: Any = workspace.model.tokenizer
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    return [name for name in names if has_chat or not WORDINGS[name].chat]


def is_chat(workspace: Workspace, wording: str) -> bool:
    """Whether the chat template is on under a wording."""
    return workspace.config.chat != (wording != DEFAULT and WORDINGS[wording].chat)


def worded(wording: str, task: Task) -> Task:
    """The task under a wording."""
    return task if wording == DEFAULT else WORDINGS[wording].reword(task)


def residuals(workspace: Workspace, source: str, wording: str) -> DifferenceVectors:
    """Both sides of the difference under a wording, of the run's own samples; kept on disk."""
    if wording == DEFAULT:
        return workspace.differences(source)
    slug = re.sub(r"\W+", "-", wording).strip("-")
    path = workspace.directory.vectors(f"wording-{slug}.{source}")
    if path.is_file():
        return DifferenceVectors.load(path)
    how = replace(workspace.extraction(), chat=is_chat(workspace, wording))
    plain, task = workspace.differences(source), worded(wording, workspace.tasks[source])
    queries = draw_samples(workspace.tasks[source], how)
    prompts: list[Prompt] = [*shown_prompts(workspace.model, task, queries, how), *zero_shot_prompts(task, queries)]
    states = capture(workspace.model, prompts, chat=how.chat, progress=workspace.progress)
    about = replace(plain.provenance, chat=how.chat, note=f"prompts worded otherwise: {wording}")
    n = len(queries)
    found = DifferenceVectors(states[:n], states[n:], plain.layers, plain.sample_ids, about)
    found.save(path)
    return found


def reworded(workspace: Workspace, source: str) -> dict[tuple[str, str], DifferenceVectors]:
    """Difference vectors by wording and by the side that is worded otherwise; the default is not among them."""
    plain, found = workspace.differences(source), {}
    for wording in usable(workspace, changing(workspace.tasks[source])):
        both = residuals(workspace, source, wording)
        found[wording, SIDES[0]] = replace(both, few_shot=plain.few_shot)
        found[wording, SIDES[1]] = both
    return found


def steered_conditions(workspace: Workspace, base: Condition, source: str, prompt: str) -> list[Condition]:
    """The default vector, those of all wordings (or of the prompt's own), and placebos, all at one norm and setting."""
    config, setting = workspace.config, workspace.setting(source)
    default = workspace.differences(source).mean()
    tried: list[tuple[str, SteeringVector, int]] = [(named(DEFAULT), default, config.seed)]
    for (wording, side), found in reworded(workspace, source).items():
        if prompt in (DEFAULT, wording):
            tried.append((named(wording, side), matched(found.mean(), like=default), config.seed))
    tried += [(PLACEBO, noise, number) for number, noise in workspace.placebos(source, default)]
    return [
        steered(vector, base.prompts, setting, source=source, method=method, seed=seed)
        for method, vector, seed in tried
    ]


def geometry_rows(workspace: Workspace, source: str) -> pd.DataFrame:
    """One row per wording, side and layer: cosine to the default vector, and to another draw of samples."""
    plain, layer = workspace.differences(source), workspace.setting(source).layer
    default, sampling = plain.mean().directions, sampling_cosines(plain, seed=workspace.config.seed)
    frames = []
    for (wording, side), found in reworded(workspace, source).items():
        mean = found.mean().directions
        frames.append(
            pd.DataFrame(
                {
                    "source": source,
                    "wording": wording,
                    "side": side,
                    "layer": plain.layers,
                    "cosine": mean_cosines(mean, default),
                    "norm_ratio": (mean.double().norm(dim=-1) / default.double().norm(dim=-1)).numpy(),
                    "sampling": sampling,
                    "own_sampling": sampling_cosines(found, seed=workspace.config.seed),
                    "at_setting": torch.tensor(plain.layers).eq(layer).numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def by_prompt(found: pd.DataFrame, table: Callable[..., pd.DataFrame], **options: Any) -> pd.DataFrame:
    """The tables of all wordings of the prompts, concatenated."""
    parts = [(name, part) for name, part in found.groupby("prompt", sort=False)] if len(found) else []
    made = [table(part, **options).assign(prompt=name) for name, part in parts]
    return pd.concat(made, ignore_index=True) if made else table(found, **options).assign(prompt=pd.Series(dtype=str))


def tested_together(result: pd.DataFrame) -> pd.DataFrame:
    """p-values corrected over all wordings at once."""
    wanted = result["p_value"].where(result["method"].map(is_vector).astype(bool))
    adjusted = holm(result.assign(p_value=wanted))
    return with_verdicts(adjusted.assign(p_value=result["p_value"]), of="gain")


def is_vector(method: object) -> bool:
    """Vectors that are not placebos."""
    return method not in (BASELINE, PLACEBO)


def turned(geometry: pd.DataFrame) -> pd.DataFrame:
    """``stability.turns`` to the default vector, by side and wording, with the mean ``norm_ratio``."""
    if geometry.empty:
        return pd.DataFrame()
    norms = geometry[geometry["at_setting"]].groupby(["side", "wording"], sort=False)["norm_ratio"].mean()
    found = turns(geometry, ("side", "wording")).drop(columns="no_further", errors="ignore")
    return found.assign(norm_ratio=norms.to_numpy())


def cosine_figure(geometry: pd.DataFrame, side: str, config: RunConfig) -> ReportFigure:
    """Cosine to the default vector, by layer."""
    rows = geometry[geometry["side"] == side]
    frame = cosine_lines(rows, rows["wording"], samples=config.samples)
    return ReportFigure(
        f"turning_{side.replace(' ', '_').replace('-', '_')}",
        f"How far the vector turns: {side}",
        "Cosine to the default vector, mean and range over sources. Dotted: the cosine that another draw of samples "
        "would give. Vectors are means of n samples.",
        f"Lines of cosine by layer, one for each wording of the {side}, with the noise of sampling.",
        plots.plot_scaling(frame, x_title="layer", y_title="cosine to the default vector", share=False),
        frame,
    )
