"""Learned head weights, in-context vectors, implicit context and state vectors, each against its recipe, literally."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cast_lens.engine import TokenPrompt, answer_losses, frozen, reference, score, tokenise
from cast_lens.extraction import Extraction, draw_samples
from cast_lens.interventions import PromptVectors
from cast_lens.methods.fitted import FittedMethod
from cast_lens.methods.frequency import fast_vector, split_frequencies, task_similarity
from cast_lens.methods.function_vectors import icl_prompts
from cast_lens.methods.in_context_vectors import (
    Calibration,
    ImplicitContext,
    InContextVector,
    calibrate,
    implicit_context,
    in_context_vector,
)
from cast_lens.methods.learned import LearnedTraining, LearnedVector, learned_vector, train_weights
from cast_lens.methods.state_vectors import StateVector, averaged_states, state_vector
from cast_lens.models import HookedDecoder, load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import few_shot_prompts, zero_shot_prompts
from cast_lens.vectors import Provenance, SteeringVector
from tests.closeness import assert_close
from tests.methods.planted import noise, vectors
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

HOW = Extraction(samples=4, shots=2, seed=3)
PAIRS = [("It is a dull film.", "It is a fine film!"), ("bad", "good"), ("They were late", "They were early")]


@cache
def model_of(route: str = "hooked", seed: int = 0) -> Any:
    if route == "hooked":
        return tiny_model("llama", seed=seed)
    return load_model(HookedDecoder(tiny_hf_model("llama", seed=seed)), tokenizer=tiny_tokenizer())


def firsts(model: HookedTransformer, prompts: list[Any]) -> list[TokenPrompt]:
    return [TokenPrompt(p.tokens, ((p.answers[p.gold][0],),), 0, p.name) for p in tokenise(model, prompts)]


def seen(model: Any, tokens: tuple[int, ...], names: list[str], *, token: int = -1) -> list[Tensor]:
    """What stands at hook points at one token, by plain hooks."""
    kept: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = x[0, token].detach()

    model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[(name, keep) for name in names])
    return [kept[name] for name in names]


# Learned weights.


def test_weights_are_those_of_a_loop_with_hooks_and_autograd() -> None:
    """The same draws, each prompt alone: hooks add the weighted heads, autograd goes through the whole model."""
    model = model_of()
    prompts = firsts(model, icl_prompts(word_task(), replace(HOW, shuffle_labels=True), 3))
    outputs = 0.3 * noise(4, 4, 4, 64, seed=9)
    plan = LearnedTraining(steps=3, batch=2, learning_rate=0.05, start=0.3, averaged=2, pool=4, seed=11)
    got, losses = train_weights(model, prompts, outputs, plan)

    draw = torch.Generator().manual_seed(11)
    weights = (0.3 * torch.randn(4, 4, generator=draw)).requires_grad_(True)
    optimiser = torch.optim.Adam([weights], lr=0.05)
    for step in range(3):
        chosen = torch.randint(3, (2,), generator=draw).tolist()
        sample = torch.randperm(4, generator=draw)[:2]
        mean = outputs[sample].mean(dim=0)
        loss = torch.zeros(())
        for index in chosen:
            hooks = []
            for layer in range(4):

                def add(residual: Tensor, hook: object, layer: int = layer, mean: Tensor = mean) -> Tensor:
                    vector = (weights[layer, :, None] * mean[layer]).sum(dim=0)
                    return torch.cat((residual[:, :-1], residual[:, -1:] + vector), dim=1)

                hooks.append((f"blocks.{layer}.hook_resid_post", add))
            out = model.run_with_hooks(torch.tensor([prompts[index].tokens]), fwd_hooks=hooks)
            loss = loss - out[0, -1].log_softmax(-1)[prompts[index].answers[0][0]] / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert abs(float(losses[step]) - float(loss.detach())) < 1e-4
    # Adam divides by the size of gradients: rounding of small ones is enlarged.
    assert torch.allclose(got, weights.detach(), atol=1e-3)


def test_planted_weights_lower_the_loss() -> None:
    """One head adds what lowers the loss, the others add nothing: only its weight moves, in the right direction."""
    model = model_of()
    prompts = firsts(model, icl_prompts(word_task(), replace(HOW, shuffle_labels=True), 1))
    direction = torch.zeros(1, 4, 64, requires_grad=True)
    with frozen(model):
        answer_losses(model, prompts, PromptVectors(direction, (0, 1, 2, 3), position="prompt_last")).mean().backward()
    assert direction.grad is not None
    outputs = torch.zeros(2, 4, 4, 64)
    outputs[:, 3, 1] = -direction.grad[0, 3] / direction.grad[0, 3].norm()
    plan = LearnedTraining(steps=15, batch=4, learning_rate=0.05, averaged=2, pool=2)
    weights, losses = train_weights(model, prompts, outputs, plan)
    assert float(weights[3, 1]) > 0.2
    assert torch.count_nonzero(weights) == 1
    assert float(losses[-3:].mean()) < float(losses[:3].mean())


# In-context vectors.


def flipped(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The public code's sign rule."""
    signs = np.sign(left[np.argmax(np.abs(left), axis=0), range(left.shape[1])])
    return left * signs, right * signs[:, None]


