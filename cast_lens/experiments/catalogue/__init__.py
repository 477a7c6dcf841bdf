"""One file per experiment. ``EXPERIMENTS`` names them all; a module is imported when its experiment is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..protocol import Experiment

EXPERIMENTS: dict[str, str] = {
    "transfer": "Do the vectors of tasks point the same way, and does one task's vector help another task?",
    "cross-domain": "Which method helps which target from which source, and does it help the format or the choice?",
    "rivals": "Is the mean difference the right vector, or does another method do better on the same questions?",
    "cross-lingual": "Does a vector taken in one language help in another?",
    "ablation": "Which parts of the method matter: subtraction, selection, layers, positions, norms?",
    "layer-strength": "Where and how strongly does a vector work, and where does it break the model?",
    "scaling": "Do more source samples help where more demonstrations stop helping?",
    "shots": "How many demonstrations should the few-shot side of the difference have?",
    "efficiency": "What does a query cost under each method?",
    "zero-shot-sensitivity": "How far do vectors turn when the zero-shot prompt is worded differently?",
    "dissimilarity": "Does steering hold where source and target differ and prompting fails?",
    "transferability": "What does one vector do to many unrelated targets, and what structure does the matrix have?",
    "choosing": "Which rule chooses layer and strength, or to stand aside, so that steering helps and does not harm?",
    "predict-transfer": "Can a harmful vector be recognised before any target label is used?",
    "steerability": "How does each example respond to the strength, and how many move the wrong way?",
    "side-effects": "What does a vector cost on other tasks and on plain text?",
    "selection": "Does choosing the samples beat a random subset of the same size?",
    "atv": "Does a vector that is generated for each query beat a constant one, demonstrations and adapters?",
}
"""Every experiment with its question."""


def find(name: str) -> type[Experiment]:
    """The class of the experiment of that name; its fields are the options.

    Raises:
        ValueError: for an unknown name, with the nearest known one.
    """
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(EXPERIMENTS)}"
        raise ValueError(f"experiment {name!r} is unknown; {hint}")
    found: type[Experiment] = importlib.import_module(f".{name.replace('-', '_')}", __name__).EXPERIMENT
    return found
