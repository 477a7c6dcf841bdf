"""Laws: strength 0 changes nothing, order and company of prompts change nothing, stale weights are never used."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from cast_lens.engine import answer, capture, score, scores, sweep
from cast_lens.engine.forward import run_pass
from cast_lens.engine.layout import build_batch
from cast_lens.engine.support import row_model, unsupported
from cast_lens.interventions import Intervention
from cast_lens.models import fingerprint
from cast_lens.steering import steer
from cast_lens.vectors import Provenance, SteeringVector
from tests.closeness import assert_close
from tests.engine.cases import ANSWERS, direction, few_shot_prompts
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

ONE_TOKEN = ((11,), (12,), (14,))


@pytest.mark.parametrize("operator", ["add", "norm_preserving_add", "ablate", "replace"])
def test_strength_zero_is_the_model_itself(operator: Any) -> None:
    got = score(
        tiny_model("qwen2"),
        few_shot_prompts(),
        [Intervention(direction(0), layer, 0.0, operator) for layer in (0, 2)],
        keep_logits=True,
    )
    assert got.logits is not None
    for variant in (1, 2):
        assert torch.equal(got.logits[variant], got.logits[0])


def test_prompts_do_not_know_of_each_other() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    items = [Intervention(direction(0), 1, 2.0)]
    together, backwards = score(model, prompts, items), score(model, prompts[::-1], items)
    residuals = capture(model, prompts)
    for index, prompt in enumerate(prompts):
        alone = score(model, [prompt], items)
        assert_close(together.answer_logprobs[index], alone.answer_logprobs[0])
        assert_close(backwards.answer_logprobs[-1 - index], alone.answer_logprobs[0])
        assert_close(residuals[index], capture(model, [prompt])[0])


def test_labels_only_orders_single_token_answers_as_probabilities_do() -> None:
    model, prompts = tiny_model("gpt2"), few_shot_prompts(ONE_TOKEN)
    items = [Intervention(direction(seed), 1, 2.0) for seed in range(4)]
    full, labels = score(model, prompts, items), score(model, prompts, items, labels_only=True)
    for a, b in zip(full.answer_logprobs, labels.answer_logprobs, strict=True):
        assert torch.equal(a.argmax(dim=1), b.argmax(dim=1))
        assert_close(a - a[:, :1], b - b[:, :1])
    assert (labels.first_token == -1).all()


@pytest.mark.parametrize("block", [7, 64, 2048])
def test_answers_are_compared_without_the_normaliser_of_their_first_token(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setitem(scores.BLOCK_TOKENS, "cpu", block)
    monkeypatch.setattr(scores, "UNEMBED_ROWS", 5)
    model = tiny_model("gemma2")
    items = [Intervention(direction(seed), seed % 3, 2.0 * seed, position="last") for seed in range(6)]
    greedy = score(model, few_shot_prompts(), items).first_token
    prompts = [
        replace(prompt, answers=tuple({(int(a),): 0, (int(b), 9): 0, **dict.fromkeys(ANSWERS, 0)}), gold=0, end=end)
        for prompt, a, b, end in zip(few_shot_prompts(), greedy[1], greedy[5], [(), (21, 22)] * 5, strict=True)
    ]
    prompts[3] = replace(prompts[3], answers=(), gold=-1)
    full, relative = score(model, prompts, items), score(model, prompts, items, normalised=False)
    shares = []
    for a, b, written, told in zip(
        full.answer_logprobs, relative.answer_logprobs, full.written, relative.written, strict=True
    ):
        assert_close(a - a[:, :1], b - b[:, :1])
        assert torch.equal(written.nan_to_num(nan=-1), told.nan_to_num(nan=-1))
        shares.append(told.nan_to_num(nan=0).max(dim=-1).values.mean() if told.shape[1] else None)
    assert any(share is not None and 0 < float(share) < 1 for share in shares)
    assert (relative.first_token == -1).all()
    assert not relative.overflowed.any()


def test_of_equal_logits_the_smaller_token_is_greedy() -> None:
    kernel = SimpleNamespace(
        d_vocab=5,
        unembed=lambda rows, tokens: torch.tensor([[1.0, 3.0, 2.0, 3.0, 0.0]])[:, tokens].repeat(len(rows), 1),
    )
    rows, own = torch.zeros(3, 1), torch.tensor([[3, -1], [1, -1], [3, 1]])
    best = torch.full((3,), 3.0), torch.tensor([3, 1, 1])
    assert scores.outdone(kernel, rows, own, best).tolist() == [True, False, False]  # type: ignore[arg-type]


def test_a_variant_of_strength_zero_is_the_unsteered_one_in_the_pass_too() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    items = [Intervention(direction(0), layer, 0.0) for layer in (0, 2)]
    with torch.inference_mode():
        tails = run_pass(row_model(model), build_batch(prompts), items).tails
    assert_close(tails[1], tails[0])
    assert_close(tails[2], tails[0])


def test_functions_of_rows_never_outlive_the_weights_they_were_made_from() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()
    before = capture(model, prompts)
    with torch.no_grad():
        model.blocks[1].mlp.W_out.mul_(1.5)
    fresh = copy.deepcopy(model)
    assert_close(capture(model, prompts), capture(fresh, prompts))
    assert not torch.allclose(capture(model, prompts)[:, 2], before[:, 2])
    model.to(torch.float64)
    assert model.W_E.dtype == torch.float64
    assert capture(model, prompts).dtype == torch.float32


def test_making_functions_of_rows_changes_no_value() -> None:
    model = tiny_model("qwen2")
    tokens = torch.tensor([few_shot_prompts()[0].tokens])
    values = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(tokens)
    row_model(model)
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert_close(model(tokens), expected)
    model.load_state_dict(values)
    assert_close(capture(model, few_shot_prompts()), capture(copy.deepcopy(model), few_shot_prompts()))


def test_hooks_that_are_attached_count() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()[:3]
    plain = score(model, prompts).answer_logprobs[0]

    def double(residual: Tensor, hook: Any) -> Tensor:
        return residual * 2

    model.add_hook("blocks.1.hook_resid_post", double)
    reason = unsupported(model)
    assert reason is not None
    assert "hook" in reason
    hooked = score(model, prompts).answer_logprobs[0]
    assert not torch.allclose(plain, hooked)
    model.reset_hooks()
    assert unsupported(model) is None
    assert_close(score(model, prompts).answer_logprobs[0], plain)


def test_a_steered_model_is_not_scored_but_still_captured() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()[:2]
    item = Intervention(direction(0), 1, 2.0)
    plain = capture(model, prompts)
    with steer(model, item):
        with pytest.raises(ValueError, match="pass the same interventions to score"):
            score(model, prompts)
        with pytest.raises(ValueError, match="inside steer"):
            answer(model, prompts, max_new_tokens=2)
        steered = capture(model, prompts)
    assert_close(steered[:, 1], plain[:, 1] + 2.0 * direction(0))
    assert_close(steered[:, 0], plain[:, 0])


def test_sweep_is_its_cells_one_by_one() -> None:
    from cast_lens.models import load_model

    model = load_model(tiny_hf_model("llama"), tokenizer=tiny_tokenizer())
    prompts = few_shot_prompts(ONE_TOKEN)
    layers = (0, 2)
    about = Provenance("tiny", fingerprint(model), "task")
    directions = torch.stack([direction(0), direction(1)])
    vectors = {"a": SteeringVector(directions, layers, about), "b": SteeringVector(-directions, layers, about)}
    found = sweep(model, prompts, vectors, strengths=(0.5, 2.0))
    frame = found.to_frame(source="s")
    assert list(frame["kind"].unique()) == ["unsteered", "a", "b"]
    assert len(frame) == 1 + 2 * 2 * 2
    for row in frame[frame["kind"] != "unsteered"].itertuples():
        item = vectors[str(row.kind)].intervention(int(row.layer), strength=float(row.strength))
        alone = score(model, prompts, [item]).to_frame()
        alone = alone[alone["layer"] >= 0]
        assert row.n == len(prompts)
        # Means over ten prompts of log-probabilities that agree to rounding
        assert row.gold_logprob == pytest.approx(alone["gold_logprob"].mean(), rel=1e-5)
        assert row.choice_correct == pytest.approx(alone["choice_correct"].astype(float).mean())
        assert row.choice_correct_low <= row.choice_correct <= row.choice_correct_high
    assert isinstance(frame, pd.DataFrame)
