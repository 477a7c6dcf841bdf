"""Runs side by side: gain against headroom by model, and one line for what is no run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cast_lens.cli import app
from cast_lens.experiments.compare import by_model, compare
from cast_lens.files import write_frame, write_json
from cast_lens.plots import plot_headroom


def run_of(folder: Path, model: str, gains: dict[tuple[str, str], float], few: float = 0.6) -> Path:
    """A run directory with the table that the main job writes."""
    rows = [
        {
            "target": target,
            "source": source,
            "metric": metric,
            "n": 40,
            "zero-shot": 0.4,
            "cast": 0.4 + gain,
            "few-shot": few,
            "gain": gain,
            "gain_low": gain - 0.05,
            "gain_high": gain + 0.05,
        }
        for (target, source), gain in gains.items()
        for metric in ("exact_match", "valid")
    ]
    write_json(folder / "config.json", {"model": model})
    write_frame(folder / "experiments" / "transfer" / "pairs.parquet", pd.DataFrame(rows))
    return folder


GAINS = {(f"t{index}", "s"): 0.02 * index for index in range(5)}


def test_gain_and_headroom_of_every_pair_by_model(tmp_path: Path) -> None:
    small = run_of(tmp_path / "a", "org/small", {**GAINS, ("s", "s"): 0.9})
    large = run_of(tmp_path / "b", "org/large", {("t0", "s"): -0.1}, few=0.4)
    found = compare([small, large])
    assert found["model"].tolist() == ["small"] * 5 + ["large"]
    assert found["headroom"].tolist() == pytest.approx([0.2] * 5 + [0.0])
    told = by_model(found).set_index("model")
    assert told.loc["small", "gain"] == pytest.approx(0.04)
    assert told.loc["small", "gain_low"] < 0.04 < told.loc["small", "gain_high"]
    assert np.isnan(told.loc["large", "gain_low"])
    assert told[["helped", "harmed"]].values.tolist() == [[2, 0], [0, 1]]
    figure = plot_headroom(found)
    assert [trace.name for trace in figure.data] == ["small", "large", "all of the headroom"]
    assert [len(trace.x) for trace in figure.data[:2]] == [5, 1]


def test_runs_of_one_model_are_told_apart(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, "small", GAINS) for name in ("a/run", "b/run", "other")]
    assert list(dict.fromkeys(compare(runs)["model"])) == [f"small ({runs[0]})", f"small ({runs[1]})", "small (other)"]


def test_a_run_without_few_shot_is_drawn(tmp_path: Path) -> None:
    found = compare([run_of(tmp_path / "a", "small", GAINS, few=float("nan"))])
    assert found["headroom"].isna().all()
    assert len(plot_headroom(found).data) == 2


def test_the_command_writes_a_page_and_a_table(tmp_path: Path) -> None:
    runs = [str(run_of(tmp_path / name, name, GAINS)) for name in ("one", "two")]
    out = tmp_path / "figures" / "compared.html"
    done = CliRunner().invoke(app, ["compare", *runs, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.is_file()
    assert len(pd.read_csv(out.with_suffix(".csv"))) == 10
    assert "+4.0 [" in done.output
    assert "+20.0" in done.output


def test_what_is_no_run_is_told_in_one_line(tmp_path: Path) -> None:
    run, empty = run_of(tmp_path / "a", "small", GAINS), tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    write_json(begun / "config.json", {"model": "small"})
    for runs, message in (
        ([], "name one or more run directories"),
        ([run, run], "name one directory twice"),
        ([tmp_path / "nowhere"], "is no directory"),
        ([run / "config.json"], "is no directory"),
        ([empty], "is no run directory"),
        ([begun], "holds no finished main job"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(runs)
    with pytest.raises(ValueError, match="metric='accuracy'; it has exact_match, valid"):
        compare([run], metric="accuracy")
    done = CliRunner().invoke(app, ["compare", str(empty)])
    assert done.exit_code == 2
    assert "is no run directory" in " ".join(done.output.split())
    assert CliRunner().invoke(app, ["compare", str(run), "--out", str(tmp_path / "x.pdf")]).exit_code == 2
