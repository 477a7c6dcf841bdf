"""Training: what it changes and what not, its gradients, its early stop, and a run that was killed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from cast_lens.engine import answer_losses, frozen
from cast_lens.files import load_tensors
from cast_lens.interventions import PromptVectors
from cast_lens.methods.atv import ATV, BlocksGenerator, Design, Expansion, Step, Training, gather, train
from cast_lens.tasks import Task
from tests.small_tasks import label_task
from tests.tiny import tiny_model

SMALL = Training(epochs=2, batch=8, learning_rate=1e-2, templates=("own", "bare"))
CHECKPOINTS = replace(SMALL, checkpoint_steps=2)
RESIDUAL = Design(generator="residual", layer=1, strength=1.0)
BLOCKS = Design(generator="blocks", source="self", layer=1, trained=True, pooling="mean", strength=1.0)


class Killed(Exception):
    """As if the process had ended."""


def killer(at: int, seen: list[Step] | None = None) -> Any:
    def watch(step: Step) -> None:
        if seen is not None:
            seen.append(step)
        if step.number == at and not step.validated:
            raise Killed

    return watch


@pytest.mark.parametrize("design", [RESIDUAL, BLOCKS, replace(RESIDUAL, rank=3, position="all")])
def test_training_lowers_the_loss_and_leaves_the_model_bit_identical(design: Design, tasks: list[Task]) -> None:
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steps: list[Step] = []
    train(model, tasks, design=design, training=replace(SMALL, epochs=4), watch=steps.append)
    losses = [step.validation for step in steps if step.validated]
    assert losses[-1] is not None
    assert losses[0] is not None
    assert losses[-1] < losses[0] < max(step.loss for step in steps)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_gradients_of_generator_and_expansion_equal_finite_differences(tasks: list[Task]) -> None:
    """Through the small model, the expansion and the large model, in float64."""
    model = tiny_model("llama").to(torch.float64)
    small = BlocksGenerator(model, 1, pooling="mean", trained=True)
    assert small.module is not None
    expansion = Expansion(64, 4, 64, rank=2, start="torch").double()
    items = gather(model, tasks, replace(SMALL, examples=2)).train[:4]

    def loss() -> Tensor:
        made = expansion(small.states([item.generator_text for item in items]))
        return answer_losses(model, [item.prompt for item in items], PromptVectors(made, (0, 1, 2, 3))).mean()

    with frozen(model):
        loss().backward()
    named = dict(small.module.named_parameters()) | dict(expansion.named_parameters())
    tried = ["blocks.0.attn.W_Q", "blocks.1.mlp.W_out", "blocks.0.ln1.w", "up", "down", "bias"]
    for name in tried:
        parameter = named[name]
        assert parameter.grad is not None
        place = torch.unravel_index(parameter.grad.abs().argmax(), parameter.shape)
        step, values = 1e-6, []
        for sign in (1, -1):
            parameter.data[place] += sign * step
            with torch.no_grad():
                values.append(float(loss()))
            parameter.data[place] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        # Rounding of the two losses, 1e-15, over the step is the larger error: 1e-9.
        assert slope == pytest.approx(float(parameter.grad[place]), rel=1e-5, abs=1e-8), name


@pytest.fixture(scope="module", params=[RESIDUAL, BLOCKS], ids=["residual", "blocks"])
def uninterrupted(
    request: pytest.FixtureRequest, tasks: list[Task], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Design, ATV, Path]:
    """A design, what a training of it gave that nothing interrupted, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    made = train(tiny_model("llama"), tasks, design=request.param, training=CHECKPOINTS, folder=folder)
    return request.param, made, folder


@pytest.mark.parametrize("at", [1, 5])
def test_a_killed_run_continues_bit_for_bit(
    tmp_path: Path, uninterrupted: tuple[Design, ATV, Path], at: int, tasks: list[Task]
) -> None:
    model, training, (design, whole, folder) = tiny_model("llama"), CHECKPOINTS, uninterrupted
    with pytest.raises(Killed):
        train(model, tasks, design=design, training=training, folder=tmp_path / "killed", watch=killer(at))
    half = tmp_path / "killed" / ".checkpoint.safetensors.99999999-0123abcd"
    half.write_bytes(b"half a checkpoint")
    seen: list[Step] = []
    again = train(model, tasks, design=design, training=training, folder=tmp_path / "killed", watch=seen.append)
    # Step 4 was the last that had been written.
    assert seen[0].number == at
    assert not half.exists()
    texts = [item.generator_text for item in gather(model, tasks, training).validation]
    assert torch.equal(whole.vectors(texts), again.vectors(texts))
    first, second = (load_tensors(path / "atv.safetensors", kind="ATV") for path in (folder, tmp_path / "killed"))
    assert first[1] == second[1]
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    curves = [pd.read_csv(path / "loss.csv") for path in (folder, tmp_path / "killed")]
    pd.testing.assert_frame_equal(curves[0], curves[1], check_exact=True)


