"""Trains an adaptive task vector against the frozen large model, with the cross-entropy of whole answers.

A run can have several tasks and templates. ``RunState`` is everything that the next step depends on; its checkpoint is
either complete or absent.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...engine import Prefixes, Progress, answer_losses, automatic, frozen, unsupported
from ...files import atomic_write, load_tensors, read_json, remove_leftovers, save_tensors, write_json
from ...interventions import PromptVectors
from ...models import fingerprint
from ...models.lens import HookedTransformer
from ...plots import plot_loss, write_figure
from ...tasks import Task
from ..training import History, Training, TrainingData, TrainingItem, Watch, gather, run_epochs, silent, trained_on
from .config import Design
from .generators import Expansion, Generator, build_generator, standards
from .model import ATV, restore, state, vector_layers

KIND = "ATV training"
CHECKPOINT, CONFIG, RESULT = "checkpoint.safetensors", "config.json", "atv.safetensors"
BAD_BATCH = "nonfinite_batch"


@dataclass(slots=True, eq=False)
class RunState:
    """Weights, optimiser, position and history of a run.

    The order of the prompts depends on seed and epoch, and nothing else is random, so this state and the data determine
    every later step.
    """

    expansion: Expansion
    generator: Generator
    optimiser: torch.optim.Adam
    history: History = field(default_factory=History)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self.history.steps

    def keep(self) -> None:
        """Store the current weights as the best so far."""
        self.kept = {name: value.clone() for name, value in state(self.expansion, self.generator).items()}

    def save(self, folder: Path) -> Path:
        """Write the checkpoint."""
        tensors = {f"now.{name}": value for name, value in state(self.expansion, self.generator).items()}
        tensors |= {f"kept.{name}": value for name, value in self.kept.items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
        tensors["losses"] = torch.tensor(self.history.losses, dtype=torch.float64)
        about = {"validations": self.history.validations, "best": self.history.best}
        return save_tensors(folder / CHECKPOINT, tensors, kind=KIND, about=about)

    def load(self, folder: Path) -> bool:
        """Continue from the checkpoint in a folder; False if it has none."""
        if not (folder / CHECKPOINT).is_file():
            return False
        tensors, about = load_tensors(folder / CHECKPOINT, kind=KIND)
        restore(_part(tensors, "now."), self.expansion, self.generator)
        self.kept = _part(tensors, "kept.")
        saved = self.optimiser.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "adam.").items():
            index, _, kind = name.partition(".")
            moments.setdefault(int(index), {})[kind] = value
        self.optimiser.load_state_dict({**saved, "state": moments})
        validations = [(int(step), float(loss)) for step, loss in about["validations"]]
        self.history = History(tensors["losses"].tolist(), validations, int(about["best"]))
        return True


def parameters(expansion: Expansion, generator: Generator) -> list[nn.Parameter]:
    """The parameters that are trained."""
    own = [] if generator.module is None else list(generator.module.parameters())
    return [*expansion.parameters(), *own]


def claim(folder: Path, *, design: Design, training: Training, material: TrainingData, model: str) -> None:
    """Claim a folder for this run, and remove files that a killed run left incomplete.

    Raises:
        ValueError: if the folder contains a different run (the message says what differs), or damaged settings.
    """
    job: dict[str, Any] = {
        "design": asdict(design),
        "training": asdict(training),
        "material": material.digest,
        "model": model,
    }
    job = json.loads(json.dumps(job))
    path = folder / CONFIG
    found = read_json(path)
    if found is None:
        write_json(path, job)
    remove_leftovers(folder)
    if found is None:
        return
    differing = [name for name in ("material", "model") if found.get(name) != job[name]]
    for part in ("design", "training"):
        differing += [name for name in job[part] if found.get(part, {}).get(name) != job[part][name]]
    if differing:
        raise ValueError(
            f"{folder} holds a training run that differs in {', '.join(differing)}; choose another folder, or give the "
            "same values to continue it"
        )


def save_bad_batch(
    folder: Path,
    items: list[TrainingItem],
    vectors: Float[Tensor, "item layer d_model"],
    *,
    step: int,
    losses: list[float],
) -> Path:
    """Write the prompts of a step whose loss or gradient is not finite, and the vectors that were added to them."""
    rows = [
        {"task": item.task, "sample": item.sample, "template": item.template, "text": item.text}
        | {"answer": item.answer, "generator_text": item.generator_text, "tokens": item.prompt.tokens, "loss": loss}
        for item, loss in zip(items, losses, strict=True)
    ]
    save_tensors(
        folder / f"{BAD_BATCH}.safetensors", {"vectors": vectors.detach().cpu()}, kind="vectors", about={"step": step}
    )
    text = json.dumps({"step": step, "items": rows}, ensure_ascii=False, indent=1)
    return atomic_write(folder / f"{BAD_BATCH}.json", text.encode())


def _part(tensors: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}


# Least number of prompts per validation pass: without gradients, small passes cost hardly less than large ones.
VALIDATED = 32


def train(
    model: HookedTransformer,
    tasks: Sequence[Task],
    *,
    design: Design | None = None,
    training: Training | None = None,
    folder: str | os.PathLike[str] | None = None,
    generator: Generator | None = None,
    watch: Watch = silent,
    progress: Progress = automatic,
) -> ATV:
    """Train an adaptive task vector for a large model, whose own parameters stay as they are (arXiv 2506.03426).

    It stops early by the validation loss and returns the ATV with the lowest one. With a folder, the run can be killed
    at any time: the same call continues it and ends with the same numbers, bit for bit on one machine.

    Args:
        model: the large model.
        tasks: train splits are used for training and validation splits for early stopping; test splits are not read.
        design: options of the ATV.
        training: options of the training.
        folder: for checkpoints, the loss curve and the result (``atv.safetensors``); None to keep nothing.
        generator: your own small model, instead of the one in the design.
        watch: called after every step; see ``loss_bar``.
        progress: wraps the passes before training.

    Raises:
        ValueError: before training, see ``gather``; layers that the model does not have; a folder that holds another
            run. During training, when a loss or gradient is not finite; the batch is on disk then, and the message
            says where.
    """
    design, training = design or Design(), training or Training()
    layers = vector_layers(model, design)
    material = gather(model, tasks, training, reads=design.reads)
    small = build_generator(design, model) if generator is None else generator
    place = None if folder is None else Path(folder)
    if place is not None:
        claim(place, design=design, training=training, material=material, model=fingerprint(model))
    job = TrainingJob.of(model, material, design, training, small, layers, progress)
    with frozen(model):
        run = job.run(place, watch)
    restore(run.kept, run.expansion, run.generator)
    about = trained_on(model, tasks, training, run.history, what="adaptive task vector")
    history = run.history
    made = ATV(design, training, layers, small, run.expansion, history.steps, history.lowest, about)
    if place is not None:
        made.save(place / RESULT)
        write_curve(run, place)
    return made


def write_curve(run: RunState, folder: Path) -> None:
    """The losses as ``loss.csv``, and as a figure, ``loss.html``."""
    frame = run.history.to_frame()
    write_figure(plot_loss(frame), frame, folder, "loss", png="never")


@torch.no_grad()
def _states(generator: Generator, items: Sequence[TrainingItem]) -> Float[Tensor, "item d_small"]:
    """The small model's state for each item; each text is read once."""
    place = {text: row for row, text in enumerate(dict.fromkeys(item.generator_text for item in items))}
    return generator.states(list(place))[[place[item.generator_text] for item in items]]


