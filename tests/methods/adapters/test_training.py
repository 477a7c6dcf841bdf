"""Training of adapters: size, data, seeds, early stop, files, refusals."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cast_lens.engine import tokenise
from cast_lens.methods import adapters, atv
from cast_lens.methods.adapters import Adapter, AdapterDesign, AdapterKind, train_adapter
from cast_lens.methods.adapters.peft_model import KINDS
from cast_lens.methods.atv import Design, Step, Training
from cast_lens.tasks import Task, zero_shot_prompts
from tests.methods.adapters.small import untrained, weather
from tests.methods.conftest import Pair

SMALL = Training(epochs=2, batch=8, templates=("own", "bare"))
RATES: dict[AdapterKind, float] = {"lora": 5e-3, "prefix": 3e-2}


def design(kind: AdapterKind, parameters: int = 5000) -> AdapterDesign:
    return AdapterDesign(kind, parameters, learning_rate=RATES[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 9_000, 20_000])
def test_the_size_comes_nearest_to_the_budget(pair: Pair, kind: AdapterKind, budget: int) -> None:
    model, source = pair("gpt2" if budget == 9_000 else "llama")
    adapter = untrained(model, source, design(kind, budget))
    count = int(adapter.setting.split()[1 if kind == "lora" else 0])
    unit = adapter.n_parameters // count
    assert adapter.n_parameters == count * unit == adapter.wrapped.peft_model.get_nb_trainable_parameters()[0]
    assert count == 1 or abs(adapter.n_parameters - budget) <= unit / 2
    assert budget > 1 or count == 1


def test_the_output_head_is_left_alone(pair: Pair) -> None:
    model, source = pair()
    names = list(untrained(model, source, design("lora")).wrapped.trained)
    # Seven linear maps a block, two factors each.
    assert len(names) == 4 * 7 * 2
    assert not [name for name in names if "lm_head" in name]


def test_batches_are_those_of_adaptive_task_vectors(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tasks: list[Task]
) -> None:
    model, source = pair()
    seen: dict[str, list[list[Any]]] = {}
    for module, name, argument in ((atv.training, "atv", 1), (adapters.adapter, "lora", 1)):
        seen[name] = [[]]
        monkeypatch.setattr(module, "answer_losses", _recorder(module.answer_losses, seen[name], argument))

    def flush(name: str) -> Any:
        return lambda step: seen[name].append([])

    static = Design(generator="constant", position="all", layers=(1,))
    atv.train(model, tasks, design=static, training=SMALL, watch=flush("atv"))
    train_adapter(model, source, tasks, design=design("lora"), training=SMALL, watch=flush("lora"))
    ordered = {name: [sorted(batch) for batch in batches] for name, batches in seen.items()}
    assert ordered["atv"] == ordered["lora"]
    # Twenty-four prompts (a free task has one template less) in steps of eight, a validation per epoch, twice.
    assert [len(batch) for batch in ordered["lora"]] == [8, 8, 8, 8] * 2 + [0]


def _recorder(plain: Any, into: list[list[Any]], argument: int) -> Any:
    def recorded(*given: Any, **named: Any) -> Any:
        into[-1] += [(prompt.tokens, prompt.answers) for prompt in given[argument]]
        return plain(*given, **named)

    return recorded


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide_everything_and_the_global_generator_is_left_alone(
    pair: Pair, kind: AdapterKind, tasks: list[Task]
) -> None:
    model, source = pair()
    state = torch.random.get_rng_state()
    made = [
        train_adapter(
            model, source, tasks, design=design(kind), training=replace(SMALL, epochs=1, seed=seed)
        ).wrapped.state()
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not all(torch.equal(made[0][name], made[2][name]) for name in made[0])
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_stops_early_and_keeps_the_best_epoch(pair: Pair) -> None:
    """Validation wants the opposite of what is trained, so its loss only rises after a while."""
    model, source = pair()
    task = weather()
    swapped = tuple(replace(e, answer={"good": "bad", "bad": "good"}[e.answer]) for e in task.validation)
    steps: list[Step] = []
    training = Training(epochs=30, batch=16, patience=2, templates=("own",), ending="")
    adapter = train_adapter(
        model,
        source,
        [replace(task, validation=swapped)],
        design=AdapterDesign("lora", 5000, learning_rate=0.02),
        training=training,
        watch=steps.append,
    )
    validations = [step.validation for step in steps if step.validated and step.validation is not None]
    assert steps[-1].note == "stopped early"
    assert len(validations) - 1 - validations.index(adapter.validation) == 2
    prompts = zero_shot_prompts(task, swapped)
    lengths = [len(prompt.answers[prompt.gold]) for prompt in tokenise(model, prompts)]
    losses = -adapter.evaluate(prompts)["gold_logprob"] / lengths
    assert losses.mean() == pytest.approx(adapter.validation, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_adapters_answer_alike_and_are_refused_elsewhere(
    tmp_path: Path, pair: Pair, kind: AdapterKind, tasks: list[Task]
) -> None:
    model, source = pair()
    adapter = train_adapter(model, source, tasks, design=design(kind), training=replace(SMALL, epochs=1))
    path = adapter.save(tmp_path / "adapter.safetensors")
    again = Adapter.load(path, model, source)
    prompts = zero_shot_prompts(tasks[0], tasks[0].test)
    assert adapter.evaluate(prompts).equals(again.evaluate(prompts))
    assert (again.design, again.training, again.provenance) == (adapter.design, adapter.training, adapter.provenance)
    assert (again.steps, again.validation, again.setting) == (adapter.steps, adapter.validation, adapter.setting)
    other, _ = pair("llama-tied")
    with pytest.raises(ValueError, match=r"was trained for .*llama.*load that model"):
        Adapter.load(path, other, source)


def test_what_cannot_be_trained_is_refused(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch, tasks: list[Task]
) -> None:
    model, source = pair()
    _, other = pair("llama-tied")

    def refused(match: str, *, source: str = source, given: Any = None, chosen: Any = None) -> None:
        with pytest.raises(ValueError, match=match):
            train_adapter(
                model, source, tasks if given is None else given, design=chosen or design("lora"), training=SMALL
            )

    refused(r"tasks is empty", given=[])
    refused(r"does not exist", source=str(tmp_path / "nowhere"))
    refused(r"source=.*llama-tied.* is not the model .*llama", source=other)
    refused(r"only \d+ fit before the longest prompt", chosen=design("prefix", 10**7))
    refused(r"loss of step \d+ is not finite", chosen=AdapterDesign("lora", 5000, learning_rate=1e30))
    with pytest.raises(ValueError, match=r"kind='full' is unknown; choose one of lora, prefix"):
        AdapterDesign("full", 5000)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"parameters=0 must be 1 or more"):
        AdapterDesign("lora", 0)
    with pytest.raises(ValueError, match=r"learning_rate=-1 must be positive"):
        AdapterDesign("lora", 10, learning_rate=-1)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "cast-lens\[peft\]"'):
        train_adapter(model, source, tasks, design=design("lora"), training=SMALL)
