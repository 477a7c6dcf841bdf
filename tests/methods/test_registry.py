"""All methods by one name each: the same fit on both routes, saved with provenance, refused on another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cast_lens.engine import capture
from cast_lens.evaluation import evaluate
from cast_lens.extraction import Extraction, difference_vectors
from cast_lens.methods import (
    FIELD_METHODS,
    STEERING_METHODS,
    VECTOR_METHODS,
    SourceTask,
    implicit_context,
    transferred_context,
)
from cast_lens.methods.field import CONTROLS, Fitted, at_setting, edits, placebo_of, read_fitted
from cast_lens.methods.in_context_vectors import Calibration, fit_implicit_context
from cast_lens.methods.vectors import arrow_task_vector
from cast_lens.models import HookedDecoder, load_model
from cast_lens.tasks import demonstrations, load_task, zero_shot_prompts
from cast_lens.tasks.templates import ARROW
from cast_lens.vectors import SteeringVector
from tests.closeness import assert_close
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

TASK = load_task("review-sentiment")
PROMPTS = zero_shot_prompts(TASK, TASK.test[:2])
HOW = Extraction(samples=3, shots=2)
# Training is tested by itself; here its scalars stay as they begin.
QUICK: dict[str, Callable[[SourceTask], Fitted]] = {
    "implicit context": partial(fit_implicit_context, demonstrations=2, epochs=0)
}
UNTRAINED = [name for name, method in FIELD_METHODS.items() if not method.trained or name in QUICK]


@cache
def fitted(route: str, name: str) -> Fitted:
    model = decoder() if route == "decoder" else tiny_model("llama")
    source = SourceTask(
        model,
        TASK,
        HOW,
        lambda kind: difference_vectors(
            model, TASK, Extraction(3, 2, shuffle_labels=kind == "shuffled labels", random_text=kind == "random text")
        ),
    )
    return QUICK.get(name, FIELD_METHODS[name].fit)(source)


@lru_cache(maxsize=1)
def decoder() -> HookedDecoder:
    found = load_model(HookedDecoder(tiny_hf_model("llama")), tokenizer=tiny_tokenizer())
    assert isinstance(found, HookedDecoder)
    return found


def tensors(one: Fitted) -> dict[str, Tensor]:
    names = type(one).__dataclass_fields__
    return {name: value for name in names if isinstance(value := getattr(one, name), Tensor)}


def test_one_registry_names_every_method() -> None:
    # Options take names with commas between them.
    assert not any("," in name for name in (*STEERING_METHODS, *FIELD_METHODS))
    assert set(STEERING_METHODS) == {*VECTOR_METHODS, *FIELD_METHODS}
    assert set(CONTROLS) <= set(FIELD_METHODS)
    assert all(STEERING_METHODS[name].about for name in STEERING_METHODS)


@pytest.mark.parametrize("name", UNTRAINED)
def test_both_routes_fit_the_same_which_is_kept_and_refused_elsewhere(name: str, tmp_path: Path) -> None:
    found, other = fitted("transformer", name), fitted("decoder", name)
    assert type(found) is type(other)
    for field, value in tensors(found).items():
        assert_close(tensors(other)[field], value)
    again = read_fitted(found.save(tmp_path / "fit.safetensors"), type(found).__name__)
    assert again.provenance == found.provenance
    assert again.provenance.fingerprint
    assert all(torch.equal(value, tensors(again)[field]) for field, value in tensors(found).items())
    noise = placebo_of(found, seed=1)
    assert type(noise) is type(found)
    if isinstance(found, SteeringVector):
        edit = found.intervention(1, strength=1.0)
    else:
        edit = at_setting(found, *edits(FIELD_METHODS[name], found, strengths=(1.0,), layers=(1,))[0][:2])
    for model in (tiny_model("llama"), decoder()):
        assert evaluate(model, PROMPTS, [edit])["gold_logprob"].notna().all()
    with pytest.raises(ValueError, match="another model"):
        evaluate(tiny_model("llama", seed=1), PROMPTS, [edit])


def test_published_task_vectors_read_x_arrow_y_character_by_character() -> None:
    model, task = tiny_model("llama"), load_task("antonym")
    source = SourceTask(model, task, HOW, lambda kind: difference_vectors(model, task, HOW))
    vector = arrow_task_vector(source)
    shown = demonstrations(task, shots=2, seed=0)
    head = "".join(f"example:{one.input}->{one.answer}\n" for one in shown)
    asked = [query for query in task.train if query.id in vector.provenance.sample_ids]
    assert len(asked) == 2
    states = capture(model, [f"{head}example:{query.input}->" for query in asked])
    assert_close(vector.directions, states.mean(dim=0))
    assert vector.provenance.template == ARROW.name


def test_an_implicit_context_is_transferred_as_published() -> None:
    model = tiny_model("llama")
    plan = Calibration(epochs=0)
    sources = [
        implicit_context(model, load_task(name), Extraction(3, 2), plan)
        for name in ("review-sentiment", "yes-no-facts")
    ]
    # Scalars as if calibrated: one source like the target, one unlike it.
    near = replace(sources[0], alpha=torch.full_like(sources[0].alpha, 0.2))
    far = replace(sources[1], alpha=-10 * torch.ones_like(sources[1].alpha), beta=-torch.ones_like(sources[1].beta))
    target = load_task("question-type")
    found = transferred_context(model, target, [near, far], Extraction(3, 2), plan)
    assert_close(found.context, 0.2 * near.context)
    assert_close(found.alpha, torch.ones_like(found.alpha))
    assert_close(found.beta, near.beta)
    assert "transferred from review-sentiment" in found.provenance.note
    both = transferred_context(model, target, [near, sources[1]], Extraction(3, 2), plan)
    own = torch.cat([torch.full((8,), 0.1), torch.ones(8)])
    scalars = [torch.cat([one.alpha.flatten(), one.beta.flatten()]) for one in (near, sources[1])]
    weights = torch.stack([torch.cosine_similarity(own, one, dim=0) / 0.5 for one in scalars]).softmax(dim=0)
    expected = weights[0] * 0.2 * near.context + weights[1] * 0.1 * sources[1].context
    assert_close(both.context, expected)
    assert "no source above" in transferred_context(model, target, [far], Extraction(3, 2), plan).provenance.note
    with pytest.raises(ValueError, match="fingerprint"):
        transferred_context(tiny_model("llama", seed=1), target, [near], Extraction(3, 2), plan)
