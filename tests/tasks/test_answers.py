"""What a model wrote is read by the answers of its task, or as arXiv 2405.10548 reads it."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

from cast_lens.tasks import Task, zero_shot
from cast_lens.tasks.answers import AnswerReading, is_match, is_valid, may_be_valid, normalise_answer
from cast_lens.tasks.types import Prompt

from .small import example, free_task, labelled_task


def prompt(gold: str, choices: tuple[str, ...] = (), query: str = "Sentence: x\nLabel:") -> Prompt:
    return Prompt((), query, gold, choices, "task", "id")


def labels_task(*labels: str) -> Task:
    return labelled_task(labels)


def words_task(pairs: dict[str, str]) -> Task:
    """A free task of these inputs and answers."""
    test = tuple(
        replace(example(i, answer, prefix="test"), input=text) for i, (text, answer) in enumerate(pairs.items())
    )
    return replace(free_task(), test=test, train=test, validation=test)


def matches(task: Task, text: str) -> list[str]:
    """The gold answers of a task that a text gives."""
    golds = {one.answer: zero_shot(task, one) for one in task.test}
    return [gold for gold, asked in golds.items() if is_match(text, asked)]


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


@pytest.mark.parametrize("text", [" B", "B.", "(B)", "B) word", "B: word", "b", "Answer: B", "B, surely", "**B**"])
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


@pytest.mark.parametrize("gold", ["Port-au-Prince", "Washington, D.C.", "N'Djamena", "St. John's", "US Dollar (USD)"])
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


def test_a_gold_answer_of_marks_alone_is_compared_as_it_is() -> None:
    assert is_match(" +", prompt("+"))
    assert not is_match(" -", prompt("+"))


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("3", "-3"),
        ("-3", "3"),
        ("−3", "3"),
        ("–3", "3"),
        ("－３", "3"),
        ("3.5", "3"),
        ("3,5", "3"),
        ("3,5", "35"),
        ("1,000", "1"),
        ("1 000", "1"),
        ("１，０００", "1"),
        ("٣٫٥", "٣"),
        ("0.5", "5"),
        ("1/2", "1"),
        ("½", "1"),
        ("-½", "½"),
        ("1½", "1"),
        ("1e3", "1"),
        ("2²", "22"),
        ("3rd", "3"),
        ("3-5", "3"),
        ("3:1", "3"),
        ("12:30", "12"),
        ("2020-01-05", "2020"),
        ("1.2.3", "1.2"),
        ("3%", "3"),
        ("50", "50%"),
        ("3 km", "3 m"),
        ("5 MW", "5 mW"),
        ("$5", "€5"),
        ("US", "us"),
        ("non-toxic", "non"),
        ("amazon.com", "amazon"),
        ("C#", "C"),
        ("C++", "C"),
        ("cats", "cat"),
    ],
)
def test_another_answer_does_not_match(text: str, gold: str) -> None:
    assert not is_match(text, prompt(gold))
    assert is_match(gold, prompt(gold))


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("1,000", "1000"),
        ("1000", "1,000"),
        ("1 000", "1000"),
        ("1'000", "1000"),
        ("1,00,000", "100000"),
        ("1.234,5", "1234.5"),
        ("3.0", "3"),
        ("+3", "3"),
        ("３", "3"),
        ("٣", "3"),
        ("३", "3"),
        ("٣٫٥", "3.5"),
        ("−3", "-3"),
        ("½", "0.5"),
        ("1½", "1.5"),
        ("2/4", "1/2"),
        ("1e3", "1000"),
        ("50 %", "50%"),
        ("50％", "50%"),
        ("50 percent", "50%"),
        ("5km", "5 km"),
        ("$5.00", "$5"),
        ("3. Because", "3"),
        ("3, because", "3"),
        ("正面！", "正面"),
        ("正面！真的", "正面"),
        ("सकारात्मक।", "सकारात्मक"),
        ("إيجابي،", "إيجابي"),
        ("إيجابي، لأن", "إيجابي"),
        ("“positive.”", "positive"),
        ("ｐｏｓｉｔｉｖｅ", "positive"),
        ("posi\u200btive", "positive"),
        ("STRASSE", "Straße"),
        ("N’Djamena", "N'Djamena"),
        ("non‑toxic", "non-toxic"),
        ("paris", "Paris"),
        ("PARIS", "Paris"),
    ],
)
def test_the_same_answer_matches_however_it_is_written(text: str, gold: str) -> None:
    assert is_match(text, prompt(gold))


@pytest.mark.parametrize(
    "labels",
    [
        ("non", "non-toxic", "toxic"),
        ("Washington", "Washington, D.C."),
        ("us", "US"),
        ("3", "-3", "3.5", "3.25"),
        ("1", "1.0", "1.00"),
        ("no", "no!", "no?"),
        ("+", "-", "="),
        ("C", "C#", "C++"),
        ("yes, sir", "yes"),
        ("是！", "是"),
        ("１", "1"),
        ("positive", "very positive", "not positive"),
        ("$5", "5", "5%"),
        ("1/2", "1", "2"),
        ("A-", "A", "A+"),
    ],
)
def test_a_label_matches_itself_and_no_other(labels: tuple[str, ...]) -> None:
    task = labels_task(*labels)
    for label in labels:
        for text in (label, f" {label}\n\nSentence: next", f"Label: {label}", f"{label}, because"):
            assert matches(task, text) == [label], text
    words = words_task({f"input {label}": label for label in labels})
    for label in labels:
        if not {"1.0", "１"} & set(labels):  # free answers of one value are one number
            assert matches(words, label) == [label]


def test_copying_the_input_does_not_match_where_the_task_is_about_the_difference() -> None:
    for pairs in (
        {"river": "River", "stone": "Stone", "lamp": "Lamp"},
        {"river": "RIVER", "stone": "STONE"},
        {"1,000": "1000", "25,000": "25000"},
        {"hello!": "hello", "why?": "why"},
        {"１２": "12", "３４": "34"},
    ):
        task = words_task(pairs)
        for copied, answer in pairs.items():
            assert matches(task, copied) == []
            assert matches(task, answer) == [answer]
    german = words_task({"hand": "Hand", "dog": "Hund", "cat": "Katze", "sun": "Sonne", "moon": "Mond", "sea": "Meer"})
    assert matches(german, "hund") == ["Hund"]


def test_labels_that_cannot_be_told_apart_are_refused() -> None:
    for labels in (("caf\u00e9", "cafe\u0301"), ("yes", "yes\u200b"), ("a b", "a  b")):
        with pytest.raises(ValueError, match=r"the labels '.*' and '.*' read the same"):
            labels_task(*labels)
    with pytest.raises(ValueError, match=r"the labels 'us' and 'US' read the same \(rule '2405.10548'\)"):
        replace(labels_task("us", "US"), answer_rule="2405.10548")


def test_the_rule_of_the_paper_is_a_switch() -> None:
    task = replace(words_task({"a": "3", "b": "us"}), answer_rule="2405.10548")
    assert matches(task, "3.5") == ["3"]
    assert matches(task, "US-born") == ["us"]
    assert is_match("3.5", prompt("3"), rule="2405.10548")
    assert not is_match("3.5", prompt("3"))


def test_what_is_ignored_is_decided_by_the_answers() -> None:
    assert not AnswerReading.of(["yes", "no"], labels=True).case
    assert AnswerReading.of(["yes", "Yes"], labels=True).case
    assert AnswerReading.of(["3", "4"], labels=True).numbers
    assert not AnswerReading.of(["3", "3.0"], labels=True).numbers
    assert AnswerReading.of(["3", "3.0"]).numbers


OPEN = [
    labels_task("positive", "negative", "neutral"),
    labels_task("non-toxic", "toxic", "very toxic"),
    labels_task("A", "B", "C", "D"),
    labels_task("US", "us", "UK"),
    labels_task("3", "-3", "3.5", "1,000"),
    labels_task("正面", "负面", "中 性"),
    labels_task("सकारात्मक", "नकारात्मक"),
    labels_task("évité", "evite", "straße"),
    labels_task("!", "?", "none."),
]
DRESSES = [
    "{}",
    " {}.",
    '"{}"',
    "**{}**",
    "({})",
    "{}) word",
    "{}: because",
    "\n\n{}\nmore",
    "Label: {}",
    "{}。",
    "- {} -",
]


@pytest.mark.parametrize("task", OPEN, ids=lambda task: task.labels[0])
def test_a_text_that_becomes_an_answer_is_open_all_the_way(task: Task) -> None:
    """Every beginning of a valid text, in either Unicode form, may still be valid."""
    seen = 0
    for one in task.test:
        asked = zero_shot(task, one)
        for choice in asked.choices:
            for dress in DRESSES:
                for form in ("NFC", "NFD"):
                    text = unicodedata.normalize(form, dress.format(choice))
                    if is_valid(text, asked):
                        seen += 1
                        assert all(may_be_valid(text[:stop], asked) for stop in range(len(text) + 1)), text
    assert seen > 20


def test_a_text_that_can_give_no_answer_is_not_open() -> None:
    asked = zero_shot(OPEN[0], OPEN[0].test[0])
    assert not may_be_valid(" tool", asked)
    assert not may_be_valid("The answer", asked)
    assert not may_be_valid("positron", asked)
    assert may_be_valid(" Pos", asked)
    assert may_be_valid("", asked)
    assert may_be_valid("Lab", asked)
    assert may_be_valid("The answer", prompt("positive"))
