"""In-context vectors (arXiv 2311.06668) and implicit in-context learning (I2CL, arXiv 2405.14660).

**ICV** (section 3): for pairs of texts (x, y), each run on its own, ``D = H(y) - H(x)``, where ``H`` concatenates the
residuals at the last token of the embedding and all layers. ``v`` is the first principal component of the centred ``D``
plus their mean, without the row of the embedding. The outputs of every MLP, at all tokens, are rotated towards it and
keep their length,

    h' = |h| unit( unit(h) + strength * (1 + max(0, cos(h, -v))) * unit(v) )

As published: the sign of the component is that of the decomposition (largest entry of the left vector positive), not
aligned with the mean it is added to; several vectors are averaged; strength 0.8 and one pair are the code's defaults,
0.1 and 5 pairs its README's. With one pair there is nothing to decompose, and ``v`` is the difference.

**I2CL** (section 3): each demonstration is encoded on its own, with its answer; context vectors are the means over
demonstrations of the outputs of attention and MLP at the last token, and

    out' = beta * out + alpha * context

for both, in every layer, at all tokens. ``alpha`` (0.1) and ``beta`` (1) are four numbers per layer, trained on the
same demonstrations: cross-entropy over the full vocabulary of the first answer token, AdamW at 0.01 with weight decay
1e-3, 100 epochs of batches of two, cosine schedule with 5 % warm-up, noise of 0.001 times the output's length while
training. The public code also injects at padded positions, which do not exist here.

What they do not show: both act on every token of the prompt, in every layer, so they also affect other texts. Report
side effects together with the gain. Placebos are random directions of equal length.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import Progress, TokenPrompt, frozen, quiet, tokenise
from ..engine.reference import answer_loss, hook_name, last_token, site_name
from ..extraction import Extraction, draw_samples, provenance, versions
from ..interventions import Site
from ..models import fingerprint, model_name
from ..models.lens import HookedTransformer
from ..placebos import random_like
from ..sublayers import MixedOutputs, RotatedOutputs
from ..tasks import Example, Prompt, Task, zero_shot_prompts
from ..tasks.templates import gold
from ..vectors import Provenance
from .fitted import FittedMethod
from .vectors import SourceTask

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

# If the largest singular value is below this share of the mean's length, it is rounding and the pairs do not differ.
_NO_SPREAD = 1e-6
_SITES: tuple[Site, ...] = ("attention", "mlp")


@dataclass(frozen=True, slots=True, eq=False)
class InContextVector(FittedMethod):
    """Directions for the outputs of every MLP.

    Attributes:
        directions: [vector, layer, d_model].
    """

    directions: Float[Tensor, "vector layer d_model"]

    def intervention(self, *, strength: float = 0.1) -> RotatedOutputs:
        """Rotates the outputs of every MLP, at all tokens."""
        return RotatedOutputs(
            tuple(range(self.directions.shape[1])),
            self.directions,
            strength=strength,
            position="all",
            name=self.provenance.task,
            fingerprint=self.provenance.fingerprint,
        )

    def placebo(self, *, seed: int = 0) -> Self:
        """Random directions of the same lengths."""
        about = replace(self.provenance, note=f"placebo: random directions, seed {seed}; {self.provenance.note}")
        return replace(self, directions=random_like(self.directions, seed=seed), provenance=about)


def in_context_vector(
    model: HookedTransformer,
    pairs: Sequence[tuple[str, str]],
    *,
    task: str = "pairs",
    seed: int = 0,
    strip_punctuation: bool = True,
) -> InContextVector:
    """The in-context vector of pairs of texts.

    Args:
        model: any ``HookedTransformer``.
        pairs: (before, after), such as an input and its answer.
        task: name of the task in frames.
        seed: stored in the provenance.
        strip_punctuation: drop punctuation at the end of each text, as the public code does.

    Raises:
        ValueError: no pairs, or a text that is empty.

    >>> vector = in_context_vector(model, [("It is bad.", "It is good."), ("I hate it", "I love it")])  # doctest: +SKIP
    """
    if not pairs:
        raise ValueError("pairs is empty; give at least one pair of texts")
    texts = [text.rstrip(string.punctuation + " ") if strip_punctuation else text for pair in pairs for text in pair]
    states = torch.stack([_states(model, prompt.tokens) for prompt in tokenise(model, texts)])
    directions = principal_difference((states[1::2] - states[::2]).double()).float()
    note = f"in-context vector: first principal component plus mean of {len(pairs)} pairs"
    about = replace(_bare(model, task, note), seed=seed)
    return InContextVector(about, directions[1:][None])


def _bare(model: HookedTransformer, task: str, note: str) -> Provenance:
    return Provenance(model_name(model), fingerprint(model), task, versions=versions(), note=note)


def principal_difference(differences: Float[Tensor, "pair layer d_model"]) -> Float[Tensor, "layer d_model"]:
    """First principal component (of length 1, over all layers together) plus the mean of the differences.

    The sign is that of scikit-learn's older rule, by the largest entry of the left singular vector.
    """
    flat = differences.flatten(1)
    mean = flat.mean(dim=0)
    left, sizes, right = torch.linalg.svd(flat - mean, full_matrices=False)
    found = mean
    if float(sizes[0]) > _NO_SPREAD * float(mean.norm()):
        column = left[:, 0]
        found = mean + torch.sign(column[column.abs().argmax()]) * right[0]
    return found.view(differences.shape[1:])


def _states(model: HookedTransformer, tokens: Sequence[int]) -> Float[Tensor, "layer d_model"]:
    """The embedding and the residual after every block, at the last token."""
    behind = [hook_name(layer) for layer in range(model.cfg.n_layers)]
    return last_token(model, tokens, ["blocks.0.hook_resid_pre", *behind]).clone()


@dataclass(frozen=True, slots=True)
class Calibration:
    """How I2CL trains its scalars; defaults are the paper's.

    Attributes:
        epochs, batch, learning_rate, weight_decay: options of AdamW.
        warm_up: share of the steps during which the rate rises.
        alpha, beta: first values.
        noise: of each output's length, added while training.
        seed: seed of batches and noise.
    """

    epochs: int = 100
    batch: int = 2
    learning_rate: float = 0.01
    weight_decay: float = 1e-3
    warm_up: float = 0.05
    alpha: float = 0.1
    beta: float = 1.0
    noise: float = 0.001
    seed: int = 42

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"epochs={self.epochs} must be 0 or more, batch={self.batch} 1 or more and learning_rate="
                f"{self.learning_rate} positive"
            )


@dataclass(frozen=True, slots=True, eq=False)
class ImplicitContext(FittedMethod):
    """Context vectors of attention and MLP, with the weights of outputs and context.

    Attributes:
        context: [site, layer, d_model], site 0 attention and 1 MLP.
        alpha, beta: [site, layer].
        losses: [step], of calibration, in nats.
    """

    context: Float[Tensor, "site layer d_model"]
    alpha: Float[Tensor, "site layer"]
    beta: Float[Tensor, "site layer"]
    losses: Float[Tensor, " step"]

    @property
    def trained(self) -> int:
        """Four numbers per layer; 0 before calibration."""
        return 2 * self.alpha.numel() if len(self.losses) else 0

    def intervention(self, *, strength: float = 1.0) -> MixedOutputs:
        """Mixes the outputs of attention and MLP with the context, at all tokens."""
        layers, mark = tuple(range(self.context.shape[1])), self.provenance.fingerprint
        return MixedOutputs(
            layers,
            self.context,
            self.alpha,
            self.beta,
            strength=strength,
            position="all",
            name=self.provenance.task,
            fingerprint=mark,
        )

    def placebo(self, *, seed: int = 0) -> Self:
        """Random context vectors of the same lengths, with the same scalars."""
        about = replace(self.provenance, note=f"placebo: random context, seed {seed}; {self.provenance.note}")
        return replace(self, context=random_like(self.context, seed=seed), provenance=about)


def implicit_context(
    model: HookedTransformer,
    task: Task,
    extraction: Extraction | None = None,
    calibration: Calibration | None = None,
    *,
    examples: Sequence[Example] | None = None,
    progress: Progress = quiet,
) -> ImplicitContext:
    """Context vectors of a task's demonstrations, calibrated on the same demonstrations.

    Args:
        model: frozen throughout.
        task: the source.
        extraction: ``samples`` demonstrations are drawn as samples are elsewhere, balanced over the classes (the paper
            takes 5 per class).
        calibration: how the scalars are trained; 0 epochs keep their first values.
        examples: the demonstrations, if you choose them yourself.
        progress: wraps the epochs.

    >>> context = implicit_context(model, load_task("review-sentiment"), Extraction(samples=10))  # doctest: +SKIP
    """
    how, plan = extraction or Extraction(samples=10), calibration or Calibration()
    shown = tuple(examples) if examples is not None else draw_samples(task, how)
    queries = zero_shot_prompts(task, shown, instruction=how.instruction)
    whole = [f"{prompt.text} {gold(task, example)}" for prompt, example in zip(queries, shown, strict=True)]
    names = [site_name(layer, site) for site in _SITES for layer in range(model.cfg.n_layers)]
    outputs = torch.stack([last_token(model, prompt.tokens, names).clone() for prompt in tokenise(model, whole)])
    context = outputs.double().mean(dim=0).float().unflatten(0, (2, -1))
    first = [torch.full(context.shape[:2], value) for value in (plan.alpha, plan.beta)]
    firsts = _first_answers(model, queries, how)
    alpha, beta, losses = calibrate(model, firsts, context, plan, start=(first[0], first[1]), progress=progress)
    note = f"implicit in-context learning: {len(shown)} demonstrations, {plan.epochs} epochs of calibration"
    return ImplicitContext(provenance(model, task, how, shown, note=note), context, alpha, beta, losses)


def _first_answers(model: HookedTransformer, queries: Sequence[Prompt], how: Extraction) -> list[TokenPrompt]:
    """Queries with the first token of their gold answer, which calibration learns to write."""
    ready = tokenise(model, queries, chat=how.chat)
    return [prompt.first_answer for prompt in ready]


def transferred_context(
    model: HookedTransformer,
    task: Task,
    sources: Sequence[ImplicitContext],
    extraction: Extraction | None = None,
    calibration: Calibration | None = None,
    *,
    similar: float = 0.8,
    temperature: float = 0.5,
    examples: Sequence[Example] | None = None,
    progress: Progress = quiet,
) -> ImplicitContext:
    """The context of a task with few labels, from the contexts of similar tasks: the transfer variant of I2CL.

    Tasks are compared by their calibrated scalars. The sources whose scalars have a cosine above ``similar`` with those
    of the target get the weights ``p = softmax(cosine / temperature)``. The context is ``sum p alpha_s context_s``,
    ``beta`` is ``sum p beta_s`` and ``alpha`` is 1; these are then calibrated on the target's demonstrations.

    Args:
        model: frozen throughout; the one that the sources were fitted to.
        task: the target; its demonstrations' labels are read.
        sources: calibrated on other tasks.
        extraction, calibration, examples, progress: see ``implicit_context``.
        similar, temperature: as published.

    Returns:
        the transferred context; if no source is similar, the target's own, and the note says so.

    Raises:
        ValueError: no sources, one of another model, or a temperature that is not positive.
    """
    if not sources or not temperature > 0:
        raise ValueError(f"sources={len(sources)} must be one or more and temperature={temperature} positive")
    for one in sources:
        one.check(model)
    how, plan = extraction or Extraction(samples=10), calibration or Calibration()
    own = implicit_context(model, task, how, plan, examples=examples, progress=progress)
    mark = _scalars(own)
    cosines = torch.stack([torch.cosine_similarity(mark, _scalars(one), dim=0) for one in sources])
    near = [index for index, value in enumerate(cosines.tolist()) if value > similar]
    if not near:
        note = f"no source above {similar}: {own.provenance.note}"
        return replace(own, provenance=replace(own.provenance, note=note))
    weights = (cosines[near] / temperature).softmax(dim=0)
    chosen = [sources[index] for index in near]
    context = sum(
        w * one.alpha.double()[..., None] * one.context.double() for w, one in zip(weights, chosen, strict=True)
    )
    beta = sum(w * one.beta.double() for w, one in zip(weights, chosen, strict=True))
    assert isinstance(context, Tensor)
    assert isinstance(beta, Tensor)
    shown = tuple(examples) if examples is not None else draw_samples(task, how)
    firsts = _first_answers(model, zero_shot_prompts(task, shown, instruction=how.instruction), how)
    start = (torch.ones_like(beta).float(), beta.float())
    alpha, scale, losses = calibrate(model, firsts, context.float(), plan, start=start, progress=progress)
    names = ", ".join(one.provenance.task for one in chosen)
    about = replace(own.provenance, note=f"implicit context transferred from {names}; {own.provenance.note}")
    return ImplicitContext(about, context.float(), alpha, scale, losses)


def _scalars(one: ImplicitContext) -> Float[Tensor, " scalar"]:
    """Both kinds of scalars, flattened, by which tasks are compared."""
    return torch.cat([one.alpha.flatten(), one.beta.flatten()]).double()


@dataclass(frozen=True, slots=True, eq=False)
class _Noisy(MixedOutputs):
    """The mix with noise on the outputs, for training."""

    noise: float = 0.0
    generator: torch.Generator | None = None

    def edit_output(self, site: Site, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        """The mix plus noise in proportion to each output's length."""
        mixed = MixedOutputs.edit_output(self, site, layer, rows)
        if not self.noise:
            return mixed
        drawn = torch.randn(mixed.shape, generator=self.generator).to(mixed)
        return mixed + self.noise * mixed.detach().norm(dim=-1, keepdim=True) * drawn


