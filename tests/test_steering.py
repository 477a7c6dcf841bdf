"""Steering against closed forms and plain hooks, in every way to run a forward pass, padded or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cast_lens.interventions import OPERATORS, POSITIONS, Intervention
from cast_lens.models import fingerprint
from cast_lens.models.lens import HookedTransformer
from cast_lens.placebos import zero
from cast_lens.steering import steer
from cast_lens.vectors import Provenance, SteeringVector
from tests.steered import (
    ARCHITECTURES,
    LAYER,
    PROMPTS,
    close,
    direction,
    edit,
    model_of,
    no_trace,
    oracle_hooks,
    residuals,
    tokenizer_of,
)
from tests.tiny import tiny_model
from tests.toy import jacobian, toy_model


class TestClosedForm:
    """On the linear toy every figure is exact."""

    tokens = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

    @pytest.mark.parametrize("position", POSITIONS)
    @pytest.mark.parametrize("layer", range(4))
    def test_strength_times_v_there_and_its_image_later(self, layer: int, position: Any) -> None:
        toy = toy_model()
        v = torch.randint(-4, 5, (8,), generator=torch.Generator().manual_seed(layer)).float()
        plain = residuals(toy, self.tokens)
        with steer(toy, Intervention(v, layer, 3.0, position=position)):
            steered = residuals(toy, self.tokens)
        where = slice(None) if position == "all" else slice(-1, None)
        for later in range(4):
            expected = torch.zeros_like(plain[later])
            if later >= layer:
                expected[:, where] = 3.0 * v @ jacobian(toy, layer, later)
            assert torch.equal(steered[later] - plain[later], expected)

    def test_the_toy_mixes_directions_but_not_tokens(self) -> None:
        toy = toy_model()
        assert not torch.equal(jacobian(toy, 0, 3), torch.eye(8))
        one, other = residuals(toy, self.tokens[:1]), residuals(toy, self.tokens[:1, [0, 1, 2, 4, 4]])
        assert torch.equal(one[:, :, -1], other[:, :, -1])

    def test_layers_add_up(self) -> None:
        toy = toy_model()
        a, b = torch.arange(8.0), torch.arange(8.0).flip(0)
        plain = residuals(toy, self.tokens)
        with steer(toy, Intervention(a, 0, 2.0), Intervention(b, 2, -1.0)):
            steered = residuals(toy, self.tokens)
        assert torch.equal((steered - plain)[3, 0, -1], 2 * a @ jacobian(toy, 0, 3) - b @ jacobian(toy, 2, 3))

    def test_one_layer_composes_in_the_order_given(self) -> None:
        toy = toy_model()
        add, put = Intervention(torch.ones(8), 1, 5.0), Intervention(torch.arange(8.0), 1, 1.0, "replace")
        for order, expected in (((put, add), torch.arange(8.0) + 5), ((add, put), torch.arange(8.0))):
            with steer(toy, *order):
                assert torch.equal(residuals(toy, self.tokens)[1, 0, -1], expected)
            with steer(toy, order[0]), steer(toy, order[1]):
                assert torch.equal(residuals(toy, self.tokens)[1, 0, -1], expected)


class TestLaws:
    @pytest.mark.parametrize("operator", OPERATORS)
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_strength_zero_is_the_model(self, architecture: str, operator: Any) -> None:
        model = model_of(architecture)
        tokens = model.to_tokens(PROMPTS, padding_side="left")
        for position in POSITIONS:
            with steer(model, edit(strength=0.0, operator=operator, position=position)):
                steered = model(tokens, padding_side="left")
            assert torch.equal(steered, model(tokens, padding_side="left"))

    def test_a_zero_vector_is_the_model(self) -> None:
        model = model_of()
        vector = SteeringVector(direction()[None], (LAYER,), Provenance("tiny", fingerprint(model), "task"))
        with steer(model, zero(vector).intervention(LAYER, strength=5.0)):
            steered = model(PROMPTS[0])
        assert torch.equal(steered, model(PROMPTS[0]))

    @pytest.mark.parametrize("position", POSITIONS)
    def test_plus_then_minus_restores(self, position: Any) -> None:
        model = model_of()
        with steer(model, edit(position=position), edit(strength=-1.0, position=position)):
            restored = model(PROMPTS[1])
        close(restored, model(PROMPTS[1]))

    @pytest.mark.parametrize("position", ["last", "prompt_last"])
    @pytest.mark.parametrize("operator", OPERATORS)
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_only_the_last_token_from_its_layer_on(self, architecture: str, operator: Any, position: Any) -> None:
        model = model_of(architecture)
        plain = residuals(model, PROMPTS[1])
        with steer(model, edit(2, 0.5, operator=operator, position=position)):
            steered = residuals(model, PROMPTS[1])
        assert torch.equal(steered[:2], plain[:2])
        assert torch.equal(steered[2:, :, :-1], plain[2:, :, :-1])
        expected = Intervention(direction(), 2, 0.5, operator)(plain[2, :, -1])
        assert torch.equal(steered[2, :, -1], expected)
        assert not torch.allclose(steered[3, :, -1], plain[3, :, -1])

    def test_the_model_and_the_direction_are_left_alone(self) -> None:
        model = model_of()
        item = edit()
        kept, before = item.direction.clone(), fingerprint(model)
        plain = model(PROMPTS[0])
        with steer(model, item):
            steered = model(PROMPTS[0])
        assert not torch.equal(steered, plain)
        assert torch.equal(model(PROMPTS[0]), plain)
        assert torch.equal(item.direction, kept)
        assert fingerprint(model) == before

    def test_half_precision_stays_half_precision(self) -> None:
        model = tiny_model("llama", dtype=torch.bfloat16)
        for operator in OPERATORS:
            with steer(model, edit(operator=operator)):
                assert residuals(model, PROMPTS[0]).dtype == torch.bfloat16

    def test_gradients_reach_the_direction(self) -> None:
        model = model_of()
        learned = direction().requires_grad_(True)
        with steer(model, Intervention(learned, LAYER)):
            model(PROMPTS[0], return_type="loss").backward()
        assert learned.grad is not None
        assert float(learned.grad.norm()) == 0.0
        with steer(model, Intervention(learned, LAYER, position="all")):
            model(PROMPTS[0], return_type="loss").backward()
        assert float(learned.grad.norm()) > 0.0
        model.zero_grad()


class TestWaysToRun:
    @pytest.mark.parametrize("position", POSITIONS)
    def test_every_call_is_steered_alike(self, position: Any) -> None:
        model = model_of(bos=True)
        prompt, tokens = PROMPTS[1], model.to_tokens(PROMPTS[1])
        hooks = oracle_hooks([edit(position=position)], tokens.shape[1])
        expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert not torch.allclose(expected[:, -1], model(tokens)[:, -1])
        with steer(model, edit(position=position)) as same:
            assert same is model
            ways = {
                "text": model(prompt),
                "list": model([prompt]),
                "tokens": model(tokens),
                "flat tokens": model(tokens[0]),
                "keyword": model(input=tokens),
                "forward": model.forward(tokens, "logits"),
                "run_with_hooks": model.run_with_hooks(prompt, fwd_hooks=[]),
                "run_with_cache": model.run_with_cache(prompt)[0],
                "both": model(prompt, return_type="both")[0],
                "mask": model(tokens, attention_mask=torch.ones_like(tokens)),
                "hooks context": self._inside_hooks(model, tokens),
            }
            loss = model(prompt, return_type="loss")
        for name, logits in ways.items():
            assert torch.equal(logits, expected), name
        assert torch.equal(loss, model.loss_fn(expected, tokens))

    @staticmethod
    def _inside_hooks(model: HookedTransformer, tokens: Tensor) -> Tensor:
        with model.hooks(fwd_hooks=[]):
            return model(tokens)

    def test_text_keeps_its_options(self) -> None:
        model = model_of(bos=True)
        with steer(model, edit()):
            with_bos, without = model(PROMPTS[0]), model(PROMPTS[0], prepend_bos=False)
            expected = model(model.to_tokens(PROMPTS[0], prepend_bos=False))
        assert with_bos.shape[1] == without.shape[1] + 1
        assert torch.equal(without, expected)

    def test_a_cached_residual_is_the_steered_one(self) -> None:
        model = model_of()
        plain = residuals(model, PROMPTS[0])[LAYER, :, -1]
        with steer(model, edit(strength=2.0)):
            steered = residuals(model, PROMPTS[0])[LAYER, :, -1]
        assert torch.equal(steered, plain + 2.0 * direction())

    @pytest.mark.parametrize("position", POSITIONS)
    def test_re_entry_at_a_layer(self, position: Any) -> None:
        model = model_of("gpt2")
        tokens = model.to_tokens(PROMPTS, padding_side="right")
        mask = (tokens != tokenizer_of(model).pad_token_id).int()
        with steer(model, edit(2, position=position)):
            expected = model(tokens, attention_mask=mask)
            below = model(tokens, attention_mask=mask, stop_at_layer=1)
            again = model(below, start_at_layer=1, attention_mask=mask)
            told = model(below, start_at_layer=1, tokens=tokens, padding_side="right")
            above = model(tokens, attention_mask=mask, stop_at_layer=-1)
            last = model(above, start_at_layer=-1, attention_mask=mask)
        for got in (again, last):
            close(got[mask.bool()], expected[mask.bool()])
        close(told[mask.bool()], expected[mask.bool()])


class TestPadding:
    @pytest.mark.parametrize("position", POSITIONS)
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_either_side_equals_one_by_one(self, architecture: str, position: Any) -> None:
        model = model_of(architecture)
        items = (edit(position=position), edit(2, 0.5, seed=1, operator="ablate", position=position))
        with steer(model, *items):
            alone = [model(prompt)[0, -1] for prompt in PROMPTS]
            lengths = [model.to_tokens(prompt).shape[1] for prompt in PROMPTS]
            left = model(PROMPTS, padding_side="left")
            right = model(PROMPTS, padding_side="right")
            tokens = model.to_tokens(PROMPTS, padding_side="right")
            mask = torch.tensor([[int(column < length) for column in range(tokens.shape[1])] for length in lengths])
            masked = model(tokens, attention_mask=mask)
        for row, length in enumerate(lengths):
            close(left[row, -1], alone[row])
            close(right[row, length - 1], alone[row])
            close(masked[row, length - 1], alone[row])

    def test_the_batch_is_really_padded(self) -> None:
        tokens = model_of().to_tokens(PROMPTS, padding_side="left")
        assert (tokens == tokenizer_of(model_of()).pad_token_id).sum(dim=1).tolist()[1] == 0
        assert int((tokens == tokenizer_of(model_of()).pad_token_id).sum()) > 10

    def test_without_a_tokenizer_the_mask_tells(self) -> None:
        toy = toy_model()
        tokens, mask = (torch.tensor([[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]), torch.tensor([[1] * 3 + [0] * 2, [1] * 5]))
        plain = residuals(toy, tokens, attention_mask=mask)
        with steer(toy, Intervention(torch.ones(8), 0)):
            steered = residuals(toy, tokens, attention_mask=mask)
        assert (steered - plain)[0].abs().sum(dim=-1).nonzero().tolist() == [[0, 2], [1, 4]]

    def test_a_prompt_of_pad_tokens_alone_has_a_last_token(self) -> None:
        model = model_of()
        tokens = torch.full((1, 3), tokenizer_of(model).pad_token_id)
        plain = residuals(model, tokens, padding_side="right")
        with steer(model, edit()):
            steered = residuals(model, tokens, padding_side="right")
        assert torch.equal(steered[LAYER, :, -1], plain[LAYER, :, -1] + direction())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_model_is_steered_as_its_original() -> None:
    """Nothing is compiled here: that takes place at the first call outside of the context."""
    model = model_of()
    compiled: Any = torch.compile(model)
    before = vars(compiled)["forward"]
    assert fingerprint(compiled) == fingerprint(model)
    with steer(model, edit()):
        expected = model(PROMPTS[0])
    with steer(compiled, edit()) as steered, steer(compiled, edit(strength=0.0)):
        assert steered is compiled
        assert torch.equal(compiled(PROMPTS[0]), expected)
        assert compiled.generate(PROMPTS[0], max_new_tokens=2, verbose=False)
    assert vars(compiled)["forward"] is before
    assert no_trace(model)
