"""Where and how strongly to steer: decided on the source's own validation split.

The sweep looks at every layer and strength through the first greedy token, which one pass gives. The best cells then
write their answers in full, and the one with the most exact matches is chosen: a strength at which the model repeats
its answer for ever has a perfect first token and is of no use. Ties go to the higher gold log-probability. A cell whose
logits are not finite for every example has no answers and is never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..effects import NEUTRAL_TEXTS, text_effects
from ..engine import Progress, automatic, sweep
from ..engine.sweep import DEFAULT_STRENGTHS
from ..evaluation import changed_answers, evaluate
from ..interventions import Operator, Position, Steering
from ..methods import (
    FIXED,
    Choice,
    Setting,
    candidate_layers,
    cell_outcomes,
    choose_from,
    find_rule,
    fixed_choice,
    settled,
    unlabelled,
)
from ..models.lens import HookedTransformer
from ..placebos import matched
from ..tasks import Example, Prompt, Task, sample_examples, zero_shot_prompts
from ..tasks.types import Split
from ..vectors import SteeringVector

if TYPE_CHECKING:
    from .workspace import Workspace

FINALISTS = 12
"""Cells of a sweep whose answers are written in full before one is chosen."""
CAST, SHUFFLED, RANDOM = "cast", "placebo: shuffled labels", "placebo: random direction"
TABLED = (CAST, SHUFFLED, RANDOM)
# Where a setting for a target is looked for, unless the run names layers, and on how many queries: with more of either
# nothing else was chosen that helps (docs/findings/smollm2-135m.md), and every source, placebo and task pays for it.
CANDIDATE_LAYERS, FIRST_LAYER = 4, 0.38
CANDIDATE_QUERIES = 24
# Plain texts on which side effects are measured at every candidate.
PLAIN_TEXTS = 8
OWN = "own"
"""The rule that chooses on the source itself; it is the only one that never looks at another task."""

Editing = Callable[[float, int], Steering]
"""A variant at a strength, for a number of prompts."""


def sweep_source(
    model: HookedTransformer,
    prompts: Sequence[Prompt],
    directions: Mapping[str, SteeringVector],
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = DEFAULT_STRENGTHS,
    operator: Operator = "add",
    position: Position = "last",
    finalists: int = FINALISTS,
    chat: bool = False,
    progress: Progress = automatic,
) -> pd.DataFrame:
    """Sweep the source's validation prompts; the chosen cell is marked.

    Args:
        model: the model.
        prompts: zero-shot prompts of the source's validation split.
        directions: ``vector`` is chosen from; further entries (placebos) are swept too.
        layers, strengths, operator, position, chat: see ``engine.sweep``.
        finalists: cells whose greedy answers are compared.
        progress: wraps the batches.

    Returns:
        one row per cell: ``kind`` (entry of ``directions``, or ``unsteered``), ``layer, strength, n``, means of
        ``first_match, first_valid, choice_correct, gold_logprob, gold_margin`` with Wilson intervals of the shares;
        ``exact_match, valid`` of greedy answers for the finalists (NaN elsewhere); ``n_changed, changed`` (finalists:
        answers that are not the unsteered ones, and a few of them; see ``changed_answers``); ``chosen``.

    Raises:
        ValueError: when no cell has finite logits for every example.
    """
    found = sweep(
        model,
        prompts,
        directions,
        layers=layers,
        strengths=strengths,
        operator=operator,
        position=position,
        chat=chat,
        progress=progress,
    ).to_frame()
    frame = found.drop(columns=["source", "operator", "position"])
    cells = frame[frame["kind"] == "vector"]
    # Means leave examples out whose logits overflow; a cell with one is never chosen.
    cells = cells.assign(gold_logprob=cells["gold_logprob"].where(cells["overflowed"] == 0))
    best = best_first(cells, ["first_match", "gold_logprob"]).head(finalists)
    edits = [
        directions["vector"].intervention(int(row.layer), strength=row.strength, operator=operator, position=position)
        for row in best.itertuples()
    ]
    answers = evaluate(model, prompts, edits, chat=chat, progress=progress)
    return _chosen(frame, best, answers)


def _chosen(frame: pd.DataFrame, best: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """The cells of a sweep with the answers of the best ones, and the chosen one among them."""
    means = _means(answers, ["exact_match", "valid"])
    for name in ("exact_match", "valid"):
        frame.loc[best.index, name] = means[name].to_numpy()[1:]
        frame.loc[frame["kind"] == "unsteered", name] = means[name].iloc[0]
    told = changed_answers(answers)
    frame["n_changed"] = pd.Series(told["n_changed"].to_numpy(float), index=best.index)
    frame["changed"] = pd.Series(told["changed"].to_numpy(), index=best.index).reindex(frame.index, fill_value="")
    ranked = best_first(frame.loc[best.index], ["exact_match", "gold_logprob"])
    frame["chosen"] = frame.index == ranked.index[0]
    return frame


def best_first(cells: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Cells from the best to the worst; those without a finite gold log-probability or exact match are left out.

    Args:
        cells: ``layer`` or ``variant``, ``strength`` and the measures.
        measures: in the order in which they decide; one that no cell has decides nothing.

    Raises:
        ValueError: when no cell is left.
    """
    needed = [name for name in ("exact_match", "gold_logprob") if name in measures]
    finite = np.isfinite(cells[needed].to_numpy(float)).all(axis=1)
    if not finite.any():
        raise ValueError(
            f"strengths={sorted(set(cells['strength']))}: the logits are not finite at any of them, so no setting can "
            "be chosen; give smaller strengths, or dtype float32"
        )
    return cells[finite].sort_values(list(measures), ascending=False, kind="stable")


