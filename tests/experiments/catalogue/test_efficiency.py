"""Costs a query: planned methods, counted numbers that repeat, tables of hand-made rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.experiments.catalogue import efficiency
from cast_lens.experiments.catalogue.efficiency import (
    CAST_ENGINE,
    CAST_HOOKS,
    RETRIEVED,
    ZERO_ENGINE,
    ZERO_HOOKS,
    Efficiency,
    methods_of,
)
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.costs import answer_flops
from cast_lens.experiments.workspace import Workspace
from cast_lens.methods import sentence_embedding
from cast_lens.plots.comparisons import plot_costs
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = Efficiency(queries=2)
MEASURED = ["seconds", "megabytes"]


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Workspace]:
    """Two workspaces of one configuration that share nothing."""
    return grid_workspace(tmp_path_factory.mktemp("a")), grid_workspace(tmp_path_factory.mktemp("b"))


def made(method: str, tokens: int, flops: float, *, target: str = "tone", once: float = 0.0) -> pd.DataFrame:
    """Two queries of the given costs, and both together."""
    query = {"part": "query", "queries": 1, "tokens": tokens, "written": 2, "flops": flops, "flops_cached": flops / 2}
    rows = [{**query, "seconds": seconds} for seconds in (0.01, 0.03)]
    batch = {"part": "batch", "queries": 2, "seconds": 0.02, "megabytes": 5.0}
    return pd.DataFrame([*rows, batch]).assign(target=target, source="mood", method=method, once_flops=once)


def test_each_method_has_a_cell_with_another_tasks_source() -> None:
    cells = [cell for cell in RUN.plan(grid_config(), small_tasks()) if not cell.prepares]
    assert {(cell.target, cell.source) for cell in cells} == {("tone", "mood"), ("mood", "double")}
    assert len(cells) == 2 * 9
    assert ZERO_HOOKS not in methods_of(grid_config(chat=True), "mood")
    assert methods_of(grid_config(shots=1), "") == [ZERO_ENGINE, "few-shot, k=1", "batched", ZERO_HOOKS]


def test_tables_are_means_per_query() -> None:
    rows = pd.concat(
        [
            made(ZERO_ENGINE, 10, 2e9),
            made(ZERO_ENGINE, 20, 4e9, target="mood"),
            made("few-shot, k=2", 60, 12e9),
            made(CAST_HOOKS, 10, 2e9, once=100e9),
        ],
        ignore_index=True,
    )
    frames = RUN.tables({"cost": rows}, grid_config(), small_tasks())
    result = frames["result"].set_index("method")
    assert result.loc[ZERO_ENGINE, ["tokens", "gflops", "flops_ratio", "n", "targets"]].tolist() == [15, 3, 1, 4, 2]
    # Against zero-shot on the one target that it ran on.
    assert result.loc["few-shot, k=2", ["flops_ratio", "cached_ratio"]].tolist() == [6.0, 3.0]
    assert result.loc[CAST_HOOKS, "once_gflops"] == 100.0
    timings = frames["timings"].set_index("method")
    assert timings.loc[CAST_HOOKS, ["median_ms", "batch_ms", "megabytes"]].tolist() == pytest.approx([20.0, 10.0, 5.0])
    earned = frames["earned"].set_index("method")
    assert earned.loc["few-shot, k=2"].tolist() == pytest.approx([10.0, 20.0])
    text = words(RUN.findings(frames, grid_config()))
    assert "few-shot, k=2 takes 6.00 times the operations of zero-shot" in text
    assert "as much as 50 steered queries" in text
    assert timings.loc[CAST_HOOKS, ["quartile_low_ms", "quartile_high_ms"]].tolist() == pytest.approx([15.0, 25.0])
    assert len(list(RUN.figures(frames, grid_config()))) == 1


def test_tables_survive_what_is_missing() -> None:
    rows = made(ZERO_ENGINE, 10, 2e9).assign(megabytes=np.nan)
    frames = RUN.tables({"cost": rows}, grid_config(), small_tasks())
    words(RUN.findings(frames, grid_config()))
    assert frames["timings"]["megabytes"].isna().all()
    dear = pd.concat([rows, made("few-shot, k=2", 5, 1e9), made(CAST_HOOKS, 10, 2e9, once=1e9)], ignore_index=True)
    frames = RUN.tables({"cost": dear}, grid_config(), small_tasks())
    assert frames["earned"]["queries"].isna().all()
    frames = RUN.tables({}, grid_config(), small_tasks())
    assert list(RUN.figures(frames, grid_config())) == []
    assert "No condition has an outcome" in words(RUN.findings(frames, grid_config()))


@pytest.mark.parametrize("method", [*methods_of(grid_config(), "mood")])
def test_what_is_counted_repeats(
    method: str, workspaces: tuple[Workspace, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell("cost", "tone", "mood", method)
    frames = [RUN.compute(workspaces[0], cell)]
    # Memory is measured and need not repeat; under PyTorch's profiler a run takes several times as long.
    monkeypatch.setattr(efficiency, "peak_megabytes", lambda run, model: run() or 1.0)
    frames.append(RUN.compute(workspaces[1], cell))
    counted = [frame.drop(columns=MEASURED) for frame in frames]
    pd.testing.assert_frame_equal(*counted)
    queries = frames[0][frames[0]["part"] == "query"]
    assert queries["queries"].sum() == 2
    assert (queries["flops_cached"] <= queries["flops"]).all()
    assert (frames[0]["seconds"] > 0).all()
    assert frames[0]["megabytes"].max() > 0
    assert (frames[0]["once_flops"] > 0).all() == (method in (CAST_ENGINE, CAST_HOOKS, "retrieved few-shot"))


def test_zero_shot_costs_its_prompt_and_its_answer(workspaces: tuple[Workspace, Workspace]) -> None:
    workspace = workspaces[0]
    rows = RUN.compute(workspace, Cell("cost", "tone", "mood", ZERO_ENGINE)).query("part == 'query'")
    for row in rows.itertuples():
        assert row.flops == answer_flops(workspace.model.cfg, prompt=int(row.tokens), written=int(row.written))
    steered = RUN.compute(workspace, Cell("cost", "tone", "mood", CAST_ENGINE)).query("part == 'query'")
    assert (steered["tokens"].to_numpy() == rows["tokens"].to_numpy()).all()
    assert (steered["flops"].to_numpy() > steered["flops_cached"].to_numpy()).all()


def test_a_sentence_encoder_retrieves_and_what_pytorch_counts_of_it_is_added(
    workspaces: tuple[Workspace, Workspace], tmp_path: Path
) -> None:
    asked: list[int] = []

    class Encoder:
        def encode(self, sentences: list[str], **options: object) -> np.ndarray:
            asked.append(len(sentences))
            letters = torch.tensor([[float(text.count(one)) for one in "aeio"] for text in sentences])
            return np.asarray(letters @ torch.eye(4))

    plain = grid_workspace(tmp_path, encoder="letters")
    workspace = replace(plain, embed=sentence_embedding(Encoder()))
    cell = Cell("cost", "tone", "mood", RETRIEVED)
    rows = RUN.compute(workspace, cell).query("part == 'query'")
    bare = [
        answer_flops(workspace.model.cfg, prompt=int(row.tokens), written=int(row.written)) for row in rows.itertuples()
    ]
    assert (rows["flops"] - bare).tolist() == [2 * 4 * 4] * 2
    assert rows["once_flops"].unique().tolist() == [2 * 4 * 4 * len(workspace.tasks["mood"].train)]
    # The pool and the queries, and each query anew when it is timed.
    assert asked[:2] == [len(workspace.tasks["mood"].train), 2]
    assert asked.count(1) > 2


def test_prompts_beyond_the_context_are_left_out(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    workspace.model.cfg.n_ctx, room = 90, workspace.model.cfg.n_ctx
    try:
        assert RUN.compute(workspace, Cell("cost", "tone", "mood", "few-shot, k=2")).empty
    finally:
        workspace.model.cfg.n_ctx = room


def test_bars_are_drawn_for_what_is_there() -> None:
    frame = pd.DataFrame({"method": ["a", "b"], "gflops": [2.0, 1.0]})
    figure = plot_costs(frame)
    assert len(figure.data) == 1
    assert list(figure.data[0].y) == ["b", "a"]
    assert figure.layout.xaxis.title.text == "GFLOP per query"
    assert len(plot_costs(frame.assign(cached_gflops=1.0)).data) == 2
    with pytest.raises(ValueError, match="plot_costs needs the columns"):
        plot_costs(frame.drop(columns="gflops"))
