"""Adaptive task vectors among other methods: what folds hold out, planted outcomes, and a tiny run from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cast_lens.experiments import run_experiment
from cast_lens.experiments import trained_methods as trained_module
from cast_lens.experiments.catalogue.atv import CAST, FAMILY, SEEN, TASK, AdaptiveTaskVectors, folded, is_variant
from cast_lens.experiments.trained_methods import (
    ANOTHER,
    ATV_FULL,
    ATV_LOW,
    LORA,
    STATIC,
    asked,
    design,
    held_out,
    holdouts,
    trained_methods,
)
from cast_lens.experiments.workspace import load_tasks
from tests.experiments.small import SMALL, small_config, words

CONFIG = replace(SMALL, sources=("review-sentiment", "science"), targets=("finance-sentiment", "yes-no-facts"))
RUN = AdaptiveTaskVectors(
    atv_examples=(2, 4),
    atv_holdout_examples=3,
    atv_epochs=2,
    atv_rank=2,
    atv_methods=(ATV_FULL, ATV_LOW, STATIC),
    queries=2,
)


def test_holdouts_are_targets_and_families_of_several() -> None:
    tasks = load_tasks(CONFIG)
    assert holdouts(RUN, CONFIG, tasks) == ["task:finance-sentiment", "task:yes-no-facts", "family:classification"]
    assert held_out("", tasks) == set()
    assert held_out("family:classification", tasks) == {"review-sentiment", "finance-sentiment"}
    assert asked(CONFIG, "", tasks) == ["finance-sentiment", "yes-no-facts"]
    assert asked(CONFIG, "family:classification", tasks) == ["finance-sentiment"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atv_holdouts": ("task:science",)}, "task:science' is not one of task:finance-sentiment"),
        ({"atv_methods": ("adapter",)}, "adapter.*atv, atv low-rank"),
        ({"chat": True}, "without a chat template"),
        ({"sources": ("yes-no-facts",), "targets": ("yes-no-facts",)}, "two tasks or more"),
        (
            {
                "sources": ("review-sentiment",),
                "targets": ("finance-sentiment",),
                "atv_holdouts": ("family:classification",),
            },
            "leaves no task to train on",
        ),
    ],
)
def test_mistakes_are_told_before_work_starts(changes: dict[str, object], message: str) -> None:
    own = {name: value for name, value in changes.items() if name.startswith("atv")}
    config = replace(CONFIG, **{name: value for name, value in changes.items() if name not in own})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        replace(RUN, **own).plan(config, load_tasks(config))  # type: ignore[arg-type]


def test_without_peft_adapters_are_left_out_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_module.importlib.util, "find_spec", lambda name: None)
    assert LORA not in trained_methods(replace(RUN, atv_methods=()))
    with pytest.raises(ValueError, match=r"cast-lens\[peft\]"):
        trained_methods(replace(RUN, atv_methods=(LORA,)))


def test_static_and_low_rank_designs() -> None:
    assert design(2, 4, STATIC).generator == "constant"
    assert (design(2, 4, ATV_LOW).rank, design(2, 4, ATV_FULL).rank) == (2, None)
    assert design(2, 4, ATV_FULL).layer == 2


def planted() -> dict[str, pd.DataFrame]:
    """Eight queries per target: ATV right on all, CAST on half, zero-shot on none; held out, ATV right on none."""
    rows = []

    def add(method: str, target: str, right: int, *, source: str = "", examples: int = 0, away: str = "") -> None:
        for index in range(8):
            one = {"method": method, "target": target, "source": source, "sample": f"{target}-{index}"}
            one |= {"examples": examples, "held_out": away, "layer": -1, "strength": 0.0, "seed": 0}
            right_here = float(index < right)
            rows.append(
                {**one, "part": "outcome", "exact_match": right_here, "valid": 1.0, "choice_correct": right_here}
            )

    for target in CONFIG.targets:
        add("zero-shot", target, 0)
        for source in (*CONFIG.sources, *CONFIG.targets):
            add(CAST, target, 4 if source == target else 2, source=source)
        add(ATV_FULL, target, 4, examples=2)
        add(ATV_FULL, target, 8, examples=4)
        add(f"{ATV_FULL} × 0.5", target, 6, examples=4)
        add(ANOTHER, target, 5, examples=4)
        add(ATV_FULL, target, 0, examples=3, away=f"task:{target}")
    add(ATV_FULL, "finance-sentiment", 1, examples=3, away="family:classification")
    cost = {"part": "cost", "method": ATV_FULL, "parameters": 10, "queries": 2, "tokens": 5.0, "seconds": 0.5}
    return {"trained": pd.concat([pd.DataFrame(rows), pd.DataFrame([cost])], ignore_index=True)}


def test_planted_outcomes_come_back() -> None:
    tasks = load_tasks(CONFIG)
    frames = RUN.tables(planted(), CONFIG, tasks)
    gain = frames["methods"].set_index(["fold", "method", "metric"])["gain"]
    assert gain[SEEN, ATV_FULL, "exact_match"] == 1.0
    assert gain[SEEN, CAST, "exact_match"] == 0.5
    assert gain[TASK, ATV_FULL, "choice_correct"] == 0.0
    assert gain[TASK, CAST, "choice_correct"] == 0.25
    assert gain[FAMILY, ATV_FULL, "exact_match"] == 0.125
    against = frames["against"].set_index(["fold", "against", "metric"])
    assert against.loc[(SEEN, CAST, "choice_correct"), "difference"] == 0.5
    curve = frames["curve"].set_index(["method", "examples", "metric"])["gain"]
    assert (curve[ATV_FULL, 2, "exact_match"], curve[ATV_FULL, 4, "exact_match"]) == (0.5, 1.0)
    variants = frames["variants"].set_index(["method", "metric"])["gain"]
    assert variants[f"{ATV_FULL} × 0.5", "exact_match"] == 0.75
    assert variants[ANOTHER, "exact_match"] == 0.625
    assert f"{ATV_FULL} × 0.5" not in set(frames["methods"]["method"])
    assert frames["costs"].loc[0, "query_ms"] == 500.0
    verdicts = against["verdict"]
    assert verdicts[SEEN, "zero-shot", "choice_correct"] == "gain"
    assert verdicts[TASK, CAST, "choice_correct"] == "not shown"
    text = words(RUN.findings(frames, CONFIG))
    assert "On tasks seen in training ATV gains +100.0 points" in text
    assert "on tasks held out of training ATV gains 0.0 points" in text


def test_a_family_that_is_held_out_gives_no_vectors_either() -> None:
    rows = folded(planted()["trained"].iloc[:-1], FAMILY, 4, load_tasks(CONFIG))
    assert set(rows.loc[rows["method"] == CAST, "source"]) == {"science", "yes-no-facts"}
    assert set(rows["target"]) == {"finance-sentiment"}
    own = folded(planted()["trained"].iloc[:-1], SEEN, 4, load_tasks(CONFIG))
    cast = own[own["method"] == CAST]
    assert (cast["source"] == cast["target"]).all()


@pytest.mark.slow
def test_a_tiny_run_from_training_to_drawings(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = replace(small_config(folder), sources=CONFIG.sources, targets=CONFIG.targets)
    run_experiment(replace(RUN, atv_holdouts=("task:yes-no-facts",)), config, tmp_path / "out")
    place = tmp_path / "out" / "experiments" / "atv"
    frames = {path.stem: pd.read_parquet(path) for path in place.glob("*.parquet")}
    assert not list((place / "failed").glob("*"))
    methods = set(frames["methods"].query("fold == @SEEN")["method"])
    assert {ATV_FULL, ATV_LOW, STATIC, CAST, "few-shot, k=2", "retrieved few-shot, own task"} <= methods
    assert any(is_variant(name) for name in frames["variants"]["method"])
    # Static: one vector for each of the layers and nothing else.
    static = frames["costs"].set_index("method").loc[STATIC]
    full = frames["costs"].set_index("method").loc[ATV_FULL]
    assert full["parameters"] > static["parameters"] > 0
    assert full["query_ms"] > 0
    assert (
        pd.read_parquet(place / "rows" / "trained.parquet")
        .query("method == @STATIC and held_out == ''")["examples"]
        .unique()
        == [4, 2]
    ).all()
    assert "ATV gains" in words(RUN.findings(frames, config))
    for one in RUN.figures(frames, config):
        assert one.figure.data


def test_without_rows_tables_have_columns() -> None:
    frames = RUN.tables({}, CONFIG, load_tasks(CONFIG))
    assert {"fold", "verdict"} <= set(frames["result"])
    assert list(RUN.figures(frames, CONFIG)) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, CONFIG))
