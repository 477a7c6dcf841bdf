"""An exported intervention steers elsewhere as it does here, or is refused."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import PreTrainedModel

import cast_lens as cl
from cast_lens.interventions import OPERATORS, POSITIONS, Intervention, PromptVectors
from cast_lens.models import load_model
from cast_lens.share import FORMATS, export, import_intervention, import_vector, read_intervention
from cast_lens.vectors import Provenance
from tests.tiny import tiny_hf_model, tiny_tokenizer

PROMPTS = ["Review: a warm and funny film. Sentiment:", "The capital of France is"]
ORIGIN = Provenance("tiny", "0123456789abcdef", "antonym", note="∆")


def _made(layer: int = 2, **changes: Any) -> Intervention:
    direction = torch.randn(64, generator=torch.Generator().manual_seed(3))
    return replace(Intervention(direction, layer, 1.5, name="antonym", fingerprint="ab"), **changes)


@pytest.fixture(scope="module")
def hf_model() -> PreTrainedModel:
    return tiny_hf_model("llama")


def _script_writes(path: Path, model: PreTrainedModel, prompt: str, tokens: int) -> list[int]:
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "cast_lens" not in path.read_text().split('"""')[2]
    given = tiny_tokenizer()(prompt, return_tensors="pt")
    with module.steer(model):
        out = model.generate(
            **{name: given[name] for name in ("input_ids", "attention_mask")},
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=2,
        )
    return [int(token) for token in out[0, given.input_ids.shape[1] :]]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_script_writes_what_steering_here_writes(
    operator: Any, position: Any, tmp_path: Path, hf_model: PreTrainedModel
) -> None:
    steering = _made(operator=operator, position=position, strength=1.0 if operator == "ablate" else 2.5)
    path = export(steering, tmp_path / "steered.py")
    model = load_model(hf_model, tokenizer=tiny_tokenizer())
    plain = replace(steering, strength=0.0)
    changed = 0
    for prompt in PROMPTS:
        ours = cl.generate(
            model, [prompt], interventions=replace(steering, fingerprint=""), max_new_tokens=6, stop=None
        )
        theirs = tiny_tokenizer().decode(_script_writes(path, hf_model, prompt, 6), skip_special_tokens=True)
        assert theirs.startswith(ours[0])
        assert ours[0]
        base = cl.generate(model, [prompt], interventions=replace(plain, fingerprint=""), max_new_tokens=6, stop=None)
        changed += base != ours
    assert changed or operator == "ablate"


def test_the_script_is_short_and_leaves_no_hook(tmp_path: Path, hf_model: PreTrainedModel) -> None:
    path = export(_made(), tmp_path / "steered.py")
    before = _script_writes(path, hf_model, PROMPTS[0], 2)
    assert before == _script_writes(path, hf_model, PROMPTS[0], 2)
    assert not any(block._forward_hooks for block in hf_model.model.layers)
    body = path.read_text().split("@contextlib")[1].split("if __name__")[0]
    assert len(body.strip().splitlines()) <= 20


@pytest.mark.parametrize("position", POSITIONS)
def test_a_safetensors_file_says_everything(position: Any, tmp_path: Path) -> None:
    steering = _made(operator="replace", position=position, strength=0.25)
    back = import_intervention(export(steering, tmp_path / "v.safetensors", provenance=ORIGIN))
    assert isinstance(back, Intervention)
    assert torch.equal(back.direction, steering.direction)
    for name in ("layer", "strength", "operator", "position", "name", "fingerprint"):
        assert getattr(back, name) == getattr(steering, name)
    card = json.loads((tmp_path / "v.json").read_text())
    assert (card["layers"], card["strength"], card["operator"]) == ([2], 0.25, "replace")
    assert card["provenance"]["note"] == "∆"
    vector = import_vector(tmp_path / "v.safetensors")
    assert vector.provenance == ORIGIN
    assert torch.equal(vector.at(2), steering.direction)


def test_several_layers_come_back(tmp_path: Path) -> None:
    steering = PromptVectors(torch.randn(1, 2, 8), (1, 3), 2.0, "all", "two")
    back = import_intervention(export(steering, tmp_path / "v.safetensors"))
    assert isinstance(back, PromptVectors)
    assert torch.equal(back.directions, steering.directions)
    assert (back.layers, back.strength, back.position) == ((1, 3), 2.0, "all")


