"""The loss with cached prefixes, and its gradients, against plain hooks on the whole text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cast_lens.engine import reference
from cast_lens.engine.gradients import Prefixes, answer_losses, frozen
from cast_lens.engine.layout import TokenPrompt
from cast_lens.interventions import Position, PromptVectors
from cast_lens.models.lens import HookedTransformer
from tests.closeness import assert_close
from tests.engine.cases import D_MODEL, few_shot_prompts
from tests.tiny import ARCHITECTURES, tiny_model

LAYERS = (0, 1, 3)
# Answers of one to four tokens.
GOLD = ((11,), (12, 13), (14, 15, 16), (14, 15, 17, 18))


def prompts_with_gold(step: int = 2) -> list[TokenPrompt]:
    prompts = few_shot_prompts()[::step]
    return [TokenPrompt(p.tokens, (GOLD[i % 4],), 0, p.name) for i, p in enumerate(prompts)]


def directions(n: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(n, len(LAYERS), D_MODEL, generator=generator, dtype=torch.float64)
    return made.to(dtype).requires_grad_()


def assert_gradients_close(got: Tensor, expected: Tensor) -> None:
    """Back and forth there are twice as many sums as in a loss; measured up to 210 units in the last place."""
    atol = 600 * torch.finfo(torch.float32).eps * float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def by_hooks(model: HookedTransformer, prompts: list[TokenPrompt], steering: PromptVectors) -> Tensor:
    with frozen(model):
        return torch.stack([reference.answer_loss(model, p, steering.of([i])) for i, p in enumerate(prompts)])


def both_ways(
    model: HookedTransformer, position: Position, *, recompute: bool = False
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    prompts = prompts_with_gold()
    weights = torch.linspace(0.5, 2.0, len(prompts))
    found = []
    for route in ("fast", "hooks"):
        made = directions(len(prompts))
        steering = PromptVectors(made, LAYERS, 0.7, position)
        with frozen(model):
            if route == "fast":
                losses = answer_losses(model, prompts, steering, recompute=recompute)
            else:
                losses = by_hooks(model, prompts, steering)
            (losses * weights).sum().backward()
        assert made.grad is not None
        found.append((losses.detach(), made.grad))
    return found[0], found[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_equal_plain_hooks(architecture: str) -> None:
    (loss, gradient), (expected, expected_gradient) = both_ways(tiny_model(architecture), "last")
    assert_close(loss, expected)
    assert_gradients_close(gradient, expected_gradient)
    assert bool((gradient.abs().amax(dim=-1) > 0).all())


@pytest.mark.parametrize("position", ["all", "prompt_last"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gptj", "gpt-neo", "olmo2", "mixtral"])
def test_other_positions_too(architecture: str, position: Position) -> None:
    (loss, gradient), (expected, expected_gradient) = both_ways(tiny_model(architecture), position)
    assert_close(loss, expected)
    assert_gradients_close(gradient, expected_gradient)


@pytest.mark.parametrize("position", ["last", "all"])
def test_gradient_checkpointing_changes_no_number(position: Position) -> None:
    model = tiny_model("llama")
    (loss, gradient), _ = both_ways(model, position)
    (same, same_gradient), _ = both_ways(model, position, recompute=True)
    assert torch.equal(loss, same)
    assert torch.equal(gradient, same_gradient)


@pytest.mark.parametrize("memory_mb", [0.0, 0.06, 100.0])
def test_prefixes_beyond_the_budget_are_computed_when_asked_for(memory_mb: float) -> None:
    model, prompts = tiny_model("llama"), prompts_with_gold(1)
    store = Prefixes.of(model, prompts, memory_mb=memory_mb)
    assert {0.0: store.stored == 0, 100.0: store.stored == len(prompts)}.get(memory_mb, True)
    steering = PromptVectors(directions(len(prompts)).detach(), LAYERS)
    order = [3, 0, 8, 1]  # one of them a single token long
    some = [prompts[i] for i in order]
    with torch.no_grad():
        got = answer_losses(model, some, steering.of(order), prefix=store.gather(order))
        assert_close(got, by_hooks(model, some, steering.of(order)))


def test_prompts_that_begin_alike_share_their_beginning() -> None:
    model, prompts = tiny_model("llama"), prompts_with_gold(1)
    store = Prefixes.of(model, prompts, memory_mb=100.0)
    rows = sum(len(shard) for shard in store.shards)
    # All but two of the ten begin with the same 14 tokens, which stand there once in a batch.
    assert rows < sum(len(prompt.tokens) - 1 for prompt in prompts) - 5 * 14


def test_gradients_equal_finite_differences() -> None:
    model = tiny_model("llama").to(torch.float64)
    prompts = prompts_with_gold()[:3]
    made = directions(3, dtype=torch.float64)

    def loss(values: Tensor) -> Tensor:
        return answer_losses(model, prompts, PromptVectors(values, LAYERS)).sum()

    with frozen(model):
        loss(made).backward()
    assert made.grad is not None
    step = 1e-5
    for index in [(0, 0, 3), (1, 2, 60), (2, 1, 17), (0, 2, 0)]:
        there, back = made.detach().clone(), made.detach().clone()
        there[index] += step
        back[index] -= step
        with torch.no_grad():
            slope = (loss(there) - loss(back)) / (2 * step)
        # Error of a central difference: a third derivative times step squared, far below 1e-6 here.
        assert float(slope) == pytest.approx(float(made.grad[index]), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("architecture", ["llama", "mixtral", "bloom"])
def test_the_model_is_left_as_it_was(architecture: str) -> None:
    model, prompts = tiny_model(architecture), prompts_with_gold()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with frozen(model):
        answer_losses(model, prompts, PromptVectors(directions(len(prompts)), LAYERS)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_prompt_without_gold_is_refused() -> None:
    prompt = TokenPrompt((5, 6), ((7,),), -1)
    with pytest.raises(ValueError, match="prompt 0 has no gold answer"):
        answer_losses(tiny_model("llama"), [prompt], PromptVectors(torch.zeros(1, 1, D_MODEL), (0,)))
