"""A mapping that is there to be learned: both kinds learn it, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from cast_lens.methods.adapters import AdapterDesign, AdapterKind, train_adapter
from cast_lens.methods.adapters.peft_model import KINDS
from cast_lens.methods.atv import Step, Training
from cast_lens.models.load import load_huggingface
from cast_lens.tasks import zero_shot_prompts
from tests.methods.adapters.small import untrained, weather
from tests.methods.conftest import Pair

RATES: dict[AdapterKind, float] = {"lora": 5e-3, "prefix": 3e-2}


def design(kind: AdapterKind) -> AdapterDesign:
    return AdapterDesign(kind, 5000, learning_rate=RATES[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_a_planted_mapping_is_learned_and_the_model_stays(pair: Pair, kind: AdapterKind, architecture: str) -> None:
    model, source = pair(architecture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task, steps = weather(), list[Step]()
    training = Training(epochs=20, batch=8, patience=20, templates=("bare",))
    adapter = train_adapter(model, source, [task], design=design(kind), training=training, watch=steps.append)
    validations = [step.validation for step in steps if step.validated and step.validation is not None]
    assert adapter.validation == min(validations) < 0.5 * steps[0].loss
    assert adapter.steps == 2 * len(validations)
    plain = untrained(model, source, design(kind)).evaluate(zero_shot_prompts(task, task.test))
    learned = adapter.evaluate(zero_shot_prompts(task, task.test, instruction=False))
    assert learned["choice_correct"].mean() == 1.0
    assert learned["exact_match"].mean() > plain["exact_match"].mean()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    inside = {
        name.replace(".base_layer", ""): value
        for name, value in adapter.wrapped.backbone.model.named_parameters()
        if "lora_" not in name
    }
    loaded = dict(load_huggingface(source, like=model).named_parameters())
    assert inside.keys() == loaded.keys()
    assert all(torch.equal(inside[name], value) for name, value in loaded.items())
