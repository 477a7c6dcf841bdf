"""Operations against PyTorch's own counter, prefixes, time and memory."""

from __future__ import annotations

import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

from cast_lens.experiments.costs import answer_flops, forward_flops, peak_megabytes, seconds, sweep_flops
from tests.tiny import tiny_model


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "neox", "mixtral"])
def test_a_forward_pass_is_what_pytorch_counts(architecture: str) -> None:
    model = tiny_model(architecture)
    tokens = torch.arange(11)[None] + 5
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    # Mixtral's experts run on the tokens that chose them; everything else is exact.
    assert counter.get_total_flops() == forward_flops(model.cfg, new=11, read=11)


def test_tokens_behind_a_cache_are_what_pytorch_counts() -> None:
    model = tiny_model("llama")
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, 1)
    tokens = torch.arange(9)[None] + 5
    with torch.no_grad():
        model(tokens[:, :6], past_kv_cache=cache)
        with FlopCounterMode(display=False) as counter:
            model(tokens[:, 6:], past_kv_cache=cache)
    assert counter.get_total_flops() == forward_flops(model.cfg, new=3, past=6, read=3)


def test_blocks_alone_are_a_part() -> None:
    cfg = tiny_model("llama").cfg
    whole = forward_flops(cfg, new=5, read=0)
    assert forward_flops(cfg, new=5, layers=1, read=0) * cfg.n_layers == whole
    assert forward_flops(cfg, new=5) - whole == 2 * cfg.d_model * cfg.d_vocab_out


def test_an_answer_is_its_prompt_and_its_tokens_one_by_one() -> None:
    cfg = tiny_model("llama").cfg
    steps = [forward_flops(cfg, new=1, past=7), forward_flops(cfg, new=1, past=8)]
    assert answer_flops(cfg, prompt=7, written=3) == forward_flops(cfg, new=7) + sum(steps)
    assert answer_flops(cfg, prompt=7, written=0) == answer_flops(cfg, prompt=7, written=1)
    kept = answer_flops(cfg, prompt=7, written=1, shared=5)
    assert kept == forward_flops(cfg, new=2, past=5) < answer_flops(cfg, prompt=7, written=1)


def test_a_sweep_runs_the_blocks_above_each_layer() -> None:
    cfg = tiny_model("llama").cfg
    none = sweep_flops(cfg, prompts=[(6, 1)], layers=[], strengths=3)
    assert none == forward_flops(cfg, new=7, read=2)
    last = sweep_flops(cfg, prompts=[(6, 1)], layers=[cfg.n_layers - 1], strengths=3) - none
    assert last == 3 * 2 * 2 * cfg.d_model * cfg.d_vocab_out


def test_time_is_waited_for_and_memory_seen() -> None:
    model = tiny_model("llama")
    assert seconds(lambda: time.sleep(0.02), model) >= 0.02
    ones = torch.ones(1000)
    # Two tensors of 4 MB at once, the second half as long after the first is gone; the sums are a few bytes.
    taken = peak_megabytes(lambda: (ones.repeat(1000) * 2).sum() + ones.repeat(500).sum(), model)
    assert taken == pytest.approx(8.0, abs=1e-3)
