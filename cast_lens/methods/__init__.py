"""Methods under one protocol: each makes ``Condition`` objects, ``evaluate_conditions`` runs them."""

from .conditions import (
    OUTCOMES,
    AnyCondition,
    BatchedCondition,
    Condition,
    Setting,
    evaluate_conditions,
    placebo_random,
    placebo_shuffled,
    steered,
)
from .prompting import (
    PROMPT_METHODS,
    Embed,
    PromptMethod,
    batched,
    cross_task_condition,
    few_shot_condition,
    random_text_condition,
    residual_embedding,
    retrieved_condition,
    sentence_embedding,
    zero_shot_condition,
)
from .vectors import DIFFERENCE_KINDS, VECTOR_METHODS, SourceTask, VectorMethod

__all__ = [
    "DIFFERENCE_KINDS",
    "OUTCOMES",
    "PROMPT_METHODS",
    "VECTOR_METHODS",
    "AnyCondition",
    "BatchedCondition",
    "Condition",
    "Embed",
    "PromptMethod",
    "Setting",
    "SourceTask",
    "VectorMethod",
    "batched",
    "cross_task_condition",
    "evaluate_conditions",
    "few_shot_condition",
    "placebo_random",
    "placebo_shuffled",
    "random_text_condition",
    "residual_embedding",
    "retrieved_condition",
    "sentence_embedding",
    "steered",
    "zero_shot_condition",
]
