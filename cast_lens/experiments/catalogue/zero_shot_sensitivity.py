"""How far do vectors turn when the zero-shot prompt is worded differently, and what happens downstream?

Five other wordings, and the chat template where the tokenizer has one. Each is tried in two places: on the zero-shot
side of the difference alone (``zero-shot side``, the few-shot prompts stay as they are), and on both sides
(``both sides``). Downstream all vectors are given the norms of the default one and stand at its layer and strength, so
that only directions differ; once under the default prompts of the target, once under the wording itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ...engine import capture
from ...extraction import draw_samples, shown_prompts
from ...methods import Condition, evaluate_conditions, steered, zero_shot
from ...placebos import matched, placebo_seed, random_direction
from ...stats import adjust_p_values
from ...tasks import Prompt, Task, zero_shot_prompts
from ...vectors import DifferenceVectors, SteeringVector
from ..bench import Bench, fits, test_examples
from ..cells import Cell
from ..legacy import Experiment, Tasks, settings_first
from ..outcomes import BASELINE, contrast_table, pooled_table, side_by_side
from ..settings import ExperimentConfig
from ..stability import mean_cosines, sampling_cosines
from .zero_shot_sensitivity_reading import DEFAULT, PLACEBO, QUESTION, SIDES, draw, named, read

if TYPE_CHECKING:
    import pandas as pd


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


def plan(config: ExperimentConfig, tasks: Tasks) -> list[Cell]:
    """Settings and vectors first; then geometry by source, and targets by the wording of their prompts."""
    cells = settings_first(config)
    cells += [Cell("vectors", source=source, prepares=True) for source in config.sources]
    cells += [Cell("geometry", source=source) for source in config.sources]
    for target in config.targets:
        cells.append(Cell("steered", target, variant=DEFAULT))
        cells += [Cell("steered", target, variant=name) for name in changing(tasks[target])]
    return cells


def changing(task: Task) -> list[str]:
    """Wordings that change a task's prompts: one without an instruction cannot lose it."""
    example = (task.train or task.test)[:1]
    plain = zero_shot_prompts(task, example)
    return [
        name
        for name, wording in WORDINGS.items()
        if wording.chat or zero_shot_prompts(wording.reword(task), example) != plain
    ]


def usable(bench: Bench, names: Sequence[str]) -> list[str]:
    """Wordings that the tokenizer has; the chat template may be missing."""
    tokenizer: Any = bench.model.tokenizer
    has_chat = bool(getattr(tokenizer, "chat_template", None))
    return [name for name in names if has_chat or not WORDINGS[name].chat]


def is_chat(bench: Bench, wording: str) -> bool:
    """Whether the chat template is on under a wording."""
    return bench.config.chat != (wording != DEFAULT and WORDINGS[wording].chat)


def worded(wording: str, task: Task) -> Task:
    """The task under a wording."""
    return task if wording == DEFAULT else WORDINGS[wording].reword(task)


def residuals(bench: Bench, source: str, wording: str) -> DifferenceVectors:
    """Both sides of the difference under a wording, of the run's own samples; kept on disk."""
    if wording == DEFAULT:
        return bench.differences(source)
    slug = re.sub(r"\W+", "-", wording).strip("-")
    path = bench.directory.path / "vectors" / f"wording-{slug}.{source}.safetensors"
    if path.is_file():
        return DifferenceVectors.load(path)
    how = replace(bench.extraction(), chat=is_chat(bench, wording))
    plain, task = bench.differences(source), worded(wording, bench.tasks[source])
    queries = draw_samples(bench.tasks[source], how)
    prompts: list[Prompt] = [
        *shown_prompts(bench.model, task, queries, how),
        *zero_shot_prompts(task, queries),
    ]
    states = capture(bench.model, prompts, chat=how.chat, progress=bench.progress)
    about = replace(plain.provenance, chat=how.chat, note=f"prompts worded otherwise: {wording}")
    n = len(queries)
    found = DifferenceVectors(states[:n], states[n:], plain.layers, plain.sample_ids, about)
    found.save(path)
    return found


def reworded(bench: Bench, source: str) -> dict[tuple[str, str], DifferenceVectors]:
    """Difference vectors by wording and by the side that is worded otherwise; the default is not among them."""
    plain, found = bench.differences(source), {}
    for wording in usable(bench, changing(bench.tasks[source])):
        both = residuals(bench, source, wording)
        found[wording, SIDES[0]] = replace(both, few_shot=plain.few_shot)
        found[wording, SIDES[1]] = both
    return found


