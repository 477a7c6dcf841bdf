"""Tasks from folders: every layout, what they are taken for, and what task.json changes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cast_lens.tasks import few_shot, list_tasks, load_task, zero_shot
from cast_lens.tasks.templates import definition

from .small import Record, records, write_jsonl, write_task

YES_NO: dict[str, Any] = {"answers": ("yes", "no"), "choices": ("yes", "no")}
FREE: dict[str, Any] = {"answers": ("one", "two", "three")}


def lettered(count: int, prefix: str) -> list[Record]:
    return [
        {
            "id": f"{prefix}-{i}",
            "input": f"{prefix} question {i}",
            "choices": [f"red {i}", f"green {i}", f"blue {i}"],
            "answer": f"green {i}",
        }
        for i in range(count)
    ]


def write_settings(folder: Path, **settings: Any) -> None:
    (folder / "task.json").write_text(json.dumps(settings), encoding="utf-8")


def test_the_same_choices_everywhere_make_a_classification(tmp_path: Path) -> None:
    write_task(tmp_path / "mood", **YES_NO)
    task = load_task("mood", tasks=tmp_path)
    assert (task.kind, task.family, task.labels) == ("classification", "classification", ("yes", "no"))
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 2, 6)
    assert task.test[0].choices == ()
    assert zero_shot(task, task.test[0]).text == (
        'Definition: Label the sentence. The label is "yes" or "no".\nSentence: test text 0\nLabel:'
    )
    assert (task.origin, task.name, task.language) == (str(tmp_path), "mood", "en")


def test_other_choices_make_multiple_choice(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "quiz" / "train.jsonl", lettered(10, "train"))
    write_jsonl(tmp_path / "quiz" / "test.jsonl", lettered(3, "test"))
    task = load_task("quiz", tasks=str(tmp_path))
    assert (task.kind, task.family, task.labels) == ("multiple-choice", "multiple-choice", ())
    prompt = zero_shot(task, task.test[2])
    assert prompt.text.endswith("Question: test question 2\nA. red 2\nB. green 2\nC. blue 2\nAnswer:")
    assert (prompt.gold, prompt.choices) == ("B", ("A", "B", "C"))


def test_no_choices_make_free_answers(tmp_path: Path) -> None:
    write_task(tmp_path / "words" / "count", **FREE)
    task = load_task("words/count", tasks=tmp_path)
    assert (task.name, task.kind, task.family, task.labels) == ("count", "free", "word", ())
    assert zero_shot(task, task.test[0]).text == "Q: test text 0\nA:"
    assert load_task("count", tasks=tmp_path) == task


def test_two_options_that_read_the_same_are_told_apart_by_their_letter(tmp_path: Path) -> None:
    rows = lettered(6, "train")
    rows[0].update(choices=["same", "same", "other"], answer="same", fields={"label": "B"})
    write_jsonl(tmp_path / "quiz" / "train.jsonl", rows)
    write_jsonl(tmp_path / "quiz" / "test.jsonl", [{**rows[0], "id": "x", "input": "x"}, *lettered(2, "test")])
    task = load_task("quiz", tasks=tmp_path)
    assert zero_shot(task, task.test[0]).gold == "B"


def test_languages_lie_in_inner_folders(tmp_path: Path) -> None:
    for language in ("en", "de"):
        write_task(tmp_path / "mood" / language, **YES_NO)
    assert [info.name for info in list_tasks(tmp_path)] == ["mood", "mood.de"]
    english, german = load_task("mood.en", tasks=tmp_path), load_task("mood/de", tasks=tmp_path)
    assert (english.name, english.language) == ("mood", "en")
    assert (german.name, german.language, german.test[0].language) == ("mood.de", "de", "de")
    assert [e.id for e in english.validation] == [e.id for e in german.validation]


def test_a_single_file_names_its_splits_itself(tmp_path: Path) -> None:
    rows = [
        {**row, "split": split}
        for split, count in (("train", 8), ("validation", 4), ("test", 5))
        for row in records(count, prefix=split, **YES_NO)
    ]
    path = write_jsonl(tmp_path / "mood.jsonl", rows)
    task = load_task("mood", tasks=tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 4, 5)
    assert load_task("mood", tasks=path).test == task.test
    (tmp_path / "mood.task.json").write_text('{"family": "yes-no"}')
    assert load_task("mood", tasks=path).family == "yes-no"

    write_jsonl(path, [*rows, {**rows[0], "id": "new", "split": "held out"}])
    with pytest.raises(ValueError, match=re.escape(f'{path}:18: field "split": expected one of train, validation')):
        load_task("mood", tasks=tmp_path)
    write_jsonl(path, [*rows, {key: value for key, value in rows[0].items() if key != "split"} | {"id": "new"}])
    with pytest.raises(ValueError, match=r":18: field \"split\": .* got None; give every record a split, or none"):
        load_task("mood", tasks=tmp_path)
    write_jsonl(path, [{**row, "split": {"validation": "dev"}.get(row["split"], row["split"])} for row in rows])
    assert load_task("mood", tasks=tmp_path).validation == task.validation


def test_a_single_file_without_splits_is_split_by_seed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mood.jsonl", sorted(records(40, prefix="a", **YES_NO), key=lambda r: r["answer"]))
    task, other = load_task("mood", tasks=path), load_task("mood", tasks=path, seed=1)
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 8, 12)
    for part in (task.train, task.validation, task.test):
        counts = [sum(e.answer == label for e in part) for label in ("yes", "no")]
        assert abs(counts[0] - counts[1]) <= 1
    assert {e.id for e in task.test} != {e.id for e in other.test}


def test_a_folder_of_json_files_is_a_folder_of_tasks(tmp_path: Path) -> None:
    words = [{"input": f"word {i}", "output": f"drow {i}"} for i in range(20)]
    (tmp_path / "abstractive").mkdir()
    for name in ("reverse.json", "abstractive/antonym.json"):
        (tmp_path / name).write_text(json.dumps(words))
    (tmp_path / "sheet.csv").write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(12)))
    (tmp_path / "config.json").write_text('{"model": "x", "layers": [1, 2]}')
    assert [(info.name, info.kind) for info in list_tasks(tmp_path)] == [
        ("antonym", "free"),
        ("reverse", "free"),
        ("sheet", "classification"),
    ]
    sheet = load_task("sheet", tasks=tmp_path)
    assert sheet.labels == ("a", "b")
    assert {e.answer for e in sheet.test} == {"a", "b"}


def test_names_of_fields_are_given_by_the_caller_or_by_task_json(tmp_path: Path) -> None:
    rows = [{"body": f"text {i}", "verdict": ("good", "bad")[i % 2]} for i in range(20)]
    write_jsonl(tmp_path / "mood.jsonl", rows)
    named = {"input": "body", "answer": "verdict"}
    with pytest.raises(ValueError, match=r"--fields input=body,answer=verdict"):
        load_task("mood", tasks=tmp_path)
    task = load_task("mood", tasks=tmp_path, fields=named)
    assert task.kind == "free"
    assert list_tasks(tmp_path, fields=named)[0].sizes == (10, 4, 6)
    (tmp_path / "mood.task.json").write_text(json.dumps({"fields": named, "labels": ["good", "bad"]}))
    assert load_task("mood", tasks=tmp_path).labels == ("good", "bad")
    (tmp_path / "mood.task.json").write_text('{"fields": ["body"]}')
    with pytest.raises(ValueError, match='"fields": expected names by field'):
        load_task("mood", tasks=tmp_path)


def test_a_split_in_two_files_is_an_error(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    (folder / "train.csv").write_text("text,label\na,yes\n")
    with pytest.raises(ValueError, match=r"train\.csv and .*train\.jsonl are both the train split"):
        load_task("mood", tasks=tmp_path)


def test_a_tasks_own_folder_can_be_given(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    assert load_task("mood", tasks=folder).labels == ("yes", "no")


def test_the_seed_chooses_the_validation_items(tmp_path: Path) -> None:
    write_task(tmp_path / "mood", train=40, **YES_NO)
    first, again, other = (load_task("mood", tasks=tmp_path, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.validation != other.validation


def test_duplicates_across_splits_are_dropped_from_train_and_counted(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", train=20, **YES_NO)
    rows = records(20, prefix="train", **YES_NO)
    rows[3]["input"] = "test text  1"
    rows[4]["input"] = "Test text 1"
    write_jsonl(folder / "train.jsonl", rows)
    with pytest.warns(UserWarning, match=r"mood: 1 of the train split dropped, because a later split"):
        task = load_task("mood", tasks=tmp_path)
    assert task.dropped == 1
    texts = {e.input for e in (*task.train, *task.validation)}
    assert "test text  1" not in texts
    assert "Test text 1" in texts


def test_an_id_in_two_files_is_an_error_that_names_both(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    write_jsonl(folder / "demos.jsonl", records(1, prefix="test", **YES_NO))
    where = re.escape(f"{folder / 'demos.jsonl'}:1: field \"id\": 'test-0' was used before, at {folder}")
    with pytest.raises(ValueError, match=where):
        load_task("mood", tasks=tmp_path)


def test_task_json_changes_wording_labels_and_family(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", answers=("yes", "no"))
    write_settings(
        folder,
        labels=["no", "yes"],
        family="yes-no",
        instruction="Say yes or no.",
        template="Claim: {input}\nTrue:",
        definition="{instruction}\n\n",
    )
    task = load_task("mood", tasks=tmp_path)
    assert (task.kind, task.family, task.labels) == ("classification", "yes-no", ("no", "yes"))
    assert zero_shot(task, task.test[0]).text == "Say yes or no.\n\nClaim: test text 0\nTrue:"
    assert task.template.name == "mood/task.json"


def test_task_json_of_one_language_wins_over_that_of_all(tmp_path: Path) -> None:
    write_task(tmp_path / "mood" / "en", **YES_NO)
    write_task(tmp_path / "mood" / "de", **YES_NO)
    write_settings(tmp_path / "mood", instruction="Judge.", family="yes-no")
    write_settings(tmp_path / "mood" / "de", instruction="Urteile.")
    english, german = load_task("mood", tasks=tmp_path), load_task("mood.de", tasks=tmp_path)
    assert (english.instruction, german.instruction) == ("Judge.", "Urteile.")
    assert english.family == german.family == "yes-no"


def test_task_json_can_show_fields_and_give_words_an_instruction(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "pairs", **FREE, fields={"first": "a", "second": "b"})
    write_settings(folder, template="{first} and {second}:", instruction="Add {them}.")
    task = load_task("pairs", tasks=tmp_path)
    assert zero_shot(task, task.test[0]).text == "Definition: Add {them}.\na and b:"
    write_settings(folder, instruction="Add them.", definition="")
    assert definition(load_task("pairs", tasks=tmp_path)) == ""


def test_the_kind_can_be_set_where_it_would_be_guessed_wrong(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "quiz", answers=("blue",), choices=("red", "blue"))
    assert load_task("quiz", tasks=tmp_path).kind == "classification"
    write_settings(folder, kind="multiple-choice")
    assert load_task("quiz", tasks=tmp_path).kind == "multiple-choice"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"instructions": "x"}, r'"instructions" is unknown; known are kind, family, instruction'),
        ({"kind": "regression"}, r"\"kind\": expected one of classification, multiple-choice, free, got 'regression'"),
        ({"family": 3}, r'"family": expected text, got 3'),
        ({"labels": ["yes"]}, r'"labels": expected a list of two or more different texts'),
        ({"labels": ["yes", "yes"]}, r'"labels": expected a list of two or more different texts'),
        ({"labels": ["good", "bad"]}, r"train\.jsonl:1: field \"answer\": 'yes' is not a label; known are"),
        ({"labels": ["yes", "no", "?"]}, r"train\.jsonl:1: field \"choices\": expected the labels"),
        ({"template": "{text}\nLabel:"}, r'"template" names \{text\}; known are input'),
        ({"template": "{input.x}\nLabel:"}, r'"template" names \{input\.x\}'),
        ({"template": "{input\nLabel:"}, r'"template" .* is not a format string'),
        ({"template": "Label:"}, r'"template" .* shows nothing of the example; put \{input\} in it'),
        ({"template": "{input}\nLabel: "}, r'"template" .* must end in its answer cue, without a blank'),
        ({"template": "Say {input}"}, r'"template" .* must end in its answer cue'),
        ({"definition": "{task}\n"}, r'"definition" names \{task\}; known are instruction'),
        ({"option": "({mark}) {text}"}, r'"option" names \{mark\}; known are letter, text'),
        ({"kind": "free"}, r"train\.jsonl:1: field \"choices\": free answers have none"),
    ],
)
def test_a_bad_task_json_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    write_settings(folder, **settings)
    with pytest.raises(ValueError, match=message):
        load_task("mood", tasks=tmp_path)


def test_a_multiple_choice_template_has_to_show_the_options(tmp_path: Path) -> None:
    folder = tmp_path / "quiz"
    write_jsonl(folder / "train.jsonl", lettered(6, "train"))
    write_jsonl(folder / "test.jsonl", lettered(3, "test"))
    write_settings(folder, template="{input}\nAnswer:")
    with pytest.raises(ValueError, match=r"does not show the options; put \{options\} in it"):
        load_task("quiz", tasks=tmp_path)
    write_settings(folder, template="{input}\n{options}\nAnswer:", option="({letter}) {text}")
    task = load_task("quiz", tasks=tmp_path)
    assert "\n(A) red 0\n(B) green 0\n" in zero_shot(task, task.test[0]).text


def test_task_json_that_is_no_json_is_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    (folder / "task.json").write_text("{")
    with pytest.raises(ValueError, match=r"task\.json:1: broken JSON at column 2"):
        load_task("mood", tasks=tmp_path)
    (folder / "task.json").write_text("[]")
    with pytest.raises(ValueError, match=r"task\.json: expected a JSON object, got list"):
        load_task("mood", tasks=tmp_path)


def test_choices_on_some_records_only_are_an_error(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    write_jsonl(folder / "test.jsonl", records(2, prefix="test", answers=("yes", "no")))
    with pytest.raises(ValueError, match=r"test\.jsonl:1: field \"choices\" is missing or null, but other records"):
        load_task("mood", tasks=tmp_path)


def test_a_label_word_may_be_missing_from_the_examples_but_not_from_the_labels(tmp_path: Path) -> None:
    write_task(tmp_path / "mood", answers=("yes", "no"), choices=("yes", "no", "unsure"))
    assert load_task("mood", tasks=tmp_path).labels == ("yes", "no", "unsure")


def test_a_known_data_set_is_worded_as_the_paper_words_it(tmp_path: Path) -> None:
    write_task(tmp_path / "sst2", answers=("negative", "positive"), choices=("negative", "positive"))
    own = load_task("sst2", tasks=tmp_path)
    assert zero_shot(own, own.test[0]).query.endswith("\nSentence: test text 0 \nLabel:")
    assert own.template.name == "2405.10548/004, own instruction"
    assert all(label in own.instruction for label in own.labels)

    (tmp_path / "cross_task_icl").mkdir()
    (tmp_path / "cross_task_icl" / "instructions.json").write_text('{"sst2": {"instruction": "As published."}}')
    paper = load_task("sst2", tasks=tmp_path)
    assert zero_shot(paper, paper.test[0]).text == "Definition: As published.\nSentence: test text 0 \nLabel:"
    assert paper.template.name == "2405.10548/004, paper's instruction"

    (tmp_path / "cross_task_icl" / "instructions.json").write_text('{"sst2": "As published."}')
    with pytest.raises(ValueError, match=r"instructions\.json: expected"):
        load_task("sst2", tasks=tmp_path)


NLI = ("entailment", "neutral", "contradiction")
BODIES = [
    ("mnli", ("premise", "hypothesis"), NLI, "Premise: p \nHypothesis: h \nLabel:"),
    ("xnli", ("premise", "hypothesis"), NLI, "Premise: p \nHypothesis: h \nLabel:"),
    ("qqp", ("question1", "question2"), ("not duplicate", "duplicate"), "Question 1: p \nQuestion 2: h \nLabel:"),
    ("boolq", ("passage", "question"), ("True", "False"), "Context: p \nQuestion: h \nAnswer:"),
    ("ag_news", ("x", "y"), ("world", "sports", "business", "technology"), "Sentence: test text 0 \nLabel:"),
]
LETTERED_BODIES = [
    ("race", 4, "Context: p \nQuestion: h\nA. 0 a\nB. 1 a\nC. 2 a\nD. 3 a \nAnswer:"),
    ("social_i_qa", 3, "Context: p \nQuestion: h\nA. 0 a\nB. 1 a\nC. 2 a \nAnswer:"),
    ("arc_easy", 4, "Question: a text 0\nA. 0 a\nB. 1 a\nC. 2 a\nD. 3 a \nAnswer:"),
]


@pytest.mark.parametrize(("name", "fields", "choices", "text"), BODIES)
def test_the_bodies_of_the_paper(
    tmp_path: Path, name: str, fields: tuple[str, str], choices: tuple[str, ...], text: str
) -> None:
    named = dict(zip(fields, ("p", "h"), strict=True))
    write_task(tmp_path / name, answers=choices, choices=choices, fields=named)
    task = load_task(name, tasks=tmp_path)
    assert zero_shot(task, task.test[0], instruction=False).text == text
    shown = few_shot(task, task.test[0], shots=2, seed=0).demonstrations
    assert all(cue.endswith(text[-8:].strip()) for cue, _ in shown)


def quiz(folder: Path, options: int, **more: Any) -> None:
    """A multiple-choice task whose options differ from record to record."""
    for split, marks in (("train", "ghijklmnop"), ("test", "abcdef")):
        rows = [
            {"id": f"{split}-{i}", "input": f"{mark} text {i}", "answer": f"{i % options} {mark}", **more}
            | {"choices": [f"{place} {mark}" for place in range(options)]}
            for i, mark in enumerate(marks)
        ]
        write_jsonl(folder / f"{split}.jsonl", rows)


@pytest.mark.parametrize(("name", "options", "text"), LETTERED_BODIES)
def test_the_lettered_bodies_of_the_paper(tmp_path: Path, name: str, options: int, text: str) -> None:
    quiz(tmp_path / name, options, fields={"context": "p", "question": "h"})
    task = load_task(name, tasks=tmp_path)
    assert zero_shot(task, task.test[0], instruction=False).text == text


def test_a_folder_with_the_name_of_a_public_data_set_and_labels_of_its_own_is_worded_plainly(tmp_path: Path) -> None:
    for name in ("ag_news", "sst2", "boolq", "commonsense_qa", "race", "mnli"):
        write_task(tmp_path / name, **YES_NO)
        with pytest.warns(
            UserWarning, match=f"{name}: this is not the public data set '{name}'.*'plain-classification'"
        ):
            task = load_task(name, tasks=tmp_path)
        assert (task.kind, task.family, task.template.name) == (
            "classification",
            "classification",
            "plain-classification",
        )
        assert task.instruction == 'Label the sentence. The label is "yes" or "no".'
        assert zero_shot(task, task.test[0]).text.endswith("Sentence: test text 0\nLabel:")
    quiz(tmp_path / "arc_easy", 3)
    with pytest.warns(UserWarning, match=r"arc_easy: .*most records have 3 options, not 4"):
        assert load_task("arc_easy", tasks=tmp_path).template.name == "plain-multiple-choice"


def test_a_public_data_set_without_the_fields_of_its_wording_is_worded_plainly(tmp_path: Path) -> None:
    write_task(tmp_path / "mnli", answers=NLI, choices=NLI)
    with pytest.warns(UserWarning, match=r"mnli: .*\(records have no field 'hypothesis'\)"):
        task = load_task("mnli", tasks=tmp_path)
    assert task.template.name == "plain-classification"


def test_one_record_with_other_choices_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    rows = records(10, prefix="train", **YES_NO)
    rows[6]["choices"] = ["yes", "no", "maybe"]
    write_jsonl(folder / "train.jsonl", rows)
    with pytest.raises(
        ValueError, match=r"train\.jsonl:7: field \"choices\": got \['yes', 'no', 'maybe'\], but 15 of 16 records have"
    ):
        load_task("mood", tasks=tmp_path)
    write_settings(folder, kind="multiple-choice")
    assert load_task("mood", tasks=tmp_path).kind == "multiple-choice"


def test_27_labels_are_labels_and_27_options_are_too_many(tmp_path: Path) -> None:
    labels = tuple(f"label {i}" for i in range(27))
    write_task(tmp_path / "topics", answers=labels, choices=labels)
    assert load_task("topics", tasks=tmp_path).labels == labels
    quiz(tmp_path / "exam", 27)
    with pytest.raises(ValueError, match=r"train\.jsonl:1: .* letters for 26 options only"):
        load_task("exam", tasks=tmp_path)


def test_answers_that_are_read_are_one_line(tmp_path: Path) -> None:
    write_task(tmp_path / "poem", answers=("one", "two\nlines"))
    with pytest.raises(ValueError, match=r'train\.jsonl:2: field "answer": has a line end'):
        load_task("poem", tasks=tmp_path)


def test_repeated_labels_and_answers_that_occur_twice_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "mood", answers=("yes", "no"), choices=("yes", "no", "yes"))
    with pytest.raises(ValueError, match=r"train\.jsonl:1: .*a label occurs twice in \['yes', 'no', 'yes'\]"):
        load_task("mood", tasks=tmp_path)
    write_task(tmp_path / "case", answers=("e\u0301", "\u00e9"), choices=("e\u0301", "\u00e9"))
    with pytest.raises(ValueError, match=r"the labels '.*' and '.*' read the same"):
        load_task("case", tasks=tmp_path)


def test_task_json_may_have_a_byte_order_mark_but_not_another_encoding(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    (folder / "task.json").write_bytes(b'\xef\xbb\xbf{"family": "yes-no"}')
    assert load_task("mood", tasks=tmp_path).family == "yes-no"
    (folder / "task.json").write_bytes('{\n"family": "Größe"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"task\.json:2: not UTF-8 \(byte 14 of the line\)"):
        load_task("mood", tasks=tmp_path)


def test_ids_that_begin_anew_in_each_file_are_told_apart(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 6)):
        rows = records(count, prefix=split, **YES_NO)
        write_jsonl(tmp_path / "mood" / f"{split}.jsonl", [{**row, "id": i} for i, row in enumerate(rows)])
    task = load_task("mood", tasks=tmp_path)
    assert task.test[0].id == "test-0"
    assert "train-0" in {e.id for e in (*task.train, *task.validation)}


def test_the_rule_that_reads_answers_can_be_named(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mood", **YES_NO)
    assert load_task("mood", tasks=tmp_path).answer_rule == "task"
    write_settings(folder, answer_rule="2405.10548")
    assert load_task("mood", tasks=tmp_path).reading.rule == "2405.10548"
    write_settings(folder, answer_rule="loose")
    with pytest.raises(ValueError, match=r'"answer_rule": expected one of task, 2405\.10548'):
        load_task("mood", tasks=tmp_path)


def test_a_name_is_a_language_only_where_it_is_one(tmp_path: Path) -> None:
    write_task(tmp_path / "math" / "add", **FREE)
    write_task(tmp_path / "math" / "pt-BR", **FREE)
    assert [info.name for info in list_tasks(tmp_path)] == ["add", "math.pt-BR"]
    assert load_task("math/add", tasks=tmp_path).name == "add"
    assert load_task("math/pt-BR", tasks=tmp_path).language == "pt-BR"
    assert load_task("review-sentiment.en").name == "review-sentiment"


def test_two_tasks_of_one_name_are_an_error(tmp_path: Path) -> None:
    write_task(tmp_path / "words" / "mood", **FREE)
    write_task(tmp_path / "mood", **YES_NO)
    with pytest.raises(
        ValueError, match=r"two tasks are called 'mood': .*mood.*train\.jsonl and .*mood.*train\.jsonl; rename"
    ):
        load_task("mood", tasks=tmp_path)


def test_folders_without_tasks_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tasks='.*nowhere': there is no such folder or file"):
        load_task("mood", tasks=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no task, it is empty; expected <task>/train\.jsonl and <task>/test"):
        list_tasks(tmp_path)
    for name in ("a.parquet", "b.txt", "words.json"):
        (tmp_path / name).write_text('{"hot": "cold", "up": "down"}')
    told = (
        r"holds no task but a\.parquet, b\.txt, words\.json; words\.json is an object, not a list of records; expected"
    )
    with pytest.raises(ValueError, match=told):
        list_tasks(tmp_path)


def test_unknown_names_are_answered_with_the_nearest_ones(tmp_path: Path) -> None:
    write_task(tmp_path / "moody", **YES_NO)
    with pytest.raises(ValueError, match="task 'mooby' is unknown; did you mean moody"):
        load_task("mooby", tasks=tmp_path)
    with pytest.raises(ValueError, match="task 'sience' is unknown; did you mean science"):
        load_task("sience", tasks=tmp_path)
    with pytest.raises(ValueError, match="task 'zzz' is unknown; known are review-sentiment, "):
        load_task("zzz")
    with pytest.raises(ValueError, match=r"'sst2' is a public data set that does not ship; give a folder .* hub=True"):
        load_task("sst2")
    with pytest.raises(ValueError, match=r"hub=True and tasks=\.\.\. exclude each other"):
        load_task("sst2", tasks=tmp_path, hub=True)


def test_a_folder_comes_before_the_suite_that_ships_and_does_not_hide_the_rest(tmp_path: Path) -> None:
    write_task(tmp_path / "antonym", **FREE)
    assert load_task("antonym", tasks=tmp_path).origin == str(tmp_path)
    assert load_task("science", tasks=tmp_path).origin == "shipped"


def test_a_listing_says_what_loading_gives(tmp_path: Path) -> None:
    write_task(tmp_path / "mood", **YES_NO)
    (info,) = list_tasks(tmp_path)
    assert (info.name, info.kind, info.family, info.language) == ("mood", "classification", "classification", "en")
    assert (info.sizes, info.labels, info.origin) == ((8, 2, 6), ("yes", "no"), str(tmp_path))
