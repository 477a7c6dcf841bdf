"""The main job on a tiny model: what it leaves, that it repeats itself exactly, and that it goes on after a stop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.experiments import RunConfig, run
from cast_lens.experiments.catalogue.transfer import METHODS, Transfer, chosen_conditions
from cast_lens.experiments.workspace import test_examples as asked_examples
from cast_lens.tasks import load_task
from cast_lens.vectors import DifferenceVectors, SteeringVector
from tests.experiments.small import pairs_config, workspace_of

FRAMES = (
    "parallelism",
    "alignment",
    "cohesion",
    "entropy",
    "cosines",
    "projection",
    "sweep",
    "settings",
    "result",
    "pairs",
    "methods",
    "split",
    "labels",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return pairs_config(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config, tmp_path_factory.mktemp("run") / "out")


def frames(path: Path) -> dict[str, pd.DataFrame]:
    folder = path / "experiments" / "transfer"
    found = {name: pd.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
    return {**found, "outcomes": pd.read_parquet(folder / "rows" / "outcomes.parquet")}


def test_a_run_leaves_every_frame_and_explains_itself(finished: Path) -> None:
    assert all(len(frame) for frame in frames(finished).values())
    for name in ("config.json", "versions.json", "model.json"):
        assert (finished / name).is_file()
    names = {path.name for path in (finished / "vectors").iterdir()}
    assert "differences.present-past.safetensors" in names
    assert "shuffled.review-sentiment.safetensors" in names


def test_every_target_has_every_condition_on_the_same_examples(finished: Path) -> None:
    outcomes = frames(finished)["outcomes"]
    methods = set(outcomes["method"])
    assert methods == {
        "zero-shot",
        "few-shot",
        "cross-task few-shot",
        "cast",
        "cast (own vector)",
        "placebo: shuffled labels",
        "placebo: shuffled labels (own vector)",
        "placebo: random direction",
        "placebo: random direction (own vector)",
    }
    for _, part in outcomes.groupby("target"):
        sets = part.groupby(["method", "source", "seed"])["sample"].agg(tuple)
        assert len(set(sets)) == 1
    own = outcomes[outcomes["method"] == "cast (own vector)"]
    assert (own["target"] == own["source"]).all()
    crossed = outcomes[outcomes["method"].isin(["cast", "cross-task few-shot"])]
    assert (crossed["target"] != crossed["source"]).all()


def test_transfer_is_what_the_outcomes_say(finished: Path) -> None:
    found = frames(finished)
    transfer, outcomes = found["result"], found["outcomes"]
    for row in transfer.itertuples():
        cell = outcomes[
            (outcomes["target"] == row.target) & (outcomes["source"] == row.source) & (outcomes["method"] == row.method)
        ]
        zero = outcomes[(outcomes["target"] == row.target) & (outcomes["method"] == "zero-shot")]
        assert row.value == pytest.approx(cell[row.metric].mean())
        assert row.gain == pytest.approx(cell[row.metric].mean() - zero[row.metric].mean())
        assert row.low <= row.value + 1e-12
        assert row.value <= row.high + 1e-12
    tested = transfer["method"].str.startswith("cast")
    assert transfer.loc[tested, "p_adjusted"].ge(transfer.loc[tested, "p_value"] - 1e-12).all()
    assert (transfer["n_tests"] == tested.sum()).all()


def test_pairs_put_the_conditions_beside_each_other(finished: Path) -> None:
    found = frames(finished)
    result = found["result"].set_index(["target", "method", "source", "metric"])["value"]
    pairs = found["pairs"]
    assert len(pairs) == found["result"]["method"].isin(["cast", "cast (own vector)"]).sum()
    for row in pairs.to_dict("records"):
        own = " (own vector)" if row["target"] == row["source"] else ""
        key = row["target"], f"cast{own}", row["source"], row["metric"]
        assert row["cast"] == result[key]
        assert row["zero-shot"] == result[row["target"], "zero-shot", "", row["metric"]]
        assert row["few-shot"] == result[row["target"], "few-shot", "", row["metric"]]
        assert np.isnan(row["cross-task few-shot"]) == bool(own)


def test_random_directions_differ_between_sources_and_draws(config: RunConfig, tmp_path: Path) -> None:
    experiment = Transfer(umap=False)
    workspace = workspace_of(experiment, replace(config, rule="own"), tmp_path)
    edits = [
        condition.intervention
        for condition in chosen_conditions(workspace, workspace.base("yes-no-facts"), METHODS)
        if condition.method.startswith("placebo: random direction")
    ]
    directions = torch.stack([edit.direction / edit.direction.norm() for edit in edits])  # type: ignore[union-attr]
    assert len(directions) == 4
    cosines = directions @ directions.T - torch.eye(4)
    assert float(cosines.abs().max()) < 0.6


def test_labels_of_what_was_used_are_counted(config: RunConfig, finished: Path) -> None:
    labels = frames(finished)["labels"].set_index(["task", "use", "label"])["n"]
    assert labels.groupby(level=["task", "use"]).sum().to_dict() == {
        ("review-sentiment", "samples"): 4,
        ("review-sentiment", "validation"): 3,
        ("yes-no-facts", "samples"): 4,
        ("yes-no-facts", "validation"): 3,
        ("yes-no-facts", "test"): 4,
    }
    asked = asked_examples(config, load_task("yes-no-facts"))
    for label in ("yes", "no"):
        assert labels["yes-no-facts", "test", label] == sum(one.answer == label for one in asked)


def test_split_adds_up(finished: Path) -> None:
    split = frames(finished)["split"]
    np.testing.assert_allclose(split["format"] + split["choice"], split["total"], atol=1e-12)
    assert "present-past" not in set(split["target"])


def test_the_chosen_cell_is_the_best_finalist_of_the_sources_own_validation(finished: Path) -> None:
    sweep = frames(finished)["sweep"]
    for _, part in sweep.groupby("source"):
        assert part["chosen"].sum() == 1
        chosen = part[part["chosen"]].iloc[0]
        finalists = part[(part["kind"] == "vector") & part["exact_match"].notna()]
        assert chosen["exact_match"] == finalists["exact_match"].max()
        assert (part["n"] == 3).all()
        assert set(part["kind"]) == {"unsteered", "vector", "placebo: random direction"}
        # What the cell changed is told of the finalists, whose answers were written.
        assert finalists["n_changed"].notna().all()
        assert part.loc[~part.index.isin(finalists.index), "n_changed"].isna().all()
        assert ((finalists["changed"] != "") == (finalists["n_changed"] > 0)).all()


@pytest.mark.slow
def test_the_same_run_gives_the_same_frames(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    again = run(config, tmp_path / "again")
    for name, frame in frames(again).items():
        pd.testing.assert_frame_equal(frame, frames(finished)[name], check_exact=True)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"

    def stop_after_the_first_target(text: str) -> None:
        if "outcomes-yes-no-facts" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, out, say=stop_after_the_first_target)
    (kept,) = (out / "experiments" / "transfer" / "cells").glob("outcomes-*.parquet")
    before = kept.stat().st_mtime_ns
    assert len(pd.read_parquet(kept))
    run(config, out)
    assert kept.stat().st_mtime_ns == before
    for name, frame in frames(out).items():
        pd.testing.assert_frame_equal(frame, frames(finished)[name], check_exact=True)


def test_another_configuration_in_the_same_directory_is_refused(config: RunConfig, finished: Path) -> None:
    with pytest.raises(ValueError, match=r"another configuration \(shots was 2, is 3\)"):
        run(replace(config, shots=3), finished)


def test_a_directory_of_other_files_is_refused(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds no run"):
        run(config, tmp_path)


def test_a_directory_in_use_is_refused(config: RunConfig, finished: Path) -> None:
    from filelock import FileLock

    with FileLock(finished / ".lock"), pytest.raises(ValueError, match="in use by another run"):
        run(config, finished)


def test_a_selection_decides_which_samples_are_averaged(config: RunConfig, tmp_path: Path) -> None:
    small = replace(config, select="farthest-point", budget=2, targets=("yes-no-facts",), sources=("review-sentiment",))
    out = run(small, tmp_path / "out")
    vector = SteeringVector.load(out / "vectors" / "steering.review-sentiment.safetensors")
    differences = DifferenceVectors.load(out / "vectors" / "differences.review-sentiment.safetensors")
    assert len(vector.provenance.sample_ids) == 2
    rows = [differences.sample_ids.index(name) for name in vector.provenance.sample_ids]
    assert torch.equal(vector.directions, differences.mean(rows).directions)
    assert "mean over 2 of 4 samples; chosen by farthest-point" in vector.provenance.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"select": "confident"}, "select='confident' is not a selection that a run can make"),
        ({"sources": ("review-sentimant",)}, "review-sentiment"),
        ({"samples": 63, "shots": 2}, "samples=63 must be from 1 to"),
        ({"layers": (99,)}, "layers=.99. must be increasing block indices"),
    ],
)
def test_bad_input_is_refused_before_work(
    config: RunConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    def no_work(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
        raise AssertionError(f"work began: {title}")

    with pytest.raises(ValueError, match=message):
        run(replace(config, **change), tmp_path / "out", progress=no_work)
