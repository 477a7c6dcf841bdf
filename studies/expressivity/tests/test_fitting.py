"""Planted teachers: what a form can express is found, what it cannot is left; nothing happens to the frozen model."""

from __future__ import annotations

import pytest
import torch

from studies.expressivity.adapters import Additive, Learned, LoRA
from studies.expressivity.fitting import Effort, distributions, divergence, draw_sequences, fit_student, random_teacher
from studies.expressivity.tests.small import SMALL, randomised, small_model, small_sequences
from studies.expressivity.transformer import Unmodified

MODEL = small_model()
TRAIN = small_sequences()
HELD_OUT = draw_sequences(MODEL, 128, length=8, query=4, seed=9)


def left(form: str, rank: int, teacher: Learned, rate: float, *, steps: int = 150) -> float:
    """Share of the unmodified model's KL that a student leaves on sequences it has not seen."""
    targets, wanted = distributions(MODEL, teacher, TRAIN), distributions(MODEL, teacher, HELD_OUT)
    effort = Effort(steps=steps, rates=(rate,))
    fit = fit_student(form, rank, MODEL, TRAIN, targets, effort=effort, seed=4)
    baseline = divergence(wanted, distributions(MODEL, Unmodified(), HELD_OUT))
    return divergence(wanted, distributions(MODEL, fit.student, HELD_OUT)) / baseline


def test_a_planted_vector_is_found() -> None:
    assert left("additive", 0, randomised(Additive.start(SMALL, 0, torch.Generator())), 0.03) < 0.01


def test_lora_recovers_a_lora_of_its_rank_and_a_vector_cannot() -> None:
    teacher = random_teacher("lora", MODEL, 1, sequences=TRAIN, kl=0.5, seed=7)
    assert left("lora", 1, teacher, 0.03) < 0.05
    assert left("additive", 0, teacher, 0.03) > 0.5


def test_a_prefix_recovers_a_prefix() -> None:
    teacher = random_teacher("prefix", MODEL, 1, sequences=TRAIN, kl=0.5, seed=7)
    assert left("prefix", 1, teacher, 0.1) < 0.05


@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("kl", [0.5, 1.0])
def test_teachers_stand_where_they_should(kind: str, kl: float) -> None:
    teacher = random_teacher(kind, MODEL, 2, sequences=TRAIN, kl=kl, seed=7)
    frozen = distributions(MODEL, Unmodified(), TRAIN)
    assert divergence(distributions(MODEL, teacher, TRAIN), frozen) == pytest.approx(kl, rel=1e-3)


def test_the_frozen_model_stays_as_it_was_bit_for_bit_and_a_fit_repeats() -> None:
    before = [weight.clone() for weight in MODEL.weights()]
    targets = distributions(MODEL, randomised(LoRA.start(SMALL, 2, torch.Generator())), TRAIN)
    for form in ("conditioned", "prefix"):
        effort = Effort(steps=20, rates=(0.01, 0.1))
        one, two = (fit_student(form, 2, MODEL, TRAIN, targets, effort=effort, seed=4) for _ in range(2))
        assert all(map(torch.equal, one.student.tensors(), two.student.tensors()))
        assert one.rate == two.rate
    for weight, old in zip(MODEL.weights(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None
        assert not weight.requires_grad


def test_a_rate_that_breaks_the_fit_is_not_chosen() -> None:
    targets = distributions(MODEL, randomised(Additive.start(SMALL, 0, torch.Generator())), TRAIN)
    effort = Effort(steps=20, rates=(1e30, 0.03))
    assert fit_student("affine", 2, MODEL, TRAIN, targets, effort=effort, seed=4).rate == 0.03
    with pytest.raises(ValueError, match="affine of rank 2: the KL is not finite"):
        fit_student("affine", 2, MODEL, TRAIN, targets, effort=Effort(20, rates=(1e30,)), seed=4)


def test_divergence_is_the_kl_of_the_second_from_the_first() -> None:
    first, second = torch.tensor([[[0.5, 0.5]]]).log(), torch.tensor([[[0.9, 0.1]]]).log()
    expected = 0.5 * torch.tensor(0.5 / 0.9).log() + 0.5 * torch.tensor(0.5 / 0.1).log()
    assert divergence(first, second) == pytest.approx(float(expected), rel=1e-6)


def test_the_summary_is_of_the_query_alone() -> None:
    again = MODEL.residual(TRAIN.tokens[:, : TRAIN.query], Unmodified()).mean(dim=1)
    torch.testing.assert_close(TRAIN.summary, again / again.square().mean().sqrt())
    assert distributions(MODEL, Unmodified(), TRAIN).shape == (len(TRAIN), 5, SMALL.vocab)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random_teacher("affine", MODEL, 1, sequences=TRAIN, kl=1, seed=0), "kind='affine' is unknown"),
        (lambda: random_teacher("lora", MODEL, 1, sequences=TRAIN, kl=50, seed=0), "kl=50 is not reached"),
        (lambda: draw_sequences(MODEL, 2, length=4, query=4, seed=0), "query=4 must be from 1 to length - 1 = 3"),
        (lambda: Effort(steps=3), "steps=3 must be at least 20"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
