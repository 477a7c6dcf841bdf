"""Tiny random models of sixty-odd architectures: whichever route one takes, its numbers are those of hooks.

``benchmarks/architectures.py`` runs all that transformers can build, with more positions, and writes the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from cast_lens.engine import TokenPrompt, score, unsupported
from cast_lens.interventions import Intervention
from cast_lens.models import HookedDecoder
from tests.architectures import small_model
from tests.closeness import assert_close
from tests.engine.cases import padded_logits, tokens

FAST = """
    afmoe apertus arcee aria_text axk1 bert bert-generation bitnet cohere cohere2 ctrl cwm deepseek_v2
    deepseek_v3 electra ernie ernie4_5 ernie4_5_moe exaone4 flex_olmo gemma gemma2 gemma3_text gemma4_text glm
    glm4 glm4_moe gpt2 gpt_bigcode gpt_neox gpt_oss granite granitemoe granitemoeshared helium hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hyperclovax internlm3 jais2 jetmoe laguna llama llama4_text mellum mimo_v2_flash minicpm3
    minimax_m2 ministral ministral3 mistral mixtral nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi
    phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe smollm3 stablelm starcoder2
""".split()  # noqa: SIM905
# One of each kind of attention, block and route; the others are slow only because they are many.
QUICK = ("deepseek_v3", "gemma3_text", "gpt2", "gpt_oss", "llama", "phi", "qwen3_moe", "falcon", "mamba")
PLAIN = ("bamba", "bloom", "diffllama", "falcon", "gpt_neo", "lfm2", "mamba", "qwen3_5_text")


def _agrees(name: str) -> str | None:
    model = HookedDecoder(small_model(name))
    reason = unsupported(model)
    root = tokens(9, 1)
    prompts = [TokenPrompt(root + tokens(5, 2)), TokenPrompt(root + tokens(8, 3))]
    direction = torch.linspace(-1, 1, int(model.cfg.d_model))
    items = [Intervention(direction, 1, 2.0), Intervention(direction, 0, 1.0, "add", "all")]
    got = score(model, prompts, items, keep_logits=True).logits
    assert got is not None
    for variant, item in enumerate([None, *items]):
        for index, prompt in enumerate(prompts):
            expected = padded_logits(model, [prompt.tokens], [len(prompt.tokens)], item)[0][-1]
            assert_close(got[variant, index], expected)
    return reason


def _all(names: Sequence[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", _all(FAST))
def test_the_fast_route_equals_hooks(name: str) -> None:
    assert _agrees(name) is None


@pytest.mark.parametrize("name", _all(PLAIN))
def test_the_plain_route_equals_hooks_and_says_why_it_was_taken(name: str) -> None:
    assert _agrees(name)
