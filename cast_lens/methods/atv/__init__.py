"""Adaptive task vectors (arXiv 2506.03426): a small model reads the query and writes a vector for every layer.

    atv = train(model, tasks, folder="runs/atv", watch=...)
    evaluate(model, prompts, [atv.intervention(prompts)])
    with atv.steer(model, prompts): model.generate(...)

- ``Design``, ``Training``: every switch of the recipe; ``PAPER``, ``PAPER_TRAINING``: its values;
- ``train``: against the frozen large model, with early stop and checkpoints; ``loss_bar`` shows it;
- ``ATV``: ``vectors``, ``intervention``, ``steer``, ``save``, ``load``;
- ``evaluate_atv``, ``gains``: outcomes of every example, and what changes by task;
- ``another_query``, ``task_means``, ``random_directions``, ``constant_vectors``: what its vectors are compared with;
- ``generate_vectors``, ``generated_cosines``, ``generated_norms``, ``generated_against``, ``generated_cloud``: what
  the vectors are like;
- ``Generator``: what a small model of your own has to offer.
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