def _means(answers: pd.DataFrame, measures: list[str]) -> pd.DataFrame:
    """Means by variant; an example without an outcome makes the mean of its variant unknown."""
    return answers.groupby("variant")[measures].agg(lambda values: values.mean(skipna=False))


def swept_placebo(workspace: Workspace, source: str) -> pd.DataFrame:
    """The sweep that chose a source's setting, and the same sweep of a random direction of the vector's norm."""
    found = workspace.sweep(source)
    prompts = zero_shot_prompts(workspace.tasks[source], workspace.validation(source))
    noise = workspace.grid(prompts, {RANDOM: workspace.random_direction(source)}).to_frame()
    rows = noise[noise["kind"] != "unsteered"].drop(columns=["operator", "position"])
    unknown = {"chosen": False, "changed": "", "source": source, "method": "cast"}
    return pd.concat([found, rows.assign(**unknown)], ignore_index=True)[list(found.columns)]


def chosen_setting(frame: pd.DataFrame, *, operator: Operator = "add", position: Position = "last") -> Setting:
    """The setting that ``sweep_source`` marked, with the operator and position that were swept."""
    row = frame[frame["chosen"]].iloc[0]
    return Setting(int(row["layer"]), float(row["strength"]), operator, position)


def best_strengths(workspace: Workspace, source: str, edits: Mapping[str, Editing], *, name: str) -> dict[str, float]:
    """The strength at which each variant's greedy answers match most often on the source's validation split.

    Ties go to the higher gold log-probability. Tried are the run's strengths, and a half and a quarter of the lowest:
    steering at every token, or at several layers, may need less.

    Args:
        workspace: gives model, prompts and strengths.
        source: whose validation split is used.
        edits: the variants.
        name: of the table that is kept in the run directory.
    """
    frame = workspace.directory.frame(f"settings/{name}/{source}", lambda: _tried(workspace, source, edits))
    chosen = frame[frame["chosen"]]
    return dict(zip(chosen["variant"], chosen["strength"].astype(float), strict=True))


def _tried(workspace: Workspace, source: str, edits: Mapping[str, Editing]) -> pd.DataFrame:
    config, task = workspace.config, workspace.tasks[source]
    prompts = zero_shot_prompts(task, workspace.validation(source))
    lowest = min(config.strengths)
    strengths = sorted({lowest / 4, lowest / 2, *config.strengths})
    cells = [(variant, strength) for variant in edits for strength in strengths]
    steerings = [edits[variant](strength, len(prompts)) for variant, strength in cells]
    found = evaluate(workspace.model, prompts, steerings, chat=config.chat, progress=workspace.progress)
    means = _means(found, ["exact_match", "gold_logprob"])
    frame = pd.DataFrame(cells, columns=["variant", "strength"]).assign(
        source=source,
        exact_match=means["exact_match"].to_numpy()[1:],
        gold_logprob=means["gold_logprob"].to_numpy()[1:],
    )
    ranked = pd.concat(
        best_first(part, ["exact_match", "gold_logprob"]) for _, part in frame.groupby("variant", sort=False)
    )
    return frame.assign(chosen=frame.index.isin(ranked.drop_duplicates("variant").index))


def directions_of(workspace: Workspace, source: str, methods: Sequence[str]) -> dict[str, SteeringVector]:
    """A source's vector and its placebos as ``method|source|number``; all of one norm per layer."""
    vector, found = workspace.vector(source), {}
    for method in methods:
        for number in range(workspace.config.placebos if method == RANDOM else 1):
            name = f"{method}|{source}|{number}"
            if method == RANDOM:
                found[name] = workspace.random_direction(source, number=number)
            else:
                found[name] = vector if method == CAST else matched(workspace.shuffled(source), like=vector)
    return found