def calibrate(
    model: HookedTransformer,
    prompts: Sequence[TokenPrompt],
    context: Float[Tensor, "site layer d_model"],
    plan: Calibration,
    *,
    start: tuple[Float[Tensor, "site layer"], Float[Tensor, "site layer"]],
    progress: Progress = quiet,
) -> tuple[Float[Tensor, "site layer"], Float[Tensor, "site layer"], Float[Tensor, " step"]]:
    """The scalars after training on the prompts, and the loss of every step; ``start`` are the first alpha and beta."""
    n_layers = context.shape[1]
    alpha, beta = (values.clone().requires_grad_(True) for values in start)
    per_epoch = math.ceil(len(prompts) / plan.batch)
    total, warm = plan.epochs * per_epoch, int(plan.warm_up * plan.epochs * per_epoch)
    optimiser = torch.optim.AdamW([alpha, beta], lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _cosine(step, total, warm))
    draw = torch.Generator().manual_seed(plan.seed)
    layers, losses = tuple(range(n_layers)), []
    for _ in progress(range(plan.epochs), "calibrate", plan.epochs):
        order = torch.randperm(len(prompts), generator=draw).tolist()
        for first in range(0, len(order), plan.batch):
            members = order[first : first + plan.batch]
            edit = _Noisy(layers, context, alpha, beta, plan.noise, draw, position="all")
            with frozen(model):
                loss = torch.stack([answer_loss(model, prompts[index], edit) for index in members]).mean()
                optimiser.zero_grad()
                loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return alpha.detach(), beta.detach(), torch.tensor(losses)


def _cosine(step: int, total: int, warm: int) -> float:
    """Factor of the learning rate: a linear warm-up, then half a cosine down to 0."""
    if step < warm:
        return step / max(1, warm)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm))))


def fit_in_context_vector(source: SourceTask) -> InContextVector:
    """The in-context vector from five samples of a source, with inputs and answers as pairs."""
    shown = draw_samples(source.task, replace(source.extraction, samples=min(5, source.extraction.samples)))
    pairs = [(example.input, gold(source.task, example)) for example in shown]
    return in_context_vector(source.model, pairs, task=source.task.name, seed=source.extraction.seed)


def fit_implicit_context(source: SourceTask, *, demonstrations: int = 10, epochs: int = 10) -> ImplicitContext:
    """I2CL of a source, with fewer epochs than published, since each needs gradients over whole prompts."""
    how = replace(source.extraction, samples=min(demonstrations, source.extraction.samples))
    return implicit_context(source.model, source.task, how, Calibration(epochs=epochs, seed=source.seed))
