"""The main job: difference vectors, their parallelism, where steering works, and what it does to every target.

Stages, each of which leaves its results on disk before the next begins:

1. difference vectors of every source and target, and of the sources with shuffled demonstration labels;
2. geometry: parallelism, alignment, cohesion, matrix entropy, projections;
3. for each source a layer × strength sweep on its own validation split, with a random direction beside it;
4. for each target: zero-shot, few-shot, cross-task few-shot, every source's vector and its placebos;
5. intervals, tests, the split of each gain into format and choice; figures; report.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine import Progress, quiet
from ..methods import (
    Condition,
    Setting,
    cross_task_few_shot,
    evaluate_conditions,
    few_shot,
    placebo_random,
    placebo_shuffled,
    steered,
)
from ..placebos import random_direction
from ..tasks import zero_shot_prompts
from .bench import Bench, Say, load_tasks, test_examples
from .choosing import chosen_setting, sweep_source
from .config import RunConfig
from .geometry import write_geometry
from .store import RunDirectory, open_run
from .summary import write_summary

if TYPE_CHECKING:
    import pandas as pd


def run(
    config: RunConfig,
    out: Path,
    *,
    progress: Progress = quiet,
    say: Say = lambda text: None,
    write_report: bool = True,
) -> Path:
    """Run the main job, or continue it.

    Args:
        config: what to do.
        out: run directory; a directory of the same configuration is continued.
        progress: wraps batches.
        say: told what is being done.
        write_report: whether to end with figures and ``report.html``.

    Returns:
        the run directory.

    Raises:
        ValueError: bad input, before any work starts.
    """
    started = time.time()
    tasks = load_tasks(config)
    with open_run(out, config) as directory:
        bench = Bench.loaded(config, tasks, directory, progress=progress, say=say)
        names = list(tasks)
        say(f"Difference vectors of {len(names)} tasks")
        differences = [bench.differences(name) for name in names]
        say("Geometry: parallelism, cohesion, entropy, projections")
        write_geometry(directory, differences, tasks, config)
        settings = {}
        for name in config.sources:
            say(f"Sweep of layers and strengths: {name}")
            settings[name] = setting_of(bench, name)
        directory.write_json("settings.json", {name: [s.layer, s.strength] for name, s in settings.items()})
        for name in config.targets:
            say(f"Target {name}")
            target_outcomes(bench, name, settings)
        say("Intervals and tests")
        write_summary(directory, config, tasks)
        _write_seconds(directory, time.time() - started)
        if write_report:
            from ..report import publish

            say("Figures and report")
            publish(directory.path)
    return out


def setting_of(bench: Bench, name: str) -> Setting:
    """Layer and strength of a source, from the sweep on its own validation split."""
    config, task = bench.config, bench.tasks[name]
    vector = bench.vector(name)
    vector.save(bench.directory.path / "vectors" / f"steering.{name}.safetensors")
    directions = {"vector": vector, "placebo: random direction": random_direction(vector, seed=config.seed)}
    frame = bench.directory.frame(
        f"sweep/{name}",
        lambda: sweep_source(
            bench.model,
            zero_shot_prompts(task, task.validation[: config.validation]),
            directions,
            layers=config.layers or None,
            strengths=config.strengths,
            operator=config.operator,
            position=config.position,
            finalists=config.finalists,
            chat=config.chat,
            progress=bench.progress,
        ).assign(source=name),
    )
    return chosen_setting(frame, operator=config.operator, position=config.position)


def target_outcomes(bench: Bench, name: str, settings: dict[str, Setting]) -> pd.DataFrame:
    """Outcomes of every condition on one target."""
    return bench.directory.frame(
        f"outcomes/{name}",
        lambda: evaluate_conditions(
            bench.model,
            target_conditions(bench, name, settings),
            chat=bench.config.chat,
            progress=bench.progress,
        ),
    )


def target_conditions(bench: Bench, name: str, settings: dict[str, Setting]) -> list[Condition]:
    """Everything that is compared on a target, on the same examples."""
    config, target = bench.config, bench.tasks[name]
    examples = test_examples(config, target)
    base = bench.base(name)
    conditions = [base, few_shot(target, examples, shots=config.shots, seed=config.seed)]
    for source, setting in settings.items():
        if source != name:
            conditions.append(
                cross_task_few_shot(
                    bench.tasks[source], target, examples, shots=config.shots, seed=config.seed
                )
            )
        vector, shuffled = bench.vector(source), bench.shuffled(source)
        method = "steered" if source != name else "steered (own vector)"
        conditions.append(steered(vector, base.prompts, setting, source=source, method=method))
        conditions.append(
            placebo_shuffled(shuffled, vector, base.prompts, setting, source=source, seed=config.seed)
        )
        for number in range(config.placebos):
            seed = config.seed + number
            conditions.append(placebo_random(vector, base.prompts, setting, source=source, seed=seed))
    return conditions


def _write_seconds(directory: RunDirectory, seconds: float) -> None:
    """Time of all sittings of the run together."""
    before = directory.read_json("seconds.json") or {"seconds": 0.0}
    directory.write_json("seconds.json", {"seconds": before["seconds"] + seconds})
