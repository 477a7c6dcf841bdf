"""Does a vector taken in one language help in another?

Each source task in its own language (English by default) steers the same task in the other languages, and vice versa.
Instruction, cues and labels are always in the target's language. Each transferred vector is compared with the target
language's own vector, with demonstrations in the source's language, and with two placebos. Parallel items keep their id
and their split in every language, so that no vector is taken from a translation of its test items; this is checked
before any work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ... import plots
from ...methods import Condition, cross_task_condition, few_shot_condition, language_vector, steered
from ...placebos import matched
from ...tasks import Task, normalise_answer
from ...tasks.formats import discover
from ...tasks.loading import canonical
from ...tasks.starter import starter_names
from ...tasks.types import is_language
from .. import sentences
from ..cells import Cell
from ..config import RunConfig
from ..outcomes import BASELINE, contrast_table, once, pooled_table, side_by_side
from ..protocol import Experiment, Findings, Frames, ReportFigure, Rows, Tasks, joined
from ..stability import cosine_lines, mean_cosines, sampling_cosines
from ..workspace import Workspace, fits, test_examples


@dataclass(frozen=True, slots=True)
class Family:
    """One task in several languages.

    Attributes:
        base: its name without a language.
        home: the language of the configured source.
        names: task by language, the home language first.
    """

    base: str
    home: str
    names: dict[str, str]

    @property
    def others(self) -> list[str]:
        """The languages beside the home language."""
        return [language for language in self.names if language != self.home]


def split_name(name: str) -> tuple[str, str]:
    """Task and language of a name; English where it names none."""
    base, _, language = canonical(name).partition(".")
    return (base, language) if is_language(language) else (canonical(name), "en")


def families(config: RunConfig, languages: tuple[str, ...] = ()) -> list[Family]:
    """The sources that have other languages, in the order of the configuration.

    Args:
        config: gives the sources.
        languages: which are wanted; empty for all that there are.

    Raises:
        ValueError: when no source has another language, with the tasks that have some; a language that no source
            has; hub tasks without ``languages``, which cannot be listed.
    """
    known = _known(config, languages)
    found: dict[str, Family] = {}
    for source in config.sources:
        base, home = split_name(source)
        others = {
            language: name
            for language, name in known.get(base, {}).items()
            if language != home and (not languages or language in languages)
        }
        if others and base not in found:
            found[base] = Family(base, home, {home: source, **others})
    if not found:
        raise ValueError(_nothing(config, known, languages))
    missing = set(languages) - {language for family in found.values() for language in family.names}
    if missing:
        raise ValueError(
            f"languages={sorted(missing)}: no source has them; they have "
            + "; ".join(f"{base} ({', '.join(known[base])})" for base in found)
        )
    return list(found.values())


def check_parallel(family: Family, tasks: dict[str, Task]) -> None:
    """Refuse families in which one language trains on test items of another.

    Raises:
        ValueError: when items of a test split are in another language's train or validation split under their id.
    """
    for target in family.names.values():
        tested = {example.id for example in tasks[target].test}
        for source in family.names.values():
            own = tasks[source]
            shared = [example.id for example in (*own.train, *own.validation) if example.id in tested]
            if source != target and shared:
                raise ValueError(
                    f"{len(shared)} items of the test split of {target!r} are in the train or validation split of "
                    f"{source!r} ({', '.join(shared[:3])}): a vector would be taken from what it is tested on; split "
                    "parallel tasks alike, or give items that are not translations ids of their own"
                )


def _known(config: RunConfig, languages: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Names by task and language."""
    if config.hub:
        if not languages:
            raise ValueError("languages of hub tasks cannot be listed; name them, languages=('de', 'fr') for example")
        names = [
            base if language == "en" else f"{base}.{language}"
            for base in dict.fromkeys(split_name(source)[0] for source in config.sources)
            for language in languages
        ]
    else:
        names = [*(discover(Path(config.tasks)) if config.tasks else ()), *starter_names()]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        base, language = split_name(name)
        found.setdefault(base, {}).setdefault(language, name)
    return found