@pytest.mark.parametrize("route", ["hooked", "decoder"])
def test_in_context_vectors_are_those_of_the_public_code(route: str) -> None:
    model = model_of(route)
    differences = []
    for pair in PAIRS:
        both = []
        for text in pair:
            names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(4))]
            both.append(torch.cat(seen(model, tokenise(model, text.rstrip(".!"))[0].tokens, names)))
        differences.append((both[1] - both[0]).double().numpy())
    rows = np.stack(differences)
    centred = rows - rows.mean(axis=0)
    left, _, right = np.linalg.svd(centred, full_matrices=False)
    _, right = flipped(left, right)
    expected = (right[:1].sum(axis=0) + rows.mean(axis=0)).reshape(5, 64)[1:]
    got = in_context_vector(model, PAIRS)
    assert_close(got.directions[0], torch.tensor(expected).float())


def test_one_pair_gives_its_difference() -> None:
    model = model_of()
    one = in_context_vector(model, PAIRS[:1]).directions[0]
    found = [reference.residuals(model, tokenise(model, text.rstrip(".!"))[0].tokens) for text in PAIRS[0]]
    assert_close(one, found[1] - found[0])
    with pytest.raises(ValueError, match="empty"):
        in_context_vector(model, [])


# Implicit context.


def test_context_vectors_and_scalars_are_those_of_the_paper() -> None:
    model, task = model_of(), label_task()
    shown = draw_samples(task, HOW)
    queries = zero_shot_prompts(task, shown)
    names = [f"blocks.{layer}.{site}" for site in ("hook_attn_out", "hook_mlp_out") for layer in range(4)]
    collected = []
    for query, example in zip(queries, shown, strict=True):
        tokens = tokenise(model, f"{query.text} {example.answer}")[0].tokens
        collected.append(torch.stack(seen(model, tokens, names)))
    context = torch.stack(collected).mean(dim=0).view(2, 4, 64)
    plan = Calibration(epochs=2, noise=0.0)
    got = implicit_context(model, task, HOW, plan)
    assert_close(got.context, context)

    alpha, beta = torch.full((2, 4), 0.1, requires_grad=True), torch.full((2, 4), 1.0, requires_grad=True)
    optimiser = torch.optim.AdamW([alpha, beta], lr=0.01, weight_decay=1e-3)
    draw, step, total = torch.Generator().manual_seed(42), 0, 4
    prompts = firsts(model, queries)
    for _ in range(2):
        order = torch.randperm(4, generator=draw).tolist()
        for start in (0, 2):
            # Warm-up of 5 % of four steps is none; half a cosine.
            for group in optimiser.param_groups:
                group["lr"] = 0.01 * 0.5 * (1 + np.cos(np.pi * step / total))
            loss = torch.zeros(())
            for index in order[start : start + 2]:
                hooks = [
                    (
                        f"blocks.{layer}.{name}",
                        lambda out, hook, site=site, layer=layer: (
                            beta[site, layer] * out + alpha[site, layer] * got.context[site, layer]
                        ),
                    )
                    for site, name in enumerate(("hook_attn_out", "hook_mlp_out"))
                    for layer in range(4)
                ]
                out = model.run_with_hooks(torch.tensor([prompts[index].tokens]), fwd_hooks=hooks)
                loss = loss - out[0, -1].log_softmax(-1)[prompts[index].answers[0][0]] / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
    assert torch.allclose(got.alpha, alpha.detach(), atol=1e-3)
    assert torch.allclose(got.beta, beta.detach(), atol=1e-3)
    assert got.trained == 16