@dataclass(frozen=True, slots=True, eq=False)
class TrainingJob:
    """The constant parts of a training run."""

    model: HookedTransformer
    material: TrainingData
    design: Design
    training: Training
    generator: Generator
    layers: tuple[int, ...]
    prefixes: Prefixes | None
    states: Float[Tensor, "item d_small"] | None
    standards: tuple[Tensor, Tensor] | None

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        material: TrainingData,
        design: Design,
        training: Training,
        generator: Generator,
        layers: tuple[int, ...],
        progress: Progress,
    ) -> TrainingJob:
        """Compute everything that is needed once: states of a frozen small model, keys and values of the prompts."""
        items = material.items
        states = _states(generator, material.items).to(model.cfg.device)
        train = states[: len(material.train)]
        prefixes = None
        if design.position != "all" and unsupported(model) is None:
            prompts = [item.prompt for item in items]
            prefixes = Prefixes.of(model, prompts, memory_mb=training.memory_mb, progress=progress)
        return cls(
            model,
            material,
            design,
            training,
            generator,
            layers,
            prefixes,
            states if generator.module is None else None,
            standards(train) if design.standardise else None,
        )

    def start(self) -> RunState:
        """Fresh weights."""
        shift, scale = self.standards or (None, None)
        expansion = Expansion(
            self.generator.width,
            len(self.layers),
            int(self.model.cfg.d_model),
            rank=self.design.rank,
            start=self.design.start,
            seed=self.training.seed,
            shift=shift,
            scale=scale,
        ).to(self.model.cfg.device)
        optimiser = torch.optim.Adam(
            parameters(expansion, self.generator),
            lr=self.training.learning_rate,
            weight_decay=self.training.weight_decay,
        )
        return RunState(expansion, self.generator, optimiser)

    def run(self, folder: Path | None, watch: Watch) -> RunState:
        """Train until the last epoch or early stopping, continuing from the folder's checkpoint."""
        run = self.start()
        if folder is not None:
            run.load(folder)
        run_epochs(
            run.history,
            self.training,
            len(self.material.train),
            step=lambda places: self._step(run, places, folder),
            validate=lambda: self._validation_loss(run),
            keep=run.keep,
            watch=watch,
            checkpoint=None if folder is None else lambda: run.save(folder),
        )
        return run

    def _step(self, run: RunState, places: list[int], folder: Path | None) -> float:
        vectors, losses = self._losses(run, places)
        loss = losses.mean()
        run.optimiser.zero_grad(set_to_none=True)
        # A loss that is not finite has no usable gradient.
        if bool(torch.isfinite(loss)):
            loss.backward()
        grown = [parameter.grad for parameter in parameters(run.expansion, self.generator)]
        if not bool(torch.isfinite(loss)) or not all(
            bool(torch.isfinite(gradient).all()) for gradient in grown if gradient is not None
        ):
            self._refuse(run, places, vectors, losses, folder)
        run.optimiser.step()
        return float(loss.item())

    def _losses(self, run: RunState, batch: list[int]) -> tuple[Tensor, Float[Tensor, " sample"]]:
        """Vectors of some items and the loss of each; NaN where a vector is not finite."""
        items = [self.material.items[index] for index in batch]
        known = self.states
        states = self.generator.states([item.generator_text for item in items]) if known is None else known[batch]
        vectors = run.expansion(states.to(run.expansion.bias.device))
        if not bool(torch.isfinite(vectors).all()):
            return vectors, vectors.flatten(1).sum(dim=1)
        steering = PromptVectors(vectors, self.layers, self.design.strength, self.design.position)
        prefix = None if self.prefixes is None else self.prefixes.gather(batch)
        with self.training.precision(torch.device(self.model.cfg.device or "cpu")):
            losses = answer_losses(
                self.model, [item.prompt for item in items], steering, prefix=prefix, recompute=self.training.recompute
            )
        return vectors, losses

    @torch.no_grad()
    def _validation_loss(self, run: RunState) -> float:
        first, count = len(self.material.train), len(self.material.validation)
        size, total = max(self.training.batch, VALIDATED), 0.0
        for start in range(0, count, size):
            places = list(range(first + start, first + min(count, start + size)))
            total += float(self._losses(run, places)[1].double().sum())
        return total / count

    def _refuse(self, run: RunState, batch: list[int], vectors: Tensor, losses: Tensor, folder: Path | None) -> None:
        items: list[TrainingItem] = [self.material.items[index] for index in batch]
        place = Path(tempfile.mkdtemp(prefix="cast-lens-")) if folder is None else folder
        path = save_bad_batch(place, items, vectors, step=run.steps, losses=[float(loss) for loss in losses.detach()])
        what = "gradient" if bool(torch.isfinite(losses).all()) else "loss"
        raise ValueError(
            f"the {what} of step {run.steps} is not finite; the batch that made it is in {path}, with its "
            "vectors next to it. Lower learning_rate or strength, or leave mixed_precision off"
        )