def _nothing(config: RunConfig, known: dict[str, dict[str, str]], languages: tuple[str, ...]) -> str:
    wanted = f" among languages={list(languages)}" if languages else ""
    have = "; ".join(f"{base} ({', '.join(own)})" for base, own in known.items() if len(own) > 1)
    return (
        f"none of sources={list(config.sources)} has another language{wanted}; "
        f"tasks that have: {have or 'none'}; give one of these as source"
    )


OUT = "to other languages"
BACK = "from other languages"
OWN = "own language"
RANDOM = "placebo: random direction"
SHUFFLED = "placebo: shuffled labels"
LANGUAGE = "language vector"


@dataclass(frozen=True, slots=True)
class CrossLingual(Experiment):
    """Does a vector taken in one language help in another?

    Attributes:
        languages: the languages of the targets, such as ``de`` or ``fr``; all languages of the source tasks if empty.
    """

    name = "cross-lingual"
    title = "Cross-lingual transfer"
    compared = (
        "A task's vector taken in one language steers the same task in another; instruction, cues and labels are in "
        "the target's language, and all conditions answer the same test queries as zero-shot. It is compared with a "
        "random direction and the vector of shuffled demonstrations (same norm, layer and strength), with the target "
        "language's own vector, and with demonstrations in the prompt. Layer and strength were chosen on the "
        "validation split of the vector's own language. The language vector (mean difference of parallel texts) has "
        "the norm, layer and strength of the vector that it is compared with. P-values of the comparisons are "
        "Holm-adjusted."
    )
    limits = (
        f"{sentences.LIMITS} Source and target are translations of one task by the same rules. In the built-in suite, "
        "their languages share a script and much vocabulary, so nothing follows for distant languages. Labels that "
        "look alike in two languages (positive, positiv) make it easy to transfer the format."
    )
    shown = ("versus", "methods", "nearness")

    languages: tuple[str, ...] = ()

    @classmethod
    def quick(cls, config: RunConfig) -> dict[str, Any]:
        """German, which the built-in suite has; nothing is known here about the languages of a folder."""
        return {} if config.tasks or config.hub else {"languages": ("de",)}

    def task_names(self, config: RunConfig) -> list[str]:
        """Every source task in every language."""
        return [name for family in families(config, self.languages) for name in family.names.values()]

    def plan(self, config: RunConfig, tasks: Tasks) -> list[Cell]:
        """Settings of every language first; then geometry, vectors, and demonstrations.

        Raises:
            ValueError: see ``families`` and ``check_parallel``; a language without validation or test examples.
        """
        cells: list[Cell] = []
        for family in families(config, self.languages):
            names = list(family.names.values())
            for name in names:
                if not (tasks[name].validation and tasks[name].test):
                    raise ValueError(
                        f"{name!r} needs a validation and a test split to be source and target; it lacks one"
                    )
            check_parallel(family, dict(tasks))
            cells += [Cell("setting", source=name, variant="cast", prepares=True) for name in names]
            cells.append(Cell("geometry", source=family.base))
            cells += [Cell("steered", name, family.base) for name in names]
            cells += [
                Cell("prompted", target, source) for target in names for source in (target, *senders(family, target))
            ]
        return cells

    def compute(self, workspace: Workspace, cell: Cell) -> pd.DataFrame:
        """Geometry of a task's languages, or outcomes of a target."""
        config = workspace.config
        base = split_name(cell.target)[0] if cell.kind == "prompted" else cell.source
        family = next(one for one in families(config, self.languages) if one.base == base)
        if cell.kind == "geometry":
            return geometry_rows(workspace, family)
        if cell.kind == "steered":
            conditions = steered_conditions(workspace, family, cell.target)
        else:
            conditions = prompted_conditions(workspace, family, cell.target, cell.source)
        if not conditions:
            return pd.DataFrame()
        found = workspace.outcomes(conditions)
        everywhere = [workspace.tasks[name] for name in family.names.values()]
        foreign = foreign_labels(everywhere, workspace.tasks[cell.target])
        return found.assign(
            base=family.base, foreign=[float(normalise_answer(text) in foreign) for text in found["answer"]]
        )

    def tables(self, rows: Rows, config: RunConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
        """What vectors do across languages.

        Returns:
            ``result``: one row per target, method, source and metric; ``methods``: over all pairs, with ``foreign``,
            the share of answers that are labels of another language; ``versus``: vectors against placebos,
            demonstrations and the own language's vector; ``geometry``: one row per task, language and layer;
            ``nearness``: the same at the layer of the home language's setting.
        """
        found, geometry = once(joined(rows, "steered", "prompted")), rows.get("geometry", pd.DataFrame())
        result = contrast_table(found, tested=lambda name: str(name).startswith("cast"), **config.resampling)
        methods = pooled_table(found, **config.resampling)
        if len(found):
            foreign = found.groupby("method")["foreign"].mean()
            methods = methods.assign(
                foreign=methods["method"].map(foreign), baseline_foreign=float(foreign.get(BASELINE, np.nan))
            )
        return {
            "result": result.assign(
                base=[split_name(name)[0] for name in result["target"]],
                target_language=[split_name(name)[1] for name in result["target"]],
                source_language=[split_name(name)[1] if name else "" for name in result["source"]],
            ),
            "methods": methods,
            "versus": versus(found, config.seed),
            "geometry": geometry,
            "nearness": nearness(geometry),
        }

    def findings(self, frames: Frames, config: RunConfig) -> Findings:
        """The gain of a vector in other languages, compared with a random direction."""
        told = [sentences.gain(frames["methods"], f"cast, {way}") for way in (OUT, BACK)]
        row = sentences.row_of(frames["versus"], method=f"cast, {OUT}", against=f"{RANDOM}, {OUT}")
        if row is not None:
            told.insert(1, f"against a random direction that is {sentences.change(row)}")
        languages = any(str(name).startswith(LANGUAGE) for name in frames["methods"].get("method", ()))
        left_out = () if languages else ("Language vectors: no items of two languages share an id.",)
        return Findings(sentences.headline(told), left_out)

    def figures(self, frames: Frames, config: RunConfig) -> Iterator[ReportFigure]:
        """The forest of methods, the matrix of languages, and cosines by layer."""
        methods, result = frames["methods"], frames["result"]
        if len(methods):
            yield ReportFigure(
                "methods",
                "Across languages and within",
                "Mean gain over zero-shot over all pairs, with 95 % intervals over queries. Grey: placebos.",
                "Forest plot of the gain of vectors and demonstrations within and across languages.",
                plots.plot_methods(methods),
                methods,
            )
        if len(result) and result["method"].str.startswith("cast").any():
            yield ReportFigure(
                "matrix",
                "What one language's vector does in another",
                "Change against zero-shot in percentage points. Bold: the interval excludes zero.",
                "Heat maps of gain by target and source language.",
                plots.plot_transfer_matrix(result, metrics=sentences.metrics(result), method="cast"),
                result,
            )
        if len(frames["geometry"]):
            yield cosine_figure(frames["geometry"], config)


EXPERIMENT = CrossLingual


def senders(family: Family, target: str) -> list[str]:
    """Tasks whose vectors steer a target: the home language's, or on the way back those of all other languages."""
    home = family.names[family.home]
    return [family.names[language] for language in family.others] if target == home else [home]


def direction(family: Family, target: str, source: str) -> str:
    """Which way a vector goes."""
    if source == target:
        return OWN
    return BACK if target == family.names[family.home] else OUT


def foreign_labels(tasks: Sequence[Task], target: Task) -> set[str]:
    """Labels of the other languages that are none of the target's."""
    own = {normalise_answer(label) for label in target.labels}
    return {normalise_answer(label) for task in tasks for label in task.labels} - own


def steered_conditions(workspace: Workspace, family: Family, target: str) -> list[Condition]:
    """Zero-shot, the target's own vector, those of the other side, and their placebos."""
    config, base = workspace.config, workspace.base(target)
    conditions: list[Condition] = [base]
    for source in (target, *senders(family, target)):
        vector, way = workspace.vector(source), direction(family, target, source)
        shuffled = matched(workspace.shuffled(source), like=vector)
        tried = [(f"cast, {way}", vector, config.seed), (f"{SHUFFLED}, {way}", shuffled, config.seed)]
        if source != target and are_parallel(workspace.tasks[source], workspace.tasks[target]):
            language = language_vector(
                workspace.model, workspace.tasks[source], workspace.tasks[target], layers=vector.layers
            )
            tried.append((f"{LANGUAGE}, {way}", matched(language, like=vector), config.seed))
        for number in range(config.placebos):
            tried.append((f"{RANDOM}, {way}", workspace.random_direction(source, number=number), number))
        setting = workspace.setting(source)
        conditions += [
            steered(made, base.prompts, setting, source=source, method=method, seed=seed)
            for method, made, seed in tried
        ]
    return conditions


def are_parallel(one: Task, other: Task) -> bool:
    """Whether two languages share items of the train split, so that a language vector can be taken."""
    return not {example.id for example in one.train}.isdisjoint(example.id for example in other.train)


def prompted_conditions(workspace: Workspace, family: Family, target: str, source: str) -> list[Condition]:
    """Demonstrations of one language in front of the target's queries, when they fit."""
    config, task = workspace.config, workspace.tasks[target]
    options = {"shots": config.shots, "seed": config.seed}
    examples = test_examples(config, task)
    if source == target:
        made = few_shot_condition(task, examples, **options)
    else:
        made = cross_task_condition(workspace.tasks[source], task, examples, **options)
    method = f"few-shot, {direction(family, target, source)}"
    named = Condition(method, made.prompts, source=source, seed=config.seed)
    return [named] if fits(workspace, named.prompts) else []


def geometry_rows(workspace: Workspace, family: Family) -> pd.DataFrame:
    """Cosine of each language's vector to the home language's, beside what another draw of samples would give."""
    home = family.names[family.home]
    here, layer = workspace.differences(home), workspace.setting(home).layer
    sampling = sampling_cosines(here, seed=workspace.config.seed)
    frames = [
        pd.DataFrame(
            {
                "base": family.base,
                "language": language,
                "layer": here.layers,
                "cosine": mean_cosines(
                    workspace.differences(family.names[language]).mean().directions, here.mean().directions
                ),
                "sampling": sampling,
                "at_setting": np.array(here.layers) == layer,
            }
        )
        for language in family.others
    ]
    return pd.concat(frames, ignore_index=True)


def versus(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Transferred vectors against placebos, demonstrations, and the target language's own vector."""
    comparisons = []
    for way in (OUT, BACK, OWN):
        rivals = (f"{RANDOM}, {way}", f"{SHUFFLED}, {way}", f"{LANGUAGE}, {way}", f"few-shot, {way}")
        comparisons += [(f"cast, {way}", rival) for rival in rivals]
        comparisons += [(f"cast, {way}", f"cast, {OWN}")] if way != OWN else []
    if len(found):
        # What a language gives itself is compared with whatever comes from elsewhere, so its source is left open.
        own = found["source"] == found["target"]
        found = found.assign(source=found["source"].where(~own, ""))
    return side_by_side(found, comparisons, seed=seed)


def nearness(geometry: pd.DataFrame) -> pd.DataFrame:
    """How parallel the vectors of two languages are at the layer of the home language's setting.

    Returns:
        ``base, language, layer, cosine, sampling`` (the cosine that another draw of samples would give).
    """
    if geometry.empty:
        return pd.DataFrame()
    columns = ["base", "language", "layer", "cosine", "sampling"]
    return geometry.loc[geometry["at_setting"], columns].reset_index(drop=True)


def cosine_figure(geometry: pd.DataFrame, config: RunConfig) -> ReportFigure:
    """Cosine to the home language's vector, by layer."""
    frame = cosine_lines(geometry, geometry["base"] + ", " + geometry["language"], samples=config.samples)
    return ReportFigure(
        "cosines",
        "How parallel the vectors of two languages are",
        "Cosine to the vector of the home language by layer. Dotted: the cosine that another draw of samples of the "
        "home language would give, mean and range over tasks. Vectors are means of n samples.",
        "Lines of cosine by layer, one for each task and language, with the noise of sampling.",
        plots.plot_scaling(frame, x_title="layer", y_title="cosine to the home language", share=False),
        frame,
    )
