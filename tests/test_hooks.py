"""Steering leaves no trace, meddles with no hook but its own, and does not fail silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from cast_lens.interventions import Intervention
from cast_lens.models import fingerprint
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import steer
from cast_lens.vectors import Provenance, SteeringVector
from tests.steered import LAYER, PROMPTS, direction, edit, model_of, no_trace, residuals
from tests.tiny import tiny_model


class TestHooks:
    def test_nothing_is_left(self) -> None:
        model = model_of()
        with steer(model, edit()):
            assert not no_trace(model)
            model(PROMPTS[0])
        assert no_trace(model)

    @pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
    def test_nothing_is_left_after_an_exception(self, error: BaseException) -> None:
        model = model_of()
        with pytest.raises(type(error)), steer(model, edit()), steer(model, edit(2)):
            raise error
        assert no_trace(model)

    @pytest.mark.parametrize("run", ["forward", "generate"])
    def test_nothing_is_left_after_an_exception_in_a_pass(self, run: str) -> None:
        model = model_of()

        def fail(tensor: Tensor, hook: Any) -> None:
            raise RuntimeError("mine")

        settings: Any = {"max_new_tokens": 2, "verbose": False} if run == "generate" else {}
        hooks: Any = [("blocks.2.hook_resid_post", fail)]
        with pytest.raises(RuntimeError, match="mine"), steer(model, edit()), model.hooks(fwd_hooks=hooks):
            getattr(model, run)(PROMPTS[0], **settings)
        assert no_trace(model)
        assert torch.equal(model(PROMPTS[0]), type(model).forward(model, PROMPTS[0], "logits"))

    def test_an_error_of_the_callers_own_is_not_covered_up(self) -> None:
        model = model_of()

        def run() -> None:
            model(PROMPTS[0], stop_at_layer=1)
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"), steer(model, edit()):
            run()

    def test_nothing_is_left_after_a_refusal(self) -> None:
        model = model_of()
        with pytest.raises(ValueError, match="is at layer 4"), steer(model, edit(), edit(4)):
            pass
        assert no_trace(model)

    def test_the_inner_exit_removes_the_inner_hook_only(self) -> None:
        model = model_of()
        plain = residuals(model, PROMPTS[0])[LAYER, 0, -1]
        with steer(model, edit()):
            with steer(model, edit(seed=1)):
                both = residuals(model, PROMPTS[0])[LAYER, 0, -1]
            outer = residuals(model, PROMPTS[0])[LAYER, 0, -1]
        assert torch.equal(both, plain + direction() + direction(1))
        assert torch.equal(outer, plain + direction())

    def test_contexts_may_end_in_any_order(self) -> None:
        model = model_of()
        plain = residuals(model, PROMPTS[0])[LAYER, 0, -1]
        first, second = steer(model, edit()), steer(model, edit(seed=1))
        first.__enter__()
        second.__enter__()
        model(PROMPTS[0])
        first.__exit__(None, None, None)
        assert torch.equal(residuals(model, PROMPTS[0])[LAYER, 0, -1], plain + direction(1))
        second.__exit__(None, None, None)
        assert no_trace(model)

    def test_hooks_of_others_stay(self) -> None:
        model = model_of()
        seen: list[str] = []
        model.add_hook(f"blocks.{LAYER}.hook_resid_post", lambda tensor, hook: seen.append("before"))
        with steer(model, edit()):
            model.add_hook(f"blocks.{LAYER}.hook_resid_post", lambda tensor, hook: seen.append("inside"))
            model(PROMPTS[0])
        model(PROMPTS[0])
        model.reset_hooks()
        assert seen == ["before", "inside", "before", "inside"]
        assert no_trace(model)

    def test_what_a_hook_before_it_kept_is_not_changed(self) -> None:
        model = model_of()
        plain = residuals(model, PROMPTS[0])[LAYER]
        kept: list[Tensor] = []
        model.add_hook(f"blocks.{LAYER}.hook_resid_post", lambda tensor, hook: kept.append(tensor))
        with steer(model, edit()):
            model(PROMPTS[0])
        model.reset_hooks()
        assert torch.equal(kept[0], plain)

    def test_a_forward_of_the_callers_own_comes_back(self) -> None:
        model = tiny_model("llama")
        own = model.forward
        model.forward = own  # type: ignore[method-assign]
        with steer(model, edit()):
            model(PROMPTS[0])
        assert vars(model)["forward"] is own

    def test_reset_hooks_inside_does_not_end_the_steering(self) -> None:
        model = model_of()
        with steer(model, edit()):
            expected = model(PROMPTS[0])
            model.reset_hooks()
            assert torch.equal(model(PROMPTS[0]), expected)
        assert no_trace(model)

    def test_two_models_do_not_meddle(self) -> None:
        one, other = model_of("llama"), model_of("gpt2")
        plain = other(PROMPTS[0])
        with steer(one, edit()):
            one(PROMPTS[0])
            assert torch.equal(other(PROMPTS[0]), plain)

    def test_an_empty_context_is_the_model(self) -> None:
        model = model_of()
        with steer(model):
            assert torch.equal(model(PROMPTS[0]), type(model).forward(model, PROMPTS[0], "logits"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("item", "message"),
        [
            (lambda: edit(4, name="antonym"), r"intervention 0 \(antonym\) is at layer 4.*layers 0 \.\.\. 3"),
            (lambda: Intervention(torch.ones(63), 0), r"direction of width 63.*residual stream is 64 wide"),
            (lambda: direction(), r"intervention 0 is a Tensor; .*vector\.intervention\(layer, strength="),
            (
                lambda: Intervention(direction(), 0, fingerprint="0123456789abcdef"),
                r"taken from another model.*0123456789abcdef",
            ),
        ],
    )
    def test_before_anything_runs(self, item: Callable[[], Any], message: str) -> None:
        model = model_of()
        with pytest.raises(ValueError, match=message), steer(model, item()):
            raise AssertionError("the context began")

    def test_a_vector_of_this_model_is_taken(self) -> None:
        model = model_of()
        origin = Provenance("tiny", fingerprint(model), "task")
        vector = SteeringVector(direction()[None], (LAYER,), origin)
        with steer(model, vector.intervention(LAYER)):
            model(PROMPTS[0])
        with (
            pytest.raises(ValueError, match="another model"),
            steer(tiny_model("llama", seed=1), vector.intervention(LAYER)),
        ):
            pass

    def test_train_mode(self) -> None:
        model = tiny_model("llama").train()
        with pytest.raises(ValueError, match=r"train mode.*model\.eval\(\)"), steer(model, edit()):
            pass

    def test_prompt_length(self) -> None:
        self._refuses("prompt_length=0 must be", lambda model: None, edit(), prompt_length=0)
        message = "2 entries, but the model was run on 1 rows"
        self._refuses(message, lambda model: model(PROMPTS[0]), edit(), prompt_length=[3, 3])

    def test_tokens_behind_a_cache_that_may_be_prompt_or_answer(self) -> None:
        tokens, cache = self._cached(5)
        message = r"tokens follow 5 cached ones.*prompt_length="
        self._refuses(message, lambda model: model(tokens[:, 5:], past_kv_cache=cache), edit())

    @pytest.mark.parametrize("stop_at_layer", [1, -3])
    def test_passes_that_stop_below_the_layer(self, stop_at_layer: int) -> None:
        message = r"ran 2 times, but the intervention at blocks\.1.*never edited.*stop_at_layer"
        self._refuses(
            message, lambda model: [model(prompt, stop_at_layer=stop_at_layer) for prompt in PROMPTS[:2]], edit()
        )

    def test_a_pass_that_begins_above_the_layer(self) -> None:
        residual = model_of()(PROMPTS[0], stop_at_layer=2)
        message = r"never edited a token.*start_at_layer"
        self._refuses(message, lambda model: model(residual, start_at_layer=2), edit())

    def test_a_prompt_that_ran_before_the_context(self) -> None:
        tokens, cache = self._cached(5)
        message = r"position 'prompt_last'\) never edited a token"
        item = edit(position="prompt_last")
        self._refuses(message, lambda model: model(tokens[:, 5:6], past_kv_cache=cache), item)

    def test_one_pass_that_reaches_the_layer_is_enough(self) -> None:
        model = model_of()
        with steer(model, edit()):
            model(PROMPTS[0], stop_at_layer=1)
            model(PROMPTS[0])

    def test_a_context_that_never_ran_the_model_is_fine(self) -> None:
        with steer(model_of(), edit()):
            pass

    def test_hooks_that_were_taken_away(self) -> None:
        def run(model: HookedTransformer) -> None:
            model.reset_hooks(including_permanent=True)
            model(PROMPTS[0])

        self._refuses(r"blocks\.1\.hook_resid_post ran 0 times in a forward pass, not 1", run, edit())

    def test_a_hook_that_runs_twice(self) -> None:
        def run(model: HookedTransformer) -> None:
            def again(tensor: Tensor, hook: Any) -> None:
                model.blocks[LAYER].hook_resid_post(tensor)

            model.run_with_hooks(PROMPTS[0], fwd_hooks=[("blocks.2.hook_resid_post", again)])

        self._refuses(r"blocks\.1\.hook_resid_post ran 2 times in a forward pass, not 1", run, edit())

    def test_a_block_by_itself(self) -> None:
        residual = model_of()(PROMPTS[0], stop_at_layer=LAYER)
        message = "ran outside a forward pass"
        self._refuses(message, lambda model: model.blocks[LAYER](residual), edit())
        self._refuses(message, lambda model: [model(PROMPTS[0]), model.blocks[LAYER](residual)], edit())

    def test_a_mask_of_another_shape(self) -> None:
        mask = torch.ones(1, 3)
        message = r"attention_mask has shape \(1, 3\)"
        self._refuses(message, lambda model: model(PROMPTS[0], attention_mask=mask), edit())

    @staticmethod
    def _refuses(
        message: str, run: Callable[[HookedTransformer], object], *items: Intervention, **options: Any
    ) -> None:
        model = model_of()
        with pytest.raises(ValueError, match=message), steer(model, *items, **options):
            run(model)
        assert no_trace(model)

    @staticmethod
    def _cached(count: int) -> tuple[Tensor, TransformerLensKeyValueCache]:
        """A prompt, and a cache of its first tokens."""
        model = model_of()
        tokens = model.to_tokens(PROMPTS[1])
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
        model(tokens[:, :count], past_kv_cache=cache)
        return tokens, cache
