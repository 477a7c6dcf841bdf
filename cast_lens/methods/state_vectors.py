"""State vectors: head outputs at the separators of demonstrations (Li et al. 2024, arXiv 2404.11225).

The state at a separator (the last token of an answer cue) consists of the outputs there of all heads of layers 0 to
``layer``, before the output projection. With ``s[1], ..., s[k+1]`` the states of ``k`` demonstrations and the query,

- ``last``: ``s[k+1]`` alone;
- ``inner``: the mean of the last seven states, the query's own among them (section 3.2);
- ``momentum``: ``inner`` plus ``sum_i w[i] (s[i] - s[i-1]) / sum w`` over the last six differences with
  ``w = (1, 2, 4, 8, 16, 0)``: the code gives the last difference weight 0, and the weights sum to 31;
- ``aggregate``: of many demonstrations, the mean of the states of groups of ten (section 3.3, averaging).

At the last token of a zero-shot query the outputs of all heads up to ``layer`` are replaced by the state, in one pass
of the engine for any number of queries. The task vector of Hendel et al. (arXiv 2310.15916) replaces the residual
after one layer instead: ``methods.vectors.task_vector``.

What this does not show: all outputs of these heads are replaced, so their information about the query is lost, and the
state of a query that happens to have the same answer contains that answer. The dummy query here is never a test query.
The placebo is the state of demonstrations with shuffled labels, or each layer's entries in random order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import Progress, capture_heads, quiet
from ..extraction import Extraction, draw_samples, provenance
from ..models.lens import HookedTransformer
from ..sublayers import HeadOutputs
from ..tasks import Prompt, Task, few_shot_prompts
from .fitted import FittedMethod
from .vectors import SourceTask

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

Averaging = Literal["last", "inner", "momentum"]
# Number of averaged states, weights of the differences, and demonstrations per group, as published.
LAST_STATES, WEIGHTS, GROUP = 7, (1.0, 2.0, 4.0, 8.0, 16.0, 0.0), 10


@dataclass(frozen=True, slots=True, eq=False)
class StateVector(FittedMethod):
    """Head outputs that replace demonstrations.

    Attributes:
        values: [layer, head, d_head], every layer of the model.
        layer: the last layer whose heads are replaced.
        d_model: width of the residual stream.
    """

    values: Float[Tensor, "layer head d_head"]
    layer: int
    d_model: int

    def at(self, layer: int) -> Self:
        """The same state, with heads replaced up to another layer.

        Raises:
            ValueError: a layer that does not exist.
        """
        if not 0 <= layer < len(self.values):
            raise ValueError(f"layer={layer} must be from 0 to {len(self.values) - 1}")
        return replace(self, layer=layer)

    def intervention(self, *, strength: float = 1.0) -> HeadOutputs:
        """Replaces the heads of layers 0 to ``layer`` at the last prompt token; strengths below 1 interpolate."""
        kept = self.values[: self.layer + 1]
        return HeadOutputs(
            tuple(range(self.layer + 1)),
            kept,
            torch.ones(kept.shape[:2], dtype=torch.bool),
            self.d_model,
            strength=strength,
            name=self.provenance.task,
            fingerprint=self.provenance.fingerprint,
        )

    def placebo(self, *, seed: int = 0) -> Self:
        """The entries of each layer's head outputs in random order: the same length without the content."""
        draw = torch.Generator().manual_seed(seed)
        order = torch.randperm(self.values[0].numel(), generator=draw)
        values = self.values.flatten(1)[:, order].view_as(self.values)
        about = replace(self.provenance, note=f"placebo: shuffled entries, seed {seed}; {self.provenance.note}")
        return replace(self, values=values, provenance=about)


def state_vector(
    model: HookedTransformer,
    task: Task,
    extraction: Extraction | None = None,
    *,
    layer: int | None = None,
    averaging: Averaging = "momentum",
    groups: int = 1,
    progress: Progress = quiet,
) -> StateVector:
    """The state vector of a task.

    Args:
        model: any ``HookedTransformer`` whose heads can be found.
        task: the source.
        extraction: ``shots`` demonstrations per group (published: 10), split and seed.
        layer: the last layer whose heads are replaced; None for the middle one. ``StateVector.at`` changes it.
        averaging: ``last``, ``inner``, ``momentum`` or ``aggregate``; see the module docstring.
        groups: number of sets of demonstrations whose vectors are averaged (aggregation).
        progress: wraps the batches.

    Raises:
        ValueError: an unknown averaging, fewer than one group, a layer that does not exist.

    >>> state = state_vector(model, load_task("antonym"), layer=12)  # doctest: +SKIP
    >>> cl.evaluate(model, prompts, state.intervention())  # doctest: +SKIP
    """
    how = extraction or Extraction(shots=GROUP)
    if averaging not in ("last", "inner", "momentum") or groups < 1:
        raise ValueError(f"averaging={averaging!r} must be last, inner or momentum, and groups={groups} 1 or more")
    queries, found = [], []
    for group in range(groups):
        drawn = replace(how, samples=1, seed=how.seed + 1000 * group)
        (query,) = draw_samples(task, drawn)
        (prompt,) = few_shot_prompts(
            task, [query], shots=how.shots, seed=drawn.seed, pool=how.split, instruction=how.instruction
        )
        states = capture_heads(model, separators(prompt), chat=how.chat, progress=progress)
        found.append(averaged_states(states.double(), averaging))
        queries.append(query)
    values = torch.stack(found).mean(dim=0).float()
    note = f"state vector: {averaging}, {how.shots} demonstrations, {groups} groups"
    about = provenance(model, task, how, queries, note=note)
    made = StateVector(about, values, 0, int(model.cfg.d_model))
    return made.at(len(values) // 2 if layer is None else layer)


def separators(prompt: Prompt) -> list[Prompt]:
    """The prompt cut after the answer cue of each demonstration, and the whole prompt."""
    shown = prompt.demonstrations
    cut = [replace(prompt, demonstrations=shown[:count], query=body) for count, (body, _) in enumerate(shown)]
    return [*cut, prompt]


def averaged_states(
    states: Float[Tensor, "state layer head d_head"], averaging: Averaging
) -> Float[Tensor, "layer head d_head"]:
    """Combine the states at all separators, of which the query's is the last; see the module docstring."""
    if averaging == "last":
        return states[-1]
    last = states[-LAST_STATES:]
    mean = last.mean(dim=0)
    if averaging == "inner" or len(last) < 2:
        return mean
    steps = last.diff(dim=0)
    weights = torch.tensor(WEIGHTS[-len(steps) :], dtype=states.dtype)
    if not bool(weights.any()):
        return mean
    return mean + torch.einsum("i,ilhd->lhd", weights, steps) / weights.sum()


def fit_state_vector(source: SourceTask, *, layers: Sequence[int] = ()) -> StateVector:
    """The state vector of a source with the run's demonstrations."""
    layer = layers[len(layers) // 2] if layers else None
    return state_vector(source.model, source.task, source.extraction, layer=layer)
