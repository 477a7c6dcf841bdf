"""Learned task representations: a weight for each head, trained against shuffled demonstrations (arXiv 2502.05390).

Formula (section 3): let ``c[l, h]`` be what head ``h`` of layer ``l`` adds to the residual stream at the last token,
averaged over few-shot prompts. One vector is added after each layer at the last prompt token,

    v[l] = sum over h of  theta[l, h] c[l, h]

Only ``theta`` is trained, with the cross-entropy of the answer's first token on few-shot prompts with shuffled labels;
the model is frozen.

Published: ``theta`` starts as standard normal noise and is trained with Adam at 5e-5 for up to 100,000 steps of 32
shuffled prompts. Head outputs are averaged over 100 prompts that are redrawn at each step, and the step with the lowest
loss of its own batch is kept. ``LearnedTraining.published()`` gives these values. The defaults are ours: they start at
zero (the unsteered model), take a hundred larger steps and keep the last. The public code for language models splits
the *projected* attention output into one chunk per head and weights the chunks; here heads are weighted, as in the
paper.

What this does not show: the weights are learned from the labels of the source, so compare the vector with other trained
methods. Its placebo has random directions of the same lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ..engine import (
    Prefixes,
    Progress,
    TokenPrompt,
    answer_losses,
    capture_heads,
    frozen,
    project_heads,
    quiet,
    tokenise,
)
from ..extraction import Extraction, provenance
from ..interventions import PromptVectors
from ..models.lens import HookedTransformer
from ..placebos import random_like
from ..tasks import Task
from .atv import Design, Training, train
from .fitted import FittedMethod
from .function_vectors import icl_prompts
from .vectors import SourceTask

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

# Memory in MB for keys and values of the prompts, which are kept from step to step.
PREFIX_MB = 1000.0


@dataclass(frozen=True, slots=True)
class LearnedTraining:
    """How the weights are trained.

    Attributes:
        steps: steps of Adam.
        batch: shuffled prompts per step.
        learning_rate: learning rate of Adam.
        start: standard deviation of the first weights; 0 starts at the unsteered model.
        averaged: number of few-shot prompts whose head outputs are averaged at each step, drawn from ``pool``.
        pool: number of few-shot prompts whose head outputs are captured, and of shuffled prompts.
        keep_lowest: keep the weights of the step with the lowest loss of its own batch instead of the last step.
        seed: seed of weights, batches and draws.
    """

    steps: int = 100
    batch: int = 8
    learning_rate: float = 0.02
    start: float = 0.0
    averaged: int = 20
    pool: int = 40
    keep_lowest: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "averaged", "pool"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.averaged > self.pool:
            raise ValueError(f"averaged={self.averaged} must not exceed pool={self.pool}, the prompts it is drawn from")
        if not self.learning_rate > 0 or not self.start >= 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and start={self.start} 0 or more")

    @classmethod
    def published(cls, *, pool: int = 1000) -> LearnedTraining:
        """The values of arXiv 2502.05390, except that prompts come from a fixed pool and are not new at each step."""
        return cls(100_000, 32, 5e-5, 1.0, 100, pool, keep_lowest=True)


@dataclass(frozen=True, slots=True, eq=False)
class LearnedVector(FittedMethod):
    """Weights of heads, and the vectors that follow from them.

    Attributes:
        weights: [layer, head].
        outputs: [layer, head, d_model], the mean contribution of each head to the residual stream.
        losses: [step], cross-entropy of each step's batch in nats.
    """

    weights: Float[Tensor, "layer head"]
    outputs: Float[Tensor, "layer head d_model"]
    losses: Float[Tensor, " step"]

    @property
    def trained(self) -> int:
        """One number per head."""
        return self.weights.numel()

    def intervention(self, *, strength: float = 1.0) -> PromptVectors:
        """One vector after every layer, at the last prompt token."""
        directions = torch.einsum("lh,lhd->ld", self.weights, self.outputs)[None]
        layers, mark = tuple(range(len(self.weights))), self.provenance.fingerprint
        return PromptVectors(directions, layers, strength, "prompt_last", self.provenance.task, mark)

    def placebo(self, *, seed: int = 0) -> Self:
        """Random directions at every layer, each as long as the learned vector there: weights 1 on one head."""
        vectors = self.intervention().directions[0]
        outputs = torch.zeros_like(self.outputs)
        outputs[:, 0] = random_like(vectors, seed=seed)
        weights = torch.zeros_like(self.weights)
        weights[:, 0] = 1.0
        about = replace(self.provenance, note=f"placebo: random directions, seed {seed}; {self.provenance.note}")
        return replace(self, weights=weights, outputs=outputs, provenance=about)


def learned_vector(
    model: HookedTransformer,
    task: Task,
    extraction: Extraction | None = None,
    training: LearnedTraining | None = None,
    *,
    progress: Progress = quiet,
) -> LearnedVector:
    """Train the weights of a task's heads.

    Args:
        model: frozen throughout.
        task: the source, whose labels are used.
        extraction: demonstrations per prompt and seed.
        training: see ``LearnedTraining``.
        progress: wraps the steps.

    Raises:
        ValueError: a model whose heads cannot be found; see ``few_shot``.

    >>> learned = learned_vector(model, load_task("antonym"))  # doctest: +SKIP
    >>> cl.evaluate(model, prompts, learned.intervention())  # doctest: +SKIP
    """
    how, plan = extraction or Extraction(), training or LearnedTraining()
    clean = tokenise(model, icl_prompts(task, how, plan.pool), chat=how.chat)
    mixed = icl_prompts(task, replace(how, seed=how.seed + 1, shuffle_labels=True), plan.pool)
    shuffled = [prompt.first_answer for prompt in tokenise(model, mixed, chat=how.chat)]
    captured = capture_heads(model, clean, progress=progress)
    added = torch.stack([project_heads(model, sample) for sample in captured])
    weights, losses = train_weights(model, shuffled, added, plan, progress=progress)
    note = f"learned task vector: {plan.steps} steps of {plan.batch}, rate {plan.learning_rate:g}"
    about = provenance(model, task, how, (), note=note)
    return LearnedVector(about, weights, added.double().mean(dim=0).float(), losses)


def train_weights(
    model: HookedTransformer,
    prompts: list[TokenPrompt],
    outputs: Float[Tensor, "pool layer head d_model"],
    training: LearnedTraining,
    *,
    progress: Progress = quiet,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, " step"]]:
    """The weights of the last step (or of the lowest loss), and the loss of every step's batch.

    Args:
        model: the frozen model.
        prompts: prompts with the answer to be learned.
        outputs: what heads add on each prompt of the pool.
        training: steps, batch, rate, seed.
        progress: wraps the steps.
    """
    draw = torch.Generator().manual_seed(training.seed)
    weights = training.start * torch.randn(outputs.shape[1:3], generator=draw)
    weights.requires_grad_(True)
    optimiser = torch.optim.Adam([weights], lr=training.learning_rate)
    layers = tuple(range(outputs.shape[1]))
    store = Prefixes.of(model, prompts, memory_mb=PREFIX_MB)
    losses: list[float] = []
    best, kept = float("inf"), weights.detach().clone()
    for _ in progress(range(training.steps), "train head weights", training.steps):
        chosen = torch.randint(len(prompts), (training.batch,), generator=draw).tolist()
        sample = torch.randperm(len(outputs), generator=draw)[: training.averaged]
        directions = torch.einsum("lh,lhd->ld", weights, outputs[sample].mean(dim=0))[None]
        steering = PromptVectors(directions.to(model.cfg.device or "cpu"), layers, position="prompt_last")
        with frozen(model):
            prefix = store.gather(chosen)
            loss = answer_losses(model, [prompts[index] for index in chosen], steering, prefix=prefix).mean()
            optimiser.zero_grad()
            loss.backward()
        losses.append(float(loss.detach()))
        if losses[-1] < best:
            best, kept = losses[-1], weights.detach().clone()
        optimiser.step()
    return kept if training.keep_lowest else weights.detach().clone(), torch.tensor(losses)


def fit_learned_vector(source: SourceTask) -> LearnedVector:
    """The learned vector with a run's demonstrations and seed."""
    pool = max(1, source.extraction.samples)
    training = LearnedTraining(pool=pool, averaged=max(1, pool // 2), seed=source.seed)
    return learned_vector(source.model, source.task, source.extraction, training)


@dataclass(frozen=True, slots=True, eq=False)
class StaticVector(FittedMethod):
    """One trained vector per layer, the same for every query: the static counterpart of arXiv 2506.03426.

    Attributes:
        directions: [layer, d_model].
        layers: block index of each direction.
        scale: factor with which it was trained.
    """

    directions: Float[Tensor, "layer d_model"]
    layers: tuple[int, ...]
    scale: float

    @property
    def trained(self) -> int:
        """One number per layer and coordinate."""
        return self.directions.numel()

    def intervention(self, *, strength: float = 1.0) -> PromptVectors:
        """The vectors, at all layers; at strength 1 as they were trained."""
        about = self.provenance
        factor = strength * self.scale
        return PromptVectors(self.directions[None], self.layers, factor, "last", about.task, about.fingerprint)

    def placebo(self, *, seed: int = 0) -> Self:
        """Random directions of the same lengths."""
        about = replace(self.provenance, note=f"placebo: random directions, seed {seed}; {self.provenance.note}")
        return replace(self, directions=random_like(self.directions, seed=seed), provenance=about)


def static_vector(
    model: HookedTransformer, task: Task, training: Training | None = None, *, progress: Progress = quiet
) -> StaticVector:
    """Train one vector per layer on a task's zero-shot prompts and their answers.

    Args:
        model: frozen.
        task: the source: its train split is trained on, its validation split decides when to stop.
        training: see ``Training``; the rate of 0.5 suits a vector whose every number is trained alone.
        progress: wraps the passes before training.
    """
    plan = training or Training(learning_rate=0.5)
    made = train(model, [task], design=Design(generator="constant"), training=plan, progress=progress)
    edit = made.intervention([""])
    return StaticVector(made.provenance, edit.directions[0], edit.layers, edit.strength)
