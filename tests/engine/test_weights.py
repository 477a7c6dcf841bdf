"""The weights under the functions of rows stay the model's own: saved, copied, moved, trained and changed as before."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cast_lens.engine import capture, score
from cast_lens.engine.support import row_model
from tests.closeness import assert_close
from tests.engine.cases import few_shot_prompts
from tests.tiny import tiny_model

# Grouped and plain attention, with and without biases, and weights that are views of a fused matrix.
KINDS = ("llama", "qwen2", "gpt2", "neox")
TOKENS = torch.tensor([few_shot_prompts()[0].tokens])


@pytest.mark.parametrize("architecture", KINDS)
def test_the_model_itself_computes_the_same_bits(architecture: str) -> None:
    model, untouched = tiny_model(architecture), tiny_model(architecture)
    row_model(model)
    for name, value in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with torch.no_grad():
        assert torch.equal(model(TOKENS), untouched(TOKENS))


@pytest.mark.parametrize("architecture", KINDS)
def test_a_copy_is_independent(architecture: str) -> None:
    model = tiny_model(architecture)
    before = capture(model, few_shot_prompts())
    twin = copy.deepcopy(model)
    assert_close(capture(twin, few_shot_prompts()), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(capture(model, few_shot_prompts()), before)
    assert not capture(twin, few_shot_prompts()).any()


@pytest.mark.parametrize("architecture", KINDS)
def test_saved_weights_come_back(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture)
    before = capture(model, few_shot_prompts())
    torch.save(model.state_dict(), tmp_path / "model.pt")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    for state in (torch.load(tmp_path / "model.pt"), load_file(tmp_path / "model.safetensors")):
        other = tiny_model(architecture, seed=1)
        assert not torch.allclose(capture(other, few_shot_prompts()), before)
        other.load_state_dict(state)
        assert_close(capture(other, few_shot_prompts()), before)


def _in_place(model: Any) -> None:
    with torch.no_grad():
        model.blocks[0].attn.W_Q.mul_(1.5)


def _through_data(model: Any) -> None:
    """No version counter tells of this one."""
    for block in model.blocks:
        block.attn._W_K.data.mul_(1.5)
        block.attn.W_O.data.mul_(0.5)
        block.mlp.W_in.data.mul_(1.1)
        block.ln1.w.data.mul_(1.2)


def _first_bias(model: Any) -> None:
    """A bias that was zero, and left out of the arithmetic, no longer is."""
    for block in model.blocks:
        for bias in (block.attn.b_Q, block.attn._b_V, block.attn.b_O, block.mlp.b_in, block.mlp.b_out):
            bias.data.fill_(0.25)


def _replaced(model: Any) -> None:
    model.blocks[2].mlp.W_out = torch.nn.Parameter(model.blocks[2].mlp.W_out.detach() * 2)


def _loaded(model: Any) -> None:
    model.load_state_dict(tiny_model("llama", seed=3).state_dict())


@pytest.mark.parametrize("change", [_in_place, _through_data, _first_bias, _replaced, _loaded])
def test_a_change_of_weights_is_seen_however_it_is_made(change: Callable[[Any], None]) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()[:3]
    before = capture(model, prompts)
    change(model)
    after = capture(model, prompts)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([prompts[0].tokens]))
    expected = torch.stack([cache["resid_post", layer][0, -1] for layer in range(model.cfg.n_layers)])
    assert not torch.allclose(after, before, atol=1e-2)
    assert_close(after[0], expected)


def test_a_model_that_was_run_can_still_be_trained() -> None:
    """Parameters made inference tensors under the engine's feet could not."""
    model = tiny_model("qwen2")
    score(model, few_shot_prompts())
    model(TOKENS, return_type="loss").backward()
    gradient = model.blocks[1].attn.W_Q.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_a_model_moved_to_another_dtype_is_run_in_it() -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts()[:3]
    before = capture(model, prompts)
    model.to(torch.bfloat16, print_details=False)
    model.cfg.dtype = torch.bfloat16
    assert_close(capture(model, prompts), before, precision=torch.bfloat16)
    assert not torch.equal(capture(model, prompts), before)


def test_a_model_that_nobody_holds_is_freed() -> None:
    model = tiny_model("llama")
    capture(model, few_shot_prompts()[:2])
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
