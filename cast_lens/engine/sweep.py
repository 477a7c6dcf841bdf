"""Prompts × layers × strengths × directions in one pass over the prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..interventions import Intervention, Operator, Position
from ..models.identity import check_layers, check_vector
from ..models.lens import HookedTransformer
from ..stats import proportion_interval
from ..vectors import SteeringVector
from .batching import DEFAULT_BUDGET_MB
from .progress import Progress, automatic
from .scores import Scores
from .scoring import score
from .tokens import Prompts

if TYPE_CHECKING:
    import pandas as pd

# Working memory of a sweep above the model, in MB: the rows of all variants of a few prompts.
SWEEP_BUDGET_MB = 4 * DEFAULT_BUDGET_MB
# A finer grid than a run's candidates (``RunConfig.strengths``), because the grid of one task costs a single pass.
# Past this the largest published strengths are covered many times over and small models write noise.
DEFAULT_STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
SHARES = ("first_match", "first_valid", "choice_correct")
MEANS = ("gold_logprob", "gold_margin")


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The results of a sweep.

    Attributes:
        scores: scores per prompt and cell; variant 0 is the unsteered model.
    """

    scores: Scores

    def __repr__(self) -> str:
        done = self.scores.interventions
        names = ", ".join(dict.fromkeys(one.name for one in done))
        layers, strengths = {one.layer for one in done}, {one.strength for one in done}
        return (
            f"Sweep({names or 'nothing'}: {len(layers)} layers × {len(strengths)} strengths, "
            f"{len(self.scores.prompts)} prompts)"
        )

    def _repr_html_(self) -> str:
        from ..plots.files import sweep_preview

        return f"<p>{escape(repr(self))}</p>{sweep_preview(self.to_frame())}"

    def examples(self) -> pd.DataFrame:
        """One row per cell and sample; see ``Scores.to_frame``."""
        return self.scores.to_frame()

    def to_frame(self, *, source: str = "") -> pd.DataFrame:
        """One row per cell, as ``plots.plot_sweep`` takes it.

        Columns: ``source`` (your label), ``kind`` (name of the direction), ``layer, strength, operator, position, n``
        (samples), ``overflowed`` (how many samples have NaN or infinite logits), the means over the other samples of
        ``first_match, first_valid, choice_correct, gold_logprob, gold_margin``, and Wilson intervals of the shares
        (``first_match_low`` and so on). The unsteered model has kind ``unsteered`` and layer -1.
        """
        import pandas as pd

        keys = ["name", "layer", "strength", "operator", "position"]
        frame = self.examples()
        frame[[*SHARES, *MEANS]] = frame[[*SHARES, *MEANS]].astype(float)
        grouped = frame.groupby(keys, sort=False, dropna=False)
        sizes, lost = grouped.size().rename("n"), grouped["overflowed"].sum()
        counts = grouped[list(SHARES)].count()
        cells = pd.concat([sizes, lost, grouped[[*SHARES, *MEANS]].mean()], axis=1).reset_index()
        for share in SHARES:
            bounds = [_wilson(mean, n) for mean, n in zip(cells[share], counts[share], strict=True)]
            cells[f"{share}_low"], cells[f"{share}_high"] = zip(*bounds, strict=True)
        cells.insert(0, "source", source)
        return cells.rename(columns={"name": "kind"})


def _wilson(mean: float, n: int) -> tuple[float, float]:
    if mean != mean:
        return float("nan"), float("nan")
    found = proportion_interval(round(mean * n), n)
    return found.low, found.high


def _named(
    directions: SteeringVector | Sequence[SteeringVector] | Mapping[str, SteeringVector],
) -> dict[str, SteeringVector]:
    if isinstance(directions, Mapping):
        return dict(directions)
    several = [directions] if isinstance(directions, SteeringVector) else list(directions)
    names = [vector.provenance.task for vector in several]
    if len(set(names)) < len(names):
        raise ValueError(f"directions are of the tasks {names}; give a mapping of names to vectors to distinguish them")
    return dict(zip(names, several, strict=True))


def sweep(
    model: HookedTransformer,
    prompts: Prompts,
    directions: SteeringVector | Sequence[SteeringVector] | Mapping[str, SteeringVector],
    *,
    layers: Sequence[int] | None = None,
    strengths: Sequence[float] = DEFAULT_STRENGTHS,
    operator: Operator = "add",
    position: Position = "last",
    chat: bool = False,
    keep_logits: bool = False,
    labels_only: bool = False,
    normalised: bool = True,
    memory_mb: float = SWEEP_BUDGET_MB,
    progress: Progress = automatic,
) -> Sweep:
    """Score prompts at every layer and strength, for one or several vectors at once.

    Args:
        model: the model that the vectors were taken from.
        prompts: ``Prompt`` objects with gold and admissible answers; logits alone need neither.
        directions: one vector, several (each named by its task), or a mapping of names to vectors and placebos.
        layers, strengths: block indices (None for all layers that every vector has), and finite factors.
        operator, position: see ``Intervention``; position ``all`` shares only the layers below the steered one.
        chat: use the model's chat template.
        keep_logits: keep full-vocabulary logits (memory: cells × prompts × vocabulary × 4 bytes).
        labels_only, normalised, memory_mb, progress: see ``score``.

    Raises:
        ValueError: no layers or strengths in common; a vector of another model; see ``score``.

    >>> found = sweep(model, prompts, {"vector": vector}, layers=[1, 2], strengths=[1.0, 2.0])
    >>> len(found.to_frame())                                   # four cells, and the unsteered model
    5
    """
    named = _named(directions)
    if not named or not strengths:
        raise ValueError("give at least one direction and one strength to sweep over")
    for vector in named.values():
        check_vector(model, vector)
    common = sorted(set.intersection(*(set(vector.layers) for vector in named.values())))
    chosen = check_layers(model, common if layers is None else layers)
    grid = [
        Intervention(vector.at(layer), layer, float(strength), operator, position, name)
        for name, vector in named.items()
        for layer in chosen
        for strength in strengths
    ]
    scores = score(
        model,
        prompts,
        grid,
        chat=chat,
        keep_logits=keep_logits,
        labels_only=labels_only,
        normalised=normalised,
        memory_mb=memory_mb,
        progress=progress,
    )
    return Sweep(scores)
