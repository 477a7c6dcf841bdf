"""Methods under one protocol: each makes ``Condition`` objects, ``evaluate_conditions`` runs them."""

from .conditions import OUTCOMES, Condition, evaluate_conditions
from .prompting import cross_task_few_shot, few_shot, zero_shot
from .sources import DIFFERENCE_KINDS, Source
from .steered import Setting, placebo_random, placebo_shuffled, steered
from .vectors import VECTOR_METHODS, VectorMethod

__all__ = [
    "DIFFERENCE_KINDS",
    "OUTCOMES",
    "VECTOR_METHODS",
    "Condition",
    "Setting",
    "Source",
    "VectorMethod",
    "cross_task_few_shot",
    "evaluate_conditions",
    "few_shot",
    "placebo_random",
    "placebo_shuffled",
    "steered",
    "zero_shot",
]
