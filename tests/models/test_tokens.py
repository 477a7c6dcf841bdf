"""The tokenizer on a model is the model's own: BOS exactly where it puts one, padding always there."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from cast_lens.models import load_model
from cast_lens.models.tokens import prepends_bos
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

TEXT = "Review: a warm and funny film."


@pytest.mark.parametrize("bos", [False, True])
def test_bos_is_what_the_tokenizer_itself_does(bos: bool) -> None:
    model = tiny_model("llama", bos=bos)
    own = tiny_tokenizer(bos=bos)(TEXT)["input_ids"]
    assert model.cfg.default_prepend_bos is bos
    assert model.cfg.tokenizer_prepends_bos is bos
    assert model.to_tokens(TEXT).tolist() == [own]
    assert own.count(0) == int(bos)  # <s> is token 0
    plain = tiny_tokenizer(bos=False)(TEXT)["input_ids"]
    assert model.to_tokens(TEXT, prepend_bos=True).tolist() == [[0, *plain]]
    assert model.to_tokens(TEXT, prepend_bos=False).tolist() == [plain]


def test_a_tokenizer_without_bos_token_prepends_none() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert not prepends_bos(tokenizer)
    model = load_model(tiny_hf_model("neox"), tokenizer=tokenizer)
    assert model.to_tokens(TEXT).tolist() == [tokenizer(TEXT)["input_ids"]]


def test_the_callers_tokenizer_is_not_changed_and_padding_is_there() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    model = load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)
    assert tokenizer.pad_token is None
    assert model.tokenizer is not None
    assert model.tokenizer.pad_token == "</s>"
    assert model.to_tokens(["one", TEXT]).shape[0] == 2


def test_a_padding_token_beyond_the_embedding_is_replaced() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    tokenizer.add_tokens([f"<more{index}>" for index in range(40)])
    tokenizer.pad_token = "<more39>"
    model = load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)
    assert model.tokenizer is not None
    assert model.tokenizer.pad_token == "</s>"


def test_a_tokenizer_that_ends_texts_is_refused() -> None:
    tokenizer: PreTrainedTokenizerFast = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    with pytest.raises(ValueError, match=r"ends a text with \['</s>'\].*add_eos_token=False"):
        load_model(tiny_hf_model("gpt2"), tokenizer=tokenizer)


def test_the_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model has 100 embeddings; it is not the tokenizer of this model"):
        load_model(tiny_hf_model("neox", vocab_size=100), tokenizer=tiny_tokenizer())


def test_a_model_without_tokenizer_loads() -> None:
    model = load_model(tiny_hf_model("neox"))
    assert model.tokenizer is None
