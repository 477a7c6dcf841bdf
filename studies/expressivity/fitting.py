"""Teachers at a chosen distance from the frozen model, and students fitted to their next-token distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .adapters import FORMS, Learned, LoRA, Prefix
from .transformer import SHARP, FrozenTransformer, Unmodified

# Sequences that a number is taken over at once.
CHUNK = 256
LEAST_STEPS = 20
# Nats; a KL below is rounding of float32 log-probabilities.
SMALLEST = 1e-7


@dataclass(frozen=True, slots=True)
class Effort:
    """What every fit may spend, the same for all students.

    Attributes:
        steps: of Adam, with a rate that falls to zero along a cosine.
        batch: sequences per step.
        rates: learning rates, each tried for a sixth of the steps; the one of the lowest training KL is used. A
            prefix wants the largest.
    """

    steps: int = 300
    batch: int = 16
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        if self.steps < LEAST_STEPS:
            raise ValueError(f"steps={self.steps} must be at least {LEAST_STEPS}, so that two tenths can be compared")

    @property
    def trial(self) -> int:
        """Steps that choose a learning rate."""
        return self.steps // 6


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Random tokens with what an adaptive task vector reads of them.

    Attributes:
        tokens: drawn alike from the whole vocabulary; the first ``query`` of each are its query.
        summary: mean residual of the unmodified model over the query; root mean square 1.
        query: its length. Distributions are compared from its last token on, so that no student sees what it predicts.
    """

    tokens: Int[Tensor, "sample position"]
    summary: Float[Tensor, "sample d_model"]
    query: int

    def part(self, start: int, stop: int) -> Sequences:
        """Some of them."""
        return Sequences(self.tokens[start:stop], self.summary[start:stop], self.query)

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted student.

    Attributes:
        student: what was learned.
        train_kl: KL from the teacher, in nats per token, over the last tenth of the steps.
        change: what the tenth of the steps before had in excess of that, as a share of it.
        rate: learning rate kept.
    """

    student: Learned
    train_kl: float
    change: float
    rate: float


def draw_sequences(model: FrozenTransformer, count: int, *, length: int = 16, query: int = 8, seed: int) -> Sequences:
    """Sequences of random tokens.

    Args:
        model: whose vocabulary they are of, and which reads their queries.
        count: how many.
        length, query: tokens per sequence, and of its query.
        seed: of the tokens.

    Raises:
        ValueError: when the query does not leave a token to predict.
    """
    if not 1 <= query < length:
        raise ValueError(f"query={query} must be from 1 to length - 1 = {length - 1}")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.shape.vocab, (count, length), generator=generator)
    with torch.no_grad():
        means = torch.cat([model.residual(part[:, :query], Unmodified()).mean(dim=1) for part in tokens.split(CHUNK)])
    return Sequences(tokens, means / means.square().mean().sqrt(), query)


@torch.no_grad()
def distributions(
    model: FrozenTransformer, adapter: Unmodified, sequences: Sequences
) -> Float[Tensor, "sample position vocab"]:
    """Log-probabilities of the next token from the last token of the query on."""
    parts = [sequences.part(at, at + CHUNK) for at in range(0, len(sequences), CHUNK)]
    return torch.cat([model.logprobs(part.tokens, adapter, part.summary, start=part.query - 1) for part in parts])


def divergence(
    teacher: Float[Tensor, "sample position vocab"], student: Float[Tensor, "sample position vocab"]
) -> float:
    """Mean KL of the student from the teacher, in nats per token: in float64, and not below what rounding leaves."""
    exact, other = (part.double().log_softmax(dim=-1) for part in (teacher, student))
    return max(SMALLEST, float((exact.exp() * (exact - other)).sum(dim=-1).mean()))


def random_teacher(
    kind: str, model: FrozenTransformer, rank: int, *, sequences: Sequences, kl: float, seed: int
) -> Learned:
    """A random LoRA or prefix at a chosen distance from the frozen model.

    A LoRA's two factors are normal, and its update is scaled. A prefix's keys are as large as the model's own, and its
    values are scaled. The scale is found by bisection.

    Args:
        kind: ``lora`` or ``prefix``.
        model: the frozen model.
        rank: of the update, or tokens of the prefix.
        sequences: on which the distance is taken.
        kl: the distance: KL of the frozen model from the teacher, in nats per token.
        seed: of the teacher.

    Raises:
        ValueError: for another kind, or a distance that no scale reaches.
    """
    if kind not in ("lora", "prefix"):
        raise ValueError(f"kind={kind!r} is unknown; choose lora or prefix")
    generator = torch.Generator().manual_seed(seed)
    shape = model.shape
    sizes = (shape.layers, 2, shape.d_model) if kind == "lora" else (shape.layers, rank, shape.d_model)
    if kind == "lora":
        up = torch.randn((*sizes, rank), generator=generator) / rank**0.5
        down = torch.randn((*sizes[:2], rank, shape.d_model), generator=generator) / shape.d_model**0.5
    else:
        keys = SHARP * torch.randn(sizes, generator=generator)
        values = torch.randn(sizes, generator=generator)

    def scaled(scale: float) -> Learned:
        return LoRA(scale * up, down) if kind == "lora" else Prefix(keys, scale * values)

    return scaled(calibrated_scale(model, scaled, sequences, kl=kl))


def calibrated_scale(
    model: FrozenTransformer, scaled: Callable[[float], Unmodified], sequences: Sequences, *, kl: float
) -> float:
    """The scale at which an adapter is at a distance from the frozen model, within one part in a thousand.

    Raises:
        ValueError: when scales from 0.001 to 1000 do not reach it.
    """
    frozen = distributions(model, Unmodified(), sequences)

    def reached(exponent: float) -> float:
        return divergence(distributions(model, scaled(10.0**exponent), sequences), frozen)

    low, high = -3.0, 3.0
    if not reached(low) < kl < reached(high):
        raise ValueError(
            f"kl={kl} is not reached: scales from 0.001 to 1000 give {reached(low):.3g} to {reached(high):.3g} nats"
        )
    for _ in range(40):
        middle = (low + high) / 2
        found = reached(middle)
        if abs(found - kl) < 1e-3 * kl:
            break
        low, high = (middle, high) if found < kl else (low, middle)
    return float(10.0**middle)


def fit_student(
    form: str,
    rank: int,
    model: FrozenTransformer,
    sequences: Sequences,
    targets: Float[Tensor, "sample position vocab"],
    *,
    effort: Effort,
    seed: int,
) -> Fit:
    """Fit a student to a teacher's distributions by its KL from them.

    Args:
        form: a key of ``FORMS``.
        rank: of the student; without meaning for ``additive``.
        model: the frozen model.
        sequences: to learn from; steps go round them.
        targets: the teacher's ``distributions`` of these sequences.
        effort: what may be spent.
        seed: of the student's start, the same at every learning rate.

    Raises:
        ValueError: when the KL is not finite at any learning rate.
    """

    def learned(rate: float, steps: int) -> tuple[Learned, Float[Tensor, " step"]]:
        student = FORMS[form].start(model.shape, rank, torch.Generator().manual_seed(seed))
        return student, _descend(student, model, sequences, targets, effort.batch, steps, rate)

    trials = {rate: _ending(learned(rate, effort.trial)[1]) for rate in effort.rates}
    rate = min(trials, key=lambda one: trials[one])
    student, losses = learned(rate, effort.steps)
    last, before = _ending(losses), _ending(losses[: -_tenth(losses)])
    if not math.isfinite(last):
        raise ValueError(
            f"{form} of rank {rank}: the KL is not finite at learning rates {effort.rates}; give lower ones"
        )
    return Fit(student, last, (before - last) / max(last, SMALLEST), rate)


def _tenth(losses: Float[Tensor, " step"]) -> int:
    return max(1, len(losses) // 10)


def _ending(losses: Float[Tensor, " step"]) -> float:
    """Mean over the last tenth; infinite when a step was not finite."""
    found = float(losses[-_tenth(losses) :].mean())
    return found if math.isfinite(found) else math.inf


def _descend(
    student: Learned,
    model: FrozenTransformer,
    sequences: Sequences,
    targets: Float[Tensor, "sample position vocab"],
    batch: int,
    steps: int,
    rate: float,
) -> Float[Tensor, " step"]:
    """Learn in place; the KL of every step."""
    learned = [tensor.requires_grad_() for tensor in student.tensors()]
    optimiser = torch.optim.Adam(learned, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = torch.zeros(steps)
    for step in range(steps):
        at = step * batch % (len(sequences) - batch + 1)
        part, wanted = sequences.part(at, at + batch), targets[at : at + batch]
        found = model.logprobs(part.tokens, student, part.summary, start=part.query - 1)
        loss = (wanted.exp() * (wanted - found)).sum(dim=-1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        losses[step] = loss.detach()
    for tensor in learned:
        tensor.requires_grad_(False)
    return losses
