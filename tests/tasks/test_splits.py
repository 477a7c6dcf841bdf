"""Splits never share an example, wherever they come from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cast_lens.tasks.sampling import Splits, carve, disjoint, input_key, make_splits, stable_seed
from cast_lens.tasks.types import Example

from .small import example


def many(count: int, prefix: str) -> list[Example]:
    return [example(i, "a", prefix=prefix) for i in range(count)]


def ids(examples: tuple[Example, ...]) -> set[str]:
    return {e.id for e in examples}


@pytest.mark.parametrize(("count", "carved"), [(1, 1), (2, 1), (5, 1), (50, 10), (500, 100), (2000, 100)])
def test_a_fifth_of_train_at_most_a_hundred_becomes_validation(count: int, carved: int) -> None:
    train, validation = carve(many(count, "t"), seed=0)
    assert (len(train), len(validation)) == (count - carved, carved)
    assert ids(train) | ids(validation) == ids(tuple(many(count, "t")))


def test_carving_depends_on_ids_and_seed_only() -> None:
    english = many(50, "t")
    german = [replace(e, input=f"deutsch {e.input}", language="de") for e in english[::-1]]
    assert ids(carve(english, seed=0)[1]) == ids(carve(german, seed=0)[1])
    assert ids(carve(english, seed=0)[1]) != ids(carve(english, seed=1)[1])


def test_carving_keeps_the_order() -> None:
    train, validation = carve(many(50, "t"), seed=0)
    assert [e.id for e in train] == sorted(ids(train))
    assert [e.id for e in validation] == sorted(ids(validation))


@pytest.mark.parametrize(
    ("files", "train", "validation"),
    [
        ({"train": 20, "validation": 5}, {"t": 20}, {"v": 5}),
        ({"train": 20}, {"t": 16}, {"t": 4}),
        ({"train": 20, "validation_pool": 300}, {"t": 20}, {"p": 100}),
        ({"validation_pool": 20}, {"p": 16}, {"p": 4}),
        ({"demos": 20}, {"d": 16}, {"d": 4}),
        ({"validation_pool": 20, "validation": 5}, {"p": 20}, {"v": 5}),
        ({"train": 20, "demos": 9}, {"t": 16}, {"t": 4}),
        ({"validation_pool": 20, "demos": 9}, {"p": 16}, {"p": 4}),
    ],
)
def test_where_train_and_validation_come_from(
    files: dict[str, int], train: dict[str, int], validation: dict[str, int]
) -> None:
    prefixes = {"train": "t", "validation": "v", "validation_pool": "p", "demos": "d"}
    tables = {name: many(count, prefixes[name]) for name, count in files.items()}
    splits = make_splits({**tables, "test": many(7, "x")}, seed=0, where="task")
    for got, expected in ((splits.train, train), (splits.validation, validation)):
        (prefix, count), *_ = expected.items()
        assert len(got) == count
        assert all(e.id.startswith(prefix) for e in got)
    assert not ids(splits.train) & ids(splits.validation)
    assert (len(splits.test), splits.dropped) == (7, 0)


def test_an_input_in_two_splits_stays_in_the_later_one_and_is_counted() -> None:
    train, validation, test = many(6, "t"), many(4, "v"), many(3, "x")
    train[0] = replace(train[0], input="  x  text 1 ")
    train[1] = replace(train[1], input=validation[2].input)
    validation[3] = replace(validation[3], input=test[0].input)
    with pytest.warns(UserWarning, match=r"task: 2 of the train split and 1 of the validation split dropped"):
        splits = disjoint(Splits(tuple(train), tuple(validation), tuple(test)), where="task")
    assert [e.id for e in splits.train] == ["t-002", "t-003", "t-004", "t-005"]
    assert [e.id for e in splits.validation] == ["v-000", "v-001", "v-002"]
    assert (splits.test, splits.dropped) == (tuple(test), 3)


def test_an_id_in_two_splits_is_dropped_as_well() -> None:
    test = many(3, "x")
    train = (*many(3, "t"), replace(test[0], input="something else"))
    with pytest.warns(UserWarning, match="1 of the train split dropped"):
        splits = disjoint(Splits(train, tuple(many(2, "v")), tuple(test)), where="task")
    assert (len(splits.train), splits.dropped) == (3, 1)


def test_inputs_repeated_within_a_split_are_kept() -> None:
    test = tuple(replace(e, input="same") for e in many(3, "x"))
    assert disjoint(Splits(tuple(many(2, "t")), tuple(many(2, "v")), test), where="task").test == test


def test_missing_splits_are_errors() -> None:
    with pytest.raises(ValueError, match=r"task has no test split; it has train; add test\.jsonl"):
        make_splits({"train": many(3, "t")}, seed=0, where="task")
    with pytest.raises(ValueError, match=r"task has no examples to show as demonstrations; add train\.jsonl"):
        make_splits({"test": many(3, "x")}, seed=0, where="task")
    with pytest.raises(ValueError, match="task: the train split is empty"):
        make_splits({"train": many(1, "t"), "test": many(3, "x")}, seed=0, where="task")
    with pytest.raises(ValueError, match=r"the train split is empty \(3 examples dropped because another"):
        make_splits({"train": many(3, "x"), "validation": many(2, "v"), "test": many(3, "x")}, seed=0, where="t")


def test_stable_seeds_are_stable() -> None:
    # The value is part of what a stored seed means: it must not change between releases.
    assert stable_seed(0, "review-sentiment-001") == 12818059832890829293
    assert stable_seed(1, 23) != stable_seed(12, 3)


def test_input_keys_ignore_white_space_and_encoding_but_not_case() -> None:
    assert input_key(" Caf\u00e9\tau  lait\n") == input_key("Cafe\u0301 au lait")
    assert input_key("a b") != input_key("ab")
    assert input_key("N") != input_key("n")


def labelled(counts: dict[str, int]) -> list[Example]:
    """Sorted by label, as files often are."""
    answers = [label for label, count in counts.items() for _ in range(count)]
    return [example(i, answer, prefix="s") for i, answer in enumerate(answers)]


@pytest.mark.parametrize(
    "counts", [{"a": 40, "b": 40}, {"a": 90, "b": 8, "c": 2}, {"a": 5, "b": 1, "c": 30}, {"a": 7, "b": 7, "c": 7}]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_carving_keeps_the_proportions_of_a_sorted_file(counts: dict[str, int], seed: int) -> None:
    rows = labelled(counts)
    kept, moved = carve(rows, seed=seed, class_of=lambda one: one.answer)
    for label, count in counts.items():
        here = sum(one.answer == label for one in moved)
        assert abs(here - count * len(moved) / len(rows)) <= 1
        assert here >= (count > 1)
        assert any(one.answer == label for one in kept)


def test_a_single_file_without_splits_is_cut_with_every_label_in_every_split() -> None:
    rows = labelled({"a": 30, "b": 30, "c": 6})
    twins = [replace(rows[40], id="twin", answer="a"), replace(rows[41], id="twin 2")]
    splits = make_splits({"": [*rows, *twins]}, seed=0, where="task", class_of=lambda one: one.answer)
    assert [len(splits.test), len(splits.validation)] == pytest.approx([20, 13], abs=2)
    assert ids(splits.train) | ids(splits.validation) | ids(splits.test) == ids(tuple([*rows, *twins]))
    assert splits.dropped == 0
    for part in (splits.train, splits.validation, splits.test):
        assert {one.answer for one in part} == {"a", "b", "c"}
    texts = [{input_key(one.input) for one in part} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, texts)) == len(set.union(*texts))
