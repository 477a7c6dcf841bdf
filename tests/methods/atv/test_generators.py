"""The small models: each against its own forward pass written out, one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cast_lens.methods.atv import BlocksGenerator, Design, build_generator
from cast_lens.methods.atv.generators import HuggingFaceGenerator
from tests.closeness import assert_close
from tests.tiny import VOCAB, tiny_hf_model, tiny_model, tiny_tokenizer

TEXTS = ["The capital of France is", "yes", "Question: which planet is the largest? (a) Mars (b) Jupiter Answer:"]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("trained", [False, True])
def test_first_blocks(architecture: str, pooling: Any, trained: bool) -> None:
    model = tiny_model(architecture)
    got = BlocksGenerator(model, 2, pooling=pooling, trained=trained).states(TEXTS)
    for row, text in zip(got, TEXTS, strict=True):
        _, cache = model.run_with_cache(model.to_tokens(text))
        hidden = cache["resid_post", 2][0]
        assert_close(row.detach(), hidden[-1] if pooling == "last" else hidden.mean(dim=0))
    assert got.requires_grad == trained


def test_trained_blocks_are_a_copy() -> None:
    model = tiny_model("llama")
    small = BlocksGenerator(model, 1, pooling="last", trained=True)
    assert small.module is not None
    small.states(TEXTS).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    own = dict(small.module.named_parameters())
    assert set(own) == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("embed.", "blocks.0.", "blocks.1.", "ln_final"))
    }
    assert own["blocks.1.mlp.W_in"].grad is not None


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_hugging_face_models(tmp_path: Path, kind: str, pooling: Any) -> None:
    if kind == "decoder":
        model: Any = tiny_hf_model("gpt2").transformer
    else:
        config = transformers.BertConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
        )
        torch.manual_seed(0)
        model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    generator = HuggingFaceGenerator(str(tmp_path), pooling=pooling, trained=False)
    got = generator.states(TEXTS)
    assert got.shape == (3, generator.width)
    assert not got.requires_grad
    for row, text in zip(got, TEXTS, strict=True):
        ids = torch.tensor([generator.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state[0]
        assert_close(row, hidden[-1] if pooling == "last" else hidden.mean(dim=0))
    trained = HuggingFaceGenerator(str(tmp_path), pooling=pooling, trained=True)
    assert trained.states(TEXTS).requires_grad
    assert trained.fingerprint == generator.fingerprint
    if kind == "encoder":
        with pytest.raises(ValueError, match="more than the 64 that the generator"):
            generator.states(["long " * 100])


def test_models_that_cannot_be_a_generator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a model that transformers can load"):
        HuggingFaceGenerator(str(tmp_path / "nothing"), pooling="last", trained=False)
    transformers.T5Model(
        transformers.T5Config(vocab_size=VOCAB, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder-decoder"):
        HuggingFaceGenerator(str(tmp_path), pooling="last", trained=False)


def test_the_large_model_is_its_own_small_one_when_asked() -> None:
    model = tiny_model("llama")
    for design in (Design(generator="residual", layer=2), Design(source="self", layer=2)):
        assert torch.equal(build_generator(design, model).states(TEXTS), build_generator(design, model).states(TEXTS))
        assert build_generator(design, model).width == 64
    assert build_generator(Design(generator="constant"), model).states(TEXTS).shape == (3, 0)
    with pytest.raises(ValueError, match="from 0 to 3"):
        build_generator(Design(generator="residual", layer=4), model)
