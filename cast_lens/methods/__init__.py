"""Methods under one protocol: each makes ``Condition`` objects, ``evaluate_conditions`` runs them."""

from .batching import BatchedCondition, batched
from .conditions import OUTCOMES, AnyCondition, Condition, evaluate_conditions
from .prompting import (
    PROMPT_METHODS,
    PromptMethod,
    cross_task_few_shot,
    few_shot,
    random_text_few_shot,
    retrieved_few_shot,
    zero_shot,
)
from .retrieval import Embed, residual_embedding, sentence_embedding
from .sources import DIFFERENCE_KINDS, Source
from .steered import Setting, placebo_random, placebo_shuffled, steered
from .vectors import VECTOR_METHODS, VectorMethod

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
    "Source",
    "VectorMethod",
    "batched",
    "cross_task_few_shot",
    "evaluate_conditions",
    "few_shot",
    "placebo_random",
    "placebo_shuffled",
    "random_text_few_shot",
    "residual_embedding",
    "retrieved_few_shot",
    "sentence_embedding",
    "steered",
    "zero_shot",
]
