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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from ..engine import Progress, quiet, tokenise, unsupported
from ..engine.capture import check_layers
from ..extraction import Extraction, difference_vectors, draw_samples
from ..methods import (
    Condition,
    Setting,
    cross_task_few_shot,
    evaluate_conditions,
    few_shot,
    placebo_random,
    placebo_shuffled,
    steered,
    zero_shot,
)
from ..models import fingerprint, load_model
from ..placebos import random_direction
from ..selection import METHODS, select, space_from_residuals
from ..tasks import Example, Task, few_shot_prompts, load_task, zero_shot_prompts
from ..vectors import DifferenceVectors, SteeringVector
from .choosing import chosen_setting, sweep_source
from .config import RunConfig
from .geometry import write_geometry
from .store import RunDirectory, open_run
from .summary import write_summary

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str], None]
# Selections that ask for the model's confidence in labels, which a run does not compute.
NEED_CONFIDENCE = ("confident", "vote-k-two-phase")


@dataclass(frozen=True, slots=True)
class Bench:
    """What the stages share."""

    config: RunConfig
    model: HookedTransformer
    tasks: dict[str, Task]
    directory: RunDirectory
    progress: Progress
    say: Say

    def extraction(self, *, shuffle_labels: bool = False) -> Extraction:
        """How vectors are taken in this run."""
        c = self.config
        return Extraction(c.samples, c.shots, chat=c.chat, seed=c.seed, shuffle_labels=shuffle_labels)

    def differences(self, name: str, *, shuffle_labels: bool = False) -> DifferenceVectors:
        """Difference vectors of a task, from disk when they are there."""
        kind = "shuffled" if shuffle_labels else "differences"
        path = self.directory.path / "vectors" / f"{kind}.{name}.safetensors"
        if path.is_file():
            return DifferenceVectors.load(path)
        how = self.extraction(shuffle_labels=shuffle_labels)
        found = difference_vectors(self.model, self.tasks[name], how, progress=self.progress)
        found.save(path)
        return found

    def vector(self, name: str, *, shuffle_labels: bool = False) -> SteeringVector:
        """The steering vector of a source: the mean over the samples that the run's selection chooses.

        Samples are compared by their zero-shot residuals at the middle layer; vectors of shuffled demonstrations
        average the same samples.
        """
        c, differences = self.config, self.differences(name, shuffle_labels=shuffle_labels)
        if c.select == "all":
            return differences.mean()
        plain = self.differences(name)
        layer = plain.layers[len(plain.layers) // 2]
        space = space_from_residuals(plain, layer)
        budget = c.budget or max(1, len(plain) // 2)
        chosen = select(space, budget, method=c.select, seed=c.seed, differences=plain.at(layer).numpy())
        return differences.mean(
            chosen.indices.tolist(), note=f"{c.select} selection of {budget} from {len(plain)} samples"
        )


def load_tasks(config: RunConfig) -> dict[str, Task]:
    """The tasks of a run, checked against what it will draw from them.

    Raises:
        ValueError: an unknown task, or splits too small for samples, shots, validation or test.
    """
    if config.select not in METHODS or config.select in NEED_CONFIDENCE:
        usable = ", ".join(name for name in METHODS if name not in NEED_CONFIDENCE)
        raise ValueError(
            f"select={config.select!r} is no selection that a run can make; choose from {usable}"
        )
    names = dict.fromkeys((*config.sources, *config.targets))
    tasks = {
        name: load_task(name, tasks=config.tasks or None, hub=config.hub, seed=config.seed) for name in names
    }
    for name, task in tasks.items():
        draw_samples(task, Extraction(config.samples, config.shots, seed=config.seed))
        if name in config.sources and not task.validation:
            raise ValueError(f"source {name!r} has no validation split to choose layer and strength on")
        if name in config.targets and not task.test:
            raise ValueError(f"target {name!r} has no test split")
    return tasks


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
        say(f"Loading {config.model}")
        model = load_model(config.model, device=config.device, dtype=config.dtype)
        bench = Bench(config, model, tasks, directory, progress, say)
        check_prompts(bench)
        _write_model(bench)
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
            from ..report import write_figures
            from ..report import write_report as write_page

            say("Figures and report")
            write_figures(directory.path)
            write_page(directory.path)
    return out


def check_prompts(bench: Bench) -> None:
    """Check layers, and tokenise what the run will read: a prompt that does not fit is named before work starts."""
    config = bench.config
    check_layers(bench.model, config.layers or None)
    for task in bench.tasks.values():
        queries = [*draw_samples(task, bench.extraction()), *test_examples(config, task)]
        few = few_shot_prompts(task, queries, shots=config.shots, seed=config.seed)
        tokenise(bench.model, [*few, *zero_shot_prompts(task, queries)], chat=config.chat, room=16)


def test_examples(config: RunConfig, task: Task) -> tuple[Example, ...]:
    """The test examples of a target: the first ones of the split, which the loaders leave in a mixed order."""
    return task.test[: config.test]


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
    base = zero_shot(target, examples)
    conditions = [base, few_shot(target, examples, shots=config.shots, seed=config.seed)]
    for source, setting in settings.items():
        if source != name:
            conditions.append(
                cross_task_few_shot(
                    bench.tasks[source], target, examples, shots=config.shots, seed=config.seed
                )
            )
        vector = bench.vector(source)
        shuffled = bench.vector(source, shuffle_labels=True)
        method = "steered" if source != name else "steered (own vector)"
        conditions.append(steered(vector, base.prompts, setting, source=source, method=method))
        conditions.append(
            placebo_shuffled(shuffled, vector, base.prompts, setting, source=source, seed=config.seed)
        )
        for number in range(config.placebos):
            seed = config.seed + number
            conditions.append(placebo_random(vector, base.prompts, setting, source=source, seed=seed))
    return conditions


def _write_model(bench: Bench) -> None:
    cfg = bench.model.cfg
    bench.directory.write_json(
        "model.json",
        {
            "name": bench.config.model,
            "architecture": str(cfg.original_architecture),
            "fingerprint": fingerprint(bench.model),
            "parameters": parameter_count(bench.model),
            "n_layers": int(cfg.n_layers),
            "d_model": int(cfg.d_model),
            "dtype": bench.config.dtype,
            "device": str(cfg.device),
            "plain_route": unsupported(bench.model),
        },
    )


def parameter_count(model: HookedTransformer) -> int:
    """Parameters of a model; an unembedding that repeats the embedding (tied weights) counts once."""
    total = sum(parameter.numel() for parameter in model.parameters())
    tied = model.W_E.shape == model.W_U.T.shape and bool((model.W_E == model.W_U.T).all())
    return total - (model.W_U.numel() if tied else 0)


def _write_seconds(directory: RunDirectory, seconds: float) -> None:
    """Time of all sittings of the run together."""
    before = directory.read_json("seconds.json") or {"seconds": 0.0}
    directory.write_json("seconds.json", {"seconds": before["seconds"] + seconds})
