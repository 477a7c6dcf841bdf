"""Rivals: every method beside its placebo on the same queries; planted gains, costs and verdicts from made rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cast_lens import plots
from cast_lens.experiments.catalogue.rivals import LIBRARY, Rivals, cost_table, is_tested, trade
from cast_lens.experiments.cells import Cell
from cast_lens.experiments.field_methods import chosen, load_fitted
from cast_lens.methods import FIELD_METHODS
from cast_lens.methods.field import placebo_of
from tests.experiments.small import SMALL, joined, outcomes, planned, right, rows_of, small_config, words, workspace_of

FEW = ("cast", "function vector", "in-context vector", "state vector", "library")
TWO = replace(SMALL, sources=("review-sentiment", "headline-topic"), targets=("yes-no-facts",))


def made_up(cast: int, rival: int) -> dict[str, pd.DataFrame]:
    frames = [
        outcomes("zero-shot", right(10)),
        outcomes("cast", right(cast)),
        outcomes("placebo: cast", right(10)),
        outcomes("function vector", right(rival)),
        outcomes("few-shot", right(20)),
    ]
    costs = [
        {"method": "zero-shot", "query_ms": 5.0, "ratio": 1.0, "kl": 0.0, "trained": 0, "source": "s"},
        {"method": "cast", "query_ms": 6.0, "fit_s": 2.0, "ratio": 1.5, "kl": 0.1, "trained": 0, "source": "s"},
        {
            "method": "function vector",
            "query_ms": 6.0,
            "fit_s": 4.0,
            "ratio": 1.1,
            "kl": 0.1,
            "trained": 0,
            "source": "s",
        },
    ]
    return {"answers": joined(frames, answer="yes"), "cost": pd.DataFrame(costs)}


def test_the_plan_fits_every_method_to_every_source_first() -> None:
    _, cells = planned(Rivals(rivals=FEW), TWO)
    fits = [(cell.source, cell.variant) for cell in cells if cell.kind == "fit"]
    assert fits == [(source, name) for source in TWO.sources for name in FEW[:-1]]
    assert all(cell.prepares for cell in cells if cell.kind == "fit")
    assert [cell.kind for cell in cells[len(fits) :]] == ["answers", "cost", "cost"]
    with pytest.raises(ValueError, match=r"rivals=\['best'\]"):
        Rivals(rivals=("best",))
    with pytest.raises(ValueError, match="no pair"):
        planned(Rivals(), replace(SMALL, targets=SMALL.sources))


@pytest.mark.parametrize(("cast", "rival"), [(12, 36), (36, 12), (10, 10)])
def test_the_better_method_is_named_as_it_came(cast: int, rival: int) -> None:
    frames = Rivals().tables(made_up(cast, rival), SMALL, {})
    gains = frames["methods"].set_index(["method", "metric"])["gain"]
    assert gains["cast", "exact_match"] == pytest.approx((cast - 10) / 40)
    assert gains["function vector", "exact_match"] == pytest.approx((rival - 10) / 40)
    told = words(Rivals().findings(frames, SMALL))
    assert "cast changes exact match by" in told
    assert "the best other method (function vector)" in told
    result = frames["result"].set_index(["method", "metric"])
    assert result.loc[("function vector", "exact_match"), "verdict"] == ("gain" if rival == 36 else "not shown")
    # Holm over methods, not over placebos and prompting.
    assert result["n_tests"].max() == 6
    assert np.isnan(result.loc[("placebo: cast", "exact_match"), "p_adjusted"])
    assert np.isnan(result.loc[("few-shot", "exact_match"), "p_adjusted"])


def test_costs_and_gains_make_one_mark_per_method() -> None:
    rows = made_up(12, 36)
    frames = Rivals().tables(rows, SMALL, {})
    costs = frames["costs"].set_index("method")
    assert costs.loc["cast", "ratio"] == pytest.approx(1.5)
    assert costs.loc["function vector", "fit_s"] == 4.0
    marks = frames["trade"][frames["trade"]["metric"] == "exact_match"].set_index("method")
    assert sorted(marks.index) == ["cast", "function vector"]
    assert marks.loc["function vector", "side_effect"] == pytest.approx(0.1)
    figure = plots.plot_pareto(marks.reset_index(), x_title="perplexity", ratios=True)
    assert [trace.name for trace in figure.data][1:] == ["cast", "function vector"]
    assert figure.layout.xaxis.type == "log"
    assert float(figure.data[2].x[0]) == pytest.approx(1.1)
    # A text that breaks down counts as its factor does: 1.1 and 1.1e9 are 1.1 x 31,623.
    broken = rows["cost"].assign(ratio=lambda cost: cost["ratio"] * np.where(cost["method"] == "cast", 1e9, 1))
    both = pd.concat([rows["cost"], broken])
    assert cost_table(both, pd.DataFrame(), SMALL).set_index("method").loc["cast", "ratio"] == pytest.approx(
        1.5 * 10**4.5
    )
    figures = list(Rivals().figures(frames, SMALL))
    assert [one.name for one in figures] == ["trade-exact_match", "trade-choice_correct", "methods"]
    empty = Rivals().tables({}, SMALL, {})
    assert words(Rivals().findings(empty, SMALL))
    assert list(Rivals().figures(empty, SMALL)) == []
    assert cost_table(pd.DataFrame(), pd.DataFrame(), SMALL).empty
    assert trade(empty["methods"], empty["costs"]).empty


def test_what_counts_as_a_finding() -> None:
    assert is_tested("cast")
    assert is_tested(LIBRARY)
    assert not any(map(is_tested, ("random heads", "fast: permuted", "placebo: cast", "few-shot", "zero-shot")))


@pytest.mark.slow
def test_every_method_meets_the_same_queries_beside_its_placebo(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    config = small_config(tmp_path_factory.mktemp("model"), sources=TWO.sources)
    run = Rivals(rivals=FEW, texts=2, timed=1)
    workspace = workspace_of(run, config, tmp_path)
    cells = run.plan(config, workspace.tasks)
    rows = rows_of(run, workspace, cells)
    answers = rows["answers"]
    names = set(answers["method"])
    for name in FEW:
        assert {name, f"placebo: {name}"} <= names
    assert len({tuple(part["sample"]) for _, part in answers.groupby(["method", "source"])}) == 1
    again = run.compute(workspace, Cell("answers", "yes-no-facts"))
    pd.testing.assert_frame_equal(again, answers.reset_index(drop=True))
    method = FIELD_METHODS["state vector"]
    place = chosen(workspace, "headline-topic", method)
    assert int(place["layer"].iloc[0]) in config.layers
    fitted = load_fitted(workspace, "headline-topic", method)
    assert type(placebo_of(fitted, seed=1)) is type(fitted)
    frames = run.tables(rows, config, workspace.tasks)
    assert set(frames["costs"]["method"]) == {"zero-shot", *FEW[:-1]}
    assert frames["costs"]["ratio"].gt(0).all()