def test_without_context_and_scale_nothing_changes() -> None:
    model = model_of()
    prompts = tokenise(model, ["A warm film", "cold"])
    none = ImplicitContext(
        Provenance("", "", ""), noise(2, 4, 64, seed=1), torch.zeros(2, 4), torch.ones(2, 4), torch.zeros(0)
    )
    prompts = [TokenPrompt(p.tokens, ((5,), (6, 7)), 0) for p in prompts]
    scores = score(model, prompts, none.intervention())
    for own in scores.answer_logprobs:
        assert_close(own[1], own[0])
    assert none.trained == 0
    start = (torch.full_like(none.alpha, 0.1), torch.ones_like(none.beta))
    alpha, _, losses = calibrate(model, prompts, none.context, Calibration(epochs=0), start=start)
    assert len(losses) == 0
    assert bool((alpha == 0.1).all())


# State vectors.


@pytest.mark.parametrize("averaging", ["last", "inner", "momentum"])
def test_state_vectors_are_those_at_the_separators(averaging: Any) -> None:
    model, task = model_of(), word_task()
    how = Extraction(shots=8, seed=2)
    got = state_vector(model, task, how, layer=2, averaging=averaging)
    (query,) = draw_samples(task, replace(how, samples=1))
    (prompt,) = few_shot_prompts(task, [query], shots=8, seed=2)
    (whole,) = tokenise(model, [prompt])
    ends = [
        len(tokenise(model, prompt.text[: prompt.text.index(body) + len(body)])[0].tokens) - 1
        for body, _ in prompt.demonstrations
    ]
    ends.append(len(whole.tokens) - 1)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(4)]
    states = torch.stack([torch.stack(seen(model, whole.tokens, names, token=end)).double() for end in ends])
    mean = states[-7:].mean(dim=0)
    moved = sum(weight * (states[-7:][i + 1] - states[-7:][i]) for i, weight in enumerate((1, 2, 4, 8, 16, 0)))
    expected = {"last": states[-1], "inner": mean, "momentum": mean + moved / 31}[averaging]
    assert_close(got.values, expected.float())
    assert got.intervention().layers == (0, 1, 2)


def test_a_state_of_the_query_itself_changes_nothing() -> None:
    """Heads replaced by what they write anyway: the planted state that must be the identity."""
    model = model_of()
    prompt = TokenPrompt(tuple(range(20, 34)), ((5,), (6,)), 0)
    values = reference.head_outputs(model, prompt.tokens)
    same = StateVector(Provenance("", "", ""), values, 3, 64)
    scores = score(model, [prompt], [same.intervention(), same.at(1).intervention()])
    assert_close(scores.answer_logprobs[0][1], scores.answer_logprobs[0][0])
    assert_close(scores.answer_logprobs[0][2], scores.answer_logprobs[0][0])
    assert averaged_states(values[None], "momentum").shape == values.shape


# Frequencies.


