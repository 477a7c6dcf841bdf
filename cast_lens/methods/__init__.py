"""Methods under one protocol: each creates ``Condition`` objects, which ``evaluate_conditions`` runs."""

from .choosing import (
    FIXED,
    RULES,
    Choice,
    candidate_layers,
    cell_outcomes,
    choose_from,
    find_rule,
    fixed_choice,
    unlabelled,
)
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
from .field import FIELD_METHODS, STEERING_METHODS, FieldMethod
from .fitted import FittedMethod
from .frequency import fast_vector
from .function_vectors import HeadEffects, function_vector, head_effects, universal_heads, vector_of_heads
from .in_context_vectors import implicit_context, in_context_vector, transferred_context
from .learned import learned_vector, static_vector
from .library import VectorLibrary
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
from .retrieved import RETRIEVALS, retrieved_differences
from .settled import choose_setting, settled
from .source_choice import fisher_embedding, h_score, next_token_distance, within_targets
from .state_vectors import state_vector
from .vectors import DIFFERENCE_KINDS, VECTOR_METHODS, SourceTask, VectorMethod, language_vector

__all__ = [
    "DIFFERENCE_KINDS",
    "FIELD_METHODS",
    "FIXED",
    "OUTCOMES",
    "PROMPT_METHODS",
    "RETRIEVALS",
    "RULES",
    "STEERING_METHODS",
    "VECTOR_METHODS",
    "AnyCondition",
    "BatchedCondition",
    "Choice",
    "Condition",
    "Embed",
    "FieldMethod",
    "FittedMethod",
    "HeadEffects",
    "PromptMethod",
    "Setting",
    "SourceTask",
    "VectorLibrary",
    "VectorMethod",
    "batched",
    "candidate_layers",
    "cell_outcomes",
    "choose_from",
    "choose_setting",
    "cross_task_condition",
    "evaluate_conditions",
    "fast_vector",
    "few_shot_condition",
    "find_rule",
    "fisher_embedding",
    "fixed_choice",
    "function_vector",
    "h_score",
    "head_effects",
    "implicit_context",
    "in_context_vector",
    "language_vector",
    "learned_vector",
    "next_token_distance",
    "placebo_random",
    "placebo_shuffled",
    "random_text_condition",
    "residual_embedding",
    "retrieved_condition",
    "retrieved_differences",
    "sentence_embedding",
    "settled",
    "state_vector",
    "static_vector",
    "steered",
    "transferred_context",
    "universal_heads",
    "unlabelled",
    "vector_of_heads",
    "within_targets",
    "zero_shot_condition",
]
