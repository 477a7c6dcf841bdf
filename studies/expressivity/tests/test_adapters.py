"""Forms of students: closed forms, sizes, and where learning begins."""

from __future__ import annotations

import pytest
import torch

from studies.expressivity.adapters import (
    FORMS,
    Additive,
    Affine,
    BiasedLoRA,
    Conditioned,
    LoRA,
    matched_rank,
    parameter_count,
)
from studies.expressivity.tests.small import SMALL, randomised, small_model, small_sequences
from studies.expressivity.transformer import Projection, Shape, Unmodified

GENERATOR = torch.Generator()
X = torch.randn(2, 3, SMALL.d_model, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("form", "a_layer"),
    [
        ("additive", lambda d, r: d),
        ("conditioned", lambda d, r: 2 * r * d + d),
        ("affine", lambda d, r: 2 * r * d + d),
        ("lora", lambda d, r: 4 * r * d),
        ("lora + bias", lambda d, r: 4 * r * d + 2 * d),
        ("prefix", lambda d, r: 2 * r * d),
    ],
)
@pytest.mark.parametrize("rank", [1, 5])
def test_parameters(form: str, a_layer: object, rank: int) -> None:
    assert callable(a_layer)
    assert parameter_count(form, SMALL, rank) == SMALL.layers * a_layer(SMALL.d_model, rank)


def test_a_matched_rank_is_the_nearest_of_all() -> None:
    shape = Shape()
    for form in FORMS:
        for budget in (1, 100, 256, 512, 700, 1024, 4096, 8192):
            found = matched_rank(form, shape, budget)
            if form == "additive":
                assert found is None
                continue
            off = {rank: abs(parameter_count(form, shape, rank) - budget) for rank in range(1, 80)}
            assert found == min(off, key=lambda rank: (off[rank], rank))


@pytest.mark.parametrize("form", [name for name in FORMS if name != "prefix"])
def test_learning_begins_at_the_unmodified_model(form: str) -> None:
    model, sequences = small_model(), small_sequences(4)
    start = FORMS[form].start(SMALL, 3, torch.Generator().manual_seed(1))
    expected = model.logprobs(sequences.tokens, Unmodified())
    assert torch.equal(model.logprobs(sequences.tokens, start, sequences.summary), expected)
    other = model.logprobs(sequences.tokens, randomised(start), sequences.summary)
    assert not torch.allclose(other, expected, atol=0.1)


def test_the_affine_form_is_a_map_of_low_rank_and_a_vector() -> None:
    adapter = randomised(Affine.start(SMALL, 2, GENERATOR))
    assert isinstance(adapter, Affine)
    change = torch.eye(SMALL.d_model) + adapter.up[1] @ adapter.down[1]
    torch.testing.assert_close(adapter.after(1, X, None), X @ change.T + adapter.vectors[1])
    assert int(torch.linalg.matrix_rank(change - torch.eye(SMALL.d_model))) == 2


def test_additive_forms_add_the_same_at_all_positions() -> None:
    summary = torch.randn(2, SMALL.d_model, generator=torch.Generator().manual_seed(6))
    static = randomised(Additive.start(SMALL, 0, GENERATOR)).after(0, X, None) - X
    written = randomised(Conditioned.start(SMALL, 2, GENERATOR)).after(0, X, summary) - X
    # Adding and taking away rounds at the size of the residual.
    torch.testing.assert_close(static, static[:1, :1].expand_as(static), atol=1e-5, rtol=0)
    torch.testing.assert_close(written, written[:, :1].expand_as(written), atol=1e-5, rtol=0)
    assert not torch.allclose(written[0], written[1], atol=0.1)


def test_the_affine_form_at_loras_placement_is_lora_and_a_bias() -> None:
    biased = randomised(BiasedLoRA.start(SMALL, 2, GENERATOR))
    assert isinstance(biased, BiasedLoRA)
    where = Projection(1, 0)
    plain = LoRA(biased.up, biased.down).project(where, X, 2 * X)
    torch.testing.assert_close(biased.project(where, X, 2 * X) - biased.biases[1, 0], plain)
