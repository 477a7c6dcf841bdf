"""Decoders that TransformerLens does not know, and any other on request: transformers' modules under its names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from cast_lens import Extraction, SteeringVector, difference_vectors, steer
from cast_lens.engine import answer, capture, score, sweep, unsupported
from cast_lens.models import HookedDecoder, fingerprint, load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import generate
from tests.architectures import small_model
from tests.closeness import assert_close
from tests.small_tasks import label_task
from tests.tiny import VOCAB, tiny_hf_model, tiny_tokenizer

PROMPTS = ["the capital of France is", "a warm and funny film. Sentiment:", "no"]


def loaded(name: str = "granite") -> HookedDecoder:
    model = load_model(small_model(name), tokenizer=tiny_tokenizer())
    assert isinstance(model, HookedDecoder)
    return model


def vector_of(model: HookedTransformer) -> SteeringVector:
    return difference_vectors(model, label_task(), Extraction(samples=2, shots=2)).mean()


def test_an_unknown_architecture_is_adopted_without_a_copy() -> None:
    hf_model = small_model("cohere2")
    model = load_model(hf_model, tokenizer=tiny_tokenizer())
    assert isinstance(model, HookedDecoder)
    places = {parameter.data_ptr() for parameter in hf_model.parameters()}
    assert {parameter.data_ptr() for parameter in model.parameters()} == places
    assert unsupported(model) is None


def test_a_folder_of_an_unknown_architecture_loads(tmp_path: Path) -> None:
    small_model("granite").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, HookedDecoder)
    assert_close(capture(model, PROMPTS), capture(loaded(), PROMPTS))
    with pytest.raises(ValueError, match="GraniteForCausalLM is not supported"):
        load_model(tmp_path, implementation="transformer_lens")


def test_a_known_architecture_can_be_run_by_its_own_modules() -> None:
    one = load_model(tiny_hf_model("qwen3"), tokenizer=tiny_tokenizer())
    other = load_model(tiny_hf_model("qwen3"), tokenizer=tiny_tokenizer(), implementation="transformers")
    assert not isinstance(one, HookedDecoder)
    assert isinstance(other, HookedDecoder)
    assert fingerprint(one) == fingerprint(other)
    vector = vector_of(one)
    grids = [sweep(model, PROMPTS, vector, strengths=(1.0, 4.0), keep_logits=True).scores for model in (one, other)]
    assert grids[0].logits is not None
    assert grids[1].logits is not None
    assert_close(grids[1].logits, grids[0].logits)


def test_everything_from_vectors_to_steered_text_works_on_it() -> None:
    model = loaded()
    vector = vector_of(model)
    item = vector.intervention(1, strength=3.0)
    assert score(model, PROMPTS, [item]).first_token.shape == (2, 3)
    written = answer(model, PROMPTS, [item], max_new_tokens=4, stop_at_newline=False)
    assert generate(model, PROMPTS, interventions=[item], max_new_tokens=4, stop=None) == written[1]
    assert generate(model, PROMPTS, max_new_tokens=4, stop=None) == written[0]


def test_hooks_carry_the_names_that_users_know() -> None:
    model, tokens = loaded(), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
        steered = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: x + 1)])
    assert torch.equal(cache["blocks.0.hook_resid_post"], cache["blocks.1.hook_resid_pre"])
    assert not torch.equal(steered, logits)
    vector = vector_of(model)
    with torch.no_grad(), steer(model, vector.intervention(0, strength=2.0)):
        assert not torch.equal(model(tokens), logits)
    with torch.no_grad():
        assert torch.equal(model(tokens), logits)


def test_text_is_tokens() -> None:
    model = loaded()
    with torch.no_grad():
        assert torch.equal(model("a film"), model(model.to_tokens("a film")))


def test_what_is_no_causal_decoder_is_refused() -> None:
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    with pytest.raises(ValueError, match="tokens see later ones"):
        load_model(transformers.BertLMHeadModel(config))
    pair = transformers.T5Config(
        vocab_size=VOCAB, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    with pytest.raises(ValueError, match="encoder-decoder"):
        load_model(transformers.T5ForConditionalGeneration(pair))


def test_parts_of_layers_are_not_taken_for_layers() -> None:
    with pytest.raises(ValueError, match="hands on no residual stream from one TransformerFFN to the next"):
        load_model(small_model("xlm"))


def test_a_state_that_begins_with_the_padding_is_noticed() -> None:
    model, tokens = loaded("recurrent_gemma"), torch.tensor([[2, 2, 5, 6], [5, 6, 7, 8]])
    assert model.takes_positions
    assert not model.takes_left_padding
    with pytest.raises(ValueError, match="gives other logits for a text that is padded on the left"):
        model(tokens, attention_mask=(tokens != 2).long())
    assert loaded("granite").takes_left_padding


@pytest.mark.parametrize("name", ["granite", "lfm2", "bart"])
def test_generation_equals_whole_passes(name: str) -> None:
    model, tokens = loaded(name), torch.tensor([[5, 6, 7, 8, 9]])
    for _ in range(4):
        with torch.no_grad():
            logits = model(tokens)
        tokens = torch.cat((tokens, logits[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    assert torch.equal(model.generate(tokens[:, :5], max_new_tokens=4, stop_at_eos=False), tokens)


def test_a_cache_of_transformer_lens_is_refused() -> None:
    with pytest.raises(ValueError, match="no KV cache"):
        loaded()(torch.tensor([[5, 6]]), past_kv_cache=object())


def test_an_implementation_that_does_not_exist_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match=r"implementation='jax'|parameter"):
        load_model(tiny_hf_model("llama"), implementation="jax")  # type: ignore[arg-type]


def test_left_padding_is_refused_where_the_model_cannot_be_told_positions() -> None:
    model, tokens = loaded("bart"), torch.tensor([[2, 2, 5, 6], [5, 6, 7, 8]])
    with pytest.raises(ValueError, match="padded on the left"):
        model(tokens, attention_mask=(tokens != 2).long())
    with torch.no_grad():
        right = model(tokens.flip(-1), attention_mask=(tokens != 2).long().flip(-1))
        assert_close(right[:1, :2], model(tokens.flip(-1)[:1, :2]))
    assert HookedDecoder(small_model("bloom")).takes_left_padding
    # Counts its positions from the number of its padding token on.
    assert not HookedDecoder(small_model("camembert")).takes_positions
