"""Where a model runs: the one-pass engine, plain hooks, or a serving engine; the same three questions to each."""

from .protocol import (
    BACKENDS,
    Backend,
    BackendName,
    EngineBackend,
    EvaluatedOn,
    HookBackend,
    check_backend,
    evaluate_on,
    open_backend,
)
from .served import EasySteerBackend, VllmLensBackend

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendName",
    "EasySteerBackend",
    "EngineBackend",
    "EvaluatedOn",
    "HookBackend",
    "VllmLensBackend",
    "check_backend",
    "evaluate_on",
    "open_backend",
]
