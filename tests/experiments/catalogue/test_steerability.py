"""Doses: log-odds from answers, planted slopes, and a null in which half of the examples go against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cast_lens.engine import Scores, TokenPrompt
from cast_lens.experiments.catalogue.steerability import STRENGTHS, Steerability, gold_log_odds
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.transfer_matrix import RANDOM
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = Steerability()


def doses(slopes: dict[str, list[float]], *, own: bool = False) -> pd.DataFrame:
    """Straight lines of the given slopes, one per example, by kind."""
    rows = [
        {
            "sample": f"s{index}",
            "score": -1.0 + slope * strength,
            "source": "mood",
            "kind": kind,
            "layer": 2,
            "strength": strength,
            "target": "mood" if own else "tone",
            "own": own,
        }
        for kind, values in slopes.items()
        for index, slope in enumerate(values)
        for strength in STRENGTHS
    ]
    return pd.DataFrame(rows)


def test_log_odds_are_against_all_other_answers() -> None:
    prompt = TokenPrompt((1, 2), ((3,), (4,), (5,)), gold=1, name="p")
    free = TokenPrompt((1, 2), ((3,),), gold=0, name="free")
    shares = torch.tensor([[0.2, 0.3, 0.1]], dtype=torch.float64)
    scores = Scores(
        (shares.log().float(), torch.tensor([[0.25]]).log()),
        torch.zeros(1, 2, dtype=torch.long),
        None,
        (),
        (prompt, free),
    )
    # Stored log-probabilities are float32: six digits.
    np.testing.assert_allclose(gold_log_odds(scores), [[np.log(0.3 / 0.3), np.log(0.25 / 0.75)]], atol=1e-6)
    nothing = Scores((shares,), torch.zeros(1, 1, dtype=torch.long), None, (), (TokenPrompt((1,), ((3,),), -1, "q"),))
    with pytest.raises(ValueError, match="q has no gold answer"):
        gold_log_odds(nothing)


def test_every_steerable_task_has_one_cell() -> None:
    cells = RUN.plan(grid_config(), small_tasks())
    assert [cell.target for cell in cells if cell.kind == "dose"] == ["tone", "mood", "double"]


def test_planted_slopes_are_found() -> None:
    rows = doses({"cast": [2.0, 1.0, 3.0, -1.0], RANDOM: [0.0, 0.0, 0.0, 0.0]})
    frames = RUN.tables({"dose": rows}, grid_config(), small_tasks())
    found = frames["result"].set_index("kind")
    assert found.loc["cast", "slope"] == pytest.approx(1.25)
    assert found.loc["cast", "anti_steerable"] == 0.25
    assert found.loc["cast", "residual"] == pytest.approx(0.0, abs=1e-9)
    assert found.loc["cast", "over_placebo"] == pytest.approx(1.25)
    assert found.loc[RANDOM, "slope"] == pytest.approx(0.0)
    assert found.loc["cast", "n_tests"] == 1
    assert np.isnan(found.loc[RANDOM, "p_adjusted"])
    dose = frames["dose"].set_index(["method", "x"])["y"]
    assert dose["cast", 1.5] == pytest.approx(1.875)
    assert dose["cast", 0.0] == 0.0
    assert len(frames["examples"]) == len(rows)


def test_own_tasks_are_kept_apart_and_untested() -> None:
    rows = pd.concat([doses({"cast": [1.0, 2.0], RANDOM: [0.0, 0.5]}, own=own) for own in (False, True)])
    frames = RUN.tables({"dose": rows}, grid_config(), small_tasks())
    assert frames["result"]["p_adjusted"].notna().sum() == 1
    text = words(RUN.findings(frames, grid_config()))
    assert "On other tasks" in text
    assert "On the sources' own test queries" in text


@pytest.mark.parametrize(
    ("slopes", "said"),
    [
        ([2.0, 1.0, 3.0, 2.5, 1.5, 2.2], ("by +2.03", " 0 % of the examples")),
        ([0.5, -0.5, 0.5, -0.5, 0.5, -0.5], ("by +0.00", "50 % of the examples", "0 of 1 pairs gain a larger slope")),
        ([-2.0, -1.0, -3.0, -2.5, -1.5, -2.2], ("by −2.03", "100 % of the examples")),
    ],
)
def test_sentences_fit_what_came_out(slopes: list[float], said: tuple[str, ...]) -> None:
    rows = doses({"cast": slopes, RANDOM: [0.1, -0.1] * 3})
    frames = RUN.tables({"dose": rows}, grid_config(), small_tasks())
    text = words(RUN.findings(frames, grid_config()))
    for part in said:
        assert part in text
    assert {one.name for one in RUN.figures(frames, grid_config())} == {"dose", "examples-mood"}


def test_a_cell_repeats_and_strength_zero_is_the_unsteered_model(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    rows = RUN.compute(workspace, Cell("dose", "tone"))
    pd.testing.assert_frame_equal(rows, RUN.compute(workspace, Cell("dose", "tone")))
    assert len(rows) == 2 * 2 * len(STRENGTHS) * workspace.config.test
    still = rows[rows["strength"] == 0].groupby("sample")["score"]
    assert (still.max() == still.min()).all()
    assert rows[rows["strength"] == 1.0].groupby("sample")["score"].nunique().min() > 1
