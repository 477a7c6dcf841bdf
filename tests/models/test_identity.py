"""A fingerprint names a model's weights; a vector of another model is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cast_lens.effects import text_effects
from cast_lens.engine import answer, score, sweep
from cast_lens.evaluation import evaluate
from cast_lens.interventions import Intervention
from cast_lens.models import check_vector, fingerprint, load_model, model_name
from cast_lens.models.convert import convert, unfilled_model
from cast_lens.models.identity import Checkpoint, check_interventions, check_layers, checkpoint
from cast_lens.models.lens import HookedTransformer
from cast_lens.models.load import DTYPES as NAMED_DTYPES
from cast_lens.steering import generate, steer
from cast_lens.tasks import Prompt
from cast_lens.vectors import DifferenceVectors, Provenance, SteeringVector
from tests.tiny import ARCHITECTURES, tiny_hf_model, tiny_model

DTYPES = tuple(NAMED_DTYPES.values())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "bloom", "olmoe"])
def test_float32_and_bfloat16_loads_agree(architecture: str) -> None:
    source = tiny_hf_model(architecture)
    single = load_model(source)
    half = load_model(source, dtype="bfloat16")
    stored_half = load_model(tiny_hf_model(architecture, dtype=torch.bfloat16), dtype="float32")
    assert fingerprint(single) == fingerprint(half)
    assert fingerprint(half) == fingerprint(stored_half)
    assert len(fingerprint(single)) == 16


def test_other_weights_have_another_fingerprint() -> None:
    prints = [
        fingerprint(tiny_model("llama")),
        fingerprint(tiny_model("llama", seed=1)),
        fingerprint(tiny_model("llama", num_hidden_layers=3)),
        fingerprint(tiny_model("llama-tied")),
    ]
    tuned = tiny_model("llama")
    tuned.blocks[2].mlp.W_in.data += 0.01
    assert len({*prints, fingerprint(tuned)}) == 5
    assert fingerprint(tiny_model("llama")) == prints[0]


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2"])
def test_parameters_are_those_of_the_checkpoint(architecture: str) -> None:
    """Tied weights count once, and no zero bias counts that the other library adds."""
    source = tiny_hf_model(architecture)
    expected = sum(weight.numel() for weight in source.parameters())
    assert checkpoint(load_model(source)) == Checkpoint(expected)
    assert checkpoint(load_model(source, implementation="transformers")) == Checkpoint(expected)


def test_parameters_of_a_model_that_came_as_it_is() -> None:
    tied = tiny_model("llama-tied")
    made = unfilled_model(tied.cfg)
    made.load_state_dict(tied.state_dict())
    assert checkpoint(made).parameters == sum(p.numel() for p in made.parameters()) - made.W_U.numel()


def _vector(d_model: int = 64, layers: tuple[int, ...] = (0, 3), mark: str = "") -> SteeringVector:
    origin = Provenance(model="source-model", fingerprint=mark, task="antonym")
    return SteeringVector(torch.ones(len(layers), d_model), layers, origin)


def test_a_vector_of_this_model_passes() -> None:
    model = tiny_model("llama")
    vector = _vector(mark=fingerprint(model))
    check_vector(model, vector)
    stack = torch.ones(2, 2, 64)
    check_vector(model, DifferenceVectors(stack, stack, (0, 3), ("a", "b"), vector.provenance))


def test_a_vector_that_does_not_fit_is_refused() -> None:
    model = tiny_model("llama")
    own = fingerprint(model)
    with pytest.raises(ValueError, match=r"'source-model', has width 32, but .* 'LlamaForCausalLM' has d_model=64"):
        check_vector(model, _vector(d_model=32, mark=own))
    with pytest.raises(ValueError, match=r"'antonym'.* holds layer 4, but .* has 4 layers"):
        check_vector(model, _vector(layers=(1, 4), mark=own))
    with pytest.raises(ValueError, match=f"fingerprint 'other', but .* has '{own}'.*extract a vector"):
        check_vector(model, _vector(mark="other"))
    stack = torch.ones(1, 2, 64)
    origin = replace(_vector().provenance, fingerprint="other")
    with pytest.raises(ValueError, match="fingerprint 'other'"):
        check_vector(model, DifferenceVectors(stack, stack, (0, 3), ("a",), origin))


def test_model_name_is_what_it_was_loaded_by() -> None:
    source = tiny_hf_model("llama")
    assert model_name(load_model(source)) == "LlamaForCausalLM"
    source.config._name_or_path = "owner/name"
    assert model_name(load_model(source)) == "owner/name"


ALL = tuple(name for name in ARCHITECTURES if name not in ("llama-tied", "llama-linear", "neox-sequential"))


@pytest.mark.parametrize("architecture", ALL)
def test_hugging_face_and_every_dtype_agree(architecture: str) -> None:
    """The number of negative entries survives rounding, and whatever a conversion does to shapes and names."""
    source = tiny_hf_model(architecture)
    # Small enough that float16 rounds some of them to zero.
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1e-4)
    models = [convert(source, name="t", dtype=dtype, device=torch.device("cpu"), copy=True) for dtype in DTYPES]
    assert {fingerprint(model) for model in [*models, source]} == {fingerprint(source)}


def test_a_model_that_is_edited_is_another_model() -> None:
    model = tiny_model("llama")
    before = fingerprint(model)
    assert fingerprint(model) == before
    model.blocks[1].mlp.W_out.data.neg_()
    edited = fingerprint(model)
    assert edited != before
    model.blocks[1].mlp.W_out.data.neg_()
    assert fingerprint(model) == before


def _routes(model: HookedTransformer, vector: SteeringVector) -> list[Callable[[], object]]:
    """Every way in which a vector or an intervention reaches a model."""
    item = vector.intervention(1)
    prompt = Prompt((), "The capital of France is", "Paris", ("Paris", "Rome"), "capital", "1")

    def steered() -> object:
        with steer(model, item):
            return model("The")

    return [
        steered,
        lambda: generate(model, "The", interventions=[item], max_new_tokens=1),
        lambda: sweep(model, [prompt], vector, layers=[1], strengths=[1.0]),
        lambda: score(model, [prompt], [item]),
        lambda: answer(model, [prompt], [item], max_new_tokens=1),
        lambda: evaluate(model, [prompt], [item], max_new_tokens=1),
        lambda: text_effects(model, [item], ["one two three four five six"]),
        lambda: check_vector(model, vector),
    ]


@pytest.mark.parametrize("route", range(8))
def test_one_check_on_every_route(route: int) -> None:
    model = tiny_model("llama")
    half = tiny_model("llama", dtype=torch.float16)
    about = Provenance("tiny", fingerprint(model), "task")
    own = SteeringVector(torch.ones(4, 64), (0, 1, 2, 3), about)
    _routes(model, own)[route]()
    assert fingerprint(half) == about.fingerprint
    stranger = replace(own, provenance=replace(about, fingerprint=fingerprint(tiny_model("llama", seed=1))))
    with pytest.raises(ValueError, match=r"'LlamaForCausalLM'.*other weights"):
        _routes(model, stranger)[route]()
    imported = replace(own, provenance=replace(about, fingerprint=""))
    with pytest.warns(UserWarning, match="does not say which weights it was taken from") as caught:
        _routes(model, imported)[route]()
    assert len(caught) == 1


def test_a_direction_made_by_hand_passes_without_a_word() -> None:
    check_interventions(tiny_model("llama"), [Intervention(torch.ones(64), 1, name="mine")])


@pytest.mark.parametrize("layers", [[0.5, 1.5], [1.0], [True], [1, 1], [2, 1], [], [-1], [4], ["1"]])
def test_layers_are_increasing_integers_of_the_model(layers: list[Any]) -> None:
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="must be increasing block indices from 0 to 3"):
        check_layers(model, layers)
    assert check_layers(model, np.array([0, 3])) == (0, 3)  # type: ignore[arg-type]
    assert check_layers(model, None) == (0, 1, 2, 3)
