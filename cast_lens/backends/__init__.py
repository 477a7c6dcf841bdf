"""Where a model runs: the one-pass engine, plain hooks, or a serving engine; the same three questions to each."""

from .opening import BACKENDS, BackendName, check_backend, open_backend
from .protocol import Backend, EngineBackend, EvaluatedOn, HookBackend, evaluate_on
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
