"""Whatever the fast path does not know is noticed, and the answer is right all the same."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cast_lens.engine import TokenPrompt, capture, reference, score, unsupported
from cast_lens.models.lens import HookedTransformer
from tests.closeness import assert_close
from tests.engine.cases import few_shot_prompts
from tests.tiny import tiny_model
from tests.toy import toy_model

pytest.importorskip(
    "transformer_lens.components", reason="TransformerLens 4 has no HookedTransformer", exc_type=ImportError
)
from transformer_lens.components import RMSNorm, TransformerBlock
from transformer_lens.components.mlps.gated_mlp import GatedMLP


def as_prompts(tokens: Tensor) -> list[TokenPrompt]:
    return [TokenPrompt(tuple(row)) for row in tokens.tolist()]


class DoublingBlock(TransformerBlock):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(*args, **kwargs) * 2


class ShiftedNorm(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class MixingMlp(GatedMLP):
    """Tokens meet in it, so rows cannot go through it in any company."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.cumsum(dim=1))


def _block(model: HookedTransformer) -> None:
    model.blocks[1].__class__ = DoublingBlock


def _norm(model: HookedTransformer) -> None:
    model.blocks[2].ln1.__class__ = ShiftedNorm


def _mlp(model: HookedTransformer) -> None:
    model.blocks[0].mlp.__class__ = MixingMlp


def _method(model: Any) -> None:
    mlp = model.blocks[1].mlp
    mlp.forward = MethodType(lambda self, x: type(self).forward(self, x) * 3, mlp)


def _torch_hook(model: HookedTransformer) -> None:
    model.blocks[1].attn.register_forward_hook(lambda module, args, output: output * 2)


def _torch_pre_hook(model: HookedTransformer) -> None:
    model.blocks[3].register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def _permanent_hook(model: HookedTransformer) -> None:
    model.add_perma_hook("blocks.2.hook_resid_pre", lambda residual, hook: residual * 1.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_block, "block 1: DoublingBlock"),
        (_norm, "block 2: norm of class ShiftedNorm"),
        (_mlp, "block 0: MLP of class MixingMlp"),
        (_method, "blocks.1.mlp has a forward of its own"),
        (_torch_hook, "hooks are attached .blocks.1.attn"),
        (_torch_pre_hook, "hooks are attached .blocks.3"),
        (_permanent_hook, "hooks are attached .blocks.2.hook_resid_pre"),
    ],
)
def test_a_changed_model_is_noticed_and_scored_as_changed(
    change: Callable[[HookedTransformer], None], reason: str
) -> None:
    model, prompts = tiny_model("llama"), few_shot_prompts(((11,), (12, 13)))[:4]
    before = score(model, prompts)
    change(model)
    found = unsupported(model)
    assert found is not None
    assert found.startswith(reason.split(" .")[0])
    got = score(model, prompts)
    for index, (prompt, rows) in enumerate(zip(prompts, got.answer_logprobs, strict=True)):
        assert not torch.allclose(rows, before.answer_logprobs[index], atol=1e-3)
        assert_close(rows[0], reference.score(model, prompt)[0])


@pytest.mark.parametrize(
    "switch", ["use_attn_result", "use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_hook_tokens"]
)
def test_switches_that_change_where_hooks_fire_take_the_plain_route(switch: str) -> None:
    model = tiny_model("llama")
    setattr(model.cfg, switch, True)
    found = unsupported(model)
    assert found is not None
    assert switch in found


def test_another_class_of_model_is_refused_by_the_fast_path() -> None:
    class Shouting(HookedTransformer):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs) * 2

    model = tiny_model("llama")
    model.__class__ = Shouting
    assert "not a plain HookedTransformer" in str(unsupported(model))
    assert "not a plain HookedTransformer" in str(unsupported(nn.Linear(2, 2)))


def test_an_activation_that_is_not_the_one_in_the_config_is_used() -> None:
    """The toy model says relu and computes the identity."""
    model = toy_model()
    assert unsupported(model) is None
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    expected = torch.stack([cache["resid_post", layer][0, -1] for layer in range(model.cfg.n_layers)])
    # Whole numbers far below 2**24: exact.
    assert torch.equal(capture(model, as_prompts(tokens))[0], expected)


@pytest.mark.parametrize(("n_ctx", "length"), [(4096, 2100)])
def test_prompts_beyond_the_first_rotary_table_are_right(n_ctx: int, length: int) -> None:
    model = tiny_model("llama", max_position_embeddings=n_ctx, num_hidden_layers=2)
    tokens = torch.randint(3, 300, (1, length), generator=torch.Generator().manual_seed(0))
    got = capture(model, as_prompts(tokens))[0]
    with torch.no_grad():
        _, cache = tiny_model("llama", max_position_embeddings=n_ctx, num_hidden_layers=2).run_with_cache(tokens)
    assert_close(got, torch.stack([cache["resid_post", layer][0, -1] for layer in range(2)]))
