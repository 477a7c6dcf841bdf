"""Predicting harm: what predictors read, divergences by hand, planted and empty predictors."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from cast_lens.experiments.catalogue.predict_transfer import NEEDS, TOGETHER, PredictTransfer, spread, without_answers
from cast_lens.experiments.cells import Cell
from cast_lens.methods.source_choice import divergence
from cast_lens.tasks import zero_shot_prompts
from tests.experiments.made_rows import Right, crossed, harms, helps, nothing
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = PredictTransfer()
TARGETS, SOURCES = tuple(f"t{i}" for i in range(6)), ("s0", "s1", "s2", "s3")


def level(target: str, source: str) -> int:
    """How many of 8 queries the vector answers: the same range for every target, in another order."""
    return (2 * int(target[1]) + 3 * int(source[1])) % 8 + 1


def mixed(target: str, source: str, method: str, query: int) -> bool:
    return query < level(target, source)


def made(right: Right, *, noise: bool = False) -> dict[str, pd.DataFrame]:
    generator = np.random.default_rng(0)
    rows = [
        {
            "target": target,
            "source": source,
            **{name: generator.normal() if noise else float(level(target, source)) for name in NEEDS},
        }
        for target in TARGETS
        for source in SOURCES
    ]
    steered = crossed(TARGETS, SOURCES, right).query("not method.str.startswith('placebo')")
    return {"gain": steered, "predictors": pd.DataFrame(rows)}


@cache
def tables(right: Right) -> dict[str, pd.DataFrame]:
    """The tables of made-up outcomes, which several tests read."""
    return RUN.tables(made(right), grid_config(), small_tasks())


def test_every_steerable_task_has_two_cells() -> None:
    cells = RUN.plan(grid_config(), small_tasks())
    assert [cell.target for cell in cells if cell.kind == "predictors"] == ["tone", "mood", "double"]
    assert [cell.target for cell in cells if cell.kind == "gain"] == ["tone", "mood", "double"]


def test_divergence_is_that_of_scipy() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    shares = logits.softmax(dim=-1).numpy()
    expected = [jensenshannon(shares[0, i], shares[1, i]) ** 2 for i in range(3)]
    # scipy sums float32 shares: five digits.
    np.testing.assert_allclose(divergence(*logits, "jensen-shannon").numpy(), expected, rtol=1e-4)
    assert divergence(logits[0], logits[0], "jensen-shannon").max() < 1e-12
    far = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    assert float(divergence(far[:1], far[1:], "jensen-shannon")[0]) == pytest.approx(np.log(2))


def test_queries_are_stripped_of_their_answers() -> None:
    task = small_tasks()["mood"]
    prompt = without_answers(zero_shot_prompts(task, task.test[:1])[0])
    assert (prompt.gold, prompt.choices) == ("", ())


def test_spread_is_the_mean_distance_of_two_samples() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert spread(rows) == pytest.approx(2 / 3)
    assert spread(rows[:1]) == 0.0


def test_a_planted_predictor_predicts_and_noise_does_not() -> None:
    frames = tables(mixed)
    found = frames["predictors"].set_index(["metric", "predictor"])
    for name in NEEDS:
        row = found.loc[("exact_match", name)]
        assert row["correlation"] == pytest.approx(1.0)
        assert row["auroc"] > 0.95
        assert row["accuracy"] > row["always"]
    assert found.loc[("exact_match", TOGETHER), "auroc"] > 0.95
    assert np.isnan(found.loc[("exact_match", TOGETHER), "correlation"])
    assert found["n_tests"].iloc[0] == 2 * len(NEEDS)
    lost = sum(level(target, source) < 4 for target in TARGETS for source in SOURCES)
    assert found.loc[("exact_match", "parallelism"), ["pairs", "harmful"]].tolist() == [24, lost]
    empty = RUN.tables(made(mixed, noise=True), grid_config(), small_tasks())["predictors"]
    # Eight predictors of noise: 24 pairs scatter an area by 0.12.
    assert 0.25 < empty["auroc"].mean() < 0.65
    assert (empty["p_adjusted"].dropna() > 0.05).all()


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (mixed, ("of 24 pairs lose", "the highest AUROC on held-out targets")),
        (helps, ("0 of 24 pairs lose", "no sign can be predicted")),
        (nothing, ("0 of 24 pairs lose", "no sign can be predicted")),
        (harms, ("24 of 24 pairs lose", "no sign can be predicted")),
    ],
)
def test_the_headline_fits_what_came_out(right: Right, said: tuple[str, ...]) -> None:
    frames = tables(right)
    text = words(RUN.findings(frames, grid_config()))
    for part in said:
        assert part in text
    assert bool(list(RUN.figures(frames, grid_config()))) == (right is mixed)


def test_only_three_predictors_read_label_words(tmp_path: Path) -> None:
    names = {"good": "great", "bad": "awful"}
    workspace = grid_workspace(tmp_path / "a")
    task = workspace.tasks["tone"]
    renamed = replace(
        task,
        labels=tuple(names[label] for label in task.labels),
        train=tuple(replace(example, answer=names[example.answer]) for example in task.train),
        test=tuple(replace(example, answer=names[example.answer]) for example in task.test),
    )
    other = grid_workspace(tmp_path / "b")
    other = replace(other, tasks={**other.tasks, "tone": renamed})
    before, after = (RUN.compute(one, Cell("predictors", "tone")) for one in (workspace, other))
    changed = [name for name in NEEDS if not np.allclose(before[name], after[name], rtol=0, atol=1e-5)]
    # Other label words: what is shown with labels changes, and what chooses among the words. No gold answer is read.
    assert changed == ["parallelism", "label overlap", "Fisher embedding"]


@pytest.mark.slow
def test_cells_repeat(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path / "a")
    rows = RUN.compute(workspace, Cell("predictors", "tone"))
    pd.testing.assert_frame_equal(rows, RUN.compute(grid_workspace(tmp_path / "b"), Cell("predictors", "tone")))
    assert rows[list(NEEDS)].notna().all(axis=None)
    gains = RUN.compute(workspace, Cell("gain", "tone"))
    frames = RUN.tables({"gain": gains, "predictors": rows}, grid_config(), small_tasks())
    assert len(frames["result"]) == 2 * 2


@pytest.mark.parametrize("kinds", [(), ("gain",), ("predictors",)])
def test_missing_cells_leave_tables_with_columns(kinds: tuple[str, ...]) -> None:
    rows = made(mixed)
    frames = RUN.tables({kind: rows[kind] for kind in kinds}, grid_config(), small_tasks())
    assert all("metric" in frame for frame in frames.values())
    assert words(RUN.findings(frames, grid_config())) == "No condition has an outcome that could be compared."
    assert list(RUN.figures(frames, grid_config())) == []
