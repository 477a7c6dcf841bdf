"""Vectors made for one target: the same as a slow literal reading of the recipe; no answer of a query is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cast_lens.engine import capture
from cast_lens.extraction import Extraction
from cast_lens.methods import RETRIEVALS, residual_embedding, retrieved_differences
from cast_lens.tasks import load_task, prompts_showing, zero_shot_prompts
from cast_lens.tasks.templates import body
from tests.closeness import assert_close
from tests.tiny import tiny_model

MODEL = tiny_model("llama")
SOURCE, TARGET = load_task("review-sentiment"), load_task("yes-no-facts")
QUERIES = TARGET.train[:4]
HOW = Extraction(samples=4, shots=2, seed=3)


def test_top_k_asks_the_nearest_item_behind_the_next_ones() -> None:
    embed = residual_embedding(MODEL)
    found = retrieved_differences(MODEL, SOURCE, TARGET, QUERIES, HOW, how="top-k", embed=embed)
    items = sorted(SOURCE.train, key=lambda one: one.id)
    rows, asked = embed([body(SOURCE, one) for one in items]), embed([body(TARGET, one) for one in QUERIES])
    for index in range(len(QUERIES)):
        cosines = rows @ asked[index] / np.linalg.norm(rows, axis=1)
        query, *shown = (items[place] for place in np.argsort(-cosines, kind="stable")[:3])
        assert found.sample_ids[index] == query.id
        few = capture(MODEL, prompts_showing(SOURCE, [query], [shown]))[0]
        zero = capture(MODEL, zero_shot_prompts(SOURCE, [query]))[0]
        assert_close(found.values[index], few - zero)


@pytest.mark.parametrize("how", list(RETRIEVALS))
def test_answers_of_the_queries_are_not_read_and_a_seed_repeats(how: str) -> None:
    embed = residual_embedding(MODEL)
    made = [
        retrieved_differences(MODEL, SOURCE, TARGET, queries, HOW, how=how, embed=embed)
        for queries in (QUERIES, tuple(replace(one, answer="") for one in QUERIES))
    ]
    assert made[0].sample_ids == made[1].sample_ids
    assert torch.equal(made[0].values, made[1].values)
    assert f"unlabelled queries of {TARGET.name}, picked by {how}" in made[0].provenance.note
    # None asks what the query asks, where source and target are one task.
    own = retrieved_differences(MODEL, TARGET, TARGET, QUERIES, HOW, how=how, embed=embed)
    assert all(one != query.id for one, query in zip(own.sample_ids, QUERIES, strict=True))


def test_shuffled_answers_change_the_demonstrations_only() -> None:
    embed, placebo = residual_embedding(MODEL), replace(HOW, shuffle_labels=True)
    plain, shuffled = (
        retrieved_differences(MODEL, SOURCE, TARGET, QUERIES, how, how="random", embed=embed) for how in (HOW, placebo)
    )
    assert plain.sample_ids == shuffled.sample_ids
    assert torch.equal(plain.zero_shot, shuffled.zero_shot)
    assert not torch.equal(plain.few_shot, shuffled.few_shot)


def test_too_few_items_are_named() -> None:
    few = replace(SOURCE, train=SOURCE.train[:2])
    with pytest.raises(ValueError, match="has 2 items that differ from a query, and 3 are needed"):
        retrieved_differences(MODEL, few, TARGET, QUERIES, HOW, how="dpp", embed=residual_embedding(MODEL))
    with pytest.raises(ValueError, match="retrieval='nearest' is unknown; choose one of random, top-k, dpp"):
        retrieved_differences(MODEL, SOURCE, TARGET, QUERIES, HOW, how="nearest", embed=residual_embedding(MODEL))