def compute(bench: Bench, cell: Cell) -> pd.DataFrame:
    """Rows of one cell; ``part`` says whether they are geometry or outcomes."""
    import pandas as pd

    if cell.kind == "vectors":
        names = dict.fromkeys(wording for wording, _ in reworded(bench, cell.source))
        return pd.DataFrame({"wording": list(names)})
    if cell.kind == "geometry":
        return geometry_rows(bench, cell.source)
    if cell.variant != DEFAULT and not usable(bench, [cell.variant]):
        return pd.DataFrame()
    config, target = bench.config, worded(cell.variant, bench.tasks[cell.target])
    base = zero_shot(target, test_examples(config, target))
    chat = is_chat(bench, cell.variant)
    if not fits(bench, base.prompts):
        return pd.DataFrame()
    conditions = [base]
    for source in config.sources:
        if source != cell.target:
            conditions += steered_conditions(bench, base, source, cell.variant)
    found = evaluate_conditions(bench.model, conditions, chat=chat, progress=bench.progress)
    return found.drop(columns=["text"]).assign(part="steered", prompt=cell.variant)


def steered_conditions(bench: Bench, base: Condition, source: str, prompt: str) -> list[Condition]:
    """The default vector, those of all wordings (or of the prompt's own), and placebos, at one norm and setting."""
    config, setting = bench.config, bench.setting(source)
    default = bench.differences(source).mean()
    tried: list[tuple[str, SteeringVector, int]] = [(named(DEFAULT), default, config.seed)]
    for (wording, side), found in reworded(bench, source).items():
        if prompt in (DEFAULT, wording):
            tried.append((named(wording, side), matched(found.mean(), like=default), config.seed))
    for number in range(config.placebos):
        noise = random_direction(default, seed=placebo_seed(source, config.seed, number))
        tried.append((PLACEBO, noise, number))
    return [
        steered(vector, base.prompts, setting, source=source, method=method, seed=seed)
        for method, vector, seed in tried
    ]


def geometry_rows(bench: Bench, source: str) -> pd.DataFrame:
    """One row a wording, side and layer: cosine to the default vector, and the noise of sampling beside it."""
    import pandas as pd

    plain, layer = bench.differences(source), bench.setting(source).layer
    default, sampling = plain.mean().directions, sampling_cosines(plain, seed=bench.config.seed)
    frames = []
    for (wording, side), found in reworded(bench, source).items():
        mean = found.mean().directions
        frames.append(
            pd.DataFrame(
                {
                    "part": "geometry",
                    "source": source,
                    "wording": wording,
                    "side": side,
                    "layer": plain.layers,
                    "cosine": mean_cosines(mean, default),
                    "norm_ratio": (mean.double().norm(dim=-1) / default.double().norm(dim=-1)).numpy(),
                    "sampling": sampling,
                    "own_sampling": sampling_cosines(found, seed=bench.config.seed),
                    "at_setting": torch.tensor(plain.layers).eq(layer).numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def summarise(rows: pd.DataFrame, config: ExperimentConfig, tasks: Tasks) -> dict[str, pd.DataFrame]:
    """``result``: a row a pair, prompt, vector and metric. ``methods``: over all pairs, for each wording of prompts.

    ``versus``: each vector against the default one, for each wording of the prompts. ``geometry``: see
    ``geometry_rows``. Gains under a wording are over zero-shot under that wording.
    """
    import pandas as pd

    parts = {
        part: rows[rows["part"] == part].drop(columns="part").dropna(axis=1, how="all").reset_index(drop=True)
        for part in ("steered", "geometry")
    }
    outcomes, geometry, empty = parts["steered"], parts["geometry"], pd.DataFrame()
    if len(geometry):
        # Rows of the other part lack these columns, which makes their numbers floats.
        geometry = geometry.astype({"layer": int, "at_setting": bool})
    if outcomes.empty:
        return {"result": empty, "methods": empty, "versus": empty, "geometry": geometry}
    options: dict[str, Any] = {"n_bootstrap": config.bootstrap, "seed": config.seed}
    results, methods = [], []
    for prompt, part in outcomes.groupby("prompt", sort=False):
        results.append(contrast_table(part, tested=is_vector, **options).assign(prompt=prompt))
        methods.append(pooled_table(part, **options).assign(prompt=prompt))
    result = pd.concat(results, ignore_index=True)
    adjusted = adjust_p_values(result.assign(p=result["p_value"].where(result["method"].map(is_vector))))
    names = [name for name in dict.fromkeys(outcomes["method"]) if is_vector(name)]
    comparisons = [(name, named(DEFAULT)) for name in names if name != named(DEFAULT)]
    comparisons += [(name, PLACEBO) for name in names]
    return {
        "result": result.assign(p_adjusted=adjusted["p_adjusted"], n_tests=adjusted["tests"]),
        "methods": pd.concat(methods, ignore_index=True),
        "versus": side_by_side(
            outcomes[outcomes["method"] != BASELINE], comparisons, within=("prompt",), **options
        ),
        "geometry": geometry,
    }


def is_vector(method: str) -> bool:
    """Vectors that are no placebos."""
    return method not in (BASELINE, PLACEBO)


EXPERIMENT = Experiment(
    "zero-shot-sensitivity",
    QUESTION,
    plan,
    compute,
    summarise,
    read,
    draw,
    tables=("methods", "versus"),
    heading="Sensitivity to the zero-shot prompt",
)
