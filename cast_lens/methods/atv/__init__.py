"""Adaptive task vectors (arXiv 2506.03426): a small model reads the query and writes a vector for every layer.

    atv = train(model, tasks, folder="runs/atv", watch=...)
    evaluate(model, prompts, [atv.intervention(prompts)])
    with atv.steer(model, prompts): model.generate(...)

- ``Design``, ``Training``: every switch of the recipe; ``PAPER``, ``PAPER_TRAINING``: its values;
- ``train``: against the frozen large model, with early stop and checkpoints; ``loss_bar`` shows it;
- ``ATV``: ``vectors``, ``intervention``, ``steer``, ``save``, ``load``;
- ``evaluate_atv``, ``gains``: outcomes of examples, and what changes a task;
- ``another_query``, ``task_means``, ``random_directions``, ``constant_vectors``: what stands beside its vectors;
- ``generate_vectors``, ``generated_cosines``, ``generated_norms``, ``generated_against``, ``generated_cloud``: what
  the vectors are like;
- ``Generator``: what a small model of your own has to offer.
"""

from .controls import another_query, constant_vectors, random_directions, task_means
from .data import Item, Material, gather, readings
from .design import PAPER, PAPER_TRAINING, Design, Training
from .expansion import Expansion
from .generators import BlocksGenerator, ConstantGenerator, Generator, build_generator
from .inside import (
    Generated,
    generate_vectors,
    generated_against,
    generated_cloud,
    generated_cosines,
    generated_norms,
)
from .outcomes import evaluate_atv, gains
from .training import train
from .vectors import ATV
from .watching import Step, Watch, loss_bar, silent

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
    "Item",
    "Material",
    "Step",
    "Training",
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
    "loss_bar",
    "random_directions",
    "readings",
    "silent",
    "task_means",
    "train",
]