def candidate_table(
    workspace: Workspace, name: str, *, labelled: bool, methods: Sequence[str] = TABLED
) -> pd.DataFrame:
    """What the vectors of all sources, and their placebos, do at every candidate to the queries of one task.

    Args:
        workspace: gives model, prompts, vectors and candidates.
        name: of the task.
        labelled: whether its gold answers are read. Of a target they are not.
        methods: ``cast`` and placebos that are measured when the table is made.

    Returns:
        rows of ``methods.cell_outcomes`` with ``task, method, source, number``.
    """
    config, folder = workspace.config, _folder(methods, "labelled" if labelled else "unlabelled")

    def make() -> pd.DataFrame:
        task = workspace.tasks[name]
        examples = choosing_examples(
            task, min(config.validation, CANDIDATE_QUERIES), seed=config.seed, labelled=labelled
        )
        prompts = zero_shot_prompts(task, examples)
        found = _measured(workspace, prompts if labelled else unlabelled(prompts), methods)
        return found.assign(task=name)

    return workspace.directory.frame(f"{folder}/{name}", make)


def _folder(methods: Sequence[str], kind: str) -> str:
    """Where tables of these methods are kept."""
    return f"candidates/{' and '.join(methods)}/{kind}"


def _measured(workspace: Workspace, prompts: Sequence[Prompt], methods: Sequence[str]) -> pd.DataFrame:
    config, found = workspace.config, _directions(workspace, methods)
    frame = cell_outcomes(
        workspace.model,
        prompts,
        found,
        layers=_layers(workspace),
        strengths=config.strengths,
        operator=config.operator,
        positions=(config.position,),
        chat=config.chat,
        progress=workspace.progress,
    )
    return _named(frame, "direction")


def _directions(workspace: Workspace, methods: Sequence[str]) -> dict[str, SteeringVector]:
    found: dict[str, SteeringVector] = {}
    for source in workspace.config.sources:
        found |= directions_of(workspace, source, methods)
    return found