def test_a_finished_run_is_only_read_again(tmp_path: Path, tasks: list[Task]) -> None:
    model = tiny_model("llama")
    seen: list[Step] = []
    first = train(model, tasks, design=RESIDUAL, training=SMALL, folder=tmp_path)
    again = train(model, tasks, design=RESIDUAL, training=SMALL, folder=tmp_path, watch=seen.append)
    assert not seen
    assert torch.equal(first.vectors(["Text: x\nLabel:"]), again.vectors(["Text: x\nLabel:"]))


def test_a_folder_of_another_run_is_refused(tmp_path: Path, tasks: list[Task]) -> None:
    model = tiny_model("llama")
    train(model, tasks, design=RESIDUAL, training=replace(SMALL, epochs=1), folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in epochs"):
        train(model, tasks, design=RESIDUAL, training=SMALL, folder=tmp_path)
    with pytest.raises(ValueError, match=r"differs in material"):
        train(model, tasks[:1], design=RESIDUAL, training=replace(SMALL, epochs=1), folder=tmp_path)
    config = tmp_path / "config.json"
    config.write_bytes(config.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"config\.json is damaged .* delete it"):
        train(model, tasks, design=RESIDUAL, training=replace(SMALL, epochs=1), folder=tmp_path)


def test_seeds_decide_everything(tasks: list[Task]) -> None:
    model, texts = tiny_model("llama"), ["Text: x\nLabel:"]
    design = replace(RESIDUAL, start="torch", rank=2)
    made = [
        train(model, tasks, design=design, training=replace(SMALL, epochs=1, seed=seed)).vectors(texts)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_training_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    """Validation wants the opposite of what is trained, so its loss only rises after a while."""
    task = label_task("mood", train=16, validation=8)
    swapped = tuple(
        replace(e, answer={"good": "bad", "bad": "good"}[e.answer], input=task.train[i].input)
        for i, e in enumerate(task.validation)
    )
    contrary = replace(task, validation=swapped)
    training = replace(SMALL, epochs=60, patience=3, learning_rate=0.05, ending="", batch=16, templates=("own",))
    steps: list[Step] = []
    design = replace(RESIDUAL, standardise=True)
    train(tiny_model("llama"), [contrary], design=design, training=training, folder=tmp_path, watch=steps.append)
    validations = [step.validation for step in steps if step.validated]
    assert len(validations) < 60
    assert steps[-1].note == "stopped early"
    curve = pd.read_csv(tmp_path / "loss.csv")
    kept = curve[curve["best"].astype(bool)]
    assert len(kept) == 1
    assert kept["loss"].item() == min(v for v in validations if v is not None)
    assert len(validations) - 1 - validations.index(kept["loss"].item()) == 3
    assert (tmp_path / "loss.html").is_file()


class Broken:
    """A small model that reads one text as not a number."""

    width, module, name, fingerprint = 2, None, "broken", ""

    def states(self, texts: Any) -> Tensor:
        return torch.tensor([[float("nan") if "w3" in text else 1.0, 0.5] for text in texts])


def test_a_loss_that_is_no_number_stops_with_its_batch_on_disk(tmp_path: Path, tasks: list[Task]) -> None:
    design = replace(RESIDUAL, standardise=False)
    with pytest.raises(ValueError, match=r"loss of step \d+ is not finite.*nonfinite_batch\.json"):
        train(tiny_model("llama"), tasks, design=design, training=SMALL, folder=tmp_path, generator=Broken())
    found = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert any(item["text"] == "Q: w3\nA:" and item["answer"] == "w3w3" for item in found["items"])
    vectors, about = load_tensors(tmp_path / "nonfinite_batch.safetensors", kind="vectors")
    assert about["step"] == found["step"]
    assert bool(vectors["vectors"].isnan().any())


def test_mixed_precision_and_checkpointing_come_near_the_plain_run(tasks: list[Task]) -> None:
    model = tiny_model("llama")
    runs = []
    changes: list[dict[str, Any]] = [{}, {"recompute": True}, {"mixed_precision": True}]
    for change in changes:
        steps: list[Step] = []
        train(model, tasks, design=RESIDUAL, training=replace(SMALL, epochs=1, **change), watch=steps.append)
        runs.append([step.loss for step in steps])
    assert runs[0] == runs[1]
    # bfloat16 keeps 8 bits: a loss of 6 nats moves by some hundredths.
    assert runs[2] != runs[0]
    assert runs[2] == pytest.approx(runs[0], abs=0.2)


def test_a_model_that_only_hooks_can_run_is_trained_too(tasks: list[Task]) -> None:
    steps: list[Step] = []
    train(tiny_model("bloom"), tasks[:1], design=RESIDUAL, training=SMALL, watch=steps.append)
    validations = [step.validation for step in steps if step.validated]
    assert validations[1] is not None
    assert validations[0] is not None
    assert validations[1] < validations[0]
