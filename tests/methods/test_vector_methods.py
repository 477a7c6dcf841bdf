"""Vector methods on planted differences and against plain hooks; placebos have the norms of ``cast``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cast_lens.engine import TokenPrompt, reference, score, tokenise
from cast_lens.extraction import Extraction, difference_vectors
from cast_lens.methods import VECTOR_METHODS, Setting, SourceTask, VectorMethod, zero_shot_condition
from cast_lens.methods.vectors import principal_component, task_vector
from cast_lens.models import fingerprint
from cast_lens.tasks import demonstrations, few_shot
from cast_lens.vectors import SteeringVector
from tests.closeness import assert_close
from tests.methods.planted import LAYERS, noise, source, vectors
from tests.small_tasks import label_task
from tests.tiny import tiny_model
from tests.toy import jacobian, toy_model

PLACEBOS = [name for name, method in VECTOR_METHODS.items() if method.placebo]
SCALED = [name for name in PLACEBOS if name != "placebo: zero vector"]


def fitted(name: str, of: SourceTask) -> Tensor:
    return VECTOR_METHODS[name].fit(of).directions


def test_every_method_asked_for_is_there_and_explains_itself() -> None:
    assert list(VECTOR_METHODS) == [
        "cast",
        "cast: all samples",
        "few-shot mean",
        "zero-shot mean",
        "pca",
        "task vector",
        "placebo: random direction",
        "placebo: shuffled coordinates",
        "placebo: shuffled labels",
        "placebo: zero-shot difference",
        "placebo: random text",
        "placebo: zero vector",
    ]
    assert all(name == method.name and method.about for name, method in VECTOR_METHODS.items())
    assert [name for name in VECTOR_METHODS if name.startswith("placebo:")] == PLACEBOS


def test_means_are_those_of_the_chosen_samples() -> None:
    true = vectors(noise(6, 3, 8, seed=3))
    some = source(true, indices=(1, 4, 5), note="random selection")
    rows = [1, 4, 5]
    # float64 sums, rounded once to float32.
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)
    close(fitted("cast", some), true.values[rows].mean(dim=0))
    close(fitted("cast: all samples", some), true.values.mean(dim=0))
    close(fitted("few-shot mean", some), true.few_shot[rows].mean(dim=0))
    close(fitted("zero-shot mean", some), true.zero_shot[rows].mean(dim=0))
    contrast = fitted("few-shot mean", some) - fitted("zero-shot mean", some)
    close(contrast, fitted("cast", some))
    about = VECTOR_METHODS["cast"].fit(some).provenance
    assert about.note == "few-shot minus zero-shot: mean over 3 of 6 samples; random selection"
    assert about.sample_ids == ("mood-001", "mood-004", "mood-005")


@pytest.mark.parametrize("centred", [False, True])
def test_pca_finds_the_planted_direction_with_the_means_sign_and_length(centred: bool) -> None:
    axis = torch.nn.functional.normalize(noise(3, 32, seed=5), dim=-1)
    # Sizes along the axis: their mean is negative, and their spread is as far above the noise as they are.
    sizes = torch.tensor([-9.0, -1.0, -7.0, 3.0, -8.0, -2.0, 2.0, -6.0])
    true = vectors(sizes[:, None, None] * axis + 0.05 * noise(8, 3, 32, seed=6))
    found = principal_component(source(true), centred=centred)
    mean = true.values.mean(dim=0)
    # Noise of 0.05 in 31 other dimensions against 8 samples of length about 5.
    assert float(cosine_similarity(found.directions, -axis).min()) > 0.995
    assert bool(((found.directions * mean).sum(dim=-1) > 0).all())
    torch.testing.assert_close(found.directions.norm(dim=-1), mean.norm(dim=-1), rtol=1e-5, atol=0)
    flipped = principal_component(source(vectors(-true.values)), centred=centred)
    torch.testing.assert_close(flipped.directions, -found.directions, rtol=1e-4, atol=1e-4)


def test_centring_takes_out_what_the_samples_share() -> None:
    shared, own = torch.zeros(32), torch.zeros(32)
    shared[0], own[1] = 1.0, 1.0
    sizes = torch.tensor([-2.0, -1.0, 1.0, 2.5])
    true = vectors((6 * shared + sizes[:, None] * own).unsqueeze(1).repeat(1, 3, 1))
    plain = principal_component(source(true)).directions
    centred = principal_component(source(true), centred=True).directions
    assert float(cosine_similarity(plain, shared[None]).min()) > 0.99
    assert float(cosine_similarity(centred, own[None]).min()) > 0.99


def test_centred_pca_of_samples_that_agree_is_refused() -> None:
    true = vectors(noise(1, 3, 8, seed=1))
    with pytest.raises(ValueError, match=r"do not differ from each other at layer 0.*centred=False"):
        principal_component(source(true), centred=True)
    assert_close(principal_component(source(true)).directions, true.values[0])


@pytest.mark.parametrize("name", SCALED)
def test_placebos_have_the_norms_of_cast_and_another_direction(name: str) -> None:
    of = source(vectors(noise(6, 3, 64, seed=3)), indices=(0, 2), seed=4)
    cast, placebo = fitted("cast", of), fitted(name, of)
    torch.testing.assert_close(placebo.norm(dim=-1), cast.norm(dim=-1), rtol=1e-6, atol=0)
    # 64 dimensions: chance cosines have a standard deviation of 1/8.
    assert float(cosine_similarity(placebo, cast).abs().max()) < 0.6
    assert torch.equal(fitted(name, of), placebo)


@pytest.mark.parametrize("name", ["shuffled labels", "random text"])
def test_placebo_demonstrations_average_the_same_samples(name: str) -> None:
    of = source(vectors(noise(6, 3, 64, seed=3)), indices=(0, 2))
    mean = of.differences(name).values[[0, 2]].mean(dim=0)
    found = VECTOR_METHODS[f"placebo: {name}"].fit(of)
    assert float(cosine_similarity(found.directions, mean).min()) > 1 - 1e-5
    assert found.provenance.note == f"{name} minus zero-shot: mean over 2 of 6 samples; norms of mood"


def test_the_zero_shot_difference_is_of_two_disjoint_halves() -> None:
    true = vectors(noise(5, 3, 16, seed=3))
    # One sample per axis: the halves are read off the signs.
    zero = torch.eye(5, 16)[:, None].repeat(1, 3, 1)
    true = replace(true, zero_shot=zero, few_shot=zero + noise(5, 3, 16, seed=4))
    found = fitted("placebo: zero-shot difference", source(true, seed=2))
    for row in found:
        signs = row[:5].sign()
        assert sorted(signs.tolist()) == [-1.0, -1.0, -1.0, 1.0, 1.0]
        assert bool((row[5:] == 0).all())
        assert float(row.sum()) == pytest.approx(0, abs=1e-5)
    assert not torch.equal(found, fitted("placebo: zero-shot difference", source(true, seed=3)))
    with pytest.raises(ValueError, match="needs at least 2 samples, got 1"):
        fitted("placebo: zero-shot difference", source(vectors(noise(1, 3, 8, seed=1))))


def test_the_zero_vector_is_added_whatever_the_operator_of_the_run() -> None:
    of = source(vectors(noise(4, 3, 8, seed=3)))
    method = VECTOR_METHODS["placebo: zero vector"]
    task = label_task("tone")
    condition = method.condition(
        method.fit(of), zero_shot_condition(task, task.test).prompts, Setting(2, 3.0, "replace"), source="mood"
    )
    assert condition.intervention is not None
    assert condition.intervention.operator == "add"
    assert not condition.intervention.direction.any()


def test_a_task_vector_is_the_residual_of_dummy_queries_behind_the_same_demonstrations() -> None:
    model, task = tiny_model("llama"), label_task()
    how = Extraction(samples=4, shots=3, seed=5)
    layers = (1, 3)
    differences = difference_vectors(model, task, how, layers=layers)
    found = task_vector(SourceTask(model, task, how, lambda kind: differences))
    shown = demonstrations(task, shots=3, seed=5)
    ids = found.provenance.sample_ids
    assert len(set(ids)) == 2
    assert not set(ids) & {example.id for example in shown}
    by_id = {example.id: example for example in task.train}
    states = []
    for name in ids:
        prompt = few_shot(task, by_id[name], shots=3, seed=5)
        assert prompt.demonstrations == few_shot(task, task.test[0], shots=3, seed=5).demonstrations
        states.append(reference.residuals(model, tokenise(model, [prompt])[0].tokens)[list(layers)])
    assert_close(found.directions, (states[0] + states[1]) / 2)
    assert found.layers == layers


def test_a_task_vector_overwrites_the_last_prompt_token_alone() -> None:
    method, model = VECTOR_METHODS["task vector"], toy_model()
    assert method.strengths == (1.0,)
    about = replace(vectors(noise(2, 3, 8, seed=1)).provenance, fingerprint=fingerprint(model))
    vector = SteeringVector(noise(3, 8, seed=2).round(), LAYERS, about)
    task = label_task("tone")
    condition = method.condition(vector, zero_shot_condition(task, task.test).prompts, Setting(2, 1.0), source="mood")
    edit = condition.intervention
    assert edit is not None
    assert (edit.operator, edit.strength, edit.position) == ("replace", 1.0, "prompt_last")
    found = score(model, [TokenPrompt((3, 5, 1)), TokenPrompt((2, 9))], [edit], keep_logits=True)
    assert found.logits is not None
    # Whole numbers: exact whatever the query was.
    expected = vector.at(2) @ jacobian(model, 2, 3) @ model.W_U
    assert torch.equal(found.logits[1], expected.detach().expand(2, -1))
    assert not torch.equal(found.logits[0, 0], found.logits[0, 1])


def test_own_vectors_are_named_apart() -> None:
    of = source(vectors(noise(4, 3, 8, seed=3)))
    vector = VECTOR_METHODS["cast"].fit(of)
    own, other = label_task("mood"), label_task("tone")
    names = [
        VECTOR_METHODS["cast"]
        .condition(vector, zero_shot_condition(task, task.test).prompts, Setting(2, 1.0), source="mood")
        .method
        for task in (own, other)
    ]
    assert names == ["cast (own vector)", "cast"]
    with pytest.raises(ValueError, match="prompts is empty"):
        VECTOR_METHODS["cast"].condition(vector, (), Setting(2, 1.0), source="mood")


def test_the_runs_operator_and_position_hold_where_a_method_has_none() -> None:
    method = VectorMethod("mine", lambda source: source.samples().mean())
    task = label_task("tone")
    place = Setting(2, 1.5, "norm_preserving_add", "all")
    vector = method.fit(source(vectors(noise(4, 3, 8, seed=3))))
    edit = method.condition(vector, zero_shot_condition(task, task.test).prompts, place, source="mood").intervention
    assert edit is not None
    assert (edit.layer, edit.strength, edit.operator, edit.position) == (2, 1.5, "norm_preserving_add", "all")


def test_wrong_differences_are_refused() -> None:
    true = vectors(noise(4, 3, 8, seed=3))
    of = source(true)
    with pytest.raises(ValueError, match=r"kind='false' is unknown; choose one of true, shuffled labels"):
        of.samples("false")
    other = replace(true, sample_ids=("a", "b", "c", "d"))
    mixed = replace(of, differences=lambda kind: true if kind == "true" else other)
    with pytest.raises(ValueError, match="'random text' difference vectors of 'mood' are of other queries"):
        VECTOR_METHODS["placebo: random text"].fit(mixed)
    with pytest.raises(ValueError, match="indices must be a non-empty choice"):
        VECTOR_METHODS["pca"].fit(replace(of, indices=()))
