"""A training run on disk: everything that the next step depends on, in one file that is whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...files import atomic_write, load_tensors, read_json, remove_leftovers, save_tensors, write_json
from ..training import History, Training
from ..training_data import TrainingData, TrainingItem
from .config import Design
from .generators import Expansion, Generator
from .model import restore, state

KIND = "ATV training"
CHECKPOINT, CONFIG, RESULT = "checkpoint.safetensors", "config.json", "atv.safetensors"
BAD_BATCH = "nonfinite_batch"


@dataclass(slots=True, eq=False)
class RunState:
    """Weights, optimiser, place and history of a run.

    The order of the prompts follows from seed and epoch, and nothing else is drawn while training, so this and the
    material decide every later step.
    """

    expansion: Expansion
    generator: Generator
    optimiser: torch.optim.Adam
    history: History = field(default_factory=History)
    kept: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.history.steps

    def keep(self) -> None:
        """Remember the weights as they are as the best so far."""
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
        """Continue from the checkpoint of a folder; False when there is none."""
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
    """What is trained."""
    own = [] if generator.module is None else list(generator.module.parameters())
    return [*expansion.parameters(), *own]


def claim(folder: Path, *, design: Design, training: Training, material: TrainingData, model: str) -> None:
    """Make a folder this run's, or refuse it when it holds another one; clears what a killed run left half written.

    Raises:
        ValueError: when the folder holds a run that differs, with what differs, or its settings are damaged.
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


def save_bad_batch(folder: Path, items: list[TrainingItem], vectors: Tensor, *, step: int, losses: list[float]) -> Path:
    """Write the prompts of a step whose loss or gradient is not finite, and the vectors that were added to them."""
    rows = [
        {"task": item.task, "sample": item.sample, "template": item.template, "text": item.text}
        | {
            "answer": item.answer,
            "generator_text": item.generator_text,
            "tokens": item.prompt.tokens,
            "loss": loss,
        }
        for item, loss in zip(items, losses, strict=True)
    ]
    save_tensors(
        folder / f"{BAD_BATCH}.safetensors",
        {"vectors": vectors.detach().cpu()},
        kind="vectors",
        about={"step": step},
    )
    text = json.dumps({"step": step, "items": rows}, ensure_ascii=False, indent=1)
    return atomic_write(folder / f"{BAD_BATCH}.json", text.encode())


def _part(tensors: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): value for name, value in tensors.items() if name.startswith(beginning)}
