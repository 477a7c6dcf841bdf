"""Answers that begin alike: read at the token that tells them apart, and scored with their end where one is a part."""

from __future__ import annotations

import itertools

import pytest
import torch

from cast_lens.engine import TokenPrompt, reference, score, score_and_answer, tokenise
from cast_lens.engine.scores import telling_lengths
from cast_lens.engine.tokens import answer_ends
from cast_lens.models.lens import HookedTransformer
from cast_lens.tasks import Prompt
from tests.closeness import assert_close
from tests.engine.cases import all_kinds, few_shot_prompts, tokens
from tests.tiny import tiny_model

NESTED = ((14,), (14, 15), (16, 17), (14, 15, 18))


@pytest.fixture(scope="module")
def model() -> HookedTransformer:
    return tiny_model("llama")


def test_the_telling_token_is_the_first_that_no_other_answer_shares() -> None:
    assert telling_lengths(((1,), (2,))) == (1, 1)
    assert telling_lengths(((5, 1), (5, 2), (6, 2))) == (2, 2, 1)
    assert telling_lengths(((5,), (5, 2))) == (0, 2)  # the first ends where the second goes on
    assert telling_lengths(((5, -1), (5, 2, -1))) == (2, 2)
    assert telling_lengths(((5, 6, 7),)) == (1,)


def greedy(model: HookedTransformer, prompt: TokenPrompt, count: int) -> tuple[int, ...]:
    return reference.answer(model, prompt, max_new_tokens=count, stop=lambda written: False)


def test_answers_that_share_their_first_token_match_only_where_the_whole_beginning_is_written(
    model: HookedTransformer,
) -> None:
    """Labels as digits: every one begins with a blank, which the model writes whatever comes after it."""
    prompt = TokenPrompt(tokens(9, 1))
    first, second = greedy(model, prompt, 2)
    others = [token for token in range(3, 9) if token != second][:3]
    labels = tuple((first, token) for token in (*others, second))
    for gold, label in enumerate(labels):
        row = score(model, [TokenPrompt(prompt.tokens, labels, gold, "digit")]).to_frame().iloc[0]
        assert row["first_match"] == float(label[1] == second)
        assert row["first_valid"] == 1.0
    wrong = tuple((first, token) for token in others)
    row = score(model, [TokenPrompt(prompt.tokens, wrong, 0, "digit")]).to_frame().iloc[0]
    assert (row["first_match"], row["first_valid"]) == (0.0, 0.0)


def test_fast_and_plain_route_agree_on_what_is_written_and_on_ends(model: HookedTransformer) -> None:
    prompts = tokenise(model, [TokenPrompt(p.tokens, NESTED, 0, p.name) for p in few_shot_prompts()[:4]])
    items = all_kinds()
    found = score(model, prompts, items)
    together, _ = score_and_answer(model, prompts, items[:3], max_new_tokens=2)
    for index, prompt in enumerate(prompts):
        assert prompt.end == answer_ends(model)
        for variant, item in enumerate([None, *items]):
            plain = reference.read(model, prompt, item)
            assert_close(found.answer_logprobs[index][variant], plain.logprobs)
            assert torch.equal(found.written[index][variant], plain.written(prompt))
        assert torch.equal(together.written[index], found.written[index][:4])
        assert_close(together.answer_logprobs[index], found.answer_logprobs[index][:4])


def test_an_answer_that_ends_can_be_preferred_to_a_longer_one(model: HookedTransformer) -> None:
    """By hand: log P(answer) and the log of the probability that any end token follows."""
    prompt = tokenise(model, [TokenPrompt(tokens(7, 3), ((14,), (14, 15)), 1, "nested")])[0]
    got = score(model, [prompt]).answer_logprobs[0][0]
    for answer, value in zip(prompt.answers, got, strict=True):
        rows = reference.logits(model, prompt.tokens + answer, prompt_length=len(prompt.tokens))
        rows = rows[len(prompt.tokens) - 1 :].double().log_softmax(dim=-1)
        steps = [row[token] for row, token in zip(rows, answer, strict=False)]
        expected = sum(steps) + rows[-1, list(answer_ends(model))].logsumexp(dim=-1)
        assert_close(value, expected)
    ending = TokenPrompt(prompt.tokens, prompt.answers, 0, "nested", end=tuple(range(3, 320)))
    assert score(model, [ending]).to_frame().loc[0, "choice_correct"] in (0.0, 1.0)
    assert bool(score(model, [ending]).answer_logprobs[0][0].argmax() == 0)


def test_answers_without_one_inside_another_keep_their_scores(model: HookedTransformer) -> None:
    assert all(prompt.end == () for prompt in tokenise(model, few_shot_prompts()))
    frame = score(model, few_shot_prompts()[:3], all_kinds()).to_frame()
    assert frame["first_match"].notna().all()


def test_end_tokens_are_line_ends_and_ends_of_text(model: HookedTransformer) -> None:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    ends = answer_ends(model)
    assert tokenizer.eos_token_id in ends
    texts = [tokenizer.decode([token]) for token in ends]
    assert "\n" in texts
    assert all(
        "\n" in text or token == tokenizer.eos_token_id or token == 2 for token, text in zip(ends, texts, strict=True)
    )


def test_equal_answers_are_refused_and_nested_ones_need_a_tokenizer(model: HookedTransformer) -> None:
    with pytest.raises(ValueError, match="answers 0 and 2 are the same tokens"):
        score(model, [TokenPrompt((5, 6), ((7,), (8,), (7,)), 0, "twins")])
    tokenizer, model.tokenizer = model.tokenizer, None
    try:
        with pytest.raises(ValueError, match="one answer is the beginning of another"):
            score(model, [TokenPrompt((5, 6), ((7,), (7, 8)), 0, "nested")])
    finally:
        model.tokenizer = tokenizer


def test_first_tokens_alone_do_not_tell_answers_that_begin_alike(model: HookedTransformer) -> None:
    from dataclasses import replace

    found = score(model, [TokenPrompt((5, 6), ((7, 1), (7, 2), (8,)), gold, "x") for gold in (0, 2)])
    frame = replace(found, written=()).to_frame()
    assert frame["first_match"].isna().tolist() == [True, False]


def test_an_answer_with_a_line_end_is_refused_where_decoding_would_cut_it(model: HookedTransformer) -> None:
    prompt = Prompt((), "yes no", "one\ntwo", ("one\ntwo", "three"), "lines", "1")
    with pytest.raises(ValueError, match="holds a line end"):
        score_and_answer(model, [prompt], max_new_tokens=8)
    scores, _ = score_and_answer(model, [prompt], max_new_tokens=8, stop_at_newline=False)
    assert scores.to_frame()["gold_logprob"].notna().all()
    leading = Prompt((), "yes no", "\none", ("\none", "three"), "lines", "1")
    score_and_answer(model, [leading], max_new_tokens=8)


def test_choices_in_another_order_are_the_same_choice(model: HookedTransformer) -> None:
    prompt = tokens(6, 5)
    best = set()
    for order in itertools.permutations(NESTED):
        found = score(model, [TokenPrompt(prompt, order, 0, "p")]).answer_logprobs[0][0]
        best.add(order[int(found.argmax())])
    assert len(best) == 1
