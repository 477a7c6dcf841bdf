"""An ATV in use: vectors, the engine, hooks, files, and the models that it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cast_lens.engine import answer, score
from cast_lens.evaluation import evaluate
from cast_lens.methods.atv import ATV, Design, Training, train
from cast_lens.models import fingerprint
from cast_lens.steering import generate
from cast_lens.tasks import zero_shot_prompts
from tests.closeness import assert_close
from tests.small_tasks import label_task
from tests.tiny import tiny_model

MODEL = tiny_model("llama")
TASK = label_task("mood")
PROMPTS = zero_shot_prompts(TASK, TASK.test)
TRAINING = Training(epochs=1, batch=8, learning_rate=2e-2, templates=("own",))


@cache
def trained(**design: Any) -> ATV:
    """An ATV of ``MODEL`` after one epoch."""
    made = Design(
        **{"generator": "residual", "layer": 1, "layers": (0, 2), "start": "torch", "strength": 1.0, **design}
    )
    return train(MODEL, [TASK], design=made, training=TRAINING)


def test_vectors_are_the_linear_map_of_the_standardised_state() -> None:
    atv = trained()
    _, cache = MODEL.run_with_cache(MODEL.to_tokens(PROMPTS[1].text))
    state = cache["resid_post", 1][0, -1]
    inner = (state - atv.expansion.shift) / atv.expansion.scale
    expected = (atv.expansion.up @ inner + atv.expansion.bias).view(2, 64)
    assert_close(atv.vectors(PROMPTS)[1], expected.detach())
    assert atv.layers == (0, 2)
    assert atv.n_parameters == 2 * 64 * 65


@pytest.mark.parametrize("position", ["last", "all"])
def test_the_engine_steers_each_prompt_as_hooks_do(position: str) -> None:
    atv = trained(position=position)
    together = score(MODEL, PROMPTS, [atv.intervention(PROMPTS)], keep_logits=True)
    assert together.logits is not None
    for index, prompt in enumerate(PROMPTS):
        with atv.steer(MODEL, prompt), torch.no_grad():
            assert_close(together.logits[1, index], MODEL(MODEL.to_tokens(prompt.text))[0, -1])


def test_decoding_is_steered_with_and_without_a_cache() -> None:
    atv, texts = trained(), [prompt.text for prompt in PROMPTS]
    expected = answer(MODEL, texts, [atv.intervention(PROMPTS)], max_new_tokens=5, stop_at_newline=False)
    assert expected[0] != expected[1]
    for cached in (True, False):
        edits = [atv.intervention(PROMPTS)]
        got = generate(MODEL, texts, interventions=edits, max_new_tokens=5, stop=None, use_cache=cached)
        assert got == expected[1]
    with atv.steer(MODEL, PROMPTS[0]):
        written: Any = MODEL.generate(texts[0], max_new_tokens=5, do_sample=False, verbose=False)
    assert written.endswith(expected[1][0])


def test_evaluate_has_one_row_a_variant_and_prompt() -> None:
    frame = evaluate(MODEL, PROMPTS, [trained().intervention(PROMPTS)])
    assert frame.groupby(["variant", "name"]).size().to_dict() == {(0, "unsteered"): 5, (1, "atv"): 5}
    assert set(frame.loc[frame["variant"] == 1, "operator"]) == {"add"}


@pytest.mark.parametrize(
    "design",
    [
        {},
        {"rank": 3},
        {"generator": "constant"},
        {"generator": "blocks", "source": "self", "trained": True, "pooling": "mean"},
    ],
)
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, design: dict[str, Any]) -> None:
    atv = trained(**design)
    again = ATV.load(atv.save(tmp_path / "atv.safetensors"), MODEL)
    assert torch.equal(atv.vectors(PROMPTS), again.vectors(PROMPTS))
    assert (again.design, again.training, again.provenance) == (atv.design, atv.training, atv.provenance)
    assert again.n_parameters == atv.n_parameters
    assert again.provenance.fingerprint == fingerprint(MODEL)
    assert again.provenance.task == "mood"


def test_another_model_is_refused(tmp_path: Path) -> None:
    other = tiny_model("llama", seed=1)
    atv = trained()
    path = atv.save(tmp_path / "atv.safetensors")
    with pytest.raises(ValueError, match=r"was trained for .* load that model"):
        ATV.load(path, other)
    with pytest.raises(ValueError, match="was trained for"), atv.steer(other, PROMPTS[0]):
        pass
    with pytest.raises(ValueError, match="another model"):
        generate(other, PROMPTS[0].text, interventions=[atv.intervention(PROMPTS[:1])])


def test_another_small_model_is_refused(tmp_path: Path) -> None:
    from cast_lens.methods.atv import BlocksGenerator

    path = trained(generator="blocks", source="self").save(tmp_path / "atv.safetensors")
    small = BlocksGenerator(tiny_model("llama", seed=1), 1, pooling="last", trained=False)
    with pytest.raises(ValueError, match="was trained with the small model"):
        ATV.load(path, MODEL, generator=small)


def test_another_number_of_rows_is_refused() -> None:
    atv = trained()
    with atv.steer(MODEL, PROMPTS[:2]), pytest.raises(ValueError, match="vectors for 2 prompts"):
        MODEL(MODEL.to_tokens(PROMPTS[0].text))
    with pytest.raises(ValueError, match="queries is empty"):
        atv.vectors([])


def test_a_trained_atv_tells_queries_apart_where_a_constant_one_does_not() -> None:
    one = trained(start="zero").vectors(PROMPTS).flatten(1)
    static = trained(generator="constant", start="zero").vectors(PROMPTS).flatten(1)
    assert float(F.cosine_similarity(one[0], one[1], dim=0)) < 0.999
    assert torch.equal(static[0], static[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": "oracle"}, "generator='oracle' is unknown"),
        ({"rank": 0}, "rank=0"),
        ({"strength": 0.0}, "nothing can be learned"),
        ({"generator": "residual", "trained": True}, "no parameters to train"),
        ({"position": "first"}, "position='first'"),
    ],
)
def test_designs_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Design(**change)


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 3"):
        train(tiny_model("llama"), [TASK], design=replace(Design(), layers=(2, 4)), training=TRAINING)