def _named(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The frame with method, source and number in place of the name that joins them."""
    parts = [str(name).split("|") for name in frame[column]]
    names = {"method": [one[0] for one in parts], "source": [one[1] for one in parts]}
    return frame.drop(columns=column).assign(**names, number=[int(one[2]) for one in parts])


def _layers(workspace: Workspace) -> Sequence[int]:
    return workspace.config.layers or candidate_layers(
        int(workspace.model.cfg.n_layers), CANDIDATE_LAYERS, first=FIRST_LAYER
    )


def plain_text_table(workspace: Workspace, methods: Sequence[str] = TABLED) -> pd.DataFrame:
    """Divergence on plain text at every candidate: ``method, source, number, layer, strength, position, kl``."""

    def make() -> pd.DataFrame:
        config = workspace.config
        edits = {
            f"{name}|{layer}|{strength}": vector.intervention(
                layer, strength=strength, operator=config.operator, position=config.position
            )
            for name, vector in _directions(workspace, methods).items()
            for layer in _layers(workspace)
            for strength in config.strengths
        }
        found = text_effects(workspace.model, edits, NEUTRAL_TEXTS[:PLAIN_TEXTS])
        found = found[found["variant"] > 0]
        keys = ["name", "layer", "strength", "position"]
        return _named(found.groupby(keys, sort=False)["kl"].mean().reset_index(), "name")

    return workspace.directory.frame(_folder(methods, "plain-text"), make)


def choosing_examples(task: Task, count: int, *, seed: int, labelled: bool) -> tuple[Example, ...]:
    """Examples of a task on which settings are chosen: of its validation split, or of train where it has none.

    None of them is a test example. Balanced over the labels, where these may be read.
    """
    pool = task.validation or task.train
    if labelled:
        split: Split = "validation" if task.validation else "train"
        return sample_examples(task, min(count, len(pool)), split=split, seed=seed)
    drawn = np.random.default_rng(seed).permutation(len(pool))[:count]
    return tuple(pool[index] for index in drawn)


def choice_for(
    workspace: Workspace,
    source: str,
    target: str,
    *,
    method: str = CAST,
    number: int = 0,
    rule: str = "",
    labelled: Sequence[str] = (),
    measured: Sequence[str] = TABLED,
) -> Choice:
    """Where and how strongly a source's vector steers a target, or that it stands aside.

    No label of the target is read, unless target and source are one task: a vector's own task is not transfer, and
    layer and strength are then those of rule ``own``.

    Args:
        workspace: gives model, tasks and tables.
        source, target: tasks.
        method, number: ``cast``, or a placebo and its draw, which goes through the same rule.
        rule: key of ``methods.RULES``; empty for the run's.
        labelled: tasks whose labels may be read, those of the target never; the run's sources when empty.
        measured: methods of the tables, see ``candidate_table``.

    Raises:
        ValueError: see ``methods.choose_from``.
    """
    name, config = rule or workspace.config.rule, workspace.config
    if name in FIXED:
        return fixed_choice(
            name,
            n_layers=int(workspace.model.cfg.n_layers),
            layers=config.layers,
            strengths=config.strengths,
            operator=config.operator,
            position=config.position,
        )
    # Placebos use the vector's setting under rule ``own``, unless tasks are named from which they can choose
    # themselves.
    if source == target or (name == OWN and (method == CAST or not labelled)):
        setting = workspace.setting(source)
        reason = f"layer {setting.layer}, strength {setting.strength:g}: best on the source's own validation split"
        return Choice(setting, OWN, float("nan"), reason)
    known = tuple(labelled or config.sources)
    table = _tables(workspace, target, name, known, measured)
    if find_rule(name).others == "used":
        table = _written(workspace, target, name, known, measured, table)
    wanted = {"method": method, "source": source, "number": number}
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return _chosen_from(workspace, rows, source, target, name)


def _chosen_from(workspace: Workspace, rows: pd.DataFrame, source: str, target: str, rule: str) -> Choice:
    n_layers, operator = int(workspace.model.cfg.n_layers), workspace.config.operator
    return choose_from(rows, source=source, target=target, n_layers=n_layers, rule=rule, operator=operator)


def _tables(
    workspace: Workspace, target: str, rule: str, known: Sequence[str], measured: Sequence[str]
) -> pd.DataFrame:
    """What a rule may read of all directions: the target's table, and those of labelled tasks where it reads them."""
    rules = find_rule(rule)
    # A target whose labels other choices may read has one table; none of its labels reach this one.
    tables = [candidate_table(workspace, target, labelled=target in known, methods=measured)]
    if rules.others != "unread" or rule == OWN:
        tables += [candidate_table(workspace, one, labelled=True, methods=measured) for one in known if one != target]
    table = pd.concat(tables, ignore_index=True)
    if rules.guarded:
        keys = ["method", "source", "number", "layer", "strength", "position"]
        table = table.merge(plain_text_table(workspace, measured), on=keys, how="left")
    return table


def _written(
    workspace: Workspace, target: str, rule: str, known: Sequence[str], measured: Sequence[str], table: pd.DataFrame
) -> pd.DataFrame:
    """The tables with what the rule would choose for the target written in full; see ``methods.settled``.

    Free answers have no admissible set that could be believed, and stay as they were swept.
    """
    config, task = workspace.config, workspace.tasks[target]
    if task.kind == "free":
        return table

    def choose(rows: pd.DataFrame, name: str) -> Choice:
        return _chosen_from(workspace, rows[rows["direction"] == name], name.split("|")[1], target, rule)

    def make() -> pd.DataFrame:
        count = min(config.validation, CANDIDATE_QUERIES)
        examples = choosing_examples(task, count, seed=config.seed, labelled=target in known)
        prompts = unlabelled(zero_shot_prompts(task, examples))
        parts = zip(table["method"], table["source"], table["number"], strict=True)
        joined = table.assign(direction=["|".join(map(str, part)) for part in parts])
        found = {name: one for name, one in _directions(workspace, measured).items() if name.split("|")[1] != target}
        options: dict[str, Any] = {"task": target, "chat": config.chat, "progress": workspace.progress}
        rows = settled(workspace.model, prompts, found, joined, choose, **options)[1]
        return rows[rows["task"] == target].drop(columns="direction")

    kept = workspace.directory.frame(f"{_folder(measured, 'written')}/{rule}/{target}", make)
    return pd.concat([table[table["task"] != target], kept], ignore_index=True)


def oracle_choice(
    workspace: Workspace, source: str, target: str, *, method: str, number: int, measured: Sequence[str] = TABLED
) -> Choice:
    """The candidate that is best on the target's own validation labels, or none: what no rule may know."""
    table = candidate_table(workspace, target, labelled=True, methods=measured)
    wanted = {"method": method, "source": source, "number": number}
    rows = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)].dropna(subset=["gain"])
    best = rows.sort_values(["gain", "gold_logprob"], ascending=False, kind="stable").head(1)
    if best.empty or not best["gain"].iloc[0] > 0:
        return Choice(None, "oracle", 0.0, "no candidate gains on the target")
    row = best.iloc[0]
    setting = Setting(int(row["layer"]), float(row["strength"]), workspace.config.operator, row["position"])
    return Choice(setting, "oracle", float(row["gain"]), "best on the target's own validation labels")
