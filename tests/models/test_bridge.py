"""A ``TransformerBridge`` is adopted with the weights that it holds, and its traps are none of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedModel

from cast_lens.engine import capture, score, unsupported
from cast_lens.interventions import Intervention
from cast_lens.models import HookedDecoder, fingerprint, load_model
from cast_lens.steering import generate
from tests.closeness import assert_close
from tests.tiny import tiny_hf_model, tiny_tokenizer

PROMPTS = ["the capital of France is", "a warm and funny film. Sentiment:", "no"]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    # From a folder, for a bridge makes a tokenizer of its own from where the given one came from.
    tiny_tokenizer().save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def bridge_of(architecture: str, tokenizer: Any) -> tuple[Any, PreTrainedModel]:
    """A bridge, and the same model beside it, which the bridge has not taken apart."""
    hf_model = tiny_hf_model(architecture)
    hf_model.config.architectures = [type(hf_model).__name__]
    made = TransformerBridge.boot_transformers(hf_model.config.model_type, hf_model=hf_model, tokenizer=tokenizer)
    return made, tiny_hf_model(architecture)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mixtral", "opt"])
def test_what_a_bridge_holds_gives_the_models_own_numbers(architecture: str, tokenizer: Any) -> None:
    bridge, alone = bridge_of(architecture, tokenizer)
    held = {parameter.data_ptr() for parameter in bridge.original_model.parameters()}
    model = load_model(bridge)
    assert isinstance(model, HookedDecoder)
    assert unsupported(model) is None
    assert {parameter.data_ptr() for parameter in model.hf_model.parameters()} <= held
    expected = load_model(alone, tokenizer=tiny_tokenizer(), implementation="transformers")
    assert fingerprint(model) == fingerprint(expected) == fingerprint(load_model(alone, tokenizer=tiny_tokenizer()))
    item = Intervention(torch.linspace(-1, 1, 64), 1, 3.0)
    got, right = (score(one, PROMPTS, [item], keep_logits=True).logits for one in (model, expected))
    assert got is not None
    assert right is not None
    assert_close(got, right)
    assert_close(capture(model, PROMPTS), capture(expected, PROMPTS))
    written = [generate(one, PROMPTS, interventions=item, max_new_tokens=4, stop=None) for one in (model, expected)]
    assert written[0] == written[1]


def test_the_bridge_stays_usable_and_hooks_on_one_do_not_reach_the_other(tokenizer: Any) -> None:
    bridge, alone = bridge_of("llama", tokenizer)
    tokens = torch.tensor([[5, 6, 7, 8]])
    model = load_model(bridge)
    with torch.no_grad():
        expected = alone(tokens).logits
        model.add_hook("blocks.1.hook_resid_post", lambda tensor, hook: tensor + 1)
        assert_close(bridge(tokens), expected)
        assert not torch.allclose(model(tokens), expected)
        model.reset_hooks()
        bridge.add_hook("blocks.1.hook_out", lambda tensor, hook: tensor + 1)
        assert_close(model(tokens), expected)


def test_bos_is_what_the_tokenizer_adds_not_what_the_bridge_assumes(tokenizer: Any) -> None:
    bridge, _ = bridge_of("llama", tokenizer)
    assert bridge.cfg.default_prepend_bos
    model = load_model(bridge, tokenizer=tokenizer)
    assert not model.cfg.default_prepend_bos
    assert model.to_tokens("no").tolist() == [tokenizer("no")["input_ids"]]


def test_processed_weights_and_hooks_are_refused(tokenizer: Any) -> None:
    bridge, _ = bridge_of("llama", tokenizer)
    bridge.add_hook("blocks.1.hook_out", lambda tensor, hook: tensor + 1)
    with pytest.raises(ValueError, match="hooks are attached to the bridge"):
        load_model(bridge)
    bridge.reset_hooks()
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ValueError, match="weights are processed"):
        load_model(bridge)
