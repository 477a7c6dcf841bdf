"""No tensor of the engine is made on another device than the model's: shown on a device that is not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cast_lens.engine import answer_losses, attention, capture, decoding, frozen, gradients, score, unsupported
from cast_lens.engine.decoding import decode
from cast_lens.interventions import PromptVectors
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer
from tests.closeness import assert_close
from tests.engine.cases import all_kinds, few_shot_prompts
from tests.second_device import CARD, SecondDevice, TwoDevicesError, device_of, move
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")
# Plain attention, a soft cap and a window, by both implementations; each operation costs a call of Python here.
KINDS = (("llama", False), ("gemma2", True), ("mistral", False))


def on_the_card(architecture: str, *, own: bool) -> HookedTransformer:
    """A model by transformers' modules, or as a ``HookedTransformer``, on the card."""
    hf_model = tiny_hf_model(architecture)
    model = load_model(hf_model, tokenizer=tiny_tokenizer(), implementation="transformers") if own else None
    model = model or tiny_model(architecture)
    move(model)
    model.cfg.device = str(CARD)
    return model


def results(model: HookedTransformer) -> dict[str, Tensor]:
    """Scores, greedy tokens, residuals and gradients."""
    prompts, items = few_shot_prompts()[:4], all_kinds()[::2]
    scores = score(model, prompts, items, keep_logits=True)
    assert scores.logits is not None
    relative = score(model, prompts, items, normalised=False)
    written = decode(model, prompts[:2], items, max_new_tokens=3, stop=lambda tokens: False)
    return {
        "logits": scores.logits,
        "answers": torch.cat(scores.answer_logprobs, dim=1),
        "relative": torch.cat(relative.written, dim=1),
        "residuals": capture(model, prompts),
        "written": torch.tensor(written),
    }


@pytest.mark.parametrize(("architecture", "own"), KINDS)
def test_everything_is_made_where_the_model_is(architecture: str, own: bool) -> None:
    there = on_the_card(architecture, own=own)
    here = tiny_model(architecture) if not own else load_model(tiny_hf_model(architecture), tokenizer=tiny_tokenizer())
    expected = results(here)
    with SecondDevice() as device:
        assert unsupported(there) is None
        got = results(there)
        assert {str(device_of(tensor)) for tensor in got.values()} == {"cpu"}
    assert device.made > 1000
    for name, value in expected.items():
        assert_close(got[name].float(), value.float())


@pytest.mark.parametrize("own", [True, False], ids=["transformers", "HookedTransformer"])
def test_gradients_too(own: bool) -> None:
    model, prompts = on_the_card("llama", own=own), few_shot_prompts()[:4]
    with SecondDevice(), frozen(model):
        assert unsupported(model) is None
        values = torch.zeros(4, 1, int(model.cfg.d_model), device=CARD).requires_grad_()
        loss = answer_losses(model, prompts, PromptVectors(values, (1,))).mean()
        assert device_of(loss) == CARD
        loss.backward()
    assert values.grad is not None
    assert bool(values.grad.any())


class _Forgetful:
    """``torch`` as a module sees it that forgets to say where ``arange`` belongs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def arange(self, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return torch.arange(*args, **kwargs)


@pytest.mark.parametrize("module", [attention, decoding, gradients])
def test_one_arange_without_a_device_is_noticed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = on_the_card("mistral", own=False), few_shot_prompts()
    monkeypatch.setattr(module, "torch", _Forgetful())

    def run() -> None:
        score(model, prompts, all_kinds()[:2])
        decode(model, prompts, all_kinds()[:2], max_new_tokens=3, stop=lambda tokens: False)
        answer_losses(model, prompts, PromptVectors(torch.ones(1, 1, 64, device=CARD), (1,)))

    with SecondDevice(), frozen(model), pytest.raises(TwoDevicesError, match="two devices"):
        run()
