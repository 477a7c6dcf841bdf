"""Which tokens are edited: worked examples, and the same tokens however a sequence is padded and cut up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cast_lens.interventions import POSITIONS, ForwardPass, Position, prompt_lengths

# Two prompts, of 2 and 4 tokens.
LEFT = [[0, 0, 1, 1], [1, 1, 1, 1]]
RIGHT = [[1, 1, 0, 0], [1, 1, 1, 1]]


def _pass(
    mask: list[list[int]] | None, *, cached: int = 0, width: int = 4, prompt_width: int | None = None
) -> ForwardPass:
    real = None if mask is None else torch.tensor(mask).bool()
    return ForwardPass(2, width, cached, real, prompt_width, range(4))


def _chosen(running: ForwardPass, position: Position, length: int | list[int] | None = None) -> list[Any]:
    lengths = None if length is None else prompt_lengths(length)
    return running.chosen(position, lengths).int().tolist()


@pytest.mark.parametrize("position", ["last", "prompt_last"])
@pytest.mark.parametrize(
    ("mask", "expected"),
    [(None, [[0, 0, 0, 1], [0, 0, 0, 1]]), (LEFT, [[0, 0, 0, 1], [0, 0, 0, 1]]), (RIGHT, [[0, 1, 0, 0], [0, 0, 0, 1]])],
)
def test_a_prompt_is_edited_at_its_last_real_token(
    mask: list[list[int]] | None, expected: list[list[int]], position: Position
) -> None:
    assert _chosen(_pass(mask), position) == expected


def test_all_is_every_token() -> None:
    assert _chosen(_pass(LEFT), "all") == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_a_single_token_behind_a_cache_is_a_decoded_one() -> None:
    mask = [[*row, 1] for row in LEFT]
    for columns in (mask, None):
        assert _chosen(_pass(columns, cached=4, width=1), "last") == [[1], [1]]
        assert _chosen(_pass(columns, cached=4, width=1), "prompt_last") == [[0], [0]]


@pytest.mark.parametrize("mask", [LEFT, RIGHT])
def test_prompt_length_tells_prompt_from_answer(mask: list[list[int]]) -> None:
    # Prompts of 1 and 2 tokens, answers of 1 and 2.
    last = [[0, 0, 1, 1], [0, 1, 1, 1]] if mask is LEFT else [[1, 1, 0, 0], [0, 1, 1, 1]]
    only = [[0, 0, 1, 0], [0, 1, 0, 0]] if mask is LEFT else [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert _chosen(_pass(mask), "last", [1, 2]) == last
    assert _chosen(_pass(mask), "prompt_last", [1, 2]) == only


def test_prompt_length_reaches_behind_a_cached_prefix() -> None:
    running = _pass(None, cached=3, width=2)
    assert _chosen(running, "prompt_last", 5) == [[0, 1], [0, 1]]
    assert _chosen(running, "last", [4, 5]) == [[1, 1], [0, 1]]
    assert _chosen(running, "last", 3) == [[1, 1], [1, 1]]
    assert _chosen(running, "last", 9) == [[0, 0], [0, 0]]


@pytest.mark.parametrize("mask", [LEFT, RIGHT])
def test_a_growing_sequence_keeps_its_prompt(mask: list[list[int]]) -> None:
    running = _pass([[*row, 1, 1] for row in mask], width=6, prompt_width=4)
    start = 3 if mask is LEFT else 1
    first = [int(column == start) for column in range(4)]
    assert _chosen(running, "last") == [[*first, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert _chosen(running, "prompt_last") == [[*first, 0, 0], [0, 0, 0, 1, 0, 0]]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("cut", range(1, 7))
def test_cutting_a_sequence_behind_a_cache_changes_nothing(position: Position, cut: int) -> None:
    generator = torch.Generator().manual_seed(cut)
    pads = torch.randint(0, 4, (5,), generator=generator)
    mask = torch.arange(7)[None] >= pads[:, None]
    lengths = torch.randint(1, 4, (5,), generator=generator)
    whole = ForwardPass(5, 7, 0, mask, None, range(4)).chosen(position, lengths)
    head = ForwardPass(5, cut, 0, mask[:, :cut], None, range(4)).chosen(position, lengths)
    tail = ForwardPass(5, 7 - cut, cut, mask, None, range(4)).chosen(position, lengths)
    assert torch.equal(torch.cat((head, tail), dim=1), whole)


def test_several_tokens_behind_a_cache_are_ambiguous() -> None:
    running = _pass(None, cached=4, width=2)
    for position in ("last", "prompt_last"):
        with pytest.raises(ValueError, match=r"2 tokens follow 4 cached ones.*prompt_length="):
            _chosen(running, position)
    assert _chosen(running, "all") == [[1, 1], [1, 1]]


def test_a_mask_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"attention_mask has shape \(2, 4\).*2 rows of 3 cached and 2 new"):
        _pass(LEFT, cached=3, width=2)


def test_lengths_for_another_number_of_rows() -> None:
    with pytest.raises(ValueError, match="prompt_length has 3 entries, but the model was run on 2 rows"):
        _chosen(_pass(LEFT), "last", [1, 1, 1])


@pytest.mark.parametrize("length", [0, -1, [3, 0], [], 2.5])
def test_lengths_that_are_none(length: Any) -> None:
    with pytest.raises(ValueError, match="must be the number of real tokens in the prompt, 1 or more"):
        prompt_lengths(length)


def test_lengths_from_one_number_many_or_a_tensor() -> None:
    assert prompt_lengths(3).tolist() == [3]
    assert prompt_lengths([3, 4]).tolist() == [3, 4]
    assert prompt_lengths(torch.tensor([3, 4], dtype=torch.int32)).tolist() == [3, 4]