def test_frequencies_are_numpys_and_add_up() -> None:
    rows = noise(3, 64, seed=4)
    low, high = split_frequencies(rows, 5)
    spectrum = np.fft.rfft(rows.double().numpy())
    spectrum[:, 5:] = 0
    assert_close(low, torch.tensor(np.fft.irfft(spectrum, n=64)).float())
    assert_close(low + high, rows)
    slow = torch.cos(2 * torch.pi * 2 * torch.arange(64) / 64)[None]
    assert_close(split_frequencies(slow, 3)[0], slow)
    with pytest.raises(ValueError, match="cutoff=99"):
        split_frequencies(rows, 99)


def test_similar_tasks_get_the_whole_vector_and_others_the_low_part() -> None:
    vector = SteeringVector(noise(3, 64, seed=5), (0, 2, 3), Provenance("m", "f", "t"))
    low, high = split_frequencies(vector.directions, 8)
    mixed = fast_vector(vector, {0: 1.0, 2: 0.7, 3: 0.4}, cutoff=8, threshold=0.5)
    expected = low + torch.tensor([1.0, 0.7, 0.0])[:, None] * high
    assert_close(mixed.directions, expected)
    placebo = fast_vector(vector, {0: 1.0, 2: 0.7, 3: 0.4}, cutoff=8, permuted=1)
    assert_close(placebo.at(0), vector.at(0))
    assert not torch.allclose(placebo.at(3), mixed.at(3))
    with pytest.raises(ValueError, match="lacks layer 2"):
        fast_vector(vector, {0: 1.0})
    own = vectors(noise(4, 3, 8, seed=1))
    assert list(task_similarity(own, own.zero_shot).values()) == pytest.approx([1, 1, 1])


# What all of them share.


@cache
def fitted(route: str = "hooked") -> tuple[FittedMethod, ...]:
    model = model_of(route)
    return (
        learned_vector(
            model, word_task(), HOW, LearnedTraining(steps=2, batch=2, averaged=2, pool=3, learning_rate=0.2)
        ),
        in_context_vector(model, PAIRS),
        implicit_context(model, label_task(), HOW, Calibration(epochs=1)),
        state_vector(model, word_task(), HOW),
    )


@pytest.mark.parametrize("index", range(4))
def test_saved_loaded_steered_and_refused(index: int, tmp_path: Path) -> None:
    model, one = model_of(), fitted()[index]
    again = type(one).load(one.save(tmp_path / "fitted.safetensors"))
    prompts = [TokenPrompt(tuple(range(20, 34)), ((5,), (6,)), 0)]
    scores = score(model, prompts, [one.intervention(), again.intervention(), one.placebo(seed=1).intervention()])
    logprobs = scores.answer_logprobs[0]
    assert torch.equal(logprobs[1], logprobs[2])
    assert again.provenance == one.provenance
    assert not torch.allclose(logprobs[1], logprobs[0], atol=1e-5)
    assert not torch.allclose(logprobs[1], logprobs[3], atol=1e-5)
    condition = one.condition((), source="s", method="m")
    assert condition.intervention is not None
    other = model_of(seed=1)
    with pytest.raises(ValueError, match="another model"):
        score(other, prompts, [one.intervention()])
    with pytest.raises(ValueError, match="fingerprint"):
        one.check(other)
    wrong = LearnedVector if not isinstance(one, LearnedVector) else InContextVector
    with pytest.raises(ValueError, match=wrong.__name__):
        wrong.load(tmp_path / "fitted.safetensors")


def test_both_routes_fit_the_same() -> None:
    for here, there in zip(fitted(), fitted("decoder"), strict=True):
        for name in ("outputs", "directions", "context", "values"):
            if hasattr(here, name):
                assert_close(getattr(here, name), getattr(there, name))


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="averaged=9"):
        LearnedTraining(averaged=9, pool=3)
    with pytest.raises(ValueError, match="steps=0"):
        LearnedTraining(steps=0)
    with pytest.raises(ValueError, match="batch=0"):
        Calibration(batch=0)
    with pytest.raises(ValueError, match="averaging='best'"):
        state_vector(model_of(), word_task(), HOW, averaging="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer=9"):
        fitted()[3].at(9)  # type: ignore[attr-defined]
    assert LearnedTraining.published().steps == 100_000
