"""The trie of beginnings, the tails' masks, and which prompts run together."""

from __future__ import annotations

import pytest
import torch

from cast_lens.engine.batching import plan_batches
from cast_lens.engine.layout import MIN_SHARED, TokenPrompt, build_batch, build_tail, build_trunk, common_prefix
from tests.engine.cases import few_shot_prompts, tokens


def read(path: tuple[tuple[int, int], ...], trunk_tokens: list[int]) -> tuple[int, ...]:
    return tuple(token for start, stop in path for token in trunk_tokens[start:stop])


@pytest.mark.parametrize("min_shared", [1, 4, MIN_SHARED, 100])
def test_every_path_spells_its_prompt_and_no_row_stands_for_two_positions(min_shared: int) -> None:
    heads = [prompt.tokens[:-1] for prompt in few_shot_prompts()]
    trunk = build_trunk(heads, min_shared=min_shared)
    for index, head in enumerate(heads):
        assert read(trunk.paths[index], trunk.tokens) == head
        positions = [p for start, stop in trunk.paths[index] for p in trunk.positions[start:stop]]
        assert positions == list(range(len(head)))


def test_beginnings_are_held_once() -> None:
    shared, a, b = tokens(20, 1), tokens(10, 2), tokens(12, 3)
    trunk = build_trunk([shared + a, shared + b, shared + a])
    assert len(trunk.tokens) == 20 + 10 + 12
    assert [node.depth for node in trunk.nodes] == [0, 20, 20]


def test_a_beginning_too_short_to_share_is_repeated() -> None:
    shared = tokens(MIN_SHARED - 1, 1)
    heads = [shared + tokens(5, 2), shared + tokens(5, 3)]
    assert len(build_trunk(heads).tokens) == sum(map(len, heads))


def test_a_prompt_that_begins_another_is_all_shared() -> None:
    long = tokens(30, 1)
    assert len(build_trunk([long, long[:18]]).tokens) == 30


def test_a_common_beginning_ends_at_the_first_difference_or_with_the_shortest_row() -> None:
    assert common_prefix([(1, 2, 3), (1, 2, 4), (1, 2)]) == 2
    assert common_prefix([(1, 2, 3), (1, 5, 3)]) == 1
    assert common_prefix([(4, 5), (4, 5)]) == common_prefix([(4, 5), (4, 5)], start=1) == 2
    assert common_prefix([(), (4, 5)]) == 0


def test_answers_hang_behind_the_prompt_without_seeing_each_other() -> None:
    prompt = TokenPrompt((5, 6, 7), ((8,), (9, 10, 11), (9, 12)), 0)
    tail = build_tail(prompt, 0, ((0, 2),), whole=False, answers=True)
    assert tail.tokens == (7, 9, 10, 9)
    assert tail.positions == (2, 3, 4, 3)
    assert tail.scored == (((0, 8),), ((0, 9), (1, 10), (2, 11)), ((0, 9), (3, 12)))
    expected = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    assert torch.equal(tail.mask, expected)


def test_a_whole_prompt_as_tail_needs_no_trunk() -> None:
    prompts = few_shot_prompts()
    batch = build_batch(prompts, whole=True, answers=False)
    assert batch.n_trunk == 0
    assert batch.n_tail == sum(len(prompt.tokens) for prompt in prompts)
    assert [tail.last for tail in batch.tails] == [len(prompt.tokens) - 1 for prompt in prompts]


@pytest.mark.parametrize("variants", [1, 5])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("max_rows", [1, 60, 100, 10_000])
def test_every_prompt_runs_once_and_no_batch_is_larger_than_allowed(max_rows: int, whole: bool, variants: int) -> None:
    prompts = few_shot_prompts()
    batches = list(plan_batches(prompts, max_rows=max_rows, variants=variants, whole=whole))
    assert sorted(index for batch in batches for index in batch) == list(range(len(prompts)))
    for members in batches:
        batch = build_batch([prompts[index] for index in members], whole=whole)
        assert len(members) == 1 or batch.n_trunk + batch.n_tail * variants <= max_rows
    assert max_rows < 10_000 or len(batches) == 1