def test_a_control_vector_holds_direction_times_strength_at_its_own_block(tmp_path: Path) -> None:
    steering = _made(position="all")
    reader = gguf.GGUFReader(export(steering, tmp_path / "v.gguf"))
    assert [tensor.name for tensor in reader.tensors] == ["direction.2"]
    assert torch.equal(torch.tensor(reader.tensors[0].data), 1.5 * steering.direction)


def test_the_steered_model_of_lm_eval_finds_each_block(tmp_path: Path) -> None:
    steering = _made(position="all")
    found = torch.load(export(steering, tmp_path / "v.pt"), weights_only=True)
    entry = found["layers.2"]
    assert (entry["action"], entry["steering_coefficient"], entry["bias"]) == ("add", 1.5, None)
    assert torch.equal(entry["steering_vector"], steering.direction)
    removed = replace(steering, operator="ablate", strength=1.0)
    found = torch.load(export(removed, tmp_path / "w.pt", blocks="h"), weights_only=True)
    assert (found["h.2"]["action"], found["h.2"]["steering_coefficient"]) == ("clamp", 0.0)
    both = PromptVectors(torch.eye(8)[None, :2], (1, 2), position="all")
    found = torch.load(export(both, tmp_path / "x.pt"), weights_only=True)
    assert [entry["steering_vector"].argmax() for entry in found.values()] == [0, 1]


def test_what_is_not_given_is_as_the_file_says(tmp_path: Path) -> None:
    steering = _made(position="prompt_last", operator="replace")
    path = export(steering, tmp_path / "v.safetensors")
    assert read_intervention(path).position == "prompt_last"
    changed = read_intervention(path, strength=0.5, position="all")
    assert (changed.strength, changed.position, changed.operator, changed.layer) == (0.5, "all", "replace", 2)
    two = cl.SteeringVector(torch.eye(8)[:2], (1, 3), ORIGIN).save(tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="layers 1, 3; say which"):
        read_intervention(two)
    assert read_intervention(two, layer=3, strength=2.0).layer == 3


def test_an_easysteer_spec_names_phases_and_its_vectors(tmp_path: Path) -> None:
    spec = json.loads(export(_made(), tmp_path / "v.json").read_text())
    [vector] = spec["vectors"]
    assert vector["source"] == "v.gguf"
    assert (vector["algorithm"], vector["scale"], vector["layers"]) == ("direct", 1.5, [2])
    assert vector["apply"] == {
        "phases": ["prompt", "generation"],
        "prompt_positions": [-1],
        "generation_window": [0, None],
    }
    assert torch.equal(import_vector(tmp_path / "v.gguf").at(2), _made().direction)
    prompt_only = json.loads(export(_made(position="prompt_last"), tmp_path / "w.json").read_text())["vectors"][0]
    assert prompt_only["apply"] == {"phases": ["prompt"], "prompt_positions": [-1]}


@pytest.mark.parametrize(
    ("suffix", "steering"),
    [
        ("gguf", _made(position="last")),
        ("gguf", _made(position="prompt_last")),
        ("gguf", _made(position="all", operator="replace")),
        ("gguf", _made(position="all", layer=0)),
        ("pt", _made(position="last")),
        ("pt", _made(position="all", operator="ablate", strength=0.5)),
        ("json", _made(operator="replace", strength=0.5)),
        ("json", _made(layer=0)),
    ],
)
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(suffix: str, steering: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot express"):
        export(steering, tmp_path / f"v.{suffix}")
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(tmp_path: Path) -> None:
    vector = cl.SteeringVector(torch.ones(1, 8), (1,), ORIGIN)
    with pytest.raises(ValueError, match=r"vector\.intervention"):
        export(vector, tmp_path / "v.gguf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not an export format; choose one of safetensors"):
        export(_made(), tmp_path / "v.bin")
    with pytest.raises(ValueError, match=r"must end in \.gguf"):
        export(_made(position="all"), tmp_path / "v.bin", format="gguf")
    with pytest.raises(ValueError, match="3 prompts of their own"):
        export(PromptVectors(torch.ones(3, 1, 8), (1,)), tmp_path / "v.safetensors")
    assert len(FORMATS) == 5
