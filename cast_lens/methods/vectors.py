"""Methods that compute a steering vector from a source, and their placebos.

All methods have the signature ``fit(source) -> SteeringVector`` and never read a target. Placebos have the norm of the
``cast`` vector at each layer and are added at its layer and strength, so that they differ from it in direction only.

If source and target are the same task, a mean reaches its upper bound: ``VectorMethod.condition`` names this case
``cast (own vector)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .. import placebos
from ..engine import capture
from ..extraction import Extraction, difference_vectors, draw_samples, provenance
from ..interventions import Operator, Position
from ..models.lens import HookedTransformer
from ..tasks import Example, Prompt, Split, Task, demonstrations, few_shot_prompts
from ..tasks.templates import gold, letters
from ..vectors import DifferenceVectors, SteeringVector, chosen_rows
from .conditions import Condition, Setting, steered

# Kinds of demonstrations on the few-shot side of the difference.
DIFFERENCE_KINDS = ("true", "shuffled labels", "random text")
# Number of dummy queries over which a task vector is averaged, as in the public code of arXiv 2310.15916.
DUMMY_QUERIES = 2
# If the largest singular value is this small relative to the mean, it is rounding and the samples do not differ.
_NO_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class SourceTask:
    """A source task as the vector methods see it.

    Attributes:
        model: the model.
        task: the source.
        extraction: how difference vectors are computed; methods that run their own prompts follow it.
        differences: maps a kind of ``DIFFERENCE_KINDS`` to difference vectors of the same queries.
        indices: the selected samples; None for all.
        seed: seed of a placebo's random choices.
        note: how the samples were selected, for the vector's provenance.
    """

    model: HookedTransformer
    task: Task
    extraction: Extraction
    differences: Callable[[str], DifferenceVectors]
    indices: tuple[int, ...] | None = None
    seed: int = 0
    note: str = ""

    def samples(self, kind: str = "true") -> DifferenceVectors:
        """Difference vectors of one kind, checked.

        Raises:
            ValueError: an unknown kind, or other queries than those of kind ``true``.
        """
        if kind not in DIFFERENCE_KINDS:
            raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(DIFFERENCE_KINDS)}")
        found = self.differences(kind)
        if kind != "true" and found.sample_ids != self.differences("true").sample_ids:
            raise ValueError(
                f"the {kind!r} difference vectors of {self.task.name!r} are of other queries than the true ones; "
                "extract both with the same samples and seed"
            )
        return found

    def explain(self, what: str, found: DifferenceVectors) -> str:
        """The provenance note of a vector that is computed from the selected samples."""
        count = len(found) if self.indices is None else len(chosen_rows(self.indices, len(found)))
        return "; ".join(part for part in (f"{what}: mean over {count} of {len(found)} samples", self.note) if part)


@dataclass(frozen=True, slots=True)
class VectorMethod:
    """A method that computes a steering vector from a source.

    Attributes:
        name: name in frames and figures; placebos begin with ``placebo:``.
        fit: computes the vector.
        operator: how it enters the residual stream; None for the run's operator.
        strengths: strengths to sweep; None for the run's strengths.
        position: position at which it is added; None for the run's position.
        placebo: whether it is a control, which uses the layer and strength of ``cast``.
        about: a description with its reference.
    """

    name: str
    fit: Callable[[SourceTask], SteeringVector]
    operator: Operator | None = None
    strengths: tuple[float, ...] | None = None
    position: Position | None = None
    placebo: bool = False
    about: str = ""

    def name_on(self, *, source: str, target: str) -> str:
        """The name in frames; a vector on its own source is not transfer and has a different name."""
        return f"{self.name} (own vector)" if source == target else self.name

    def condition(
        self, vector: SteeringVector, prompts: tuple[Prompt, ...], setting: Setting, *, source: str, seed: int = 0
    ) -> Condition:
        """Zero-shot prompts of a target under the vector, with the method's own operator and position.

        Raises:
            ValueError: no prompts.
        """
        if not prompts:
            raise ValueError("prompts is empty; give the target's zero-shot prompts")
        place = replace(setting, operator=self.operator or setting.operator, position=self.position or setting.position)
        name = self.name_on(source=source, target=prompts[0].task)
        return steered(vector, prompts, place, source=source, method=name, seed=seed)


def contrastive_mean(source: SourceTask) -> SteeringVector:
    """Mean few-shot minus zero-shot residual over the chosen samples (arXiv 2507.13236, section 4.3)."""
    found = source.samples()
    return found.mean(source.indices, note=source.explain("few-shot minus zero-shot", found))


def contrastive_mean_of_all(source: SourceTask) -> SteeringVector:
    """The same over all samples; the difference to it is the effect of the selection."""
    return contrastive_mean(replace(source, indices=None, note=""))


def side_mean(source: SourceTask, side: Literal["few-shot", "zero-shot"]) -> SteeringVector:
    """Mean residual of one side without subtraction; the difference to it is the effect of the contrast."""
    found = source.samples()
    kept = found.few_shot if side == "few-shot" else found.zero_shot
    alone = DifferenceVectors(kept, torch.zeros_like(kept), found.layers, found.sample_ids, found.provenance)
    return alone.mean(source.indices, note=source.explain(f"{side} residuals", found))


def principal_component(source: SourceTask, *, centred: bool = False) -> SteeringVector:
    """First principal direction of the chosen samples' differences at each layer, as long as their mean.

    It uses a full singular value decomposition in float64, and its sign makes the projection of the mean difference
    positive. Uncentred (the default) it is the direction with most of the differences' squared length, an alternative
    to their mean. Centred it is the direction in which the samples differ most from each other, without what they
    share. The sign-flipped pairs of representation engineering (arXiv 2310.01405) amount to the former; in-context
    vectors (arXiv 2311.06668) use the latter and add the mean.

    Raises:
        ValueError: when centred samples do not differ from each other.
    """
    found = source.samples()
    kind = "centred" if centred else "not centred"
    vector = found.mean(
        source.indices, note=source.explain(f"first principal component ({kind}) of differences", found)
    )
    rows = found.values if source.indices is None else found.values[chosen_rows(source.indices, len(found))]
    rows = rows.double().permute(1, 0, 2)
    mean = rows.mean(dim=1)
    spread = rows - mean[:, None] if centred else rows
    _, sizes, axes = torch.linalg.svd(spread, full_matrices=False)
    norms = mean.norm(dim=-1)
    flat = (sizes[:, 0] <= _NO_SPREAD * norms) & (norms > 0)
    if bool(flat.any()):
        layer = found.layers[int(flat.nonzero()[0])]
        raise ValueError(
            f"the differences of {source.task.name!r} do not differ from each other at layer {layer}, so they have no "
            "centred principal component; give at least two samples that differ, or centred=False"
        )
    first = axes[:, 0]
    sign = torch.where((first * mean).sum(dim=-1) < 0, -1.0, 1.0)
    return replace(vector, directions=(first * (sign * norms)[:, None]).float())


def task_vector(source: SourceTask, *, dummies: int = DUMMY_QUERIES) -> SteeringVector:
    """Residual at the last token of a few-shot prompt that ends in a dummy query (arXiv 2310.15916).

    It is averaged over ``dummies`` queries, none of them a demonstration, after the same demonstrations. It overwrites
    the residual at the last prompt token of a zero-shot query (``replace`` at strength 1, ``prompt_last``). The prompts
    are the task's own instead of the paper's ``x->y``; as in the paper, the layer is chosen on validation examples.

    Raises:
        ValueError: see ``draw_samples``.
    """
    how, task = source.extraction, source.task
    queries = draw_samples(task, replace(how, samples=dummies))
    prompts = few_shot_prompts(
        task, queries, shots=how.shots, seed=how.seed, pool=how.split, instruction=how.instruction
    )
    layers = source.samples().layers
    states = capture(source.model, prompts, layers=layers, chat=how.chat)
    note = f"task vector: few-shot residuals of {dummies} dummy queries"
    about = provenance(source.model, task, how, queries, note=note)
    return SteeringVector(states.double().mean(dim=0).float(), layers, about)


def arrow_task_vector(source: SourceTask, *, dummies: int = DUMMY_QUERIES) -> SteeringVector:
    """The task vector from the prompts of arXiv 2310.15916, character by character.

    Each line is ``example:x->y``, without instruction, blank or chat template, and the last line is ``example:q->``
    with a dummy query q. Options, which the paper's tasks do not have, follow x in the same line. Use it for queries of
    the same form: give the target the template ``tasks.templates.ARROW`` (``{"template": "example:{input}->",
    "definition": ""}`` in the settings of a folder).

    Raises:
        ValueError: see ``draw_samples``.
    """
    how, task = source.extraction, source.task
    queries = draw_samples(task, replace(how, samples=dummies))
    shown = demonstrations(task, shots=how.shots, seed=how.seed, pool=how.split)
    head = "".join(f"{_arrow(one)}{gold(task, one)}\n" for one in shown)
    layers = source.samples().layers
    states = capture(source.model, [head + _arrow(query) for query in queries], layers=layers)
    note = f"task vector of example:x->y prompts, {dummies} dummy queries"
    about = replace(provenance(source.model, task, replace(how, chat=False), queries, note=note), template="2310.15916")
    return SteeringVector(states.double().mean(dim=0).float(), layers, about)


def _arrow(example: Example) -> str:
    options = (f"{letter}. {text}" for letter, text in zip(letters(example), example.choices, strict=True))
    return f"example:{' '.join((example.input, *options))}->"


def placebo_mean(source: SourceTask, kind: str) -> SteeringVector:
    """The contrastive mean from placebo demonstrations of the same samples, with the norms of ``cast``."""
    found = source.samples(kind)
    placebo = found.mean(source.indices, note=source.explain(f"{kind} minus zero-shot", found))
    return placebos.matched(placebo, like=contrastive_mean(source))


def zero_shot_difference(source: SourceTask) -> SteeringVector:
    """Difference of the means of two random halves of the zero-shot residuals, with the norms of ``cast``.

    Two sets of prompts of the same kind differ only by sampling. All samples are used, selected or not.

    Raises:
        ValueError: fewer than two samples.
    """
    found = source.samples()
    if len(found) < 2:
        raise ValueError(f"the zero-shot difference of {source.task.name!r} needs at least 2 samples, got {len(found)}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(source.seed))
    half = len(found) // 2
    means = [_mean(found.zero_shot, part) for part in (order[:half], order[half:])]
    note = f"placebo: difference of two halves of the zero-shot prompts, seed {source.seed}"
    about = replace(found.provenance, note=note)
    return placebos.matched(
        SteeringVector((means[0] - means[1]).float(), found.layers, about), like=contrastive_mean(source)
    )


def _mean(stack: Float[Tensor, "sample layer d_model"], rows: Tensor) -> Float[Tensor, "layer d_model"]:
    return stack[rows].double().mean(dim=0)


_METHODS = (
    VectorMethod(
        "cast",
        contrastive_mean,
        about="mean few-shot minus zero-shot residual of the chosen samples (arXiv 2507.13236)",
    ),
    VectorMethod(
        "cast: all samples", contrastive_mean_of_all, about="the same over every sample: the ablation of the selection"
    ),
    VectorMethod(
        "few-shot mean",
        lambda source: side_mean(source, "few-shot"),
        about="mean few-shot residual, nothing subtracted: the ablation of the contrast",
    ),
    VectorMethod(
        "zero-shot mean",
        lambda source: side_mean(source, "zero-shot"),
        about="mean zero-shot residual, nothing subtracted",
    ),
    VectorMethod(
        "pca",
        principal_component,
        about="first principal component of the differences, not centred, as long as their mean",
    ),
    VectorMethod(
        "task vector",
        task_vector,
        operator="replace",
        strengths=(1.0,),
        position="prompt_last",
        about="few-shot residual of dummy queries in place of the query's (arXiv 2310.15916)",
    ),
    VectorMethod(
        "placebo: random direction",
        lambda source: placebos.random_direction(contrastive_mean(source), seed=source.seed),
        placebo=True,
        about="a random direction of the norm of cast",
    ),
    VectorMethod(
        "placebo: shuffled coordinates",
        lambda source: placebos.shuffled_coordinates(contrastive_mean(source), seed=source.seed),
        placebo=True,
        about="the entries of cast in another order",
    ),
    VectorMethod(
        "placebo: shuffled labels",
        lambda source: placebo_mean(source, "shuffled labels"),
        placebo=True,
        about="cast from demonstrations with shuffled answers",
    ),
    VectorMethod(
        "placebo: zero-shot difference",
        zero_shot_difference,
        placebo=True,
        about="difference of the means of two halves of the zero-shot prompts",
    ),
    VectorMethod(
        "placebo: random text",
        lambda source: placebo_mean(source, "random text"),
        placebo=True,
        about="cast from random words of equal length in place of the demonstrations",
    ),
    VectorMethod(
        "placebo: zero vector",
        lambda source: placebos.zero(contrastive_mean(source)),
        operator="add",
        placebo=True,
        about="nothing added: must equal zero-shot",
    ),
)
VECTOR_METHODS: dict[str, VectorMethod] = {method.name: method for method in _METHODS}


def language_vector(
    model: HookedTransformer, source: Task, target: Task, *, split: Split = "train", layers: Sequence[int] | None = None
) -> SteeringVector:
    """The vector from one language to another, from the parallel items of a task (arXiv 2602.02326).

    ``v[l]`` is the mean over parallel items of ``h[l](text in the target's language) - h[l](text in the source's)``, at
    the last token of the bare texts, without instruction, cue or answer. It encodes the language of a text and nothing
    about the task, so a task vector that transfers across languages has to beat it. Translations also differ in length
    and last word, which affects a difference of last tokens; the paper uses 19 languages and thousands of sentences,
    whereas a task of the suite has a few dozen.

    Args:
        model: any ``HookedTransformer``.
        source, target: one task in two languages; parallel items have the same id.
        split: the split whose items are compared.
        layers: block indices; None for all.

    Raises:
        ValueError: tasks without a parallel item.

    >>> import cast_lens as cl
    >>> english, german = (cl.load_task(f"review-sentiment{end}") for end in ("", ".de"))
    >>> cl.methods.language_vector(model, english, german).norm()  # doctest: +SKIP
    """
    theirs = {example.id: example.input for example in target.split(split)}
    pairs = [(theirs[one.id], one.input) for one in source.split(split) if one.id in theirs]
    if not pairs:
        raise ValueError(
            f"{source.name!r} and {target.name!r} have no parallel item in their {split} splits; give one task in two "
            "languages, whose items keep their ids"
        )
    made = difference_vectors(model, pairs=pairs, layers=layers).mean()
    note = f"language vector: mean difference of {len(pairs)} parallel texts"
    about = replace(made.provenance, task=f"{source.language} to {target.language}", note=note)
    return SteeringVector(made.directions, made.layers, about)
