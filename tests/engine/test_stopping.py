"""Where a greedy answer ends: the same for the engine, for the hooked route, and for what an adapter writes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from cast_lens.engine import answer, capture, score
from cast_lens.engine.greedy import StopRule, write_greedily
from cast_lens.engine.tokens import end_tokens
from cast_lens.models import load_model
from cast_lens.models.lens import HookedTransformer
from cast_lens.steering import generate
from tests.engine.cases import all_kinds
from tests.tiny import tiny_hf_model, tiny_model, tiny_tokenizer

PROMPTS = ["Review: a warm and funny film. Sentiment:", "The capital", "one two three"]


@pytest.fixture
def model() -> HookedTransformer:
    return tiny_model("llama")


def test_every_end_of_text_token_of_the_checkpoint_ends_an_answer() -> None:
    hf_model = tiny_hf_model("llama")
    hf_model.generation_config.eos_token_id = [7, 9]
    model = load_model(hf_model, tokenizer=tiny_tokenizer())
    assert {1, 7, 9} <= end_tokens(model)  # </s> is 1


def test_the_end_of_a_turn_ends_an_answer(model: HookedTransformer) -> None:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    assert tokenizer.pad_token_id not in end_tokens(model) - {2}
    vars(model)["generation_config"] = None
    assert end_tokens(model) == {tokenizer.eos_token_id}
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}<pad>{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert end_tokens(model) == {tokenizer.eos_token_id, tokenizer.pad_token_id}


@pytest.mark.parametrize("use_cache", [True, False])
def test_answer_and_generate_write_the_same(model: HookedTransformer, use_cache: bool) -> None:
    """Whatever token ends an answer: each of the first tokens that the model writes is made one in turn."""
    items = [item for item in all_kinds() if item.position != "all"][:2]
    rule = StopRule.of(model, None)
    free = answer(model, PROMPTS, max_new_tokens=6)[0]
    lengths = set()
    for end in rule.tokenizer.encode(free[0], add_special_tokens=False)[:3]:
        vars(model)["generation_config"] = SimpleNamespace(eos_token_id=[end])
        fast = answer(model, PROMPTS, items, max_new_tokens=6)
        for variant, item in enumerate([None, *items]):
            given = [] if item is None else [item]
            slow = generate(model, PROMPTS, interventions=given, max_new_tokens=6, use_cache=use_cache)
            assert slow == fast[variant]
            lengths |= {len(text) for text in slow}
    assert len(lengths) > 2


def test_a_line_end_before_the_answer_is_read_over(model: HookedTransformer) -> None:
    rule = StopRule.of(model, "\n")
    encode = rule.tokenizer.encode
    written = encode("\n \nfine\nmore", add_special_tokens=False)
    stops = [rule(written[:length]) for length in range(1, len(written) + 1)]
    assert not stops[0]
    text = rule.text(written[: stops.index(True) + 1])
    assert text is not None
    assert text.strip() == "fine"
    assert rule.text(encode("fine", add_special_tokens=False)) == "fine"
    assert rule.text([5, -1]) is None
    words = StopRule.of(model, "the end")
    assert words(encode("one the end", add_special_tokens=False))
    assert words.text(encode("one the end two", add_special_tokens=False)) == "one "


def test_the_loop_lets_rows_go_on_until_each_has_ended() -> None:
    table = torch.tensor([[1, 1, 1, 1], [2, 9, 2, 2], [3, 3, -1, 3]])
    seen = []
    rows = [0, 1, 2]
    count = 0

    def step(kept: list[int], tokens: torch.Tensor) -> torch.Tensor:
        nonlocal rows, count
        rows = [rows[place] for place in kept]
        seen.append((list(rows), tokens.tolist()))
        count += 1
        return table[rows, count]

    found = write_greedily(table[:, 0], step, max_new_tokens=4, stop=lambda written: written[-1] == 9)
    assert found == [(1, 1, 1, 1), (2, 9), (3, 3, -1)]
    assert seen == [([0, 1, 2], [1, 2, 3]), ([0, 2], [1, 3]), ([0], [1])]


def test_no_tokens_are_no_answer(model: HookedTransformer) -> None:
    from cast_lens.evaluation import evaluate
    from cast_lens.tasks import Prompt

    prompt = Prompt((), "yes", "no", ("no", "yes"), "t", "1")
    for run in (
        lambda: answer(model, PROMPTS, max_new_tokens=0),
        lambda: generate(model, PROMPTS, max_new_tokens=0),
        lambda: evaluate(model, [prompt], max_new_tokens=0),
    ):
        with pytest.raises(ValueError, match="max_new_tokens=0 must be at least 1"):
            run()
    with pytest.raises(ValueError, match="stop is empty"):
        generate(model, PROMPTS, stop="")


def test_a_text_is_one_prompt(model: HookedTransformer) -> None:
    from cast_lens.effects import text_effects, token_effects
    from cast_lens.evaluation import evaluate
    from cast_lens.tasks import Prompt

    item = all_kinds()[0]
    assert capture(model, PROMPTS[0]).shape[0] == 1
    assert len(score(model, PROMPTS[0]).prompts) == 1
    assert answer(model, PROMPTS[0], max_new_tokens=2) == [answer(model, PROMPTS, max_new_tokens=2)[0][:1]]
    assert len(generate(model, PROMPTS[0], max_new_tokens=2)) == 1
    assert len(text_effects(model, [item], PROMPTS[0])) == 2
    assert token_effects(model, PROMPTS[0], item)["before"].sum() == pytest.approx(1.0)
    prompt = Prompt((), "yes", "no", ("no", "yes"), "t", "1")
    assert len(evaluate(model, prompt)) == 1
    with pytest.raises(ValueError, match="prompt 1 is a int"):
        score(model, ["fine", 3])  # type: ignore[list-item]


def test_defaults_and_autocast_around_the_engine_change_nothing(model: HookedTransformer) -> None:
    items = all_kinds()
    expected = score(model, PROMPTS, items, keep_logits=True)
    residuals, texts = capture(model, PROMPTS), answer(model, PROMPTS, max_new_tokens=3)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found, again = score(model, PROMPTS, items, keep_logits=True), capture(model, PROMPTS)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.logits is not None
    assert expected.logits is not None
    assert torch.equal(found.logits, expected.logits)
    assert again.dtype == torch.float32
    assert torch.equal(again, residuals)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = score(model, PROMPTS, items, keep_logits=True)
        assert answer(model, PROMPTS, max_new_tokens=3) == texts
    assert found.logits is not None
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_compiled_model_is_run_as_what_was_compiled(model: HookedTransformer) -> None:
    compiled = torch.compile(model)
    assert torch.equal(capture(compiled, PROMPTS), capture(model, PROMPTS))  # type: ignore[arg-type]
    assert answer(compiled, PROMPTS, max_new_tokens=2) == answer(model, PROMPTS, max_new_tokens=2)  # type: ignore[arg-type]


def test_a_token_without_an_embedding_is_named(model: HookedTransformer) -> None:
    assert model.tokenizer is not None
    model.tokenizer.add_tokens(["zebra"])
    with pytest.raises(ValueError, match=r"prompt 0 holds token \d+ \('zebra'\), but the model has embeddings for 320"):
        capture(model, ["a zebra"])
