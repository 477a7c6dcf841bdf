"""Draws of samples and demonstrations: each is what a run of its own seed gives; their spread is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments import wording
from cast_lens.experiments.bench import SEEDS_A_DRAW
from cast_lens.experiments.outcomes import draws_table, pooled_table
from cast_lens.experiments.runner import run_experiment
from cast_lens.experiments.settings import ExperimentConfig
from cast_lens.stats import t_interval
from tests.experiments.small import SMALL, joined, outcomes, planned, right, small_config, words

NAME = "cross-domain"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return small_config(
        tmp_path_factory.mktemp("tiny"),
        draws=2,
        methods=("cast", "placebo: random direction", "placebo: shuffled labels"),
        prompting=("cross-task few-shot", "batched"),
        few_shots=(1,),
        threads=1,
    )


@pytest.fixture(scope="module")
def drawn(config: ExperimentConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    run_experiment(NAME, config, out)
    return out / "experiments" / NAME


def test_what_is_never_drawn_stands_once() -> None:
    _, cells = planned(NAME, replace(SMALL, draws=3, prompting=("cross-task few-shot", "batched")))
    assert {cell.draw for cell in cells} == {0, 1, 2}
    assert {cell.draw for cell in cells if cell.variant == "batched"} == {0}
    assert len({cell.key for cell in cells}) == len(cells)
    _, once = planned(NAME, replace(SMALL, prompting=("cross-task few-shot", "batched")))
    assert [cell.key for cell in cells if cell.draw == 0] == [cell.key for cell in once]


def test_a_draw_is_what_a_run_of_its_seed_gives(
    config: ExperimentConfig, drawn: Path, tmp_path: Path
) -> None:
    rows = pd.read_parquet(drawn / "rows.parquet")
    assert (rows.loc[rows["method"] == "zero-shot", "draw"] == 0).all()
    for draw in (0, 1):
        alone = replace(config, draws=1, seed=config.seed + SEEDS_A_DRAW * draw)
        run_experiment(NAME, alone, tmp_path / str(draw))
        own = pd.read_parquet(tmp_path / str(draw) / "experiments" / NAME / "rows.parquet")
        once = ["zero-shot", "batched"] if draw else []
        own = own[~own["method"].isin(once)].drop(columns="draw").reset_index(drop=True)
        part = rows[rows["draw"] == draw].drop(columns="draw").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, own)
    first, second = (rows[(rows["draw"] == draw) & (rows["method"] == "cast")] for draw in (0, 1))
    assert not np.array_equal(first["gold_logprob"], second["gold_logprob"])


def test_tables_and_reading_hold_the_draws(config: ExperimentConfig, drawn: Path) -> None:
    from cast_lens.experiments.catalogue import find

    frames = {path.stem: pd.read_parquet(path) for path in drawn.glob("*.parquet")}
    assert set(frames["draws"]["n"]) == {2}
    assert "batched" not in set(frames["draws"]["method"])
    # A pair's queries are counted once, however many draws asked them.
    assert set(frames["methods"]["queries"]) == {config.test}
    assert not frames["split"].duplicated(["target", "method", "source", "seed"]).any()
    text = words(find(NAME).read(frames, config))
    assert "under cast, over 2 draws" in text
    assert "under placebo: shuffled labels, over 2 draws" in text
    assert wording.DRAWN_LIMITS in text
    figures = [one.name for one in find(NAME).draw(frames, config)]
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
    assert one[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx(
        [0.2, expected.low, expected.high]
    )
    assert one[["least", "most"]].tolist() == pytest.approx([0.1, 0.3])
    # Draws that agree leave no doubt about draws, and the doubt about queries is as it was.
    same = draws_table(made_up(18, 18, 18), metrics=("exact_match",)).iloc[0]
    assert same[["gain_low", "gain_high"]].tolist() == pytest.approx([0.2, 0.2])
    pooled = pooled_table(made_up(18, 18, 18), n_bootstrap=200, seed=0, metrics=("exact_match",))
    single = pooled_table(made_up(18), n_bootstrap=200, seed=0, metrics=("exact_match",))
    for column in ("gain", "gain_low", "gain_high", "queries"):
        assert pooled[column].tolist() == pytest.approx(single[column].tolist())
