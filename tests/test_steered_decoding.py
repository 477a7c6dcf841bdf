"""Steered decoding against a loop with plain hooks: cached or not, batched or not, by any route."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from cast_lens.interventions import OPERATORS, POSITIONS, Intervention
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import generate, steer
from tests.steered import (
    ARCHITECTURES,
    LAYER,
    NEW,
    PROMPTS,
    close,
    direction,
    edit,
    model_of,
    oracle,
    oracle_hooks,
    residuals,
    tokenizer_of,
)
from tests.tiny import tiny_model


class TestDecoding:
    @pytest.mark.parametrize("operator", OPERATORS)
    @pytest.mark.parametrize("position", POSITIONS)
    def test_generate_equals_the_loop_with_plain_hooks(self, position: Any, operator: Any) -> None:
        model = model_of()
        items = [edit(position=position, operator=operator), edit(2, 0.7, seed=1, position=position)]
        expected = [oracle(model, prompt, items) for prompt in PROMPTS]
        for use_cache in (True, False):
            assert self._generate(model, PROMPTS, items, use_cache) == expected
        assert [self._generate(model, [prompt], items, True)[0] for prompt in PROMPTS] == expected

    @pytest.mark.parametrize("position", POSITIONS)
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_on_every_architecture(self, architecture: str, position: Any) -> None:
        model = model_of(architecture, bos=True)
        items = [edit(position=position)]
        expected = [oracle(model, prompt, items) for prompt in PROMPTS]
        for use_cache in (True, False):
            assert self._generate(model, PROMPTS, items, use_cache) == expected

    @staticmethod
    def _generate(
        model: HookedTransformer, prompts: list[str], items: Sequence[Intervention], use_cache: bool
    ) -> list[list[int]]:
        width = model.to_tokens(prompts, padding_side="left").shape[1]
        with steer(model, *items):
            out: Any = model.generate(
                prompts,
                max_new_tokens=NEW,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=use_cache,
                return_type="tokens",
                verbose=False,
            )
        return out[:, width:].tolist()

    def test_every_position_and_none_write_something_else(self) -> None:
        model = model_of()
        edits = [[], *([edit(position=position)] for position in POSITIONS)]
        texts = {str([oracle(model, prompt, items) for prompt in PROMPTS]) for items in edits}
        assert len(texts) == 1 + len(POSITIONS)

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("position", POSITIONS)
    def test_token_and_embedding_input(self, position: Any, use_cache: bool) -> None:
        model = model_of()
        tokens, item = model.to_tokens(PROMPTS[0]), edit(position=position)
        settings: Any = dict(
            max_new_tokens=NEW, do_sample=False, stop_at_eos=False, use_past_kv_cache=use_cache, verbose=False
        )
        with steer(model, item):
            from_tokens: Any = model.generate(tokens, **settings)
            from_embeds: Any = model.generate(model.embed(tokens), return_type="tokens", **settings)
        assert from_tokens[0, tokens.shape[1] :].tolist() == oracle(model, PROMPTS[0], [item])
        assert from_embeds[0].tolist() == oracle(model, PROMPTS[0], [item])

    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("position", POSITIONS)
    def test_generate_stream(self, position: Any, use_cache: bool) -> None:
        model = model_of()
        expected = oracle(model, PROMPTS[0], [edit(position=position)])
        tokens = model.to_tokens(PROMPTS[0])
        probe = residuals(model, PROMPTS[2])
        pieces: list[Any] = []
        with steer(model, edit(position=position)):
            stream = model.generate_stream(
                tokens,
                max_new_tokens=NEW,
                max_tokens_per_yield=1,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=use_cache,
                return_type="tokens",
                verbose=False,
            )
            for piece in stream:
                pieces.append(piece)
                # A prompt of its own between two steps.
                between = residuals(model, PROMPTS[2])
                assert torch.equal(between[LAYER, :, -1], probe[LAYER, :, -1] + direction())
        assert torch.cat(pieces, dim=1)[0, tokens.shape[1] :].tolist() == expected

    @pytest.mark.parametrize("position", POSITIONS)
    def test_by_hand_with_a_cache(self, position: Any) -> None:
        model = model_of()
        tokens = model.to_tokens(PROMPTS[1])
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
        written: list[int] = []
        with torch.no_grad(), steer(model, edit(position=position)):
            for _ in range(NEW):
                logits = model(tokens, past_kv_cache=cache)
                tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
                written.append(int(tokens))
        assert written == oracle(model, PROMPTS[1], [edit(position=position)])

    @pytest.mark.parametrize("position", POSITIONS)
    def test_by_hand_without_a_cache(self, position: Any) -> None:
        model = model_of()
        tokens = model.to_tokens(PROMPTS[1])
        length = tokens.shape[1]
        with torch.no_grad(), steer(model, edit(position=position), prompt_length=length):
            for _ in range(NEW):
                tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
        assert tokens[0, length:].tolist() == oracle(model, PROMPTS[1], [edit(position=position)])

    @pytest.mark.parametrize("side", ["left", "right"])
    @pytest.mark.parametrize("position", POSITIONS)
    def test_prompts_and_answers_in_one_pass(self, position: Any, side: Any) -> None:
        model = model_of("gpt2")
        item = edit(position=position)
        lengths = [model.to_tokens(prompt).shape[1] for prompt in PROMPTS]
        texts = [prompt + answer for prompt, answer in zip(PROMPTS, (" Paris", " (b)", " cold yes no"), strict=True)]
        with steer(model, item, prompt_length=lengths):
            together = model(texts, padding_side=side)
        for row, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            expected = model.run_with_hooks(text, fwd_hooks=oracle_hooks([item], length))[0]
            width = expected.shape[0]
            close(together[row, -width:] if side == "left" else together[row, :width], expected)

    @pytest.mark.parametrize("position", POSITIONS)
    def test_prompts_behind_a_shared_prefix(self, position: Any) -> None:
        model = model_of()
        tokens = model.to_tokens(PROMPTS[1])
        expected = model.run_with_hooks(tokens, fwd_hooks=oracle_hooks([edit(position=position)], tokens.shape[1]))
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
        with torch.no_grad(), steer(model, edit(position=position), prompt_length=tokens.shape[1]):
            model(tokens[:, :5], past_kv_cache=cache)
            cache.freeze()
            for _ in range(2):
                close(model(tokens[:, 5:], past_kv_cache=cache), expected[:, 5:])

    @pytest.mark.parametrize("position", POSITIONS)
    def test_in_two_halves_with_a_cache(self, position: Any) -> None:
        model = model_of()
        tokens = model.to_tokens(PROMPTS[1])
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
        written: list[int] = []
        with torch.no_grad(), steer(model, edit(position=position), edit(3, seed=1, position=position)):
            for _ in range(NEW):
                below = model(tokens, stop_at_layer=2, past_kv_cache=cache)
                mask = cache.previous_attention_mask
                logits = model(below, start_at_layer=2, past_kv_cache=cache, attention_mask=mask)
                tokens = logits[:, -1].argmax(dim=-1, keepdim=True)
                written.append(int(tokens))
        items = [edit(position=position), edit(3, seed=1, position=position)]
        assert written == oracle(model, PROMPTS[1], items)


class TestGenerate:
    @pytest.mark.parametrize("use_cache", [True, False])
    @pytest.mark.parametrize("bos", [True, False])
    def test_it_equals_the_loop_with_plain_hooks(self, bos: bool, use_cache: bool) -> None:
        model = model_of("neox", bos=bos)
        items = [edit(), edit(2, seed=1, position="prompt_last")]
        decode: Any = tokenizer_of(model).decode
        for interventions in (items, []):
            expected = [decode(oracle(model, prompt, interventions)) for prompt in PROMPTS]
            got = generate(
                model, PROMPTS, interventions=interventions, max_new_tokens=NEW, stop=None, use_cache=use_cache
            )
            assert got == expected
            assert generate(
                model, PROMPTS[0], interventions=interventions, max_new_tokens=NEW, stop=None, use_cache=use_cache
            ) == [expected[0]]

    def test_answers_end_at_stop_and_at_end_of_text(self) -> None:
        model = model_of()
        whole = generate(model, PROMPTS, max_new_tokens=NEW, stop=None)
        stop = whole[1][2:4]
        expected = [text.split(stop)[0] for text in whole]
        assert generate(model, PROMPTS, max_new_tokens=NEW, stop=stop) == expected
        assert expected != whole
        # The model that can only write end-of-text writes nothing.
        quiet = tiny_model("gpt2")
        with torch.no_grad():
            quiet.unembed.W_U.zero_()
            quiet.unembed.b_U[tokenizer_of(quiet).eos_token_id] = 1.0
        passes: list[int] = []
        with quiet.hooks(fwd_hooks=[("hook_embed", lambda tensor, hook: passes.append(1))]):
            assert generate(quiet, PROMPTS, max_new_tokens=NEW, stop=None) == ["", "", ""]
        assert len(passes) == 1

    def test_a_row_that_ended_writes_nothing_while_others_go_on(self) -> None:
        model = tiny_model("llama")
        tokenizer = tokenizer_of(model)
        rows = [oracle(model, prompt, []) for prompt in PROMPTS]
        end = next(token for token in rows[0] if all(token not in row for row in rows[1:]))
        before = rows[0].index(end)
        assert before < NEW - 1
        vars(model)["generation_config"] = SimpleNamespace(eos_token_id=end)
        expected = [tokenizer.decode(rows[0][:before]), *map(tokenizer.decode, rows[1:])]
        assert generate(model, PROMPTS, max_new_tokens=NEW, stop=None) == expected

    def test_refusals(self) -> None:
        model = model_of()
        with pytest.raises(ValueError, match="stop is empty"):
            generate(model, PROMPTS, stop="")
        with pytest.raises(ValueError, match="prompts is empty"):
            generate(model, [])
        with pytest.raises(ValueError, match="more than the model's context of 512"):
            generate(model, "five " * 600)
