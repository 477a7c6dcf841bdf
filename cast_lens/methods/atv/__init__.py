"""Adaptive task vectors (arXiv 2506.03426): a small model reads the query and generates a vector for every layer.

    atv = train(model, tasks, folder="runs/atv", watch=...)
    evaluate(model, prompts, [atv.intervention(prompts)])
    with atv.steer(model, prompts): model.generate(...)

- ``Design``, ``Training``: all options; ``PAPER``, ``PAPER_TRAINING``: the paper's values;
- ``train``: trains against the frozen large model, with early stopping and checkpoints; ``loss_bar`` shows progress;
- ``ATV``: ``vectors``, ``intervention``, ``steer``, ``save``, ``load``;
- ``evaluate_atv``, ``gains``: outcomes of every example, and changes per task;
- ``another_query``, ``task_means``, ``random_directions``, ``constant_vectors``: controls for its vectors;
- ``generate_vectors``, ``generated_cosines``, ``generated_norms``, ``generated_against``, ``generated_cloud``:
  properties of the vectors;
- ``Generator``: the interface for your own small model.
"""

from ..training import Step, Training, TrainingData, TrainingItem, Watch, gather, generator_texts, loss_bar, silent
from .analysis import (
    Generated,
    another_query,
    constant_vectors,
    evaluate_atv,
    gains,
    generate_vectors,
    generated_against,
    generated_cloud,
    generated_cosines,
    generated_norms,
    random_directions,
    task_means,
)
from .config import PAPER, PAPER_TRAINING, Design
from .generators import BlocksGenerator, ConstantGenerator, Expansion, Generator, build_generator
from .model import ATV
from .training import train

__all__ = [
    "ATV",
    "PAPER",
    "PAPER_TRAINING",
    "BlocksGenerator",
    "ConstantGenerator",
    "Design",
    "Expansion",
    "Generated",
    "Generator",
    "Step",
    "Training",
    "TrainingData",
    "TrainingItem",
    "Watch",
    "another_query",
    "build_generator",
    "constant_vectors",
    "evaluate_atv",
    "gains",
    "gather",
    "generate_vectors",
    "generated_against",
    "generated_cloud",
    "generated_cosines",
    "generated_norms",
    "generator_texts",
    "loss_bar",
    "random_directions",
    "silent",
    "task_means",
    "train",
]
