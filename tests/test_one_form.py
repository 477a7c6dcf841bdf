"""Interventions go in by one form everywhere: one, several, or several by name; which tokens they edit is one rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cast_lens.effects import text_effects
from cast_lens.engine import answer, score, sweep
from cast_lens.evaluation import evaluate
from cast_lens.interventions import as_interventions, edited_tokens
from cast_lens.models import fingerprint
from cast_lens.steering import generate, steer
from cast_lens.tasks import Prompt
from cast_lens.vectors import Provenance, SteeringVector
from tests.engine.cases import D_MODEL, all_kinds, direction
from tests.tiny import tiny_model

PROMPT = Prompt((), "The opposite of hot is", "cold", ("hot", "cold"), "t", "1")
MODEL = tiny_model("llama")
FRAMES: dict[str, Callable[[Any], Any]] = {
    "score": lambda given: score(MODEL, PROMPT, given).to_frame(),
    "evaluate": lambda given: evaluate(MODEL, PROMPT, given),
    "text_effects": lambda given: text_effects(MODEL, given, "one two three four five"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_mapping_names_the_rows_and_changes_nothing_else(name: str) -> None:
    run, (first, second) = FRAMES[name], all_kinds()[:2]
    named, listed = run({"a": first, "b": second}), run([first, second])
    labels = [name for name in ("name", "condition") if name in named]
    assert all(list(named[name]) == ["unsteered", "a", "b"] for name in labels)
    assert named.drop(columns=labels).equals(listed.drop(columns=labels))
    assert run(first).equals(run([first]))


def test_decoding_and_steering_take_every_form() -> None:
    item = all_kinds()[0]
    forms: tuple[Any, ...] = (item, [item], {"a": item})
    written = [answer(MODEL, "one two", form, max_new_tokens=3) for form in forms]
    assert written[0] == written[1] == written[2]
    texts = [generate(MODEL, "one two", interventions=form, max_new_tokens=3) for form in forms]
    assert texts == [[written[0][1][0]]] * 3
    logits = []
    for form in forms:
        with steer(MODEL, form):
            logits.append(MODEL(torch.tensor([[5, 6, 7]])))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_a_sweep_takes_a_list_of_vectors_named_by_their_tasks() -> None:
    vectors = [
        SteeringVector(direction(seed)[None], (2,), Provenance("x", fingerprint(MODEL), name))
        for seed, name in enumerate("ab")
    ]
    cells = sweep(MODEL, PROMPT, vectors, strengths=(1.0,)).to_frame()
    assert list(cells["kind"]) == ["unsteered", "a", "b"]
    with pytest.raises(ValueError, match="give a mapping of names"):
        sweep(MODEL, PROMPT, [vectors[0], vectors[0]])


def test_what_is_no_intervention_is_named() -> None:
    with pytest.raises(ValueError, match="intervention a is a Tensor"):
        score(MODEL, PROMPT, {"a": torch.ones(D_MODEL)})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="intervention 1 is a int"):
        as_interventions([all_kinds()[0], 3])  # type: ignore[list-item]


def test_the_rule_of_edited_tokens() -> None:
    places, last = torch.arange(5), 2
    assert edited_tokens("all", places, last).tolist() == [True] * 5
    assert edited_tokens("last", places, last).tolist() == [False, False, True, True, True]
    assert edited_tokens("prompt_last", places, last).tolist() == [False, False, True, False, False]
