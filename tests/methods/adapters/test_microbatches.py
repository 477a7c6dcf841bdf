"""Parts of a batch: every item once, within the limit, at the lowest cost of all cuts."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from cast_lens.engine import TokenPrompt
from cast_lens.methods.adapters import adapter as module
from cast_lens.methods.adapters.adapter import microbatches, microbatches_by_task, tokens_read
from cast_lens.methods.training import TrainingItem


def item(tokens: int, *, task: str = "a", answer: int = 1) -> TrainingItem:
    prompt = TokenPrompt(tuple(range(tokens)), (tuple(range(answer)),), 0)
    return TrainingItem(prompt, "", task, str(tokens), "own", "", "")


def cost(cut: list[list[TrainingItem]]) -> int:
    return sum(len(part) * max(map(tokens_read, part)) + module.PASS for part in cut)


def every_cut(items: list[TrainingItem]) -> list[list[list[TrainingItem]]]:
    ordered, found = sorted(items, key=tokens_read), []
    for count in range(len(items)):
        for places in combinations(range(1, len(items)), count):
            ends = (0, *places, len(items))
            found.append([ordered[a:b] for a, b in pairwise(ends)])
    return found


def within(cut: list[list[TrainingItem]]) -> bool:
    return all(len(part) == 1 or len(part) * max(map(tokens_read, part)) <= module.PART_TOKENS for part in cut)


@pytest.mark.parametrize(
    "lengths",
    [
        (45, 6, 62, 7, 47, 58, 66, 48),
        (10,),
        (300, 310, 290, 305, 20),
        (2000, 30, 1500, 31),
        (40, 40, 40, 40),
        (1, 200, 400, 600, 800, 1000),
    ],
)
def test_no_cut_is_cheaper(lengths: tuple[int, ...]) -> None:
    items = [item(count) for count in lengths]
    found = microbatches(items)
    assert sorted(tokens_read(one) for part in found for one in part) == sorted(lengths)
    assert within(found)
    assert cost(found) == min(cost(cut) for cut in every_cut(items) if within(cut))


def test_short_and_long_prompts_run_apart_and_equal_ones_together() -> None:
    assert [len(part) for part in microbatches([item(6), item(200), item(6), item(200)])] == [2, 2]
    assert [len(part) for part in microbatches([item(50) for _ in range(8)])] == [8]
    assert microbatches([]) == []


def test_what_is_read_leaves_the_last_token_of_the_answer_out() -> None:
    assert tokens_read(item(10, answer=3)) == 12


def test_parts_of_tasks_hold_one_task_each() -> None:
    items = [item(20, task="a"), item(21, task="a"), item(20, task="b"), item(22, task="b")]
    assert [[one.task for one in part] for part in microbatches_by_task(items)] == [["a", "a"], ["b", "b"]]
