"""What the stages of a run and the cells of an experiment share: model, tasks, vectors, settings, on disk when made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformer_lens import HookedTransformer

from ..engine import Progress, quiet, tokenise, unsupported
from ..engine.tokens import longest_prompt
from ..extraction import Extraction, difference_vectors, draw_samples
from ..methods import VECTOR_METHODS, Condition, Setting, Source, zero_shot
from ..methods.prompting import Remembered, residual_embedding, sentence_embedding
from ..models import fingerprint, load_model
from ..models.identity import check_layers
from ..selection import METHODS, select, space_from_residuals
from ..tasks import Example, Prompt, Task, few_shot_prompts, load_task, zero_shot_prompts
from ..vectors import DifferenceVectors, SteeringVector
from .choosing import chosen_setting, sweep_source
from .config import RunConfig
from .store import RunDirectory

Say = Callable[[str], None]
Load = Callable[..., HookedTransformer]
# Selections that ask for the model's confidence in labels, which a run does not compute.
NEED_CONFIDENCE = ("confident", "vote-k-two-phase")
# Seeds from one draw to the next: more than placebos or repeats take within one.
SEEDS_A_DRAW = 1000
# Tokens left free for an answer.
ANSWER_ROOM = 16
# File names of difference vectors, by what the demonstrations hold.
FILES = {"true": "differences", "shuffled labels": "shuffled", "random text": "random-text"}


@dataclass(frozen=True, slots=True)
class Bench:
    """What the stages share.

    Attributes:
        config: what was asked for.
        model: the model.
        tasks: every source and target, by name.
        directory: where vectors and settings are kept.
        progress: wraps batches.
        say: told what is being done.
        embed: texts as vectors, for retrieval; see ``ExperimentConfig.encoder``.
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
        encoder: str = "",
        load: Load = load_model,
        progress: Progress = quiet,
        say: Say = lambda text: None,
    ) -> Bench:
        """Load the model and the encoder, and check what will be read before any work starts.

        Args:
            config, tasks, directory, progress, say: see above.
            encoder: see ``ExperimentConfig.encoder``.
            load: gives the model; it is called as ``load_model``.
        """
        say(f"Loading {config.model}")
        model = load(config.model, device=config.device, dtype=config.dtype)
        if encoder:
            embed = sentence_embedding(encoder)
            embed(["loads?"])
        else:
            embed = residual_embedding(model, chat=config.chat, progress=progress)
        bench = cls(config, model, tasks, directory, progress, say, embed)
        check_prompts(bench)
        write_model(bench)
        return bench

    def drawn(self, draw: int) -> Bench:
        """The same model and queries with another draw of samples, demonstrations and placebos.

        Its vectors and settings stand in ``draws/DRAW`` of the run directory; draw 0 is the bench itself.
        """
        if draw == 0:
            return self
        config = replace(self.config, seed=self.config.seed + SEEDS_A_DRAW * draw)
        directory = RunDirectory(self.directory.path / "draws" / str(draw))
        return replace(self, config=config, directory=directory)

    def extraction(self, kind: str = "true") -> Extraction:
        """How vectors are taken in this run; ``kind`` is one of ``methods.DIFFERENCE_KINDS``."""
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
        """Difference vectors of a task, from disk when they are there."""
        path = self.directory.path / "vectors" / f"{FILES[kind]}.{name}.safetensors"
        if path.is_file():
            return DifferenceVectors.load(path)
        how = self.extraction(kind)
        found = difference_vectors(self.model, self.tasks[name], how, progress=self.progress)
        found.save(path)
        return found

    def chosen(self, name: str) -> tuple[int, ...] | None:
        """The samples of a source that the run's selection chooses; None for all of them.

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

    def source(self, name: str, *, seed: int | None = None) -> Source:
        """What a vector method may read of a source."""
        return Source(
            self.model,
            self.tasks[name],
            self.extraction(),
            lambda kind: self.differences(name, kind),
            self.chosen(name),
            self.config.seed if seed is None else seed,
            note="" if self.config.select == "all" else f"chosen by {self.config.select}",
        )

    def vector(self, name: str, method: str = "cast") -> SteeringVector:
        """The vector that a method makes of a source."""
        return VECTOR_METHODS[method].fit(self.source(name))

    def shuffled(self, name: str) -> SteeringVector:
        """The mean difference vector of demonstrations with shuffled answers, over the same samples."""
        chosen = self.chosen(name)
        return self.differences(name, "shuffled labels").mean(chosen)

    def setting(self, name: str, method: str = "cast") -> Setting:
        """Layer and strength of a method's vector, chosen on the source's own validation split."""
        config, how = self.config, VECTOR_METHODS[method]
        operator, position = how.operator or config.operator, how.position or config.position
        frame = self.directory.frame(
            f"settings/{method}/{name}".replace(":", ""),
            lambda: sweep_source(
                self.model,
                zero_shot_prompts(self.tasks[name], self.tasks[name].validation[: config.validation]),
                {"vector": self.vector(name, method)},
                layers=config.layers or None,
                strengths=how.strengths or config.strengths,
                operator=operator,
                position=position,
                finalists=config.finalists,
                chat=config.chat,
                progress=self.progress,
            ).assign(source=name, method=method),
        )
        return chosen_setting(frame, operator=operator, position=position)

    def base(self, name: str) -> Condition:
        """Zero-shot on the test examples of a target: what everything is compared with."""
        return zero_shot(self.tasks[name], test_examples(self.config, self.tasks[name]))


def load_tasks(config: RunConfig, names: Sequence[str] = ()) -> dict[str, Task]:
    """The tasks of a run, checked against what it will draw from them.

    Args:
        config: gives sources and targets.
        names: further tasks.

    Raises:
        ValueError: an unknown task, or splits too small for samples, shots, validation or test.
    """
    if config.select not in METHODS or config.select in NEED_CONFIDENCE:
        usable = ", ".join(name for name in METHODS if name not in NEED_CONFIDENCE)
        raise ValueError(
            f"select={config.select!r} is no selection that a run can make; choose from {usable}"
        )
    wanted = dict.fromkeys((*config.sources, *config.targets, *names))
    tasks = {
        name: load_task(name, tasks=config.tasks or None, hub=config.hub, seed=config.seed) for name in wanted
    }
    for name, task in tasks.items():
        draw_samples(task, Extraction(config.samples, config.shots, seed=config.seed))
        if name in config.sources and not task.validation:
            raise ValueError(f"source {name!r} has no validation split to choose layer and strength on")
        if name in config.targets and not task.test:
            raise ValueError(f"target {name!r} has no test split")
    return tasks


def check_prompts(bench: Bench) -> None:
    """Check layers, and tokenise what the run will read: a prompt that does not fit is named before work starts."""
    config = bench.config
    check_layers(bench.model, config.layers or None)
    for task in bench.tasks.values():
        queries = [*draw_samples(task, bench.extraction()), *test_examples(config, task)]
        few = few_shot_prompts(task, queries, shots=config.shots, seed=config.seed)
        tokenise(bench.model, [*few, *zero_shot_prompts(task, queries)], chat=config.chat, room=ANSWER_ROOM)


def fits(bench: Bench, prompts: Sequence[Prompt]) -> bool:
    """Whether prompts and their answers fit the model's context."""
    needed = longest_prompt(bench.model, prompts, chat=bench.config.chat) + ANSWER_ROOM
    return needed <= int(bench.model.cfg.n_ctx)


def test_examples(config: RunConfig, task: Task) -> tuple[Example, ...]:
    """The test examples of a target: the first ones of the split, which the loaders leave in a mixed order."""
    return task.test[: config.test]


def write_model(bench: Bench) -> None:
    """Write what the model is, for the report."""
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
