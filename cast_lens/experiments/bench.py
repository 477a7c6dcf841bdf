"""The old name of ``workspace``, for experiments that are still to change."""

from .workspace import (
    ANSWER_ROOM,
    NEED_CONFIDENCE,
    SEEDS_A_DRAW,
    Load,
    Say,
    Workspace,
    check_prompts,
    fits,
    load_tasks,
    test_examples,
)

Bench = Workspace

__all__ = [
    "ANSWER_ROOM",
    "NEED_CONFIDENCE",
    "SEEDS_A_DRAW",
    "Bench",
    "Load",
    "Say",
    "check_prompts",
    "fits",
    "load_tasks",
    "test_examples",
]
