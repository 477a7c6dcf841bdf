"""The workspace that the cells of an experiment share: model, tasks, vectors and settings, cached on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..backends import Backend, EvaluatedOn
from ..engine import Progress, Sweep, quiet, sweep, tokenise, unsupported
from ..engine.tokens import longest_prompt
from ..evaluation import evaluate
from ..extraction import Extraction, difference_vectors, draw_samples
from ..methods import (
    VECTOR_METHODS,
    AnyCondition,
    Condition,
    FieldMethod,
    Setting,
    SourceTask,
    VectorMethod,
    evaluate_conditions,
    retrieved_differences,
    zero_shot_condition,
)
from ..methods.prompting import Remembered, residual_embedding, sentence_embedding
from ..models import fingerprint, load_model
from ..models.identity import check_layers, checkpoint, quantisation, strength_limit
from ..models.lens import HookedTransformer
from ..placebos import placebo_seed, random_direction
from ..selection import METHODS, select, space_from_residuals
from ..tasks import Example, Prompt, Task, few_shot_prompts, load_task, sample_examples, zero_shot_prompts
from ..tasks import label_counts as tasks_label_counts
from ..tasks.loading import field_names
from ..vectors import DifferenceVectors, SteeringVector
from .choose_setting import chosen_setting, sweep_source
from .config import RunConfig
from .store import RunDirectory

Say = Callable[[str], None]
Load = Callable[..., HookedTransformer]
# Selections that need the model's confidence in labels, which a run does not compute.
NEED_CONFIDENCE = ("confident", "vote-k-two-phase")
# Distance of the seeds of two draws: more than the placebos or repeats of one draw use.
SEEDS_A_DRAW = 1000
# Tokens left free for an answer.
ANSWER_ROOM = 16
# File names of difference vectors by kind of demonstrations.
FILES = {"true": "differences", "shuffled labels": "shuffled", "random text": "random-text"}


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the cells of an experiment share.

    Attributes:
        config: configuration of the run.
        model: the model.
        tasks: every source and target by name.
        directory: where vectors and settings are stored.
        progress: wraps batches.
        say: called with a line about the current step.
        embed: embeds texts, for retrieval; see ``RunConfig.encoder``.
    """

    config: RunConfig
    model: HookedTransformer
    tasks: dict[str, Task]
    directory: RunDirectory
    progress: Progress
    say: Say
    embed: Remembered

    @classmethod
    def loaded(
        cls,
        config: RunConfig,
        tasks: dict[str, Task],
        directory: RunDirectory,
        *,
        load: Load = load_model,
        progress: Progress = quiet,
        say: Say = lambda text: None,
    ) -> Workspace:
        """Load the model and the encoder, and check the prompts before any work starts.

        Args:
            config, tasks, directory, progress, say: see ``Workspace``.
            load: loads the model; called like ``load_model``.
        """
        say(f"Loading {config.model}")
        arguments = named_values(config.chat_arguments, "chat_arguments")
        given = {"chat_arguments": arguments} if arguments else {}
        model = load(config.model, device=config.device, dtype=config.dtype, **given)
        say(f"Computing in {number_format(model)} on {model.cfg.device}")
        check_strengths(model, config.strengths)
        if config.encoder:
            embed = sentence_embedding(config.encoder)
            embed(["loads?"])
        else:
            embed = residual_embedding(model, chat=config.chat, progress=progress)
        made = cls(config, model, tasks, directory, progress, say, embed)
        check_prompts(made)
        return made

    def drawn(self, draw: int) -> Workspace:
        """The same model and queries with another draw of samples, demonstrations and placebos.

        Its vectors and settings are in ``draws/DRAW`` of the run directory; draw 0 is the workspace itself.
        """
        if draw == 0:
            return self
        config = replace(self.config, seed=self.config.seed + SEEDS_A_DRAW * draw)
        directory = RunDirectory(self.directory.path / "draws" / str(draw))
        return replace(self, config=config, directory=directory)

    def extraction(self, kind: str = "true") -> Extraction:
        """How difference vectors are computed in this run; ``kind`` is one of ``methods.DIFFERENCE_KINDS``."""
        c = self.config
        return Extraction(
            c.samples,
            c.shots,
            chat=c.chat,
            seed=c.seed,
            shuffle_labels=kind == "shuffled labels",
            random_text=kind == "random text",
        )

    def differences(self, name: str, kind: str = "true") -> DifferenceVectors:
        """Difference vectors of a task, from disk if they exist."""
        path = self.directory.vectors(f"{FILES[kind]}.{name}")
        if path.is_file():
            return DifferenceVectors.load(path)
        how = self.extraction(kind)
        found = difference_vectors(self.model, self.tasks[name], how, progress=self.progress)
        found.save(path)
        return found

    def chosen(self, name: str) -> tuple[int, ...] | None:
        """The samples of a source that the run's selection chooses; None for all.

        Samples are compared by their zero-shot residuals at the middle layer.
        """
        c = self.config
        if c.select == "all":
            return None
        plain = self.differences(name)
        layer = plain.layers[len(plain.layers) // 2]
        space = space_from_residuals(plain, layer)
        budget = c.budget or max(1, len(plain) // 2)
        found = select(space, budget, method=c.select, seed=c.seed, differences=plain.at(layer).numpy())
        return tuple(found.indices.tolist())

    def source(self, name: str, *, number: int = 0) -> SourceTask:
        """What a vector method may read of a source; ``number`` distinguishes the draws of a placebo."""
        return SourceTask(
            self.model,
            self.tasks[name],
            self.extraction(),
            lambda kind: self.differences(name, kind),
            self.chosen(name),
            placebo_seed(name, self.config.seed, number),
            note="" if self.config.select == "all" else f"chosen by {self.config.select}",
        )

    def retrieved(self, name: str, target: str, *, number: int = 0, how: str, queries: int) -> SourceTask:
        """A source whose samples are picked for the unlabelled queries of a target; see ``methods.retrieved``.

        Args:
            name, target: tasks.
            number: distinguishes the draws of a placebo.
            how: key of ``methods.RETRIEVALS``.
            queries: queries of the target, at most: none of them is a test query.
        """
        made = self.source(name, number=number)
        note = f"{self.config.shots + 1} items for each unlabelled query of {target}, picked by {how}"
        return replace(
            made, differences=lambda kind: self._retrieved(name, target, kind, how, queries), indices=None, note=note
        )

    def _retrieved(self, name: str, target: str, kind: str, how: str, queries: int) -> DifferenceVectors:
        """The mean sample of both sides, from disk if it exists; all samples of every pair would fill the disk."""
        path = self.directory.vectors(f"{FILES[kind]}.{how}-{queries}.{name}.for.{target}")
        if path.is_file():
            return DifferenceVectors.load(path)
        asked = unlabelled_queries(self.tasks[target], queries, seed=self.config.seed)
        extraction = self.extraction(kind)
        found = retrieved_differences(
            self.model,
            self.tasks[name],
            self.tasks[target],
            asked,
            extraction,
            how=how,
            embed=self.embed,
            progress=self.progress,
        )
        sides = [side.double().mean(dim=0, keepdim=True).float() for side in (found.few_shot, found.zero_shot)]
        mean = DifferenceVectors(sides[0], sides[1], found.layers, (f"mean of {len(found)}",), found.provenance)
        mean.save(path)
        return mean

    def vector(self, name: str, method: str = "cast") -> SteeringVector:
        """The vector that a method computes from a source."""
        return VECTOR_METHODS[method].fit(self.source(name))

    def random_direction(self, name: str, *, number: int = 0) -> SteeringVector:
        """A random direction with the norm of a source's contrastive mean, different for every source and number."""
        return random_direction(self.vector(name), seed=placebo_seed(name, self.config.seed, number))

    def placebos(self, name: str, vector: SteeringVector) -> list[tuple[int, SteeringVector]]:
        """Numbered random directions of the norm of any vector of a source; the run says how many."""
        seeds = [placebo_seed(name, self.config.seed, number) for number in range(self.config.placebos)]
        return [(number, random_direction(vector, seed=seed)) for number, seed in enumerate(seeds)]

    def shuffled(self, name: str) -> SteeringVector:
        """The mean difference vector of demonstrations with shuffled answers, over the same samples."""
        chosen = self.chosen(name)
        return self.differences(name, "shuffled labels").mean(chosen)

    def setting(self, name: str, method: str = "cast") -> Setting:
        """Layer and strength of a method's vector, chosen on the source's own validation split."""
        how = VECTOR_METHODS[method]
        return chosen_setting(
            self.sweep(name, method),
            operator=how.operator or self.config.operator,
            position=how.position or self.config.position,
        )

    def sweep(self, name: str, method: str = "cast") -> pd.DataFrame:
        """The sweep from which the setting of a method's vector is chosen, with ``source`` and ``method``."""

        def make() -> pd.DataFrame:
            prompts = zero_shot_prompts(self.tasks[name], self.validation(name))
            found = self.swept(prompts, self.vector(name, method), VECTOR_METHODS[method])
            return found.assign(source=name, method=method)

        return self.directory.frame(f"settings/{method}/{name}", make)

    def swept(
        self, prompts: Sequence[Prompt], vector: SteeringVector, method: VectorMethod | FieldMethod
    ) -> pd.DataFrame:
        """Rows of ``sweep_source``; what a method does not specify comes from the run's configuration."""
        config = self.config
        return sweep_source(
            self.model,
            prompts,
            {"vector": vector},
            layers=config.layers or None,
            strengths=method.strengths or config.strengths,
            operator=method.operator or config.operator,
            position=method.position or config.position,
            finalists=config.finalists,
            chat=config.chat,
            progress=self.progress,
        )

    def grid(self, prompts: Sequence[Prompt], directions: Mapping[str, SteeringVector]) -> Sweep:
        """Prompts scored with every direction at each of the run's layers and strengths."""
        config = self.config
        return sweep(
            self.model,
            prompts,
            directions,
            layers=config.layers or None,
            strengths=config.strengths,
            operator=config.operator,
            position=config.position,
            chat=config.chat,
            progress=self.progress,
        )

    def validation(self, name: str) -> tuple[Example, ...]:
        """The validation examples of a source; see ``validation_examples``."""
        return validation_examples(self.config, self.tasks[name])

    def outcomes(
        self,
        conditions: Sequence[AnyCondition],
        *,
        chat: bool | None = None,
        texts: bool = False,
        backend: Backend | None = None,
    ) -> pd.DataFrame:
        """Rows of ``evaluate_conditions``.

        Args:
            conditions: the conditions to compare.
            chat: whether to use the chat template; None for the run's setting.
            texts: keep the texts of the answers.
            backend: where the model runs; None for the one-pass engine.
        """
        chat = self.config.chat if chat is None else chat
        how = evaluate if backend is None else EvaluatedOn(backend)
        found = evaluate_conditions(self.model, conditions, chat=chat, progress=self.progress, evaluated=how)
        return found if texts else found.drop(columns="text")

    def base(self, name: str) -> Condition:
        """Zero-shot on the test examples of a target, the baseline of all comparisons."""
        return zero_shot_condition(self.tasks[name], test_examples(self.config, self.tasks[name]))


def load_tasks(config: RunConfig, names: Sequence[str] = ()) -> dict[str, Task]:
    """The tasks of a run, with a check that they have enough examples for it.

    Args:
        config: gives sources and targets.
        names: further tasks.

    Raises:
        ValueError: an unknown task, or splits too small for samples, shots, validation or test.
    """
    if config.select not in METHODS or config.select in NEED_CONFIDENCE:
        usable = ", ".join(name for name in METHODS if name not in NEED_CONFIDENCE)
        raise ValueError(f"select={config.select!r} is not a selection that a run can make; choose from {usable}")
    wanted = dict.fromkeys((*config.sources, *config.targets, *names))
    fields = field_names(config.fields)
    tasks = {
        name: load_task(name, tasks=config.tasks or None, hub=config.hub, seed=config.seed, fields=fields)
        for name in wanted
    }
    for name, task in tasks.items():
        draw_samples(task, Extraction(config.samples, config.shots, seed=config.seed))
        if name in config.sources and not task.validation:
            raise ValueError(f"source {name!r} has no validation split to choose layer and strength on")
        if name in config.targets and not task.test:
            raise ValueError(f"target {name!r} has no test split")
    return tasks


def check_prompts(workspace: Workspace) -> None:
    """Check layers and tokenise all prompts, so that a prompt that does not fit is named before work starts."""
    config = workspace.config
    check_layers(workspace.model, config.layers or None)
    for task in workspace.tasks.values():
        queries = [*draw_samples(task, workspace.extraction()), *test_examples(config, task)]
        few = few_shot_prompts(task, queries, shots=config.shots, seed=config.seed)
        tokenise(workspace.model, [*few, *zero_shot_prompts(task, queries)], chat=config.chat, room=ANSWER_ROOM)


def fits(workspace: Workspace, prompts: Sequence[Prompt]) -> bool:
    """Whether prompts and their answers fit the model's context."""
    needed = longest_prompt(workspace.model, prompts, chat=workspace.config.chat) + ANSWER_ROOM
    return needed <= int(workspace.model.cfg.n_ctx)


def test_examples(config: RunConfig, task: Task) -> tuple[Example, ...]:
    """The test examples of a target in a run: a sample balanced over the labels.

    All draws of a run use the same examples, because their seeds differ by multiples of `SEEDS_A_DRAW`.
    """
    return sample_examples(task, min(config.test, len(task.test)), seed=config.seed % SEEDS_A_DRAW)


def validation_examples(config: RunConfig, task: Task) -> tuple[Example, ...]:
    """The validation examples of a source on which layer and strength are chosen: a sample balanced over the labels."""
    n = min(config.validation, len(task.validation))
    return sample_examples(task, n, split="validation", seed=config.seed % SEEDS_A_DRAW)


def unlabelled_queries(task: Task, count: int, *, seed: int) -> tuple[Example, ...]:
    """Up to ``count`` examples of a target that are not test examples, drawn without reading their answers."""
    pool = [*task.train, *task.validation]
    drawn = np.random.default_rng(seed % SEEDS_A_DRAW).permutation(len(pool))[:count]
    return tuple(pool[index] for index in drawn)


def label_counts(config: RunConfig, tasks: Mapping[str, Task]) -> pd.DataFrame:
    """How often each label occurs among the examples that a run uses; labels that never occur also have a row.

    Returns:
        ``task, use`` (samples, validation or test), ``label`` (of lettered options: the letter of the right one),
        ``n``; tasks with free answers have no rows.
    """
    frames = [pd.DataFrame(columns=["task", "split", "label", "n"])]
    for name, task in tasks.items():
        used = {"samples": draw_samples(task, Extraction(config.samples, config.shots, seed=config.seed))}
        used |= {"validation": validation_examples(config, task)} if name in config.sources else {}
        used |= {"test": test_examples(config, task)} if name in config.targets else {}
        if task.kind != "free":
            frames += [tasks_label_counts(task, examples, split=use) for use, examples in used.items()]
    return pd.concat(frames[1:] or frames, ignore_index=True).rename(columns={"split": "use"})


def named_values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """A mapping from ``name=value`` pairs; values are read as JSON, or as text if they are not valid JSON.

    Args:
        pairs: the pairs as typed.
        option: name of the option, for errors.

    Raises:
        ValueError: a pair without a name or without ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name.strip() or not equals:
            raise ValueError(f"{option}: {pair!r} is not of the form name=value")
        try:
            found[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            found[name.strip()] = value
    return found


def model_facts(workspace: Workspace) -> dict[str, Any]:
    """Facts about the model, for ``model.json`` and the report."""
    cfg, origin = workspace.model.cfg, checkpoint(workspace.model)
    return {
        "name": workspace.config.model,
        "architecture": str(cfg.original_architecture),
        "fingerprint": fingerprint(workspace.model),
        "parameters": origin.parameters,
        "n_layers": int(cfg.n_layers),
        "d_model": int(cfg.d_model),
        "dtype": number_format(workspace.model),
        "quantisation": quantisation(workspace.model),
        "dequantised_from": origin.dequantised_from or None,
        "device": str(cfg.device),
        "plain_route": unsupported(workspace.model),
    }


def check_strengths(model: HookedTransformer, strengths: Sequence[float]) -> None:
    """Refuse strengths under which no vector could be added.

    Raises:
        ValueError: a strength above the largest entry that the model can compute with.
    """
    limit, worst = strength_limit(model), max(map(abs, strengths), default=0.0)
    if worst > limit:
        raise ValueError(
            f"strengths: {worst:g} is beyond what {number_format(model)} can hold and square ({limit:.1e}); strengths "
            "are multiples of a vector, and useful ones are below 10"
        )


def number_format(model: HookedTransformer) -> str:
    """The model's number format: its dtype, and how its weights are quantised, or were before loading."""
    packed, was = quantisation(model), checkpoint(model).dequantised_from
    dtype = str(model.cfg.dtype).removeprefix("torch.")
    if packed is not None:
        return f"{dtype}, weights quantised ({packed})"
    return f"{dtype}, weights dequantised from {was}" if was else dtype
