"""A recommendation for queries without answers: it reads no label, saves what it recommends, and refuses bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cast_lens as cl
from cast_lens.recommend import Recommendation, corrected, recommend, target_task
from tests.tiny import tiny_model

TEXTS = [f"The {thing} was {how}." for thing in ("film", "meal", "trip", "book") for how in ("fine", "dull", "long")]


def made(task: object) -> Recommendation:
    small = {"queries": 4, "samples": 3, "shots": 2, "layers": (1, 2), "strengths": (1.0, 4.0)}
    sources = ("review-sentiment", "yes-no-facts")
    return recommend(tiny_model("llama"), task, sources=sources, labels=("good", "bad"), **small)  # type: ignore[arg-type]


def test_queries_without_answers_are_enough_and_answers_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(json.dumps({"input": text}) for text in TEXTS))
    found = made(file)
    assert found.target == "mine"
    assert found.steers == (found.vector is not None)
    assert len(found.answers) == 4
    assert set(found.sources["direction"]) == {"vector", "random direction"}
    assert len(found.sources) == 4
    # The same queries with answers: nothing else comes out.
    answers = ["good" if index < 4 else "bad" for index in range(len(TEXTS))]
    with_answers = made([{"input": text, "answer": one} for text, one in zip(TEXTS, answers, strict=True)])
    assert with_answers.sources["expected"].tolist() == found.sources["expected"].tolist()
    assert with_answers.sources["layer"].tolist() == found.sources["layer"].tolist()
    folder = found.save(tmp_path / "out")
    about = json.loads((folder / "recommendation.json").read_text())
    assert about["target"] == "mine"
    assert (folder / "vector.safetensors").is_file() == found.steers
    if found.steers:
        assert cl.SteeringVector.load(folder / "vector.safetensors").layers
        assert found.intervention().layer == found.choice.layer
    else:
        assert "add nothing" in repr(found)
        with pytest.raises(ValueError, match="nothing is recommended"):
            found.intervention()
    assert "mine" in found._repr_html_()


def test_an_expectation_is_corrected_by_known_cases() -> None:
    assert np.isnan(corrected(0.2, [0.1, 0.1])[1])
    middle, low, high = corrected(0.2, [-0.1, 0.0, 0.1, -0.2, -0.1])
    assert middle == pytest.approx(0.14)
    assert low < middle < high
    # A further case of the same spread falls outside one time in twenty.
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        drawn = generator.normal(0, 0.05, size=9)
        _, low, high = corrected(0.0, drawn[:8].tolist())
        inside.append(low <= drawn[8] <= high)
    assert 0.92 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("nowhere.jsonl", "is not a file"),
        (["only", "two"], "holds 2 queries"),
        ([1, 2, 3], "query 1: expected a text or a record, got int"),
        ("review-sentimant", "review-sentiment"),
    ],
)
def test_bad_input_is_refused_in_one_line(task: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(task)


def test_a_text_file_holds_one_query_per_line(tmp_path: Path) -> None:
    """Plain lines, as the help names them, with a byte-order mark and blank lines; or records."""
    plain = tmp_path / "queries.txt"
    plain.write_text('\ufeffwar es gut?\n\n[ja oder nein]\n  "sehr" gut \nнет, 3 из 5', encoding="utf-8")
    asked = target_task(plain, labels=("ja", "nein"))
    inputs = {one.input for one in (*asked.train, *asked.validation, *asked.test)}
    assert inputs == {"war es gut?", "[ja oder nein]", '"sehr" gut', "нет, 3 из 5"}
    assert asked.labels == ("ja", "nein")
    records = tmp_path / "records.txt"
    records.write_text("\n".join(json.dumps({"input": text}) for text in TEXTS))
    assert {one.input for one in target_task(records, labels=("a", "b")).test} <= set(TEXTS)


def test_answers_that_all_become_the_same_are_named() -> None:
    found = made(TEXTS)
    one = pd.DataFrame(
        {"query": TEXTS[:6], "before": "x", "after": ["good", " Good.", "good", "good!", "good", "good"]}
    )
    assert "All 6 answers shown become 'good'" in replace(found, answers=one)._uniform()
    two = one.assign(after=["good", "bad"] * 3)
    assert not replace(found, answers=two)._uniform()
    assert not replace(found, answers=one.head(2))._uniform()
