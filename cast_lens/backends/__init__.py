"""Where a model runs: the one-pass engine, plain hooks, or a serving engine; the same three questions to each."""

from .local import EngineBackend, HookBackend
from .protocol import Backend, evaluate_on
from .served import EasySteerBackend, VllmLensBackend

__all__ = ["Backend", "EasySteerBackend", "EngineBackend", "HookBackend", "VllmLensBackend", "evaluate_on"]
