"""Draws of samples and demonstrations: each is what a run of its own seed gives; their spread is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments import RunConfig
from cast_lens.experiments.catalogue.cross_domain import CrossDomain
from cast_lens.experiments.outcomes import draws_table, pooled_table
from cast_lens.experiments.protocol import joined as under_each_other
from cast_lens.experiments.runner import run_experiment
from cast_lens.experiments.workspace import SEEDS_A_DRAW
from cast_lens.stats import t_interval
from tests.experiments.small import joined, outcomes, planned, right, small_config, words

NAME = "cross-domain"
RUN = CrossDomain(
    draws=2,
    methods=("cast", "placebo: random direction", "placebo: shuffled labels"),
    prompting=("cross-task few-shot", "batched"),
    few_shots=(1,),
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return small_config(tmp_path_factory.mktemp("tiny"), threads=1)


@pytest.fixture(scope="module")
def drawn(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_experiment(RUN, config, out)
    return out / "experiments" / NAME


def rows_in(folder: Path) -> pd.DataFrame:
    paths = sorted((folder / "rows").glob("*.parquet"))
    return under_each_other({path.stem: pd.read_parquet(path) for path in paths})


def test_what_is_never_drawn_stands_once() -> None:
    _, cells = planned(replace(RUN, draws=3))
    assert {cell.draw for cell in cells} == {0, 1, 2}
    assert {cell.draw for cell in cells if cell.variant == "batched"} == {0}
    assert len({cell.key for cell in cells}) == len(cells)
    _, once = planned(replace(RUN, draws=1))
    assert [cell.key for cell in cells if cell.draw == 0] == [cell.key for cell in once]


def test_a_draw_is_what_a_run_of_its_seed_gives(config: RunConfig, drawn: Path, tmp_path: Path) -> None:
    rows = rows_in(drawn)
    assert (rows.loc[rows["method"] == "zero-shot", "draw"] == 0).all()
    for draw in (0, 1):
        alone = replace(config, seed=config.seed + SEEDS_A_DRAW * draw)
        run_experiment(replace(RUN, draws=1), alone, tmp_path / str(draw))
        own = rows_in(tmp_path / str(draw) / "experiments" / NAME)
        once = ["zero-shot", "batched"] if draw else []
        own = own[~own["method"].isin(once)].drop(columns="draw").reset_index(drop=True)
        part = rows[rows["draw"] == draw].drop(columns="draw").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, own)
    first, second = (rows[(rows["draw"] == draw) & (rows["method"] == "cast")] for draw in (0, 1))
    assert not np.array_equal(first["gold_logprob"], second["gold_logprob"])


def test_tables_and_figures_hold_the_draws(config: RunConfig, drawn: Path) -> None:
    frames = {path.stem: pd.read_parquet(path) for path in drawn.glob("*.parquet")}
    assert set(frames["draws"]["n"]) == {2}
    assert {"cast", "placebo: shuffled labels"} <= set(frames["draws"]["method"])
    assert "batched" not in set(frames["draws"]["method"])
    # A pair's queries are counted once, however many draws asked them.
    assert set(frames["methods"]["queries"]) == {config.test}
    assert not frames["split"].duplicated(["target", "method", "source", "seed"]).any()
    assert "cast changes exact match by" in words(RUN.findings(frames, config))
    figures = [one.name for one in RUN.figures(frames, config)]
    assert figures.count("draws") == 1


def made_up(*counts: int) -> pd.DataFrame:
    """Of 40 queries, 10 right under zero-shot and so many under each draw of a vector."""
    frames = [outcomes("zero-shot", right(10)).assign(draw=0)]
    frames += [outcomes("cast", right(count)).assign(draw=draw) for draw, count in enumerate(counts)]
    return joined(frames)


def test_the_spread_over_draws_is_that_of_their_gains() -> None:
    rows = made_up(14, 18, 22)
    table = draws_table(rows, metrics=("exact_match",))
    assert table["method"].tolist() == ["cast"]
    one, expected = table.iloc[0], t_interval([0.1, 0.2, 0.3])
    assert (one["pairs"], one["n"]) == (1, 3)
    assert one[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx([0.2, expected.low, expected.high])
    assert one[["least", "most"]].tolist() == pytest.approx([0.1, 0.3])
    # Draws that agree say nothing on their spread, and the doubt about queries is as it was.
    same = draws_table(made_up(18, 18, 18), metrics=("exact_match",)).iloc[0]
    assert same["gain"] == pytest.approx(0.2)
    assert same[["gain_low", "gain_high"]].isna().all()
    pooled = pooled_table(made_up(18, 18, 18), n_bootstrap=200, seed=0, metrics=("exact_match",))
    single = pooled_table(made_up(18), n_bootstrap=200, seed=0, metrics=("exact_match",))
    for column in ("gain", "gain_low", "gain_high", "queries"):
        assert pooled[column].tolist() == pytest.approx(single[column].tolist())
