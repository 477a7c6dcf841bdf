"""The grid: its cells, what it says of planted effects and of none, and sentences that fit both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens.experiments.catalogue.layer_strength import LayerStrength, text_layers
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.transfer_matrix import RANDOM
from tests.experiments.small import words
from tests.experiments.small_grid import grid_config, grid_workspace, small_tasks

RUN = LayerStrength(texts=3)
PLAIN = "0000000000"


def grid_row(kind: str, layer: int, strength: float, first: str, **more: object) -> dict[str, object]:
    row = {"target": "tone", "source": "mood", "kind": kind, "layer": layer, "n": len(first)}
    row |= {"strength": strength, "first_match": first, "choice_correct": first, "first_valid": first}
    return {**row, "gold_logprob": -1.0, "gold_margin": 0.0, "chosen": False, **more}


def text_row(kind: str, variant: int, strength: float, text: int, nll: float) -> dict[str, object]:
    row = {"source": "mood", "kind": kind, "variant": variant, "strength": strength}
    place = {"layer": 1 if variant else -1, "operator": "add", "position": "last", "tokens": 9}
    return {**row, **place, "text": text, "nll": nll, "kl": 0.1 * strength, "chosen": strength == 1.0}


def made_rows(vector: dict[tuple[int, float], str], *, nll: float = 0.0) -> dict[str, pd.DataFrame]:
    """A grid of the given outcomes beside a placebo that changes nothing; layer 1, strength 1 was chosen."""
    rows = [grid_row("unsteered", -1, 0.0, PLAIN, source="")]
    for kind in ("cast", RANDOM):
        for (layer, strength), outcome in vector.items():
            first = outcome if kind == "cast" else PLAIN
            rows.append(grid_row(kind, layer, strength, first, chosen=(layer, strength) == (1, 1.0)))
    texts = []
    for text in range(3):
        texts.append(text_row("unsteered", 0, 0.0, text, 2.0 + text))
        for variant, (kind, strength) in enumerate([("cast", 1.0), ("cast", 4.0), (RANDOM, 1.0), (RANDOM, 4.0)]):
            rise = nll * strength if kind == "cast" else 0.0
            texts.append(text_row(kind, variant + 1, strength, text, 2.0 + text + rise))
    return {"grid": pd.DataFrame(rows), "text": pd.DataFrame(texts)}


HELPS = {(1, 1.0): "1111100000", (1, 4.0): PLAIN, (2, 1.0): "1111111111", (2, 4.0): "1000000000"}
NOTHING = dict.fromkeys(HELPS, PLAIN)
HARMS = {cell: PLAIN for cell in HELPS}


def test_the_plan_has_settings_grids_and_texts() -> None:
    cells = RUN.plan(grid_config(), small_tasks())
    kinds = [(cell.kind, cell.target or cell.source) for cell in cells]
    assert kinds == [
        ("setting", "mood"),
        ("setting", "double"),
        ("grid", "tone"),
        ("grid", "mood"),
        ("text", "mood"),
        ("text", "double"),
    ]
    assert [cell.prepares for cell in cells] == [True, True, False, False, False, False]


def test_planted_effects_are_found() -> None:
    frames = RUN.tables(made_rows(HELPS), grid_config(), small_tasks())
    result, pairs = frames["result"], frames["pairs"].set_index(["kind", "metric"])
    assert len(result) == 9
    best = result[result["oracle"] & (result["kind"] == "cast")].iloc[0]
    assert (best["layer"], best["strength"], best["first_match"], best["first_match_gained"]) == (2, 1.0, 1.0, 10)
    assert best["first_match_p"] == pytest.approx(1 / 2**10)
    own = pairs.loc[("cast", "first_match")]
    assert (own["gain"], own["oracle_gain"], own["halves_gain"], own["luck"]) == (0.5, 1.0, 1.0, 0.0)
    assert (own["oracle_layer"], own["near_share"], own["near_layers"]) == (2, 0.25, "2 to 2")
    assert own["p_value"] == pytest.approx(1 / 2**5)
    assert own["n_tests"] == 2
    placebo = pairs.loc[(RANDOM, "first_match")]
    assert (placebo["gain"], placebo["oracle_gain"], placebo["losing_share"]) == (0.0, 0.0, 0.0)
    assert np.isnan(placebo["p_adjusted"])
    pooled = frames["pooled"].set_index(["kind", "metric", "at"])["gain"]
    assert pooled["cast", "first_match", "chosen on the source"] == 0.5
    assert pooled["cast", "choice_correct", "oracle"] == 1.0


def test_costs_on_plain_text_are_ratios_of_perplexity() -> None:
    frames = RUN.tables(made_rows(HELPS, nll=0.5), grid_config(), small_tasks())
    found = frames["collapse"].set_index(["kind", "strength"])
    assert found.loc[("cast", 4.0), "ratio"] == pytest.approx(np.exp(2.0))
    assert found.loc[(RANDOM, 4.0), "ratio"] == pytest.approx(1.0)
    assert found.loc[("cast", 1.0), "kl"] == pytest.approx(0.1)
    assert set(found["n"]) == {3}


def test_a_free_task_has_no_label_restricted_row() -> None:
    rows = made_rows(HELPS)
    free = rows["grid"].assign(choice_correct="", first_valid="")
    frames = RUN.tables({**rows, "grid": free}, grid_config(), small_tasks())
    assert set(frames["pairs"]["metric"]) == {"first_match"}
    assert "first tokens" in words(RUN.findings(frames, grid_config()))


@pytest.mark.parametrize(
    ("outcomes", "nll", "gain", "breaks"),
    [(HELPS, 0.5, "by +50.0 points [", 4.0), (NOTHING, 0.0, "by 0.0 points [", np.nan)],
)
def test_the_headline_fits_what_came_out(
    outcomes: dict[tuple[int, float], str], nll: float, gain: str, breaks: float
) -> None:
    frames = RUN.tables(made_rows(outcomes, nll=nll), grid_config(), small_tasks())
    text = words(RUN.findings(frames, grid_config()))
    assert f"A vector changes the share of right first tokens {gain}" in text
    found = frames["broken"].set_index("kind")["breaks_at"]
    np.testing.assert_equal(found.to_dict(), {"cast": breaks, RANDOM: np.nan})
    assert {"grid-tone", "collapse"} == {one.name for one in RUN.figures(frames, grid_config())}


def test_a_loss_is_called_by_its_number() -> None:
    rows = made_rows(HARMS)
    grid = rows["grid"]
    grid.loc[grid["kind"] == "unsteered", ["first_match", "choice_correct"]] = "1111111111"
    frames = RUN.tables(rows, grid_config(), small_tasks())
    assert "by −100.0 points" in words(RUN.findings(frames, grid_config()))
    assert frames["pairs"].set_index(["kind", "metric"]).loc[("cast", "first_match"), "verdict"] == "loss"
    assert (frames["pairs"]["losing_share"] == 1).all()
    assert np.isnan(frames["pairs"]["near_share"]).all()


@pytest.mark.parametrize("kinds", [(), ("grid",), ("text",)])
def test_missing_cells_leave_tables_with_columns(kinds: tuple[str, ...]) -> None:
    rows = made_rows(HELPS)
    frames = RUN.tables({kind: rows[kind] for kind in kinds}, grid_config(), small_tasks())
    words(RUN.findings(frames, grid_config()))
    assert bool(list(RUN.figures(frames, grid_config()))) == bool(kinds)


def test_a_few_layers_stand_for_all() -> None:
    assert text_layers(tuple(range(30)), 20) == [0, 4, 8, 12, 17, 20, 21, 25, 29]
    assert text_layers((3, 5), 5) == [3, 5]


def test_cells_are_the_engines_numbers_and_repeat(tmp_path: Path) -> None:
    workspace = grid_workspace(tmp_path)
    for cell in (Cell("grid", "tone"), Cell("text", source="mood")):
        first, again = (RUN.compute(workspace, cell) for _ in range(2))
        pd.testing.assert_frame_equal(first, again)
    other = RUN.compute(grid_workspace(tmp_path / "fresh"), Cell("grid", "tone"))
    grid = RUN.compute(workspace, Cell("grid", "tone"))
    pd.testing.assert_frame_equal(grid, other)
    assert len(grid) == 1 + 2 * 2 * 2 * 2
    assert grid.loc[grid["layer"] >= 0].groupby(["source", "kind"])["chosen"].sum().eq(1).all()
    setting = workspace.setting("mood")
    mine = grid[(grid["source"] == "mood") & grid["chosen"]]
    assert set(zip(mine["layer"], mine["strength"], strict=True)) == {(setting.layer, setting.strength)}
    frames = RUN.tables({"grid": grid}, workspace.config, workspace.tasks)
    assert len(frames["result"]) == len(grid)
