"""Models whose layers are spread out, and models whose weights are quantised: the same numbers as hooks on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cast_lens.engine import capture, score, unsupported
from cast_lens.engine.attention import tail_groups, trunk_groups
from cast_lens.engine.forward import _on
from cast_lens.engine.layout import build_batch
from cast_lens.experiments.config import RunConfig
from cast_lens.models import HookedDecoder, fingerprint, load_model
from tests.architectures import small_model
from tests.closeness import assert_close
from tests.engine.cases import few_shot_prompts
from tests.engine.routes import compared
from tests.tiny import tiny_hf_model, tiny_tokenizer


def test_layers_on_disk_are_brought_in_where_they_run(tmp_path: Path) -> None:
    tiny_hf_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    places: dict[str, str] = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    places |= {f"model.layers.{layer}": "disk" if layer in (1, 3) else "cpu" for layer in range(4)}
    model = load_model(tmp_path, device_map={**places, "lm_head": "disk"})
    assert isinstance(model, HookedDecoder)
    assert any(parameter.is_meta for parameter in model.hf_model.parameters())
    assert unsupported(model) is None
    whole = load_model(tiny_hf_model("llama"), implementation="transformers")
    for what, got, expected in compared(model):
        try:
            assert_close(got, expected)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None
    assert_close(capture(model, few_shot_prompts()), capture(whole, few_shot_prompts()))


def test_a_model_is_spread_over_what_there_is(tmp_path: Path) -> None:
    """Without an accelerator that is one place; accelerate decides."""
    tiny_hf_model("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    spread, whole = load_model(tmp_path, device="spread"), load_model(tmp_path)
    assert_close(capture(spread, few_shot_prompts()), capture(whole, few_shot_prompts()))
    assert RunConfig(device="spread").device == "spread"


def test_what_attention_knows_of_rows_moves_to_where_a_block_is() -> None:
    batch = build_batch(few_shot_prompts(), device="cpu")
    groups = trunk_groups(batch, score_bytes=64, key_bytes=64), tail_groups(batch, score_bytes=64, key_bytes=64)
    assert _on(groups, torch.device("cpu")) is groups
    for group in (part for parts in _on(groups, torch.device("meta")) for part in parts):
        held = [getattr(group, name) for name in group.__slots__]
        assert {value.device.type for value in held if isinstance(value, torch.Tensor)} == {"meta"}


def test_weights_in_eight_bits_are_steered_as_they_are() -> None:
    torchao = pytest.importorskip("torchao.quantization")
    hf_model = small_model("llama")
    torchao.quantize_(hf_model, torchao.Int8WeightOnlyConfig())
    model = load_model(hf_model, tokenizer=tiny_tokenizer())
    assert isinstance(model, HookedDecoder)
    assert unsupported(model) is None
    for what, got, expected in compared(model):
        try:
            assert_close(got, expected)
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from None
    assert fingerprint(model) == fingerprint(load_model(hf_model))
    plain = load_model(small_model("llama"))
    one, other = (score(each, few_shot_prompts()[:2], keep_logits=True).logits for each in (model, plain))
    assert one is not None
    assert other is not None
    assert 0 < float((one - other).norm() / other.norm()) < 0.1
