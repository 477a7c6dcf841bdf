"""Logits that are NaN or infinite are not answers: NaN in, NaN out, named in a warning; strengths that must end so."""

from __future__ import annotations

import pytest
import torch

from cast_lens.engine import answer, score, sweep
from cast_lens.evaluation import evaluate
from cast_lens.interventions import Intervention
from cast_lens.models import fingerprint
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import Prompt
from cast_lens.vectors import Provenance, SteeringVector
from tests.engine.cases import D_MODEL, direction, few_shot_prompts
from tests.tiny import tiny_model

OUTCOMES = ["gold_logprob", "choice_correct", "first_match", "first_valid", "gold_margin"]


@pytest.fixture(scope="module")
def breaking() -> HookedTransformer:
    """Half precision, and an unembedding that a residual along coordinate 0 takes beyond 65,504."""
    model = tiny_model("llama", dtype=torch.float16)
    with torch.no_grad():
        model.ln_final.w[0] = 1.0
        model.unembed.W_U[0, ::2] = 1e4
    return model


def spike(strength: float) -> Intervention:
    return Intervention(torch.eye(D_MODEL)[0], 2, strength, name="spike")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_overflow_hold_no_outcome_and_the_others_stay(breaking: HookedTransformer) -> None:
    prompts = few_shot_prompts()[:3]
    calm, wild = spike(0.0), spike(6e4)
    alone = score(breaking, prompts, [calm]).to_frame()
    frame = score(breaking, prompts, [calm, wild]).to_frame()
    assert list(frame["overflowed"]) == [False, False, True] * 3
    assert frame.loc[frame["overflowed"], [*OUTCOMES, "choice"]].isna().all(axis=None)
    kept = frame[~frame["overflowed"]].reset_index(drop=True)
    assert kept[OUTCOMES].astype(float).equals(alone[OUTCOMES].astype(float))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_overflow_is_seen_without_normalisers(breaking: HookedTransformer) -> None:
    prompts, items = few_shot_prompts()[:3], [spike(1.0), spike(6e4)]
    full, relative = score(breaking, prompts, items), score(breaking, prompts, items, normalised=False)
    assert full.overflowed.any()
    assert torch.equal(full.overflowed, relative.overflowed)


def test_the_warning_names_the_intervention(breaking: HookedTransformer) -> None:
    with pytest.warns(RuntimeWarning, match=r"spike at layer 2, strength 60000 \(2 prompts\)"):
        score(breaking, few_shot_prompts()[:2], [spike(6e4)])
    with pytest.warns(RuntimeWarning, match="1 of 2 answers were not written"):
        texts = answer(breaking, ["The capital"], [spike(6e4)], max_new_tokens=2)
    assert texts[1] == [None]
    assert texts[0][0] is not None


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_position_of_gold_does_not_make_it_right(breaking: HookedTransformer) -> None:
    choices = ("hot", "cold")
    prompts = [Prompt((), "The opposite", gold, choices, "t", gold) for gold in choices]
    frame = evaluate(breaking, prompts, [spike(6e4)])
    steered = frame[frame["variant"] == 1]
    assert steered["overflowed"].all()
    assert steered[[*OUTCOMES, "exact_match", "valid"]].isna().all(axis=None)
    assert frame.loc[frame["variant"] == 0, [*OUTCOMES, "exact_match", "valid"]].notna().all(axis=None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_sweep_counts_what_it_leaves_out(breaking: HookedTransformer) -> None:
    vector = SteeringVector(torch.eye(D_MODEL)[None, 0], (2,), Provenance("x", fingerprint(breaking), "t"))
    cells = sweep(breaking, few_shot_prompts()[:3], vector, strengths=(0.0, 6e4)).to_frame()
    assert list(cells["overflowed"]) == [0, 0, 3]
    assert cells.loc[2, ["first_match", "choice_correct", "gold_logprob", "first_match_low"]].isna().all()
    assert cells.loc[1, "n"] == 3


@pytest.mark.parametrize(
    ("dtype", "strength"), [(torch.float32, 1e39), (torch.float32, 1e25), (torch.float16, 1e5), (torch.bfloat16, 1e25)]
)
@pytest.mark.parametrize("operator", ["add", "replace", "norm_preserving_add", "ablate"])
def test_a_strength_beyond_the_dtype_is_refused(dtype: torch.dtype, strength: float, operator: str) -> None:
    model = tiny_model("llama", dtype=dtype)
    item = Intervention(direction(0), 1, strength, operator, name="v")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"intervention 0 \(v\) has strength .* give a strength of at most"):
        score(model, few_shot_prompts()[:1], [item])
