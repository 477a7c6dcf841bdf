"""The methods of the field by name, each fitted to a source and applied to a target like the contrastive mean.

A ``FieldMethod`` fits either a ``SteeringVector``, for which layer and strength are swept, or a ``FittedMethod``, which
edits what it edits and has a strength (a state vector also a layer). Its placebo has the same signature: the same edit
without the content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine import capture
from ..interventions import Operator, Position, Steering
from ..placebos import random_direction
from ..tasks import Prompt
from ..vectors import SteeringVector
from .fitted import FittedMethod
from .frequency import fast_vector, task_similarity
from .function_vectors import HEADS, fit_function_vector, head_effects, random_heads_vector
from .in_context_vectors import ImplicitContext, InContextVector, fit_implicit_context, fit_in_context_vector
from .learned import LearnedVector, StaticVector, fit_learned_vector, static_vector
from .state_vectors import StateVector, fit_state_vector
from .training import Training
from .vectors import VECTOR_METHODS, SourceTask, VectorMethod, arrow_task_vector, contrastive_mean, task_vector

Fitted = SteeringVector | FittedMethod
_KINDS: dict[str, Callable[[Path], Fitted]] = {
    "SteeringVector": SteeringVector.load,
    "LearnedVector": LearnedVector.load,
    "StaticVector": StaticVector.load,
    "InContextVector": InContextVector.load,
    "ImplicitContext": ImplicitContext.load,
    "StateVector": StateVector.load,
}
Adapt = Callable[[SourceTask, SteeringVector, Sequence[Prompt]], SteeringVector]


@dataclass(frozen=True, slots=True)
class FieldMethod:
    """One published way to steer, fitted to a source.

    Attributes:
        name: in frames and figures.
        fit: of a source; reads no target.
        about: what it is, and its source.
        strengths: to sweep; None for the run's.
        operator, position: how a steering vector enters; None for the run's.
        adapt: makes the vector suit a target from its unlabelled queries; None where nothing is read of it.
        trained: whether numbers are trained by gradient.
    """

    name: str
    fit: Callable[[SourceTask], Fitted]
    about: str
    strengths: tuple[float, ...] | None = None
    operator: Operator | None = None
    position: Position | None = None
    adapt: Adapt | None = None
    trained: bool = False

    @property
    def placebo_name(self) -> str:
        """How frames call its placebo."""
        return f"placebo: {self.name}"


def read_fitted(path: Path, kind: str) -> Fitted:
    """What a method fitted and saved, by the name of its class.

    Raises:
        ValueError: when the file holds something else, or is damaged.
    """
    return _KINDS[kind](path)


def placebo_of(fitted: Fitted, *, seed: int = 0) -> Fitted:
    """The same kind of edit without its content: random directions of equal norm, or the method's own."""
    if isinstance(fitted, SteeringVector):
        return random_direction(fitted, seed=seed)
    return fitted.placebo(seed=seed)


def edits(
    method: FieldMethod, fitted: FittedMethod, *, strengths: Sequence[float], layers: Sequence[int] = ()
) -> list[tuple[int, float, Steering]]:
    """Layer (-1: all of them), strength and edit of every setting of a fitted method that is not a single vector."""
    if isinstance(fitted, StateVector):
        places = list(layers) or list(range(len(fitted.values)))
        return [(layer, s, fitted.at(layer).intervention(strength=s)) for layer in places for s in strengths]
    return [(-1, s, fitted.intervention(strength=s)) for s in strengths]


def at_setting(fitted: FittedMethod, layer: int, strength: float) -> Steering:
    """The edit of one of the settings that ``edits`` gives."""
    return (fitted.at(layer) if isinstance(fitted, StateVector) else fitted).intervention(strength=strength)


def fast_for(source: SourceTask, vector: SteeringVector, queries: Sequence[Prompt]) -> SteeringVector:
    """The contrastive mean with its high frequencies weighted by how alike source and target are (FAST, ours)."""
    found = source.samples()
    states = capture(source.model, list(queries), layers=found.layers, chat=source.extraction.chat)
    return fast_vector(vector, task_similarity(found, states))


