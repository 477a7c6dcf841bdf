"""Predictors of transfer against loops with hooks, closed forms, and a planted Simpson artefact."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from cast_lens.engine import tokenise
from cast_lens.methods.source_choice import (
    divergence,
    embedding_similarity,
    fisher_embedding,
    h_score,
    next_token_distance,
    within_targets,
)
from cast_lens.tasks import few_shot_prompts, zero_shot_prompts
from cast_lens.vectors import Provenance, SteeringVector
from tests.closeness import assert_close
from tests.methods.planted import noise
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

LAYERS = (1, 3)


def test_the_embedding_is_the_mean_squared_gradient_of_a_loop() -> None:
    model, task = tiny_model("llama"), word_task()
    prompts = zero_shot_prompts(task, task.train[:3])
    vector = SteeringVector(noise(4, 64, seed=2), (0, 1, 2, 3), Provenance("", "", ""))
    got = fisher_embedding(model, prompts, vector, layers=LAYERS, strength=0.5)
    total = torch.zeros(2, 64)
    for prompt in tokenise(model, prompts):
        answer = prompt.answers[prompt.gold]
        added = [(0.5 * vector.at(layer)).clone().requires_grad_(True) for layer in LAYERS]
        last = len(prompt.tokens) - 1
        hooks = []
        for layer, one in zip(LAYERS, added, strict=True):

            def add(x: Tensor, hook: object, one: Tensor = one, last: int = last) -> Tensor:
                return torch.cat((x[:, :last], x[:, last : last + 1] + one, x[:, last + 1 :]), dim=1)

            hooks.append((f"blocks.{layer}.hook_resid_post", add))
        out = model.run_with_hooks(torch.tensor([prompt.tokens + answer]), fwd_hooks=hooks)
        rows = out[0, last:-1].log_softmax(-1)
        loss = -rows[range(len(answer)), list(answer)].mean()
        total += torch.stack([g.square() for g in torch.autograd.grad(loss, added)]) / len(prompts)
    assert_close(got, total)


def test_a_task_is_most_like_itself_and_needs_no_labels() -> None:
    model = tiny_model("llama")
    one, other = label_task(), word_task()
    halves = [
        fisher_embedding(model, zero_shot_prompts(one, one.train[start : start + 6]), layers=LAYERS, labels="model")
        for start in (0, 6)
    ]
    away = fisher_embedding(model, zero_shot_prompts(other, other.train[:6]), layers=LAYERS)
    assert embedding_similarity(halves[0], halves[0]) == pytest.approx(1)
    assert embedding_similarity(*halves) > embedding_similarity(halves[0], away)


def test_h_scores_have_their_closed_form() -> None:
    labels = torch.tensor([0, 1, 2] * 40)
    features = noise(120, 5, seed=1)
    features[:, :2] += 3 * torch.eye(3, 2)[labels]
    f = features.double().numpy() - features.double().numpy().mean(axis=0)
    g = np.stack([f[(labels == label).numpy()].mean(axis=0) for label in (0, 1, 2)])[labels]
    expected = np.trace(np.linalg.inv(f.T @ f / 120) @ (g.T @ g / 120))
    assert h_score(features, labels, shrinkage=0) == pytest.approx(expected)
    assert 1 < expected <= 2
    assert h_score(noise(120, 5, seed=3), labels, shrinkage=0) < 0.3
    # Fewer samples than coordinates: shrunk, and planted classes still win.
    wide, few = noise(12, 64, seed=4), torch.tensor([0, 1] * 6)
    planted = wide.clone()
    planted[:, 0] += 6 * few
    assert h_score(planted, few) > h_score(wide, few)
    with pytest.raises(ValueError, match="classes"):
        h_score(wide, torch.zeros(12, dtype=torch.long))


def test_divergences_have_their_closed_forms() -> None:
    p, q = torch.tensor([0.5, 0.5, 1e-30]), torch.tensor([0.25, 0.25, 0.5])
    kl = math.log(2)
    assert float(divergence(p.log(), q.log(), "kl")) == pytest.approx(kl, abs=1e-6)
    assert float(divergence(p.log(), q.log(), "total variation")) == pytest.approx(0.5, abs=1e-6)
    m = (p + q) / 2
    js = 0.5 * float((p[:2] * (p[:2] / m[:2]).log()).sum()) + 0.5 * float((q * (q / m).log()).sum())
    assert float(divergence(p.log(), q.log(), "jensen-shannon")) == pytest.approx(js, abs=1e-6)
    with pytest.raises(ValueError, match="cosine"):
        divergence(p.log(), q.log(), "cosine")  # type: ignore[arg-type]


def test_the_distance_to_the_same_prompts_is_nothing() -> None:
    model, task = tiny_model("llama"), word_task()
    queries = zero_shot_prompts(task, task.test[:2])
    edit = SteeringVector(noise(1, 64, seed=5), (1,), Provenance("", "", "")).intervention(1, strength=3)
    with pytest.warns(UserWarning, match="fingerprint"):
        same = next_token_distance(model, queries, queries, [edit])
    assert same.shape == (2, 2)
    assert float(same[0].abs().max()) < 1e-6 < float(same[1].min())
    shown = few_shot_prompts(task, task.test[:2], shots=2)
    assert float(next_token_distance(model, queries, shown, []).min()) > 0
    with pytest.raises(ValueError, match="same queries"):
        next_token_distance(model, queries, shown[:1], [])


def test_a_simpson_artefact_is_not_taken_for_a_prediction() -> None:
    """Easy targets have high predictors and high gains; within a target the order is reversed."""
    rows = [
        (f"t{target}", f"s{source}", target - 0.05 * source, target + 0.05 * source)
        for target in range(6)
        for source in range(5)
    ]
    pairs = pd.DataFrame(rows, columns=["target", "source", "predictor", "gain"])
    assert pairs["predictor"].corr(pairs["gain"], method="spearman") > 0.8
    found = within_targets(pairs, "predictor")
    assert found.value == pytest.approx(-1)
    assert found.p < 0.01
    assert found.targets == 6
    none = within_targets(pairs.assign(predictor=1.0), "predictor")
    assert math.isnan(none.value)


def test_under_the_null_p_values_are_what_they_say() -> None:
    draw = np.random.default_rng(0)
    small = 0
    for seed in range(100):
        pairs = pd.DataFrame(
            {"target": np.repeat(list("abcd"), 4), "x": draw.normal(size=16), "gain": draw.normal(size=16)}
        )
        small += within_targets(pairs, "x", n_permutations=59, seed=seed).p <= 0.1
    # Binomial(100, 0.1): above 19 once in a thousand.
    assert small <= 19
