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
from cast_lens.experiments.bench import parameter_count
from cast_lens.vectors import DifferenceVectors, SteeringVector
from tests.models.files import write_folder
from tests.tiny import tiny_model

FRAMES = (
    "parallelism",
    "alignment",
    "cohesion",
    "entropy",
    "cosines",
    "projection",
    "sweep",
    "outcomes",
    "transfer",
    "split",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("tiny")
    write_folder(folder)
    return RunConfig(
        model=str(folder),
        sources=("review-sentiment", "yes-no-facts"),
        targets=("yes-no-facts", "present-past"),
        shots=2,
        samples=4,
        validation=3,
        test=4,
        strengths=(1.0, 2.0),
        placebos=2,
        finalists=2,
        bootstrap=50,
        umap=False,
    )


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(config, tmp_path_factory.mktemp("run") / "out", write_report=False)


def frames(path: Path) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(path / "frames" / f"{name}.parquet") for name in FRAMES}


def test_a_run_leaves_every_frame_and_explains_itself(finished: Path) -> None:
    assert all(len(frame) for frame in frames(finished).values())
    for name in ("config.json", "versions.json", "settings.json", "model.json", "seconds.json"):
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
        "steered",
        "steered (own vector)",
        "placebo: shuffled labels",
        "placebo: random direction",
    }
    for _, part in outcomes.groupby("target"):
        sets = part.groupby(["method", "source", "seed"])["sample"].agg(tuple)
        assert len(set(sets)) == 1
    own = outcomes[outcomes["method"] == "steered (own vector)"]
    assert (own["target"] == own["source"]).all()
    crossed = outcomes[outcomes["method"].isin(["steered", "cross-task few-shot"])]
    assert (crossed["target"] != crossed["source"]).all()


def test_transfer_is_what_the_outcomes_say(finished: Path) -> None:
    found = frames(finished)
    transfer, outcomes = found["transfer"], found["outcomes"]
    for row in transfer.itertuples():
        cell = outcomes[
            (outcomes["target"] == row.target)
            & (outcomes["source"] == row.source)
            & (outcomes["method"] == row.method)
        ]
        zero = outcomes[(outcomes["target"] == row.target) & (outcomes["method"] == "zero-shot")]
        assert row.value == pytest.approx(cell[row.metric].mean())
        assert row.gain == pytest.approx(cell[row.metric].mean() - zero[row.metric].mean())
        assert row.low <= row.value + 1e-12
        assert row.value <= row.high + 1e-12
    tested = transfer["method"].str.startswith("steered")
    assert transfer.loc[tested, "p_adjusted"].ge(transfer.loc[tested, "p_value"] - 1e-12).all()
    assert (transfer["n_tests"] == tested.sum()).all()


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


def test_the_same_run_gives_the_same_frames(config: RunConfig, finished: Path, tmp_path: Path) -> None:
    again = run(config, tmp_path / "again", write_report=False)
    for name, frame in frames(again).items():
        pd.testing.assert_frame_equal(frame, frames(finished)[name], check_exact=True)


def test_an_interrupted_run_goes_on_and_ends_the_same(
    config: RunConfig, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    targets: list[str] = []

    def stop_at_second_target(text: str) -> None:
        if text.startswith("Target"):
            targets.append(text)
            if len(targets) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, out, say=stop_at_second_target, write_report=False)
    kept = out / "frames" / "outcomes" / "yes-no-facts.parquet"
    before = kept.stat().st_mtime_ns
    assert len(pd.read_parquet(kept))
    assert not (out / "frames" / "outcomes" / "present-past.parquet").exists()
    run(config, out, write_report=False)
    assert kept.stat().st_mtime_ns == before
    for name, frame in frames(out).items():
        pd.testing.assert_frame_equal(frame, frames(finished)[name], check_exact=True)


def test_another_configuration_in_the_same_directory_is_refused(config: RunConfig, finished: Path) -> None:
    with pytest.raises(ValueError, match=r"another configuration \(shots was 2, is 3\)"):
        run(replace(config, shots=3), finished, write_report=False)


def test_a_directory_of_other_files_is_refused(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds no run"):
        run(config, tmp_path, write_report=False)


def test_a_directory_in_use_is_refused(config: RunConfig, finished: Path) -> None:
    from filelock import FileLock

    with FileLock(finished / ".lock"), pytest.raises(ValueError, match="in use by another run"):
        run(config, finished, write_report=False)


def test_a_tied_embedding_counts_once() -> None:
    tied, free = tiny_model("llama-tied"), tiny_model("llama")
    assert parameter_count(free) == sum(p.numel() for p in free.parameters())
    assert parameter_count(tied) == sum(p.numel() for p in tied.parameters()) - tied.W_U.numel()


def test_a_selection_decides_which_samples_are_averaged(config: RunConfig, tmp_path: Path) -> None:
    small = replace(
        config, select="farthest-point", budget=2, targets=("yes-no-facts",), sources=("review-sentiment",)
    )
    out = run(small, tmp_path / "out", write_report=False)
    vector = SteeringVector.load(out / "vectors" / "steering.review-sentiment.safetensors")
    differences = DifferenceVectors.load(out / "vectors" / "differences.review-sentiment.safetensors")
    assert len(vector.provenance.sample_ids) == 2
    rows = [differences.sample_ids.index(name) for name in vector.provenance.sample_ids]
    assert torch.equal(vector.directions, differences.mean(rows).directions)
    assert "mean over 2 of 4 samples; chosen by farthest-point" in vector.provenance.note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"select": "confident"}, "select='confident' is no selection that a run can make"),
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
        run(replace(config, **change), tmp_path / "out", progress=no_work, write_report=False)
