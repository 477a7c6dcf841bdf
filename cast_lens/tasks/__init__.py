"""Tasks as pure text: examples in three splits, templates, prompts, and the reading of answers.

    load_task("review-sentiment") -> Task -> few_shot(task, task.test[0], shots=4, seed=0) -> Prompt.text

Nothing in this room runs a model or imports torch.
"""

from __future__ import annotations

from .answers import is_match, is_valid, may_be_valid, normalise_answer
from .loading import list_tasks, load_task
from .prompts import (
    cross_task,
    cross_task_prompts,
    few_shot,
    few_shot_prompts,
    prompts_showing,
    with_random_text,
    word_count,
    zero_shot,
    zero_shot_prompts,
)
from .sampling import demonstrations, input_key, label_counts, sample_examples
from .types import SPLITS, Example, Kind, Prompt, Split, Task, TaskInfo, Template

__all__ = [
    "SPLITS",
    "Example",
    "Kind",
    "Prompt",
    "Split",
    "Task",
    "TaskInfo",
    "Template",
    "cross_task",
    "cross_task_prompts",
    "demonstrations",
    "few_shot",
    "few_shot_prompts",
    "input_key",
    "is_match",
    "is_valid",
    "label_counts",
    "list_tasks",
    "load_task",
    "may_be_valid",
    "normalise_answer",
    "prompts_showing",
    "sample_examples",
    "with_random_text",
    "word_count",
    "zero_shot",
    "zero_shot_prompts",
]
