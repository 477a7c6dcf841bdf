"""The small transformer against Llama of transformers, and LoRA and prefix against peft on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from studies.expressivity.adapters import LoRA, Prefix
from studies.expressivity.tests.small import SMALL, randomised, small_model
from studies.expressivity.transformer import Unmodified
from tests.closeness import assert_close

# peft reads an old name of transformers.
DEPRECATED = "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
TOKENS = torch.randint(SMALL.vocab, (3, 7), generator=torch.Generator().manual_seed(3))


def llama() -> LlamaForCausalLM:
    """The same weights in transformers."""
    model = small_model()
    config = LlamaConfig(
        vocab_size=SMALL.vocab,
        hidden_size=SMALL.d_model,
        intermediate_size=SMALL.d_mlp,
        num_hidden_layers=SMALL.layers,
        num_attention_heads=SMALL.heads,
        max_position_embeddings=64,
    )
    found = LlamaForCausalLM(config).eval()
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
    weights = {"model.embed_tokens.weight": model.embed, "lm_head.weight": model.unembed}
    weights["model.norm.weight"] = torch.ones(SMALL.d_model)
    for layer in range(SMALL.layers):
        path = f"model.layers.{layer}"
        weights |= {f"{path}.self_attn.{name}.weight": getattr(model, own)[layer] for name, own in names.items()}
        weights |= {f"{path}.mlp.{name}_proj.weight": getattr(model, name)[layer] for name in ("gate", "up", "down")}
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{path}.{name}.weight"] = torch.ones(SMALL.d_model)
    found.load_state_dict(weights)
    return found


@torch.no_grad()
def logprobs(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    return found.log_softmax(dim=-1)


def test_blocks_are_those_of_llama() -> None:
    assert_close(small_model().logprobs(TOKENS, Unmodified()), logprobs(llama()))


@pytest.mark.filterwarnings(DEPRECATED)
def test_lora_is_that_of_peft() -> None:
    peft = pytest.importorskip("peft")
    adapter = randomised(LoRA.start(SMALL, 3, torch.Generator()))
    assert isinstance(adapter, LoRA)
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    other = peft.get_peft_model(llama(), config).eval()
    parameters = dict(other.named_parameters())
    for layer in range(SMALL.layers):
        for place, name in enumerate(("q_proj", "v_proj")):
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            parameters[f"{path}.lora_A.default.weight"].data.copy_(adapter.down[layer, place])
            parameters[f"{path}.lora_B.default.weight"].data.copy_(adapter.up[layer, place])
    assert other.get_nb_trainable_parameters()[0] == adapter.parameters
    assert_close(small_model().logprobs(TOKENS, adapter), logprobs(other))


@pytest.mark.filterwarnings(DEPRECATED)
def test_prefix_is_that_of_peft() -> None:
    peft = pytest.importorskip("peft")
    adapter = randomised(Prefix.start(SMALL, 3, torch.Generator()))
    assert isinstance(adapter, Prefix)
    other = peft.get_peft_model(llama(), peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")).eval()
    stacked = torch.stack([adapter.keys, adapter.values], dim=1)
    other.prompt_encoder.default.embedding.weight.data.copy_(stacked.permute(2, 0, 1, 3).flatten(1))
    assert other.get_nb_trainable_parameters()[0] == adapter.parameters
    assert_close(small_model().logprobs(TOKENS, adapter), logprobs(other))


def test_no_position_sees_a_later_token() -> None:
    changed = TOKENS.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % SMALL.vocab
    adapter = randomised(Prefix.start(SMALL, 2, torch.Generator()))
    before, after = (small_model().logprobs(tokens, adapter) for tokens in (TOKENS, changed))
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=0.1)


def test_attention_is_far_from_uniform() -> None:
    model = small_model()
    x = torch.nn.functional.rms_norm(model.embed[TOKENS], (SMALL.d_model,))
    q, k = (model._turned(x @ weight[0].T, 0)[:, :, -1:] for weight in (model.query, model.key))
    keys = model._turned(x @ model.key[0].T, 0)
    assert k.shape == q.shape
    shares = (q @ keys.transpose(2, 3) / (SMALL.d_model // SMALL.heads) ** 0.5).softmax(dim=-1)
    # Uniform over seven positions would be 0.14.
    assert float(shares.max(dim=-1).values.mean()) > 0.4
