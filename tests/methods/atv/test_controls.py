"""Controls of written vectors: whose they are, how long, and what the engine makes of them."""

from __future__ import annotations

import pytest
import torch

from cast_lens.engine import score
from cast_lens.interventions import Intervention, PromptVectors
from cast_lens.methods.atv import another_query, constant_vectors, random_directions, task_means
from cast_lens.tasks import zero_shot_prompts
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

TASKS = ("a", "b", "a", "b", "c", "a", "c")


def numbered(count: int = len(TASKS)) -> PromptVectors:
    """Each prompt's vectors hold its own number."""
    directions = torch.arange(1.0, count + 1)[:, None, None].expand(-1, 2, 5)
    return PromptVectors(directions, (1, 3), 0.5, "all", name="atv", fingerprint="f")


def owners(vectors: PromptVectors) -> list[int]:
    assert (vectors.layers, vectors.strength, vectors.position, vectors.fingerprint) == ((1, 3), 0.5, "all", "f")
    return [int(value) - 1 for value in vectors.directions[:, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("same_task", [True, False])
def test_every_prompt_gets_another_ones_vectors(same_task: bool, seed: int) -> None:
    found = owners(another_query(numbered(), TASKS, same_task=same_task, seed=seed))
    assert sorted(found) == list(range(len(TASKS)))
    assert all(own != other for own, other in enumerate(found))
    assert [TASKS[other] == task for task, other in zip(TASKS, found, strict=True)] == [same_task] * len(TASKS)


def test_the_seed_decides_who() -> None:
    drawn = {tuple(owners(another_query(numbered(), TASKS, same_task=False, seed=seed))) for seed in range(8)}
    assert len(drawn) > 1
    again = [owners(another_query(numbered(), TASKS, same_task=False, seed=3)) for _ in range(2)]
    assert again[0] == again[1]


def test_task_means() -> None:
    means = task_means(numbered(), TASKS).directions[:, 1, 2].tolist()
    a, b, c = (1 + 3 + 6) / 3, (2 + 4) / 2, (5 + 7) / 2
    assert means == pytest.approx([a, b, a, b, c, a, c])


def test_random_directions_keep_lengths_only() -> None:
    real = numbered()
    found = random_directions(real, seed=1)
    torch.testing.assert_close(found.directions.norm(dim=-1), real.directions.norm(dim=-1))
    # Two directions in five dimensions: a cosine of 0.999 by chance is out of the question.
    cosines = torch.cosine_similarity(found.directions, real.directions, dim=-1)
    assert float(cosines.abs().max()) < 0.999
    assert not torch.equal(found.directions, random_directions(real, seed=2).directions)
    assert torch.equal(found.directions, random_directions(real, seed=1).directions)


def test_a_vector_of_no_length_stays_one() -> None:
    nothing = PromptVectors(torch.zeros(2, 1, 4), (0,))
    assert not random_directions(nothing, seed=0).directions.any()


def test_constant_vectors_do_what_each_does_alone() -> None:
    model = tiny_model("llama")
    prompts = [*zero_shot_prompts(label_task("mood"), label_task("mood").test[:2])]
    prompts += zero_shot_prompts(word_task("double"), word_task("double").test[:1])
    noise = torch.randn(2, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    edits = {"mood": Intervention(noise[0], 1, 2.0), "double": Intervention(noise[1], 2, -1.0)}
    both = constant_vectors(edits, [prompt.task for prompt in prompts])
    assert (both.layers, both.samples) == ((1, 2), 3)
    apart = [score(model, prompts, [edit], keep_logits=True).logits for edit in edits.values()]
    together = score(model, prompts, [both], keep_logits=True).logits
    assert together is not None
    for sample, one in enumerate((apart[0], apart[0], apart[1])):
        assert one is not None
        # The same additions at the same places, batched otherwise: float32 rounding.
        torch.testing.assert_close(together[1, sample], one[1, sample], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: another_query(numbered(), TASKS[:2], same_task=True), "2 tasks were given for vectors of 7 prompts"),
        (lambda: task_means(numbered(), ()), "0 tasks"),
        (lambda: another_query(numbered(3), ("a", "a", "b"), same_task=True), "two or more prompts"),
        (lambda: another_query(numbered(3), ("a", "a", "b"), same_task=False), "2 of 3 prompts"),
        (lambda: constant_vectors({}, ("a",)), "every task needs a vector; a among 1 prompts"),
        (lambda: constant_vectors({}, ()), "no prompts"),
        (
            lambda: constant_vectors({"a": Intervention(torch.ones(3), 0, operator="ablate")}, ("a",)),
            "all of them add",
        ),
        (
            lambda: constant_vectors(
                {"a": Intervention(torch.ones(3), 0), "b": Intervention(torch.ones(3), 0, position="all")}, ("a", "b")
            ),
            "at one position",
        ),
    ],
)  # fmt: skip
def test_what_has_no_control_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
