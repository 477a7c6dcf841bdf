"""Where the right vector is a known function of the query an ATV finds it, and no vector for all queries can."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cast_lens.methods.atv import ATV, Design, Training, train
from tests.methods.atv.planted import BEST, BEST_STATIC, WORDS, centred, planted_model, planted_task, right_vectors

QUERIES = [f"t{query} ask" for query in range(WORDS)]
TRAINING = Training(
    examples=1000,
    validation=1000,
    templates=("own",),
    ending="",
    learning_rate=0.1,
    weight_decay=0.0,
    batch=128,
    epochs=100,
    patience=100,
)


def trained(design: Design) -> tuple[ATV, list[float]]:
    losses: list[float] = []
    atv = train(
        planted_model(), [planted_task()], design=design, training=TRAINING, watch=lambda step: losses.append(step.loss)
    )
    return atv, losses


@pytest.mark.parametrize("rank", [pytest.param(None, marks=pytest.mark.slow), WORDS - 1])
def test_the_planted_vectors_are_found(rank: int | None) -> None:
    design = Design(generator="blocks", source="self", layer=0, pooling="mean", layers=(1,), rank=rank, strength=1.0)
    atv, losses = trained(design)
    got, right = centred(atv.vectors(QUERIES)[:, 0]), right_vectors()
    assert float(F.cosine_similarity(got, right).min()) > 0.99
    # Gibbs: no vectors do better than this.
    assert min(losses) >= BEST - 1e-5
    assert losses[-1] == pytest.approx(BEST, abs=1e-3)


def test_a_vector_for_all_queries_cannot() -> None:
    """Its best is the answers' marginal, which is uniform: log 8 nats, whatever vector it is."""
    atv, losses = trained(Design(generator="constant", layers=(1,), start="torch", strength=1.0))
    assert min(losses) >= BEST_STATIC - 1e-5
    assert losses[-1] == pytest.approx(BEST_STATIC, abs=1e-3)
    assert BEST < BEST_STATIC - 0.5
    # The right vectors' directions sum to zero: a vector that is near to some of them is as far from others.
    right = F.normalize(right_vectors(), dim=-1)
    torch.testing.assert_close(right.sum(dim=0), torch.zeros(WORDS), atol=1e-5, rtol=0)
    assert torch.equal(atv.vectors(QUERIES)[0], atv.vectors(QUERIES)[5])
    assert atv.n_parameters == WORDS


def test_the_last_token_alone_knows_nothing_of_the_query() -> None:
    """The toy hides the query from the place that is steered: a generator that reads there is static too."""
    _, losses = trained(Design(generator="residual", layer=0, layers=(1,), strength=1.0))
    assert min(losses) >= BEST_STATIC - 1e-5
