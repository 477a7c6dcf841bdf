"""Every method on a target through one function, each row against the condition run alone."""

from __future__ import annotations

import pandas as pd
import pytest

from cast_lens.evaluation import evaluate
from cast_lens.extraction import Extraction, difference_vectors
from cast_lens.methods import (
    Setting,
    cross_task_condition,
    evaluate_conditions,
    few_shot_condition,
    placebo_random,
    placebo_shuffled,
    steered,
    zero_shot_condition,
)
from tests.small_tasks import label_task, word_task
from tests.tiny import tiny_model

SETTING = Setting(layer=1, strength=2.0)


def test_conditions_together_equal_conditions_alone() -> None:
    model, target, source = tiny_model("llama"), label_task("mood"), label_task("tone")
    vector = difference_vectors(model, source, Extraction(samples=4, shots=2)).mean()
    base = zero_shot_condition(target, target.test)
    conditions = [
        base,
        steered(vector, base.prompts, SETTING, source="tone"),
        few_shot_condition(target, target.test, shots=2, seed=0),
        placebo_random(vector, base.prompts, SETTING, source="tone", seed=1),
        cross_task_condition(source, target, target.test, shots=2, seed=0),
    ]
    together = evaluate_conditions(model, conditions)
    for condition in conditions:
        rows = together[(together["method"] == condition.method)].reset_index(drop=True)
        edits = [] if condition.intervention is None else [condition.intervention]
        alone = evaluate(model, condition.prompts, edits)
        alone = alone[alone["variant"] == len(edits)].reset_index(drop=True)
        for column in ("sample", "answer", "exact_match", "valid", "choice_correct", "layer", "strength"):
            pd.testing.assert_series_equal(rows[column], alone[column])
    assert list(together["target"].unique()) == ["mood"]


def test_free_answers_have_no_validity() -> None:
    model, target = tiny_model("gpt2"), word_task()
    rows = evaluate_conditions(model, [zero_shot_condition(target, target.test)])
    assert rows["valid"].isna().all()
    assert rows["choice_correct"].isna().all()
    assert rows["exact_match"].isin([0.0, 1.0]).all()


def test_placebos_have_the_vectors_norm_at_its_place() -> None:
    model, source = tiny_model("llama"), label_task("tone")
    vector = difference_vectors(model, source, Extraction(samples=4, shots=2)).mean()
    how = Extraction(samples=4, shots=2, shuffle_labels=True)
    shuffled = difference_vectors(model, source, how).mean()
    prompts = zero_shot_condition(source, source.test).prompts
    norm = float(vector.at(1).norm())
    for condition in (
        placebo_random(vector, prompts, SETTING, source="tone", seed=0),
        placebo_shuffled(shuffled, vector, prompts, SETTING, source="tone"),
    ):
        assert condition.intervention is not None
        # float32 rounding of a norm over a few dozen coordinates
        assert float(condition.intervention.direction.norm()) == pytest.approx(norm, rel=1e-5)
        assert condition.method.startswith("placebo:")
