"""What a model wrote is read as arXiv 2405.10548 reads it."""

from __future__ import annotations

import pytest

from cast_lens.tasks.answers import is_match, is_valid, normalise_answer
from cast_lens.tasks.types import Prompt


def prompt(gold: str, choices: tuple[str, ...] = (), query: str = "Sentence: x\nLabel:") -> Prompt:
    return Prompt((), query, gold, choices, "task", "id")


LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" positive", "positive"),
        (" Positive.\nSentence: more", "positive"),
        ("\n\npositive", "positive"),
        ("Label: positive", "positive"),
        ("answer: True, because", "true"),
        ("«negative» - hardly", "negative"),
        ("world news: Iraq", "world news"),
        ("not duplicate", "not duplicate"),
        ("science/technology", "science/technology"),
        ("(B)", "b"),
        ("B. a thermometer", "b"),
        ("悪い。", "悪い"),
        ("   ", ""),
        ("...", ""),
    ],
)
def test_normalised(text: str, answer: str) -> None:
    assert normalise_answer(text) == answer


@pytest.mark.parametrize(
    "text", [" B", "B.", "(B)", "B) word", "B: word", "b", "Answer: B", "B, surely", "**B**"]
)
def test_a_letter_is_recognised_in_its_usual_dress(text: str) -> None:
    assert is_match(text, prompt("B", LETTERS))
    assert is_valid(text, prompt("C", LETTERS))
    assert not is_match(text, prompt("C", LETTERS))


@pytest.mark.parametrize("text", ["", "Because", "A dog", "E", "the answer is B", "BB"])
def test_a_text_that_is_no_letter_is_invalid(text: str) -> None:
    assert not is_valid(text, prompt("A", LETTERS))
    assert not is_match(text, prompt("A", LETTERS))


def test_a_longer_label_is_not_taken_for_the_shorter_one_it_contains() -> None:
    labels = ("not duplicate", "duplicate")
    assert is_match("not duplicate", prompt("not duplicate", labels))
    assert not is_match("not duplicate", prompt("duplicate", labels))
    assert not is_match("duplicates", prompt("duplicate", labels))


def test_a_bracket_closes_letters_only() -> None:
    assert not is_match("positive) or so", prompt("positive", ("positive", "negative")))


@pytest.mark.parametrize(
    "gold", ["Port-au-Prince", "Washington, D.C.", "N'Djamena", "St. John's", "US Dollar (USD)"]
)
def test_a_gold_answer_with_marks_has_to_be_given_in_full(gold: str) -> None:
    assert is_match(f" {gold}\nQ: next", prompt(gold))
    assert is_match(f"{gold.lower()}.", prompt(gold))
    assert not is_match(gold[: len(gold) // 2], prompt(gold))


def test_a_repeated_cue_in_another_language_is_understood() -> None:
    french = prompt("négatif", ("positif", "négatif"), query="Avis : x\nVerdict :")
    assert is_match("Verdict : négatif", french)
    assert not is_match("Verdict : négatif", prompt("négatif", ("positif", "négatif")))


def test_accents_match_however_they_are_encoded() -> None:
    assert is_match("ne\u0301gatif", prompt("négatif", ("positif", "négatif")))
    assert not is_match("negatif", prompt("négatif", ("positif", "négatif")))


def test_any_word_is_an_admissible_free_answer() -> None:
    assert is_valid(" whatever", prompt("Paris"))
    assert not is_valid(" \n", prompt("Paris"))


def test_a_gold_answer_of_marks_alone_is_compared_as_it_stands() -> None:
    assert is_match(" +", prompt("+"))
    assert not is_match(" -", prompt("+"))
