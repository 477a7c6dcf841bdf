"""Memory budgets cut the work in pieces; no piece knows it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cast_lens.engine import attention, batching, capture, score, scores, unsupported
from cast_lens.engine.attention import tail_groups, trunk_groups
from cast_lens.engine.batching import prompt_bytes
from cast_lens.engine.capture import rows_within
from cast_lens.engine.decoding import decode
from cast_lens.engine.layout import TokenPrompt, build_batch
from cast_lens.engine.model import AttentionSpec
from cast_lens.interventions import Intervention, Position
from cast_lens.models import HookedDecoder
from cast_lens.models.lens import has_hooked_transformer
from tests.architectures import small_model
from tests.closeness import assert_close
from tests.engine.cases import all_kinds, few_shot_prompts
from tests.tiny import tiny_hf_model, tiny_model

# Just above the attention's own allowance: some forty rows of the tiny models.
SMALL_MB = 32.2


class Counting:
    """A progress bar that counts pieces."""

    def __init__(self) -> None:
        self.pieces = 0

    def __call__(self, items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
        self.pieces = total
        return items


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gpt2"])
def test_a_small_budget_gives_the_same_numbers_in_more_pieces(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts, items = tiny_model(architecture), few_shot_prompts(), all_kinds()[::2]
    stop = lambda written: written[-1] == 5  # noqa: E731
    whole = score(model, prompts, items, keep_logits=True)
    residuals = capture(model, prompts)
    written = decode(model, prompts, items, max_new_tokens=4, stop=stop)
    monkeypatch.setattr(attention, "GROUP_BYTES", 2e4)
    if has_hooked_transformer():
        monkeypatch.setattr("cast_lens.engine.hooked.MLP_ROWS", 7)
    monkeypatch.setattr(scores, "UNEMBED_ROWS", 11)
    monkeypatch.setattr(scores, "BLOCK_TOKENS", {"cpu": 100, "cuda": 100})
    monkeypatch.setattr(scores, "SUM_ROWS", {"cpu": 3})
    count = Counting()
    parts = score(model, prompts, items, keep_logits=True, memory_mb=SMALL_MB, progress=count)
    assert count.pieces > 10
    for a, b in zip(whole.answer_logprobs, parts.answer_logprobs, strict=True):
        assert_close(a, b)
    assert whole.logits is not None
    assert parts.logits is not None
    assert_close(parts.logits, whole.logits)
    assert torch.equal(parts.first_token, whole.first_token)
    assert_close(capture(model, prompts, memory_mb=SMALL_MB, progress=count), residuals)
    assert count.pieces > 2
    assert decode(model, prompts, items, max_new_tokens=4, stop=stop, memory_mb=SMALL_MB + 1) == written


def test_sinks_and_windows_take_part_in_every_run_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts, items = HookedDecoder(small_model("gpt_oss")), few_shot_prompts(), all_kinds()
    items = [item for item in items if item.layer < model.cfg.n_layers]
    assert unsupported(model) is None
    whole = score(model, prompts, items).answer_logprobs
    monkeypatch.setattr(attention, "GROUP_BYTES", 2e4)
    for a, b in zip(whole, score(model, prompts, items).answer_logprobs, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("whole", [False, True])
def test_no_group_of_a_long_prompt_holds_more_than_its_allowance(whole: bool) -> None:
    length, score_bytes = 3000, 100
    batch = build_batch([TokenPrompt((7,) * length, ((8,), (9, 10)), 0)], whole=whole)
    if whole:
        tails = tail_groups(batch, score_bytes=score_bytes, key_bytes=512)
        sizes = [group.mask[0].numel() for group in tails]
        rows = [group.shape[1] for group in tails]
    else:
        trunk = trunk_groups(batch, score_bytes=score_bytes, key_bytes=512)
        spec = AttentionSpec(4, 2, 16, 16, 0.25, soft_cap=1.0)
        masks = [group.mask(spec) for group in trunk]
        sizes = [0 if mask is None else mask.numel() for mask in masks]
        rows = [group.shape[1] for group in trunk]
    assert sum(rows) == (length + 1 if whole else length - 1)
    assert len(rows) > 20
    assert max(sizes) * score_bytes <= attention.GROUP_BYTES


def test_rows_grow_with_the_budget_and_never_vanish() -> None:
    model = tiny_model("llama")
    rows = [rows_within(model, megabytes) for megabytes in (1e-6, 33.0, 64.0, 128.0, 512.0)]
    assert rows[0] == 1
    assert rows == sorted(set(rows))


@pytest.mark.parametrize("memory_mb", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_none_is_refused(memory_mb: float) -> None:
    with pytest.raises(ValueError, match="memory_mb"):
        score(tiny_model("llama"), few_shot_prompts()[:1], memory_mb=memory_mb)


def test_an_interrupted_variant_list_keeps_its_order() -> None:
    """More variants than fit beside one prompt: they come in several jobs and land in their own rows."""
    model, prompts = tiny_model("llama"), [TokenPrompt((5, 6, 7, 8), ((9,), (10,)), 0)]
    items = all_kinds()
    together = score(model, prompts, items)
    alone = [score(model, prompts, [item]).answer_logprobs[0][1] for item in items]
    assert_close(together.answer_logprobs[0][1:], torch.stack(alone))


def test_a_prompt_beyond_the_budget_is_named_before_anything_runs() -> None:
    model = tiny_model("llama")
    long = TokenPrompt((5, 6, 7, 8) * 100, ((9,),), 0, "long")
    ran = Counting()
    with pytest.warns(UserWarning, match=r"memory_mb=1 cannot be kept: long has 400 tokens"):
        capture(model, [few_shot_prompts()[0], long], memory_mb=1.0, progress=ran)
    whole = [item for item in all_kinds() if item.position == "all"]
    with pytest.warns(UserWarning, match="memory_mb=9 cannot be kept: long has 400 tokens"):
        score(model, [long], whole, memory_mb=9.0)
    assert capture(model, [long], memory_mb=64.0).shape[0] == 1


def most_held(job: Callable[[], object]) -> int:
    """Bytes of the tensors that are held at one time, at most, as PyTorch counts them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        job()
    held = most = 0
    assert found.profiler is not None
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.filterwarnings("ignore:memory_mb=.* cannot be kept")
@pytest.mark.parametrize("position", ["last", "all"])
@pytest.mark.parametrize(
    ("architecture", "own_modules", "sizes"),
    [
        ("llama", False, {"intermediate_size": 1024}),
        ("llama", True, {"intermediate_size": 1024}),
        ("llama", True, {"num_key_value_heads": 4, "head_dim": 64}),
        ("gemma2", True, {}),
    ],
)
def test_what_a_warning_says_is_what_is_taken(
    architecture: str, own_modules: bool, sizes: dict[str, int], position: Position, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long prompt with a steered copy. The allowance of attention is small here, so that the prompt may be, too."""
    for room in (attention, batching):
        monkeypatch.setattr(room, "GROUP_BYTES", 2e5)
    if own_modules:
        model: Any = HookedDecoder(tiny_hf_model(architecture, **sizes))
    else:
        model = tiny_model(architecture, **sizes)
    prompt = TokenPrompt(tuple(3 + 7 * place % 300 for place in range(400)), ((9,), (10, 11)), 0)
    items = [Intervention(torch.ones(int(model.cfg.d_model)), 1, 2.0, "add", position)]
    score(model, [prompt], items, memory_mb=1)  # weights are laid out anew the first time
    taken = most_held(lambda: score(model, [prompt], items, memory_mb=1))
    said = prompt_bytes(model, prompt, variants=2, whole=position == "all")
    assert taken <= said <= 3 * taken


@pytest.mark.parametrize("position", ["last", "all"])
def test_decoding_keeps_its_budget_or_says_what_it_takes(position: Position, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of prompts and of what is written stay over all layers: they count as well."""
    for room in (attention, batching, sys.modules["cast_lens.engine.capture"]):
        monkeypatch.setattr(room, "GROUP_BYTES", 2e5)
    model = tiny_model("llama", num_hidden_layers=8, num_key_value_heads=4, head_dim=64)
    prompts = [TokenPrompt(tuple(3 + (7 * place + one) % 300 for place in range(60)), (), -1) for one in range(4)]
    items = [Intervention(torch.ones(64), layer, 2.0, "add", position) for layer in range(2)]
    asked: dict[str, Any] = {"max_new_tokens": 4, "stop": lambda written: False}
    written = decode(model, prompts, items, **asked)
    parts: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = most_held(lambda: parts.extend(decode(model, prompts, items, memory_mb=8.0, **asked)))
    assert parts == written
    assert taken <= 8e6
    with pytest.warns(UserWarning, match=r"memory_mb=2 cannot be kept"):
        decode(model, prompts[:1], items[:1], memory_mb=2.0, **asked)
