"""Cross-task Activation Steering Transfer (arXiv 2507.13236) on TransformerLens.

A map, in the order in which things flow:

- ``load_task`` gives a ``Task``; ``zero_shot``, ``few_shot``, ``cross_task`` turn its examples into prompts;
- ``load_model`` gives a ``HookedTransformer`` with unprocessed weights;
- ``difference_vectors`` runs both prompts of each sample and keeps the residuals: ``DifferenceVectors``, whose
  ``mean`` is a ``SteeringVector``;
- ``parallelism``, ``alignment``, ``cohesion``, ``entropy_by_layer``, ``project`` describe the geometry of differences;
- ``space_from_residuals`` and ``select`` choose which samples to average;
- ``sweep`` scores prompts over layers × strengths × directions in one pass; ``score`` and ``answer`` run any set of
  ``Intervention`` objects; ``steer`` puts them on a model as hooks;
- ``evaluate`` gives one row per example; ``VECTOR_METHODS`` and ``PROMPT_METHODS`` hold what is compared, and
  ``evaluate_conditions`` runs any number of them on the same examples; ``cast_lens.stats`` the intervals and tests;
- ``cast_lens.plots`` draws frames, ``explore`` shows vectors to explore by hand; ``cast_lens.experiments.run``
  runs everything and writes a report.

Names are loaded on first use, so importing the package is quick; rooms are names too (``cl.plots``, ``cl.stats``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Condition": "methods",
    "DifferenceVectors": "vectors",
    "Example": "tasks",
    "Extraction": "extraction",
    "Intervention": "interventions",
    "PROMPT_METHODS": "methods",
    "Prompt": "tasks",
    "Provenance": "vectors",
    "RunConfig": "experiments",
    "Selection": "selection",
    "Scores": "engine",
    "Setting": "methods",
    "SourceTask": "methods",
    "SteeringVector": "vectors",
    "Sweep": "engine",
    "Task": "tasks",
    "VECTOR_METHODS": "methods",
    "VectorLibrary": "methods",
    "alignment": "geometry",
    "answer": "engine",
    "bars": "engine",
    "capture": "engine",
    "changed_answers": "evaluation",
    "chosen_setting": "experiments",
    "choose_setting": "methods",
    "cohesion": "geometry",
    "cosine_matrix": "geometry",
    "cross_task": "tasks",
    "difference_vectors": "extraction",
    "entropy_by_layer": "geometry",
    "evaluate": "evaluation",
    "evaluate_conditions": "methods",
    "explore": "explore",
    "export": "share",
    "export_gguf": "gguf",
    "few_shot": "tasks",
    "few_shot_prompts": "tasks",
    "generate": "steering",
    "import_gguf": "gguf",
    "import_intervention": "share",
    "import_vector": "share",
    "list_models": "models",
    "list_tasks": "tasks",
    "load_model": "models",
    "load_task": "tasks",
    "parallelism": "geometry",
    "project": "geometry",
    "random_direction": "placebos",
    "recommend": "recommend",
    "sample_examples": "tasks",
    "score": "engine",
    "select": "selection",
    "space_from_residuals": "selection",
    "steer": "steering",
    "sweep": "engine",
    "sweep_source": "experiments",
    "zero_shot": "tasks",
    "zero_shot_prompts": "tasks",
}
_ROOMS = (
    *("effects", "engine", "experiments", "extraction", "geometry", "gguf", "interventions", "methods", "models"),
    *("placebos", "plots", "report", "selection", "stats", "steering", "tasks", "vectors"),
)
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        # Kept: importing the room ``explore`` has just put the room where its function belongs.
        globals()[name] = found
        return found
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])


if TYPE_CHECKING:
    from . import (
        effects,
        engine,
        experiments,
        extraction,
        geometry,
        gguf,
        interventions,
        methods,
        models,
        placebos,
        plots,
        report,
        selection,
        stats,
        steering,
        tasks,
        vectors,
    )
    from .engine import Scores, Sweep, answer, bars, capture, score, sweep
    from .evaluation import changed_answers, evaluate
    from .experiments import RunConfig, chosen_setting, sweep_source
    from .explore import explore
    from .extraction import Extraction, difference_vectors
    from .geometry import alignment, cohesion, cosine_matrix, entropy_by_layer, parallelism, project
    from .gguf import export_gguf, import_gguf
    from .interventions import Intervention
    from .methods import (
        PROMPT_METHODS,
        VECTOR_METHODS,
        Condition,
        Setting,
        SourceTask,
        VectorLibrary,
        evaluate_conditions,
    )
    from .models import list_models, load_model
    from .placebos import random_direction
    from .recommend import recommend
    from .selection import Selection, select, space_from_residuals
    from .share import export, import_intervention, import_vector
    from .steering import generate, steer
    from .tasks import (
        Example,
        Prompt,
        Task,
        cross_task,
        few_shot,
        few_shot_prompts,
        list_tasks,
        load_task,
        sample_examples,
        zero_shot,
        zero_shot_prompts,
    )
    from .vectors import DifferenceVectors, Provenance, SteeringVector
