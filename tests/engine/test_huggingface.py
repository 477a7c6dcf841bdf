"""Hugging Face decoders as they are: the engine on their own modules gives the numbers of hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from cast_lens.engine import TokenPrompt, answer_losses, capture, frozen, reference, score, unsupported
from cast_lens.engine.huggingface import HuggingFaceRows
from cast_lens.engine.support import row_model
from cast_lens.interventions import PromptVectors
from cast_lens.models.decoder import HookedDecoder, decoder_layers
from tests.architectures import small_config, small_model
from tests.closeness import assert_close
from tests.engine.cases import few_shot_prompts
from tests.engine.routes import compared
from tests.tiny import tiny_hf_model

# One for each thing that an architecture may do to attention, rows or logits; benchmarks/architectures.py runs all.
FAST = {
    "llama": "rotary",
    "gpt2": "learned positions, one fused projection",
    "opt": "positions with an offset",
    "gemma2": "soft caps of scores and logits, sliding windows, four norms",
    "gemma4_text": "heads that differ by layer, inputs of their own for each layer",
    "gpt_oss": "attention sinks, experts",
    "deepseek_v3": "latent attention: values narrower than keys",
    "granite": "scaled embeddings, residuals and logits",
    "gpt_neox": "attention and MLP side by side",
    "laguna": "numbers of heads that differ by layer",
    "llama4_text": "attention in chunks",
    "bert": "a decoder that was an encoder, a head with a layer of its own",
}
PLAIN = {
    "qwen3_5_text": "makes no use of transformers' attention interface",
    "mamba": "takes no position_ids",
    "bloom": "takes no position_ids",
    "zaya": "tokens meet outside the attention",
    "doge": "a mask of the model's own making",
    "diffllama": "attends 2 times",
}


def agree(model: HookedDecoder) -> None:
    for what, got, expected in compared(model):
        try:
            assert_close(got, expected)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None


@pytest.mark.parametrize("name", FAST)
def test_the_fast_route_equals_hooks(name: str) -> None:
    model = HookedDecoder(small_model(name))
    assert unsupported(model) is None
    agree(model)


@pytest.mark.parametrize("name", PLAIN)
def test_where_tokens_meet_elsewhere_hooks_are_used_and_the_reason_is_given(name: str) -> None:
    model = HookedDecoder(small_model(name))
    assert PLAIN[name] in str(unsupported(model))


def test_a_layer_that_counts_its_rows_for_positions_is_noticed() -> None:
    config = small_config("llama4_text")
    config.no_rope_layers = [1, 0, 1]
    model = HookedDecoder(AutoModelForCausalLM.from_config(config).eval())
    assert "counts its rows for their positions" in str(unsupported(model))


def test_the_plain_route_equals_hooks() -> None:
    agree(HookedDecoder(small_model("lfm2")))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_model_stays_as_it_was(architecture: str) -> None:
    hf_model, tokens = tiny_hf_model(architecture), torch.tensor([few_shot_prompts()[0].tokens])
    before = {name: (p.data_ptr(), p.detach().clone()) for name, p in hf_model.named_parameters()}
    with torch.no_grad():
        expected = hf_model(tokens).logits
    implementation = hf_model.config._attn_implementation
    score(HookedDecoder(hf_model), few_shot_prompts())
    assert hf_model.config._attn_implementation == implementation
    for name, parameter in hf_model.named_parameters():
        assert (parameter.data_ptr(), True) == (before[name][0], torch.equal(parameter, before[name][1]))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf_model.modules())
    assert not any("forward" in vars(module) for module in hf_model.modules())
    with torch.no_grad():
        assert torch.equal(hf_model(tokens).logits, expected)


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_gradients_of_prompt_vectors_equal_those_of_hooks(name: str) -> None:
    model = HookedDecoder(small_model(name))
    prompts = [TokenPrompt(p.tokens, ((11, 12, 13),), 0) for p in few_shot_prompts()[::3]]
    found = []
    for fast in (True, False):
        vectors = torch.randn(len(prompts), 2, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        steering = PromptVectors(vectors, (0, 1), 0.7)
        with frozen(model):
            if fast:
                losses = answer_losses(model, prompts, steering)
            else:
                each = [reference.answer_loss(model, p, steering.of([i])) for i, p in enumerate(prompts)]
                losses = torch.stack(each)
            losses.sum().backward()
        assert vectors.grad is not None
        found.append((losses.detach(), vectors.grad))
    assert_close(found[0][0], found[1][0])
    # Back and forth there are twice as many sums, as for ``HookedTransformer``.
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-4 * float(found[1][1].abs().max()))


def test_both_implementations_give_the_same_numbers() -> None:
    from cast_lens.models import load_model

    hf_model = tiny_hf_model("gemma3")
    one, other = load_model(hf_model), HookedDecoder(hf_model)
    assert isinstance(row_model(other), HuggingFaceRows)
    assert_close(capture(other, few_shot_prompts()), capture(one, few_shot_prompts()))


class _Leak(nn.Module):
    """A layer after which each token holds a little of the one before it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        out: Tensor = self.layer(hidden_states, **kwargs)
        return out + 0.01 * out.roll(1, dims=1)


class _Counting(nn.Module):
    """A layer that takes the number of a row for its position; only texts of many tokens show it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        far = torch.arange(hidden_states.shape[1]) // 8192
        out: Tensor = self.layer(hidden_states * (1.0 + far[None, :, None]), **kwargs)
        return out


@pytest.mark.parametrize(("wrapper", "reason"), [(_Leak, "tokens meet outside"), (_Counting, "counts its rows")])
def test_what_a_layer_does_behind_the_attention_is_noticed(wrapper: type[Any], reason: str) -> None:
    hf_model = tiny_hf_model("llama")
    layers = decoder_layers(hf_model)
    layers[2] = wrapper(layers[2])
    assert reason in str(unsupported(HookedDecoder(hf_model)))


def test_rotary_angles_that_depend_on_the_longest_text_are_noticed() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 64,
    }
    model = HookedDecoder(tiny_hf_model("phi3", rope_parameters=rope, original_max_position_embeddings=64))
    assert "depends on other tokens" in str(unsupported(model))


def test_hooks_send_a_decoder_to_the_plain_route() -> None:
    model = HookedDecoder(tiny_hf_model("llama"))
    model.add_hook("blocks.1.hook_resid_post", lambda tensor, hook: tensor + 1)
    assert "hooks are attached" in str(unsupported(model))
    model.reset_hooks()
    assert unsupported(model) is None


def test_what_is_no_residual_stream_is_refused() -> None:
    model = HookedDecoder(small_model("gemma3n_text"))
    with pytest.raises(ValueError, match="no one residual stream"):
        capture(model, few_shot_prompts()[:1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs_on_rows(dtype: torch.dtype) -> None:
    model, exact = (HookedDecoder(tiny_hf_model("llama", dtype=kind)) for kind in (dtype, torch.float32))
    assert unsupported(model) is None
    got, expected = (score(m, few_shot_prompts()[:2], keep_logits=True).logits for m in (model, exact))
    assert got is not None
    assert expected is not None
    assert float((got - expected).norm() / expected.norm()) < 0.1