def random_heads(source: SourceTask) -> SteeringVector:
    """As many heads as a function vector has, drawn at random: what the choice of heads adds is the difference."""
    how = source.extraction
    effects = head_effects(source.model, source.task, how, prompts=how.samples, trials=1)
    heads = min(HEADS, effects.effects[0].numel())
    return random_heads_vector(source.model, effects, heads, seed=source.seed)


def fit_static_vector(source: SourceTask) -> FittedMethod:
    """A vector per layer trained on as many examples as there are samples, for at most eight epochs."""
    count = source.extraction.samples
    plan = Training(examples=count, validation=count, learning_rate=0.5, epochs=8, seed=source.seed)
    return static_vector(source.model, source.task, plan)


def permuted_fast(source: SourceTask, vector: SteeringVector, queries: Sequence[Prompt]) -> SteeringVector:
    """FAST with frequencies taken over shuffled coordinates: what their order is worth."""
    found = source.samples()
    states = capture(source.model, list(queries), layers=found.layers, chat=source.extraction.chat)
    return fast_vector(vector, task_similarity(found, states), permuted=source.seed)


_METHODS = (
    FieldMethod("cast", contrastive_mean, "mean few-shot minus zero-shot residual (arXiv 2507.13236)"),
    FieldMethod(
        "task vector",
        task_vector,
        "residual of a few-shot prompt with a dummy query in place of the query's (arXiv 2310.15916)",
        strengths=(1.0,),
        operator="replace",
        position="prompt_last",
    ),
    FieldMethod(
        "task vector: x->y",
        arrow_task_vector,
        "the same from prompts example:x->y, as published (arXiv 2310.15916)",
        strengths=(1.0,),
        operator="replace",
        position="prompt_last",
    ),
    FieldMethod("function vector", fit_function_vector, "what the heads that move the answer write (arXiv 2310.15213)"),
    FieldMethod("random heads", random_heads, "a function vector of heads drawn at random, of equal norm"),
    FieldMethod(
        "fast",
        contrastive_mean,
        "low frequencies always, high ones by task similarity (ours, after FAST)",
        adapt=fast_for,
    ),
    FieldMethod("fast: permuted", contrastive_mean, "the same over shuffled coordinates", adapt=permuted_fast),
    FieldMethod(
        "learned heads",
        fit_learned_vector,
        "trained weights over heads, added at every layer (arXiv 2502.05390)",
        strengths=(0.5, 1.0, 2.0),
        trained=True,
    ),
    FieldMethod(
        "static atv",
        fit_static_vector,
        "one trained vector per layer (the static counterpart of arXiv 2506.03426)",
        strengths=(0.5, 1.0, 2.0),
        trained=True,
    ),
    FieldMethod(
        "in-context vector",
        fit_in_context_vector,
        "outputs of every MLP turned towards answer minus input (arXiv 2311.06668)",
        strengths=(0.05, 0.1, 0.2, 0.4, 0.8),
    ),
    FieldMethod(
        "implicit context",
        fit_implicit_context,
        "attention and MLP outputs mixed with those of demonstrations (arXiv 2405.14660)",
        strengths=(0.5, 1.0),
        trained=True,
    ),
    FieldMethod(
        "state vector",
        fit_state_vector,
        "outputs of all heads up to a layer in place of the query's (arXiv 2404.11225)",
        strengths=(1.0,),
    ),
)
FIELD_METHODS: dict[str, FieldMethod] = {method.name: method for method in _METHODS}
CONTROLS = ("random heads", "fast: permuted")
"""Of these: what is compared with a method, and is none."""
STEERING_METHODS: dict[str, VectorMethod | FieldMethod] = {**FIELD_METHODS, **VECTOR_METHODS}
"""Every way to make an edit of a source by name, placebos among them: what experiments may be asked for."""
